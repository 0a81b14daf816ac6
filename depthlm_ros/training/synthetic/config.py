"""Settings of a training on rendered scenes: what is rendered, and how the model learns from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from depthlm_ros.model_files.yaml_dataclass import Limits, check_limits

DATA_LIMITS: dict[str, Limits] = {
    "focal_px": (1.0, 1e5),
    **dict.fromkeys(("wide_share", "pair_share", "lens_share", "recoloured_share"), (0.0, 1.0)),
    **dict.fromkeys(("batch", "views_per_scene", "row_tokens", "pair_points", "token_px"), (1, 1 << 16)),
    **dict.fromkeys(("points", "questions", "pixel_questions"), (0, 1000)),
}
TRAIN_LIMITS: dict[str, Limits] = {
    **dict.fromkeys(("steps", "warmup_steps", "save_every", "replay_buffer_size"), (1, 10**9)),
    "replays": (0, 1000),
    "learning_rate": (1e-9, 10.0),
    "clip": (1e-9, 1e9),
    **dict.fromkeys(("weight_decay", "hours"), (0.0, 1e6)),
    **{f"{part}_weight": (0.0, 1e6) for part in ("gradient", "text", "attention", "word", "geometry")},
}
# Names of settings in older recipes and checkpoints -> their names today.
RENAMED_SETTINGS = {
    "gaze_weight": "attention_weight",
    "naming_weight": "word_weight",
    "placing_weight": "geometry_weight",
    "again": "replays",
    "memory": "replay_buffer_size",
    "whats": "pixel_questions",
}


@dataclass(frozen=True)
class SyntheticDataSettings:
    """What is rendered. Sizes are (width, height) in pixels at the canonical focal length.

    points, questions, pixel_questions: the number of questions about each picture: depths of pixels, free questions in
    words, and what a pixel shows. wide_share: share of batches on the second canvas. pair_share: share of batches of
    two pictures each, with pair_points matches. lens_share: share of single pictures whose camera is not calibrated
    exactly (scenes/camera/lens.py). recoloured_share: share of single pictures in other colours
    (scenes.camera.photo.recolour), about which no question or reply mentions a colour. render_device: where single
    pictures are rendered, "cpu" or "cuda" (scenes/renderer/gpu.py); one seed gives different batches on the two.
    row_tokens: length of the row of packed questions. token_px: side of the square of pixels that one image token of
    the model stands for.
    """

    focal_px: float = 96.0
    canvases: tuple[tuple[int, int], ...] = ((128, 96), (192, 128))
    wide_share: float = 0.12
    batch: int = 32
    views_per_scene: int = 4
    points: int = 3
    questions: int = 3
    pixel_questions: int = 1
    row_tokens: int = 176
    pair_share: float = 0.15
    pair_points: int = 4
    lens_share: float = 0.3
    recoloured_share: float = 0.0
    render_device: str = "cpu"
    token_px: int = 16

    def __post_init__(self) -> None:
        check_limits(self, DATA_LIMITS)


@dataclass(frozen=True)
class SyntheticTrainSettings:
    """How long and how fast the model learns.

    Loss = silog + gradient_weight * gradient + text_weight * text + attention_weight * attention + word_weight * words
    + geometry_weight * geometry (losses.py, auxiliary_losses.py).

    hours: stop after this time with the schedule complete, 0 for no such limit. replays: how many stored batches the
    model trains on after each new batch; they are drawn from a replay buffer of the last replay_buffer_size batches,
    which lies on the GPU. A resumed run starts with an empty buffer.
    """

    steps: int = 4000
    warmup_steps: int = 200
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    gradient_weight: float = 0.5
    text_weight: float = 0.5
    attention_weight: float = 0.5
    word_weight: float = 0.3
    geometry_weight: float = 0.3
    bf16: bool = True
    save_every: int = 200
    hours: float = 0.0
    replays: int = 0
    replay_buffer_size: int = 512

    def __post_init__(self) -> None:
        check_limits(self, TRAIN_LIMITS)


def rename_settings(group: Mapping[str, object]) -> dict[str, object]:
    """Returns a group of settings with older names replaced by those of today."""
    return {RENAMED_SETTINGS.get(name, name): value for name, value in group.items()}
