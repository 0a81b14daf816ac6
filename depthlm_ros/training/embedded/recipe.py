# SPDX-License-Identifier: Apache-2.0
"""The recipe of a training of the embedded model: one YAML file in config/train/, read by `read_embedded_recipe`.

It says which pictures are mixed, how questions are made, and how the two phases learn from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from depthlm_ros.errors import SetupError
from depthlm_ros.model_files.yaml_dataclass import Limits, apply_change, build_dataclass, check_limits, read_yaml
from depthlm_ros.nets.depth_first import EmbeddedConfig
from depthlm_ros.nets.depth_pyramid import DepthPyramidConfig

SHARE: Limits = (0.0, 1.0)
PICTURE_LIMITS: dict[str, Limits] = {
    "focal_px": (1.0, 1e5),
    **dict.fromkeys(("lens_share", "recoloured_share", "principal_spread"), SHARE),
    "row_tokens": (1, 1 << 16),
    **dict.fromkeys(("points", "questions", "pixel_questions"), (0, 1000)),
}
PHASE_LIMITS: dict[str, Limits] = {
    **dict.fromkeys(("steps", "batch", "warmup_steps"), (1, 10**9)),
    "learning_rate": (1e-9, 10.0),
    "clip": (1e-9, 1e9),
    "ema": (0.0, 1.0),
    **dict.fromkeys(("weight_decay", "encoder_rate"), (0.0, 1e6)),
}
# What the side of a canvas must be a multiple of: the largest stride of the encoder.
CANVAS_STRIDE_PX = 32


@dataclass(frozen=True)
class SourceShares:
    """Shares of the sources in a phase; they need not sum to one.

    rendered, far, close, streets: rendered scenes as usual, halls and corridors, close views, and streets as a vehicle
    sees them. photos: photographs with teachers' labels. frames: frames of depth sensors.
    """

    rendered: float = 1.0
    far: float = 0.0
    close: float = 0.0
    photos: float = 0.0
    frames: float = 0.0
    streets: float = 0.0

    def __post_init__(self) -> None:
        check_limits(self, dict.fromkeys(self.__dataclass_fields__, (0.0, 1e6)))
        if not any(getattr(self, name) for name in self.__dataclass_fields__):
            raise SetupError(f"{', '.join(self.__dataclass_fields__)} are all 0: at least one source needs a share.")


@dataclass(frozen=True)
class PictureSettings:
    """How pictures and questions are made. Sizes are (width, height) in pixels at the canonical focal length.

    canvas_shares: shares of batches on each canvas. principal_spread: standard deviation of the principal point around
    the middle of the canvas, as a share of its width: the canvas of an engine fits its camera's image, whose principal
    point may be anywhere. points, questions, pixel_questions: the number of questions about each picture: depths of
    pixels, free questions in words, and what a pixel shows. lens_share: share of
    rendered pictures whose camera is not calibrated exactly (scenes/camera/lens.py). recoloured_share: share of those
    in other colours (scenes.camera.photo.recolour), about which no question mentions a colour.
    photo_fx_over_width: the unknown focal length of a photograph is drawn from this range, log-uniform. frame_zoom:
    range of the random zoom of sensor frames; their depth changes by the same factor. row_tokens: length of the row of
    packed questions.
    """

    focal_px: float = 204.0
    canvases: tuple[tuple[int, int], ...] = ((256, 192), (288, 224), (384, 288))
    canvas_shares: tuple[float, ...] = (0.75, 0.2, 0.05)
    principal_spread: float = 0.02
    points: int = 2
    questions: int = 5
    pixel_questions: int = 1
    lens_share: float = 0.2
    recoloured_share: float = 0.25
    photo_fx_over_width: tuple[float, float] = (0.66, 1.0)
    frame_zoom: tuple[float, float] = (0.8, 1.25)
    row_tokens: int = 224

    def __post_init__(self) -> None:
        check_limits(self, PICTURE_LIMITS)
        if not self.canvases:
            raise SetupError("canvases is []: at least one size is needed.")
        for width, height in self.canvases:
            if width < 1 or height < 1 or width % CANVAS_STRIDE_PX or height % CANVAS_STRIDE_PX:
                raise SetupError(f"canvases has {width} x {height}: sides must be multiples of {CANVAS_STRIDE_PX} px.")
        shares = self.canvas_shares
        if len(shares) != len(self.canvases) or min(shares) < 0 or not sum(shares) > 0:
            raise SetupError(f"canvas_shares is {list(shares)}: one share for each of {len(self.canvases)} canvases.")
        for name in ("photo_fx_over_width", "frame_zoom"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise SetupError(f"{name} is {[low, high]}: two positive numbers in rising order are needed.")


@dataclass(frozen=True)
class PhaseSettings:
    """How long and how fast one phase learns.

    steps, batch: number of steps and of pictures in each. warmup_steps: linear rise of the learning rate, before half
    a cosine. encoder_rate: factor of the encoder's learning rate. ema: decay of the average of the weights that is
    shipped. shares: of the sources.
    """

    steps: int = 1000
    batch: int = 16
    warmup_steps: int = 100
    learning_rate: float = 1e-3
    encoder_rate: float = 0.25
    weight_decay: float = 0.02
    clip: float = 1.0
    ema: float = 0.998
    shares: SourceShares = field(default_factory=SourceShares)

    def __post_init__(self) -> None:
        check_limits(self, PHASE_LIMITS)


@dataclass(frozen=True)
class DepthWeights:
    """Weights of the losses of the first phase (losses.py)."""

    error: float = 1.0
    shape: float = 0.7
    gradient: float = 0.1
    bins: float = 0.15
    names: float = 0.1

    def __post_init__(self) -> None:
        check_limits(self, dict.fromkeys(self.__dataclass_fields__, (0.0, 1e6)))


@dataclass(frozen=True)
class WordsWeights:
    """Weights of the losses of the second phase (losses.py)."""

    text: float = 1.0
    attention: float = 0.5

    def __post_init__(self) -> None:
        check_limits(self, dict.fromkeys(self.__dataclass_fields__, (0.0, 1e6)))


def default_sizes() -> EmbeddedConfig:
    """Returns the sizes of a recipe that states none: they have the canonical focal length of the pictures."""
    return EmbeddedConfig(depth=DepthPyramidConfig(focal_px=PictureSettings().focal_px))


@dataclass(frozen=True)
class EmbeddedRecipe:
    """One YAML file: name, licence and seed of the model, its sizes, the pictures, and the two phases."""

    name: str
    licence: str
    seed: int
    model: EmbeddedConfig = field(default_factory=default_sizes)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    depth: PhaseSettings = field(default_factory=PhaseSettings)
    depth_weights: DepthWeights = field(default_factory=DepthWeights)
    words: PhaseSettings = field(default_factory=PhaseSettings)
    words_weights: WordsWeights = field(default_factory=WordsWeights)

    def __post_init__(self) -> None:
        check_limits(self, {"seed": (0, 2**63 - 1)})
        if self.model.depth.focal_px != self.pictures.focal_px:
            raise SetupError(
                f"model.depth.focal_px is {self.model.depth.focal_px} and pictures.focal_px {self.pictures.focal_px}: "
                "one focal length is needed."
            )


def read_embedded_recipe(path: Path, changes: Sequence[str] = ()) -> EmbeddedRecipe:
    """Reads a recipe, with changes of the form "group.field=value".

    Raises SetupError naming the file, the field, its value and what is allowed.
    """
    values = read_yaml(path, "recipe")
    for change in changes:
        apply_change(values, change, "--set")
    return build_dataclass(EmbeddedRecipe, values, str(path))
