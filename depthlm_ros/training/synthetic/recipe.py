"""A training on rendered scenes by name: one YAML file in config/train/, and what is built from it.

`read_synthetic_recipe` reads the file; `make_tokenizer`, `make_model` and `read_prompt_tokens` build what a run needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from depthlm_ros.families.registry import family_named
from depthlm_ros.model_files.yaml_dataclass import build_dataclass, check_limits, read_yaml
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.nets.small_model import SmallModelConfig, build_small_model
from depthlm_ros.training.packing import token_ids
from depthlm_ros.training.synthetic.auxiliary_losses import WORDS
from depthlm_ros.training.synthetic.config import SyntheticDataSettings, SyntheticTrainSettings, rename_settings
from depthlm_ros.training.synthetic.dataset import sample_texts
from depthlm_ros.training.synthetic.prompts import CHAT
from depthlm_ros.training.synthetic.step import PromptTokens
from depthlm_ros.training.synthetic.tokenizer import IMAGE, PAD, token_id, train_tokenizer

# Rendered pictures whose questions and replies a new tokenizer is learnt from.
TOKENIZER_SCENES = 300


@dataclass(frozen=True)
class SyntheticRecipe:
    """One YAML file: name, family, licence and seed of the model, its sizes, and the two groups of settings."""

    name: str
    family: str
    licence: str
    seed: int
    model: SmallModelConfig = field(default_factory=SmallModelConfig)
    data: SyntheticDataSettings = field(default_factory=SyntheticDataSettings)
    train: SyntheticTrainSettings = field(default_factory=SyntheticTrainSettings)

    def __post_init__(self) -> None:
        check_limits(self, {"seed": (0, 2**63 - 1)})


def read_synthetic_recipe(path: Path) -> SyntheticRecipe:
    """Reads a recipe. Raises SetupError naming the file, the field, its value and what is allowed."""
    values = read_yaml(path, "recipe")
    groups = {name: rename_settings(group) for name, group in values.items() if isinstance(group, dict)}
    return build_dataclass(SyntheticRecipe, {**values, **groups}, str(path))


def make_tokenizer(recipe: SyntheticRecipe) -> Tokenizer:
    """Returns a tokenizer learnt from the questions and replies about a few rendered pictures of the recipe."""
    rng = np.random.default_rng([recipe.seed, 1])
    texts = sample_texts(rng, recipe.data, family_named(recipe.family), TOKENIZER_SCENES)
    return train_tokenizer(texts, recipe.model.vocab)


def load_or_make_tokenizer(recipe: SyntheticRecipe, folder: Path, earlier: Tokenizer | None) -> Tokenizer:
    """Returns the tokenizer of a run, which is kept in the run's folder.

    A new run takes the tokenizer of the earlier model that it starts from, if there is one and the recipe has room for
    all its entries; otherwise it makes one.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fits = earlier is not None and earlier.get_vocab_size() <= recipe.model.vocab
        tokenizer = earlier if earlier is not None and fits else make_tokenizer(recipe)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def make_model(recipe: SyntheticRecipe, tokenizer: Tokenizer) -> Qwen3VLDepth:
    """Returns a model that is randomly initialised from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return build_small_model(recipe.model, token_id(tokenizer, IMAGE), token_id(tokenizer, PAD))


def read_prompt_tokens(tokenizer: Tokenizer) -> PromptTokens:
    """Returns the token ids that every step needs."""
    before, between, after = (token_ids(tokenizer, text) for text in CHAT.around_images)
    # Words as they stand in a question, behind a space; of a word of several tokens the first one.
    words = tuple(token_ids(tokenizer, f" {word}")[0] for word in WORDS)
    return PromptTokens(before, between, after, words, token_id(tokenizer, IMAGE))
