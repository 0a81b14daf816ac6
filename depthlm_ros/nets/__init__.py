# SPDX-License-Identifier: Apache-2.0
"""Torch modules: the published vision-language models and their depth heads, and the embedded model (depth_first),
on images of fixed sizes.

The same code trains, exports and runs. The weights are transformers' own modules, so that published checkpoints load;
the forward passes are written here. This room needs torch and transformers.
"""

__all__ = [
    "backbone",
    "depth_first",
    "depth_heads",
    "depth_pyramid",
    "efficientnet_lite",
    "graphs",
    "loading",
    "pixtral",
    "positions",
    "qwen3vl",
    "qwen25vl",
    "text_decoder",
]
