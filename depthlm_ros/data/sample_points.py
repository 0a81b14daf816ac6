"""From a view to a record: points drawn from known depth, the image shrunk where the data set asks for it."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.data.records import BadRecord, DepthFile, Record, between_grids, depth_of, resized
from depthlm_ros.data.source_view import View
from depthlm_ros.data.write import appearing, depthlm_line, depthvlm_line
from depthlm_ros.errors import BadInput
from depthlm_ros.image_io import read_rgb, write_rgb

# Rounding changes the ratio of a map's sides a little, as does the undistortion of an image but not of its depth map.
SAME_RATIO = 0.05


@dataclass(frozen=True)
class Plan:
    """What is written for a view.

    out: folder of the JSONL file. points: how many are drawn from each image. focal_px: images of a longer focal
    length are shrunk to it (0: never; depth maps are for the image as it is, so not for DepthVLM's format).
    depth_scale: of depth maps that are written. Raises BadInput for numbers that make no sense.
    """

    out: Path
    format: str = "depthlm"
    points: int = 100
    seed: int = 42
    focal_px: float = 0.0
    depth_scale: float = 256.0

    def __post_init__(self) -> None:
        least = 0 if self.format == "depthvlm" else 1
        if self.points < least:
            raise BadInput(f"--points is {self.points}: at least {least}.")
        if self.seed < 0:
            raise BadInput(f"--seed is {self.seed}: at least 0.")


def write_view(view: View, plan: Plan) -> tuple[str, int]:
    """Write what a view needs on disk; its line of JSON and its number of points.

    Raises BadRecord if nothing of it is usable.
    """
    uv_grid_px = draw(view, plan)
    z_m = view.depth_m[uv_grid_px[:, 1], uv_grid_px[:, 0]].astype(np.float64)
    uv_px = between_grids(uv_grid_px, _size_px(view.depth_m), view.intrinsics.size_px)
    depth_m = depth_of(view.label, z_m, uv_px, view.intrinsics)
    record = Record(
        view.key, Path(), view.intrinsics, uv_px, depth_m, view.label, None, view.scene, view.camera, view.split
    )
    if plan.format == "depthvlm":
        record = replace(record, image=view_image(view, plan), depth=_depth_file(view, plan))
        return depthvlm_line(record, plan.out), len(uv_px)
    record = _shrunk(record, view, plan)
    return depthlm_line(record, plan.out, view.image_key), len(uv_px)


def draw(view: View, plan: Plan) -> np.ndarray:
    """int64 (N, 2): pixels of the depth map, drawn without replacement from those that are known and allowed.

    The draw depends on the seed and the view's key alone, so that workers and restarts change nothing.
    """
    check_shape(view)
    places = np.flatnonzero(usable(view))
    if len(places) < view.least_points:
        raise BadRecord("view without depth", f"{len(places)} pixels with depth, {view.least_points} are needed.")
    rng = np.random.default_rng([plan.seed, zlib.crc32(view.key.encode())])
    chosen = rng.choice(places, min(plan.points, len(places)), replace=False)
    v, u = np.divmod(chosen, view.depth_m.shape[1])
    return np.stack([u, v], axis=1)


def check_shape(view: View) -> None:
    """Raises BadRecord if the depth map cannot cover the image: its sides have another ratio."""
    (height, width), camera = view.depth_m.shape, view.intrinsics
    if abs(width - camera.width_px * height / camera.height_px) > max(1.0, SAME_RATIO * width):
        raise BadRecord(
            "depth map of another shape",
            f"the depth map is {width} x {height}, the image {camera.width_px} x {camera.height_px}.",
        )


def known(view: View) -> np.ndarray:
    """bool (h, w): pixels of the depth map that are known and within the caps."""
    near_m, far_m = view.caps_m
    with np.errstate(invalid="ignore"):
        return (view.depth_m >= near_m) & (view.depth_m <= far_m) & (view.depth_m > 0)


def usable(view: View) -> np.ndarray:
    """bool (h, w): known pixels that keep off the margin."""
    if not view.margin_px:
        return known(view)
    height, width = view.depth_m.shape
    x = math.ceil(view.margin_px * width / view.intrinsics.width_px)
    y = math.ceil(view.margin_px * height / view.intrinsics.height_px)
    inner = np.zeros((height, width), bool)
    inner[y : height - y, x : width - x] = True
    return known(view) & inner


def _shrunk(record: Record, view: View, plan: Plan) -> Record:
    """The record with its image on disk, shrunk to the plan's focal length if its own is longer."""
    camera = view.intrinsics
    if not plan.focal_px or camera.fx_px <= plan.focal_px:
        return replace(record, image=view_image(view, plan))
    scale = plan.focal_px / camera.fx_px
    size_px = math.trunc(camera.width_px * scale), math.trunc(camera.height_px * scale)
    rgb = read_rgb(view.image) if isinstance(view.image, Path) else view.image
    small = cv2.resize(rgb, size_px, interpolation=cv2.INTER_LANCZOS4 if view.truncate else cv2.INTER_AREA)
    if view.truncate:  # as released: everything times the scale, pixels cut to whole numbers
        intrinsics = replace(
            camera,
            fx_px=camera.fx_px * scale,
            fy_px=camera.fy_px * scale,
            cx_px=camera.cx_px * scale,
            cy_px=camera.cy_px * scale,
            width_px=size_px[0],
            height_px=size_px[1],
        )
        uv_px = np.trunc(record.uv_px * scale)
    else:
        intrinsics = resized(camera, size_px)
        uv_px = between_grids(record.uv_px, camera.size_px, size_px)
    return replace(record, image=_written(small, view.key, plan), intrinsics=intrinsics, uv_px=uv_px)


def view_image(view: View, plan: Plan) -> Path:
    """The file of a view's image, written if there is none yet."""
    return view.image if isinstance(view.image, Path) else _written(view.image, view.key, plan)


def _written(rgb: np.ndarray, key: str, plan: Plan) -> Path:
    path = plan.out / "images" / f"{key}.jpg"
    with appearing(path) as partial:
        write_rgb(partial, rgb)
    return path


def _depth_file(view: View, plan: Plan) -> DepthFile:
    """The view's own depth map, or one that is written: its known pixels, in what its label means."""
    if view.depth_file is not None:
        return replace(view.depth_file, size_px=_size_px(view.depth_m))
    path = plan.out / "depth" / f"{view.key}.png"
    with appearing(path) as partial:
        write_depth(partial, _labelled_map(view), plan.depth_scale)
    return DepthFile(path, plan.depth_scale, _size_px(view.depth_m), caps_m=view.caps_m)


def _labelled_map(view: View) -> np.ndarray:
    depth_m = np.full(view.depth_m.shape, np.nan, np.float32)
    v, u = np.nonzero(known(view))
    uv_px = between_grids(np.stack([u, v], axis=1), _size_px(view.depth_m), view.intrinsics.size_px)
    depth_m[v, u] = depth_of(view.label, view.depth_m[v, u].astype(np.float64), uv_px, view.intrinsics)
    return depth_m


def _size_px(depth_m: np.ndarray) -> tuple[int, int]:
    return depth_m.shape[1], depth_m.shape[0]
