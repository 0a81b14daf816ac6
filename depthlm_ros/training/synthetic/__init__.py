"""Training of the embedded model on rendered scenes, which `depthlm train` runs. A recipe of config/train/ says what is
rendered and how the model learns; every batch has exact depth, exact boxes and true replies."""

__all__ = [
    "auxiliary_losses",
    "config",
    "dataset",
    "prompts",
    "recipe",
    "step",
    "tokenizer",
    "trainer",
    "warm_start",
]
