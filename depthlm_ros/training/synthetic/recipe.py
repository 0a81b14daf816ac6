"""A training run by name: sizes, data and schedule from one YAML file, and what is built from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer

from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.families.registry import family_named
from depthlm_ros.nets.checkpoint import SmallConfig, build
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.training.synthetic.auxiliary_losses import WORDS
from depthlm_ros.training.synthetic.config import DataConfig
from depthlm_ros.training.synthetic.dataset import batch_texts
from depthlm_ros.training.synthetic.prompts import CHAT
from depthlm_ros.training.synthetic.step import Affixes, TrainConfig
from depthlm_ros.training.synthetic.tokenizer import IMAGE, PAD, token_id, train_tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """One YAML file: name, family, licence, seed and the three groups of settings."""

    name: str
    family: str
    licence: str
    seed: int
    model: SmallConfig
    data: DataConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or self.seed < 0:
            raise SetupError(f"seed {self.seed!r}: it must be a whole number of 0 or more.")


def read_recipe(path: Path) -> Recipe:
    """Raises SetupError naming the file and the unknown or missing key."""
    try:
        raw = yaml.safe_load(path.read_text())
        model = _group(SmallConfig, raw.pop("model", {}), f"{path}: model")
        data = _group(DataConfig, raw.pop("data", {}), f"{path}: data")
        train = _group(TrainConfig, raw.pop("train", {}), f"{path}: train")
        return Recipe(**raw, model=model, data=data, train=train)
    except (OSError, TypeError, AttributeError, yaml.YAMLError) as exc:
        raise SetupError(f"recipe {path} is unusable: {exc}") from exc


def _group(kind: type[T], values: dict[str, Any], where: str) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(values) - known:
        raise UnknownName(f"{where} has unknown keys {sorted(unknown)}; known are {sorted(known)}.")
    return kind(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def make_tokenizer(recipe: Recipe) -> Tokenizer:
    """Learnt from the questions and replies of a few rendered batches of the same recipe."""
    rng = np.random.default_rng([recipe.seed, 1])
    return train_tokenizer(batch_texts(rng, recipe.data, family_named(recipe.family), scenes=300), recipe.model.vocab)


def make_model(recipe: Recipe, tokenizer: Tokenizer) -> Qwen3VLDepth:
    """Randomly initialised from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return build(recipe.model, token_id(tokenizer, IMAGE), token_id(tokenizer, PAD))


def affixes(tokenizer: Tokenizer) -> Affixes:
    before, between, after = (tuple(tokenizer.encode(text).ids) for text in CHAT.around_images)
    # As they stand in a question, behind a space; of a word of several tokens the first.
    words = tuple(tokenizer.encode(f" {word}").ids[0] for word in WORDS)
    return Affixes(before, between, after, words, token_id(tokenizer, IMAGE))
