"""What must be known of a model before it is loaded: how it is asked, what it sees, where it comes from.

A bundle's manifest holds it for what was exported; config/models/*.yaml for checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

ARCHITECTURES = ("qwen3_vl", "qwen2_5_vl", "llava")
HEADS = ("", "dpt", "mlp")
CHATS = ("qwen", "pixtral")
DEPTH_TYPES = ("z", "range")
DTYPES = ("bfloat16", "float16", "float32")
SCALE_BY = ("fx", "each")
ROUNDINGS = ("trunc", "round")
MULTIPLES_BY = ("nearest", "up", "crop")


@dataclass(frozen=True)
class CanvasRule:
    """How a camera's image becomes the image that the model sees (the canvas).

    canvases_px: the fixed sizes (width, height) of exported graphs, on which the image is laid at exactly the canonical
    focal length. Empty: the whole image is resized. Then, in this order:
    focal_px: canonical focal length, None for no normalisation; scale_by "fx" scales both axes by focal_px / fx, "each"
    every axis by its own focal length; rounding "trunc" or "round" of the scaled size; longest_px: limit of the longer
    side (also enlarges to it), None for none; snap_px: sides are first brought to multiples of this, 0 for none
    (qwen_vl_utils does so with 28 before the checkpoint's own processor, where released code calls it);
    least_pixels, most_pixels: area limits of the checkpoint's own processor, 0 for none; most_px: limit of the longer
    side (never enlarges), None for none; multiple_px: sides become multiples of this.
    multiple_by: "nearest": stretched to the nearest ones within the area limits (Qwen); "up": stretched to the next
    larger ones (Pixtral); "crop": what is left over at the right and bottom is not seen (Pixtral without resize).
    built_px: the only sizes of resized images that can be looked at, of an engine that was built for them; empty: any.
    built_by: the command that builds the engine, less its camera; "" for what is no engine, and takes any camera.
    """

    focal_px: float | None
    canvases_px: tuple[tuple[int, int], ...] = ()
    scale_by: str = "fx"
    rounding: str = "trunc"
    longest_px: int | None = None
    snap_px: int = 0
    least_pixels: int = 0
    most_pixels: int = 0
    most_px: int | None = None
    multiple_px: int = 1
    multiple_by: str = "nearest"
    built_px: tuple[tuple[int, int], ...] = ()
    built_by: str = ""


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
    "mlp" or "" (no dense depth). pixels_per_token: side of the square of canvas pixels that a token stands for.

    system: the system message, "" for none. dtype: that of the backbone's weights when it runs on an accelerator.
    depth_type: what the model's metres mean, "z" along the optical axis or "range" from the camera's centre.
    most_coordinate: largest normalised coordinate that a depth question may hold; VLM3 speaks both of [0, 2000] and of
    [0, 2000), so 2000 or 1999.
    hub: repository of the weights, "" where none is listed; note says why then, and what else there is to know.
    download_gb: about how much there is to download, 0 unknown.
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
    depth_type: str = "z"
    dtype: str = "bfloat16"
    most_coordinate: int = 2000
    download_gb: float = 0.0
    note: str = ""
