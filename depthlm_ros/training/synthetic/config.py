"""What a training renders.

What the numbers of a recipe may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError


def check_limits(settings: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raises SetupError for a field of settings that is no number between its limits, a whole one if these are."""
    for name, (least, most) in limits.items():
        value = getattr(settings, name)
        kinds = (int,) if isinstance(least, int) else (int, float)
        if type(value) in kinds and least <= value <= most:
            continue
        number = "a whole number" if isinstance(least, int) else "a number"
        hint = " YAML reads 3e-4 as text: write 3.0e-4." if isinstance(value, str) else ""
        raise SetupError(f"{name} {value!r}: it must be {number} from {least} to {most}.{hint}")


LIMITS = {
    "focal_px": (1.0, 1e5),
    **dict.fromkeys(("wide_share", "pair_share", "lens_share", "recoloured_share"), (0.0, 1.0)),
    **dict.fromkeys(("batch", "views_per_scene", "row_tokens", "pair_points", "token_px"), (1, 1 << 16)),
    **dict.fromkeys(("points", "questions", "whats"), (0, 1000)),
}


@dataclass(frozen=True)
class DataConfig:
    """What is rendered. Sizes are (width, height) in pixels at the canonical focal length.

    points, questions, whats: how many depths of pixels are asked of each, how many questions in words, and for how many
    pixels what they show. wide_share: of batches on the second canvas. pair_share: of batches of two pictures each.
    lens_share: of single pictures whose camera's calibration is not exact, see scenes/lens.py. recoloured_share: of
    single pictures in other colours (scenes.photo.recoloured), of which no colour is asked or told. render_device:
    where single pictures are rendered, cpu or cuda (scenes/gpu.py); a seed's batches on the one are not those on the
    other. token_px: side of the square of pixels that one image token of the model stands for.
    """

    focal_px: float = 96.0
    canvases: tuple[tuple[int, int], ...] = ((128, 96), (192, 128))
    wide_share: float = 0.12
    batch: int = 32
    views_per_scene: int = 4
    points: int = 3
    questions: int = 3
    whats: int = 1
    row_tokens: int = 176
    pair_share: float = 0.15
    pair_points: int = 4
    lens_share: float = 0.3
    recoloured_share: float = 0.0
    render_device: str = "cpu"
    token_px: int = 16

    def __post_init__(self) -> None:
        check_limits(self, LIMITS)


def canvas_camera(size_px: tuple[int, int], focal_px: float) -> Intrinsics:
    """The canonical camera of a canvas: principal point at its centre."""
    width, height = size_px
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)
