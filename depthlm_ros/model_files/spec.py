# SPDX-License-Identifier: Apache-2.0
"""What must be known of a model before it is loaded: how it is asked, what it sees, and where its weights are.

Exported models have it in their manifest (bundle.py), other models in config/models/*.yaml (spec_yaml.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from depthlm_ros.geometry.resize_rules import CanvasRule

ARCHITECTURES = ("qwen3_vl", "qwen2_5_vl", "llava", "depth_first")
HEADS = ("", "dpt", "mlp", "bins")
# In the embedded architecture, one pixel of the encoder's last map stands for so many pixels of the canvas.
ENCODER_STRIDE_PX = 32
CHATS = ("qwen", "pixtral", "none")
DEPTH_TYPES = ("z", "range")
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class ErrorCalibration:
    """How a model's errors are distributed. The factors are fitted on validation data.

    The standard deviation of a dense depth is hypot(dense_spread * spread of the map around the pixel, dense_relative *
    depth). If the model tells the relative standard deviation of every pixel itself, that of a dense depth is
    hypot(map_std_scale * relative standard deviation, map_std_floor) * depth instead, where map_std_scale is
    map_std_factor * exp(map_std_growth * |ln(median depth of the map / map_std_centre_m)| + map_std_upper * height),
    and height is -1/2 at the bottom of the picture and 1/2 at its top. That of a depth in words is
    hypot(words_spread * spread of the number's token distribution, words_relative * depth).
    confidence_gain, confidence_offset: of the logit of an answer's confidence (calibrated_confidence).
    The defaults report spreads and confidence unchanged, which means uncalibrated.
    """

    dense_spread: float = 1.0
    dense_relative: float = 0.0
    words_spread: float = 1.0
    words_relative: float = 0.0
    map_std_factor: float = 1.0
    map_std_floor: float = 0.0
    map_std_growth: float = 0.0
    map_std_centre_m: float = 1.0
    map_std_upper: float = 0.0
    confidence_gain: float = 1.0
    confidence_offset: float = 0.0

    def map_std_scale(self, median_m: float, rows: int) -> np.ndarray:
        """Returns float32 (rows, 1): the factor of the relative standard deviations in each row of a map.

        median_m: the map's median depth, metres; NaN gives NaN. Pictures that a model tells nearer or farther than it
        saw most in its training are wrong in scale more often. In a room, what stands on the floor in sight is known
        better than what is above it.
        """
        height = 0.5 - (np.arange(rows, dtype=np.float32)[:, None] + np.float32(0.5)) / np.float32(rows)
        growth = self.map_std_growth * abs(math.log(median_m / self.map_std_centre_m))
        return np.float32(self.map_std_factor) * np.exp(np.float32(growth) + np.float32(self.map_std_upper) * height)

    def calibrated_confidence(self, probability: float) -> float:
        """Returns sigmoid(confidence_gain * logit(probability) + confidence_offset); NaN for NaN.

        This is Platt scaling (Platt 1999) of the probability that the model itself gives its words.
        """
        if not 0 <= probability <= 1:
            return math.nan
        odds = math.exp(self.confidence_offset) * probability**self.confidence_gain
        return odds / (odds + (1 - probability) ** self.confidence_gain)


@dataclass(frozen=True)
class GenerationSettings:
    """How the tokens of a reply are chosen. Every reply is greedy: its next token is the most probable one.

    repetition_penalty: the logit of every token that the prompt or the reply holds already is divided by this if it is
    positive, and multiplied if it is negative, as transformers does (Keskar et al. 2019); 1 for none.
    stop_ids: ids of tokens that end a reply, beside the end in the chat template.
    """

    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """How one model is asked and what it sees.

    family, chat: names in families/.
    architecture: "qwen3_vl", "qwen2_5_vl", "llava", or "depth_first" (the embedded model).
    canvas: how a camera's image becomes the image that the model sees.
    pixels_per_token: side of the square of canvas pixels that one token stands for.
    system: the system message, "" for none.
    head: the depth head, "dpt", "mlp" or "bins" (the embedded model); "" for a model without dense depth.
    hub, revision: repository of the weights and its commit, branch or tag; "" where none is listed.
    depth_type: what the model's metres mean: "z" along the optical axis, or "range" from the camera's centre.
    dtype: type of the backbone's weights on an accelerator.
    most_coordinate: largest normalised coordinate that a question may hold. VLM3's texts say both [0, 2000] and
    [0, 2000), so it is 2000 or 1999.
    generation: how replies are decoded. A checkpoint has it in its generation_config.json, which takes precedence.
    released: whether the released code is repeated also where this package's default is another rule (as_released).
    download_gb: approximate size of the download, 0 if unknown.
    note: why there is no repository, or what else is worth knowing.
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
    calibration: ErrorCalibration = ErrorCalibration()
    depth_type: str = "z"
    dtype: str = "bfloat16"
    most_coordinate: int = 2000
    generation: GenerationSettings = GenerationSettings()
    released: bool = False
    download_gb: float = 0.0
    note: str = ""

    def as_released(self) -> ModelSpec:
        """Returns the spec that repeats the released code also where this package's default is another rule.

        It decides at which pixels a model is asked (CanvasRule.pixel_rule), and that the metres in its words are not
        converted, whatever they mean.
        """
        return replace(self, canvas=self.canvas.as_released(), depth_type="z", released=True)

    @property
    def canvas_multiple_px(self) -> int:
        """Number of which both sides of a canvas must be multiples (Backbone.canvas_multiple_px)."""
        return ENCODER_STRIDE_PX if self.architecture == "depth_first" else self.pixels_per_token
