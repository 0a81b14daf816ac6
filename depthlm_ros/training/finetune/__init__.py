# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of the published systems by their recipes (config/finetune/), which `depthlm finetune` runs with Hugging
Face's Trainer. It ends with a checkpoint in the released layout."""

__all__ = [
    "chat_encoder",
    "collator",
    "dataset",
    "model",
    "recipe",
    "record_files",
    "run",
    "samples",
    "trainer",
]
