# SPDX-License-Identifier: Apache-2.0
"""Compares an exported bundle with torch, on one image and one question. measure_parity is the public function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.backends.base import Backend, Look, StepInput
from depthlm_ros.backends.onnx_runtime import KEY_VALUE_DTYPES, OnnxRuntimeBackend
from depthlm_ros.backends.torch_backend import TorchBackend
from depthlm_ros.errors import BackendFailed
from depthlm_ros.families.registry import chat_named, family_named
from depthlm_ros.model import Model
from depthlm_ros.model_files.bundle import ModelBundle
from depthlm_ros.model_files.spec import ModelSpec

if TYPE_CHECKING:
    from depthlm_ros.nets.backbone import Backbone

# Largest mean relative difference of the depth. Rounding stays far below it; a graph that computes something else is
# far above it.
MAX_MEAN_DIFFERENCE = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1}
QUESTION_TOKENS = 12


@dataclass(frozen=True)
class Parity:
    """depth_max, depth_mean: relative difference of the depth, NaN without a depth head. same_token: whether both
    choose the same token after a question, None if no question can be asked. std_mean: mean relative difference of the
    depth's standard deviation, NaN if the model does not tell it."""

    depth_max: float
    depth_mean: float
    same_token: bool | None
    std_mean: float = math.nan


def measure_parity(model: Backbone, bundle: ModelBundle, threads: int = 0) -> Parity:
    """Compares torch, in the model's own precision, with ONNX Runtime. Both run on the CPU.

    Raises BackendFailed if the two do not compute the same, or if the precision cannot hold the model's numbers.
    """
    reference = TorchBackend(lambda _: model, (bundle.before, bundle.between, bundle.after), threads, "cpu")
    exported = OnnxRuntimeBackend(bundle, threads, "cpu")
    image = sample_image(bundle.canvases_px[0])
    looks = [backend.look([image]) for backend in (reference, exported)]
    depth_max, depth_mean = _relative_difference([look.depth_m for look in looks], bundle)
    _, std_mean = _relative_difference([look.relative_std for look in looks], bundle)
    same = None if bundle.only_depth else _next_token(reference, looks[0]) == _next_token(exported, looks[1])
    limit = MAX_MEAN_DIFFERENCE[bundle.precision]
    for name, difference in (("depth", depth_mean), ("standard deviation of the depth", std_mean)):
        if difference > limit:
            raise BackendFailed(
                f"{bundle.name}: the exported model differs from torch by {difference:.2g} of the {name} on average "
                f"(at most {limit:g} is rounding): report it, with the versions of torch, onnxscript and onnxruntime."
            )
    return Parity(depth_max, depth_mean, same, std_mean)


def can_measure_parity(bundle: ModelBundle) -> bool:
    """Says whether ONNX Runtime's CPU provider runs the bundle's precision. It has no bfloat16."""
    return bundle.precision in KEY_VALUE_DTYPES


def sample_image(size_px: tuple[int, int]) -> np.ndarray:
    """Returns an image, uint8 (1, H, W, 3), with brightness gradients and noise. It is the same at every call."""
    width, height = size_px
    slopes = np.linspace(40, 200, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return np.clip(slopes + noise, 0, 255).astype(np.uint8)[None]


def _relative_difference(maps: list[np.ndarray | None], bundle: ModelBundle) -> tuple[float, float]:
    """Returns the largest and the mean relative difference of a map of torch and that of the bundle, NaN without."""
    expected, exported = maps
    if expected is None or exported is None:
        return math.nan, math.nan
    if not np.isfinite(expected).all():
        raise BackendFailed(
            f"{bundle.name}: in {bundle.precision} the model's numbers leave the range of the type (its depth is not "
            "finite): build it with --precision bf16 (TensorRT) or fp32."
        )
    relative = np.abs(exported - expected) / np.maximum(expected, np.finfo(np.float32).tiny)
    return float(relative.max()), float(relative.mean())


def _next_token(backend: Backend, look: Look) -> int:
    """Returns the token that the backend chooses after the image and a question of arbitrary tokens."""
    look = backend.read(look)
    ids = np.arange(3, 3 + QUESTION_TOKENS)[None]
    mask = np.full((1, QUESTION_TOKENS + 1), -np.inf, np.float32)
    positions = look.next_position + np.arange(QUESTION_TOKENS)[None]
    question = StepInput(ids, positions, np.array([QUESTION_TOKENS - 1]), mask, 0, np.array([0]))
    output = backend.step(backend.cache(look, 1, mask.shape[1]), question)
    return int(output.chosen[0])


def network_as_model(network: Backbone, spec: ModelSpec, tokenizer: Tokenizer) -> Model:
    """Returns a network in memory as a model that looks and answers, as its bundle will."""
    chat = chat_named(spec.chat, spec.system)
    before, between, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in chat.around_images)
    device = str(network.language.norm.weight.device)
    backend = TorchBackend(lambda _: network.eval(), (before, between, after), device=device)
    return Model(spec, family_named(spec.family), chat, backend, tokenizer)
