# SPDX-License-Identifier: Apache-2.0
"""Training of the embedded model, which `depthlm train` runs: first depth, then words on the same features.

A recipe of config/train/ says which pictures are mixed (rendered scenes, photographs with teachers' labels, frames of
depth sensors) and how the model learns. Every batch depends on the recipe's seed and the number of the step only.
"""

__all__ = [
    "dataset",
    "losses",
    "names",
    "optimisers",
    "photo_questions",
    "pictures",
    "prompts",
    "recipe",
    "run_log",
    "tokenizer",
    "trainer",
]
