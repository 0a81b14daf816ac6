"""How near what was exported comes to what torch computes, on one image and one question."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.backends.base import Backend, Look, StepInput, StepOutput
from depthlm_ros.backends.onnx_runtime import KEPT_AS, OnnxRuntimeBackend
from depthlm_ros.backends.torch_backend import TorchBackend
from depthlm_ros.errors import BackendFailed
from depthlm_ros.model_files.bundle import Bundle

if TYPE_CHECKING:
    from depthlm_ros.nets.backbone import Backbone

# A graph that computes something else is far from these; rounding stays far below them.
MOST_MEAN = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1}
QUESTION_TOKENS = 12


@dataclass(frozen=True)
class Parity:
    """depth_max, depth_mean: relative difference of the depth, NaN without a depth head; same_token: both choose the
    same token after a question, None where nothing can be asked."""

    depth_max: float
    depth_mean: float
    same_token: bool | None


def measure_parity(model: Backbone, bundle: Bundle, threads: int = 0) -> Parity:
    """torch in the model's own precision against ONNX Runtime, both on the CPU.

    Raises BackendFailed if the two are not the same function, or if a precision is too small for the model's numbers.
    """
    reference = TorchBackend(lambda _: model, (bundle.before, bundle.between, bundle.after), threads, "cpu")
    ours = OnnxRuntimeBackend(bundle, threads, "cpu")
    image = sample_image(bundle.canvases_px[0])
    looks = [backend.look([image]) for backend in (reference, ours)]
    depth_max, depth_mean = _depth_difference(looks, bundle)
    same = None if bundle.only_depth else _next_token(reference, looks[0]) == _next_token(ours, looks[1])
    limit = MOST_MEAN[bundle.precision]
    if depth_mean > limit:
        raise BackendFailed(
            f"{bundle.name}: what was exported differs from torch by {depth_mean:.2g} of the depth on average (at most "
            f"{limit:g} is rounding): report it, with the versions of torch, onnxscript and onnxruntime."
        )
    return Parity(depth_max, depth_mean, same)


def can_measure(bundle: Bundle) -> bool:
    """ONNX Runtime's CPU provider lacks bfloat16."""
    return bundle.precision in KEPT_AS


def sample_image(size_px: tuple[int, int]) -> np.ndarray:
    """uint8 (1, H, W, 3): slopes of brightness with noise, the same each time."""
    width, height = size_px
    slopes = np.linspace(40, 200, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return np.clip(slopes + noise, 0, 255).astype(np.uint8)[None]


def _depth_difference(looks: list[Look], bundle: Bundle) -> tuple[float, float]:
    expected_m, found_m = (look.depth_m for look in looks)
    if expected_m is None or found_m is None:
        return math.nan, math.nan
    if not np.isfinite(expected_m).all():
        raise BackendFailed(
            f"{bundle.name}: in {bundle.precision} the model's numbers leave the range of the type (its depth is not "
            "finite): build it with --precision bf16 (TensorRT) or fp32."
        )
    relative = np.abs(found_m - expected_m) / np.maximum(expected_m, np.finfo(np.float32).tiny)
    return float(relative.max()), float(relative.mean())


def _next_token(backend: Backend, look: Look) -> int:
    ids = np.arange(3, 3 + QUESTION_TOKENS)[None]
    mask = np.full((1, QUESTION_TOKENS + 1), -np.inf, np.float32)
    positions = look.next_position + np.arange(QUESTION_TOKENS)[None]
    given = StepInput(ids, positions, np.array([QUESTION_TOKENS - 1]), mask, 0, np.array([0]))
    output: StepOutput = backend.step(backend.cache(look, 1, mask.shape[1]), given)
    return int(output.chosen[0])
