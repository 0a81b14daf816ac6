"""What must be known of a model before it is loaded: how it is asked, what it sees, where it comes from.

A bundle's manifest holds it for what was exported; config/models/*.yaml for checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CanvasRule:
    """How a camera's image becomes the image that the model sees (the canvas).

    canvases_px: the fixed sizes (width, height) of exported graphs, on which the image is laid at exactly the canonical
    focal length. Empty: the whole image is resized. Then, in this order:
    focal_px: canonical focal length, None for no normalisation; scale_by "fx" scales both axes by focal_px / fx, "each"
    every axis by its own focal length; rounding "trunc" or "round" of the scaled size; longest_px: limit of the longer
    side (also enlarges to it), None for none; least_pixels, most_pixels: area limits of the checkpoint's own processor;
    multiple_px: sides become multiples of this.
    """

    focal_px: float | None
    canvases_px: tuple[tuple[int, int], ...] = ()
    scale_by: str = "fx"
    rounding: str = "trunc"
    longest_px: int | None = None
    least_pixels: int = 0
    most_pixels: int = 0
    multiple_px: int = 1


@dataclass(frozen=True)
class Calibration:
    """How a model's errors are distributed, fitted on validation data.

    A dense depth's standard deviation is hypot(dense_spread * spread of the map around the pixel, dense_relative *
    depth); one in words hypot(words_spread * spread of the number's token distribution, words_relative * depth).
    The defaults report the spreads as they are: uncalibrated.
    """

    dense_spread: float = 1.0
    dense_relative: float = 0.0
    words_spread: float = 1.0
    words_relative: float = 0.0


@dataclass(frozen=True)
class ModelSpec:
    """One model. family, chat: names in families/; architecture: "qwen3_vl", "qwen2_5_vl" or "llava"; head: "dpt",
    "mlp" or "" (no dense depth); pixel values of the network are (byte * pixel_scale - mean) / std per channel, those
    of the checkpoint's own processor. pixels_per_token: side of the square of canvas pixels that a token stands for.
    """

    name: str
    family: str
    architecture: str
    chat: str
    canvas: CanvasRule
    pixels_per_token: int
    system: str = ""
    head: str = ""
    title: str = ""
    licence: str = ""
    hub: str = ""
    revision: str = ""
    calibration: Calibration = Calibration()
