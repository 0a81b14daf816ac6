"""A recipe: what is trained from what, on which data and how. One YAML file each in config/train/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Span = tuple[float, float]
PARTS = ("vision", "language", "head")


@dataclass(frozen=True)
class DataSettings:
    """What is shown. Names of data sets are parts of the paths of the files (the first that occurs counts).

    mixture: "weights": the data set is drawn by its weight, then an image of it; "concatenate": every image once an
    epoch. weights: by name; empty: all the same. nominal: an epoch's samples per image, of "weights". held_out: by
    name, the share of records, the last after a shuffle, that is never shown. crop_height_px, crop_width_px: ranges of
    the random crop about the image's centre, None for none. stretch: by name, the range of width / height to which such
    an image is brought instead of cropped. centre_crop_px: by name, the most that is left of each axis. depth_type:
    what metres in replies and maps mean; "label": what the labels mean, mixed as they are. labels_mean: by name, what
    the labels mean where a file says it wrongly. images, depths: what paths in the files are relative to, "" for the
    files themselves. questions: about each image (or pair), at most. Caps of depth come with the records
    (data/caps.py).
    """

    mixture: str = "weights"
    weights: Mapping[str, float] = field(default_factory=dict)
    nominal: int = 1
    held_out: Mapping[str, float] = field(default_factory=dict)
    crop_height_px: Span | None = None
    crop_width_px: Span | None = None
    stretch: Mapping[str, Span] = field(default_factory=dict)
    centre_crop_px: Mapping[str, int] = field(default_factory=dict)
    depth_type: str = "z"
    labels_mean: Mapping[str, str] = field(default_factory=dict)
    images: str = ""
    depths: str = ""
    questions: int = 1


@dataclass(frozen=True)
class TextSettings:
    """How questions and replies become tokens.

    loss_on: the tokens that are learnt: "all" but those of the image, all "after_image", or the "reply" and its end.
    trailing_header: a reply is followed by the header of the next one. layout: several questions are "packed" behind
    one image without seeing each other, or are the "turns" of one conversation. sequence_tokens: longer rows are passed
    over. answers: whether replies are shown at all.
    """

    loss_on: str = "reply"
    trailing_header: bool = False
    layout: str = "packed"
    sequence_tokens: int = 4096
    answers: bool = True


@dataclass(frozen=True)
class TrainSettings:
    """How it is trained. batch: images (or pairs) per step over all devices; batch_per_device: at a time.

    samples or epochs: how long, the other one 0. learning_rate_batch: where not 0, the rate is scaled with
    sqrt(batch / learning_rate_batch). trains: of "vision", "language", "head"; head: DepthVLM's head, "" for none.
    fsdp: how weights are sharded where there are several processes. deterministic: slower, but a resumed run on a GPU
    is the same run too.
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
class FocalSettings:
    """For images without intrinsics. estimator: "auto" (Exif data, then the lines in the image), "exif", or
    package.module:name of a callable that makes a FocalEstimator. fallback_fov_deg: field of view along the longer
    side, where an image file says nothing."""

    estimator: str = "auto"
    fallback_fov_deg: float = 60.0


@dataclass(frozen=True)
class GrpoSettings:
    """Group-relative policy optimisation (trl). reward: of a reply; worst_m: the error that counts for a reply that
    cannot be read, and the largest that counts at all; beta: weight of the divergence from the start."""

    reward: str = "l1"
    worst_m: float = 80.0
    generations: int = 8
    reply_tokens: int = 64
    temperature: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """model: name in config/models of what is made, whose prompts, sizes and focal length hold; base: of the checkpoint
    that it starts from. system: the system message in training, None for that of the model."""

    task: str
    model: str
    base: str
    train: TrainSettings
    method: str = "sft"
    seed: int = 42
    system: str | None = None
    data: DataSettings = DataSettings()
    text: TextSettings = TextSettings()
    focal: FocalSettings = FocalSettings()
    grpo: GrpoSettings = GrpoSettings()


def named(table: Mapping[str, Any], *paths: Path) -> Any | None:
    """The entry of a table by data set for files: that of the first name that occurs in one of the paths."""
    text = " ".join(map(str, paths)).lower()
    return next((value for name, value in table.items() if name.lower() in text), None)
