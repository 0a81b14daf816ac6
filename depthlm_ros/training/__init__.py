# SPDX-License-Identifier: Apache-2.0
"""Training: of the embedded model on rendered scenes, photographs and sensor frames (embedded/), and of the published
systems on labelled images (finetune/), with the losses and the packing of replies that both share."""

__all__ = ["embedded", "finetune", "losses", "packing"]
