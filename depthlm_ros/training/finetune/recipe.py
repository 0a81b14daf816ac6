# SPDX-License-Identifier: Apache-2.0
"""A recipe: which model is trained from which checkpoint, on which data, and how. One YAML file each in
config/finetune/, which `read_finetune_recipe` reads and checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from depthlm_ros.errors import SetupError
from depthlm_ros.geometry.focal_estimation import FocalSettings
from depthlm_ros.model_files.yaml_dataclass import Limits, apply_change, build_dataclass, read_yaml

Range = tuple[float, float]
T = TypeVar("T")
PARTS = ("vision", "language", "head")


@dataclass(frozen=True)
class FinetuneDataSettings:
    """Which records are used and how their images are prepared.

    A data set is named by a part of the path of its file; the first name that occurs counts. Caps of depth come with
    the records (data/records.py).

    mixture: "weights": the data set is drawn by its weight, then one of its images; "concatenate": every image once an
    epoch. weights: by data set; all the same if empty. nominal: samples of an epoch per image, for "weights". held_out:
    by data set, the share of records, the last ones of the file, that is never used. crop_height_px, crop_width_px:
    ranges of the random crop about the image's centre, None for no crop. stretch: by data set, the range of width /
    height to which images are stretched instead of cropped. centre_crop_px: by data set, the most pixels that are kept
    of each axis. depth_type: the meaning of metres in replies and maps: "z", "range", or "label" for the meaning that
    each label has. labels_mean: by data set, the meaning of labels where the file gives a wrong one. images, depths:
    the folders that paths in the files are relative to, "" for the folder of the file. questions: the most questions
    about an image or a pair.
    """

    mixture: str = "weights"
    weights: Mapping[str, float] = field(default_factory=dict)
    nominal: int = 1
    held_out: Mapping[str, float] = field(default_factory=dict)
    crop_height_px: Range | None = None
    crop_width_px: Range | None = None
    stretch: Mapping[str, Range] = field(default_factory=dict)
    centre_crop_px: Mapping[str, int] = field(default_factory=dict)
    depth_type: str = "z"
    labels_mean: Mapping[str, str] = field(default_factory=dict)
    images: str = ""
    depths: str = ""
    questions: int = 1


@dataclass(frozen=True)
class TextSettings:
    """How questions and replies become tokens.

    loss_on: the tokens that are learnt: "all" tokens except the patches of images, all tokens "after_image", or the
    "reply" and its end. trailing_header: the header of the next reply follows a reply. layout: several questions are
    "packed" behind one image without seeing each other, or are the "turns" of one conversation. sequence_tokens: longer
    rows are skipped. answers: whether there are replies at all.
    """

    loss_on: str = "reply"
    trailing_header: bool = False
    layout: str = "packed"
    sequence_tokens: int = 4096
    answers: bool = True


@dataclass(frozen=True)
class FinetuneTrainSettings:
    """How the model is trained.

    batch: images or pairs per step on all devices together. batch_per_device: images or pairs at a time on one device.
    samples, epochs: the length of the training; one of them is 0. learning_rate_batch: if it is not 0, the rate is
    multiplied by sqrt(batch / learning_rate_batch). warmup: share of the steps. clip: greatest norm of the gradient.
    trains: the trained parts, of PARTS. head: DepthVLM's head, "" for none. fsdp: how several processes share the
    weights. deterministic: slower, but a resumed run on a GPU is then exactly the same run.
    """

    learning_rate: float
    batch: int
    batch_per_device: int
    samples: int = 0
    epochs: float = 0.0
    learning_rate_batch: int = 0
    schedule: str = "cosine"
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    depth_weight: float = 1.0
    trains: tuple[str, ...] = PARTS
    head: str = ""
    bf16: bool = True
    gradient_checkpointing: bool = True
    fsdp: str = "full"
    attention: str = "sdpa"
    deterministic: bool = True
    save_every: int = 500
    keep: int = 2
    log_every: int = 10
    workers: int = 4


@dataclass(frozen=True)
class GrpoSettings:
    """Group-relative policy optimisation (trl).

    reward: name of the reward of a reply. worst_m: the error that counts for a reply that cannot be read, and the
    largest error that counts. generations: replies to each question. reply_tokens: longest reply. beta: weight of the
    divergence from the start.
    """

    reward: str = "l1"
    worst_m: float = 80.0
    generations: int = 8
    reply_tokens: int = 64
    temperature: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True)
class FinetuneRecipe:
    """One YAML file.

    model: name in config/models of the model that is made; its prompts, sizes and focal length hold. base: the
    checkpoint that the training starts from. system: the system message in training, None for that of the model.
    """

    task: str
    model: str
    base: str
    train: FinetuneTrainSettings
    method: str = "sft"
    seed: int = 42
    system: str | None = None
    data: FinetuneDataSettings = field(default_factory=FinetuneDataSettings)
    text: TextSettings = field(default_factory=TextSettings)
    focal: FocalSettings = field(default_factory=FocalSettings)
    grpo: GrpoSettings = field(default_factory=GrpoSettings)


LIMITS: dict[str, Limits] = {
    **{
        name: (0, math.inf)
        for name in (
            "seed",
            "train.learning_rate",
            "train.learning_rate_batch",
            "train.samples",
            "train.epochs",
            "train.warmup",
            "train.clip",
            "train.weight_decay",
            "train.depth_weight",
            "train.workers",
            "grpo.temperature",
            "grpo.beta",
            "grpo.worst_m",
        )
    },
    **{
        name: (1, math.inf)
        for name in (
            "data.questions",
            "data.nominal",
            "text.sequence_tokens",
            "train.batch",
            "train.batch_per_device",
            "train.save_every",
            "train.keep",
            "train.log_every",
            "grpo.reply_tokens",
        )
    },
    "grpo.generations": (2, math.inf),
}
CHOICES = {
    "task": ("depthlm", "depthvlm", "vlm3-depth", "vlm3-object", "vlm3-corr", "vlm3-pose"),
    "method": ("sft", "grpo"),
    "data.mixture": ("weights", "concatenate"),
    "data.depth_type": ("z", "range", "label"),
    "text.loss_on": ("all", "after_image", "reply"),
    "text.layout": ("packed", "turns"),
    "train.schedule": ("cosine", "linear", "constant", "constant_with_warmup"),
    "train.attention": ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"),
    "train.fsdp": ("full", "hybrid", "none"),
    "train.head": ("", "dpt", "mlp"),
    "grpo.reward": ("l1", "absrel", "delta1"),
}
# Attention of transformers that takes the mask of packed questions.
PACKED_ATTENTION = ("sdpa", "eager")


def read_finetune_recipe(path: Path, changes: Sequence[str] = ()) -> FinetuneRecipe:
    """Reads a recipe. changes: "group.field=value" each, with the value in YAML.

    Raises SetupError naming the file, the field, its value and what is allowed.
    """
    values = read_yaml(path, "recipe")
    for change in changes:
        apply_change(values, change, "--set")
    return check_recipe(build_dataclass(FinetuneRecipe, values, str(path), CHOICES, LIMITS), str(path))


def check_recipe(recipe: FinetuneRecipe, where: str) -> FinetuneRecipe:
    """Returns the recipe, without the part "head" if there is no head. Raises SetupError for contradicting fields."""
    train = recipe.train
    if unknown := sorted(set(train.trains) - set(PARTS)):
        raise SetupError(f"{where}: train.trains has {unknown}: parts are {', '.join(PARTS)}.")
    if (train.samples > 0) == (train.epochs > 0):
        raise SetupError(f"{where}: give either train.samples or train.epochs, and not 0.")
    if recipe.text.layout == "packed" and train.attention not in PACKED_ATTENTION:
        raise SetupError(
            f"{where}: text.layout: packed needs a mask that train.attention: {train.attention} does not take: use "
            "sdpa, or layout: turns."
        )
    if "head" in train.trains and not train.head:
        return replace(recipe, train=replace(train, trains=tuple(part for part in train.trains if part != "head")))
    return recipe


def value_for_data_set(table: Mapping[str, T], *paths: Path) -> T | None:
    """Returns the value of the first data set in the table whose name occurs in one of the paths, else None."""
    text = " ".join(map(str, paths)).lower()
    return next((value for name, value in table.items() if name.lower() in text), None)
