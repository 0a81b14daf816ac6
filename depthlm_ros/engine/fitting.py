"""From a camera to the canvas that an engine is built for."""

from __future__ import annotations

import math
from dataclasses import replace

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.model import believable_view
from depthlm_ros.model_files.spec import ModelSpec

# What the exported graph of text takes as a prefix, less some text.
MOST_TOKENS = 16000


def camera_of_size(size_px: tuple[int, int], focal_px: float | None, spec: ModelSpec) -> Intrinsics:
    """A camera (width, height) with its principal point in the middle. focal_px None: the model's canonical one, at
    which the image is neither enlarged nor shrunk."""
    width, height = size_px
    focal_px = focal_px or spec.canvas.focal_px or float(max(size_px))
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def fitted_spec(spec: ModelSpec, camera: Intrinsics, name: str) -> ModelSpec:
    """The spec of an engine of that name for a (rectified) camera.

    A model with canvases of its own gets one of whole tokens that shows all of the camera's image at the canonical
    focal length; a published one the size to which its rule resizes the camera's image. Raises BadIntrinsics for a
    camera that is absurd, or whose view would be more tokens than a graph takes.
    """
    rule, token_px = spec.canvas, spec.pixels_per_token
    if rule.canvases_px:
        size_px = _covering(camera, rule.focal_px or camera.fx_px, token_px)
        fitted = replace(rule, canvases_px=(size_px,), built_px=())
        believable_view(camera, fitted)
    else:
        size_px = believable_view(camera, replace(rule, built_px=())).canvas_size_px
        fitted = replace(rule, built_px=(size_px,))
    tokens = math.prod(size_px) // token_px**2
    if tokens > MOST_TOKENS:
        raise BadIntrinsics(
            f"a camera of {camera.width_px} x {camera.height_px} with fx = {camera.fx_px:g} would be seen as "
            f"{size_px[0]} x {size_px[1]} pixels, {tokens} tokens; at most {MOST_TOKENS} are possible: check the "
            "calibration, or let the camera send smaller images."
        )
    return replace(spec, name=name, canvas=fitted)


def _covering(camera: Intrinsics, focal_px: float, token_px: int) -> tuple[int, int]:
    """Sides of whole tokens around the camera's image, scaled to the canonical focal length."""
    sides_px = (camera.width_px * focal_px / camera.fx_px, camera.height_px * focal_px / camera.fy_px)
    # An image that is a hair larger than whole tokens needs no further one.
    width, height = (max(1, math.ceil(side / token_px - 1e-6)) * token_px for side in sides_px)
    return width, height
