# SPDX-License-Identifier: Apache-2.0
"""ETH3D, high-resolution multi-view training images, with depth rendered from laser scans.

On disk: SCENE/images/dslr_images/*.JPG; SCENE/ground_truth_depth/dslr_images/*.JPG, which are not images but float32
values, row by row, metres along the optical axis, infinity unknown, for the distorted images; and
SCENE/dslr_calibration_jpg/{cameras,images}.txt in COLMAP's text format (colmap.github.io, "Output Format"; poses are
world to camera; pixel centres are at one half, so that principal points are half a pixel less here). There are no
splits. Image and depth are undistorted together, at 1280 rows at most.

The lens is COLMAP's THIN_PRISM_FISHEYE (src/colmap/sensor/models.h; also in ETH3D's documentation) with the parameters
fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, sx1, sy1. With r = |(u, v)| of a ray (u, v, 1) and (a, b) = (u, v) atan(r) / r:
    a' = a + a R + 2 p1 a b + p2 (q + 2 a^2) + sx1 q,   b' = b + b R + 2 p2 a b + p1 (q + 2 b^2) + sy1 q
where q = a^2 + b^2 and R = k1 q + k2 q^2 + k3 q^3 + k4 q^4.

Defects of the releases, which --as-released reproduces: DepthLM's release uses the coefficients for OpenCV's fisheye
model, labels distance along the ray, pairs images and depth maps by their place in sorted listings, and has almost no
limits of depth. DepthVLM's release pairs the undistorted images with the depth of the distorted ones, which have
another size and shape; this needs images/dslr_images_undistorted and dslr_calibration_undistorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, RANGE, RAW_FLOAT32, BadRecord, DepthFile, Z, resize_intrinsics
from depthlm_ros.data.sets.folder import find_folders_with, list_files, require_path
from depthlm_ros.data.sets.lidar import invert_rigid, rigid_transform
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.image_io import read_rgb

IMAGES, DEPTHS = Path("images/dslr_images"), Path("ground_truth_depth/dslr_images")
CALIBRATION = Path("dslr_calibration_jpg")
# The files of the undistorted images, which only DepthVLM's release uses.
UNDISTORTED_IMAGES = Path("images/dslr_images_undistorted")
UNDISTORTED_CALIBRATION = Path("dslr_calibration_undistorted")
# Names of lens models in cameras.txt.
PINHOLE, THIN_PRISM = "PINHOLE", "THIN_PRISM_FISHEYE"
MAX_ROWS = 1280
MARGIN_PX = 10
RELEASED_CAPS_M = (1e-4, 1e6)


@dataclass(frozen=True)
class ColmapCamera:
    """A line of cameras.txt.

    parameters: in the order of the model, fx, fy, cx, cy first. The edge of the image, not its first pixel, is 0.
    """

    model: str
    size_px: tuple[int, int]
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """An image of images.txt. camera_to_world: float64 (4, 4), from the optical frame."""

    name: str
    camera_id: int
    camera_to_world: np.ndarray


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Returns {camera id: camera} of a cameras.txt. Raises ValueError for a malformed line."""
    cameras = {}
    for words in (line.split() for line in _read_lines(path)):
        if words:
            size_px = int(words[2]), int(words[3])
            cameras[int(words[0])] = ColmapCamera(words[1], size_px, tuple(float(word) for word in words[4:]))
    return cameras


def read_images(path: Path) -> dict[str, ColmapImage]:
    """Returns {name: image} of an images.txt. Raises ValueError for a malformed line.

    Each image has two lines; the second, which holds its points, may be empty.
    """
    images = {}
    for line in _read_lines(path)[::2]:
        words = line.split()
        if words:
            values = np.array([float(word) for word in words[1:8]])
            name = " ".join(words[9:])
            images[name] = ColmapImage(name, int(words[8]), invert_rigid(rigid_transform(values[:4], values[4:])))
    return images


def _read_lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def compute_source_pixels(distorted: ColmapCamera, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Returns column and row, float32 (H, W) each, in the distorted image for each pixel of a pinhole camera.

    Both cameras have the same axes, and their pixel centres are whole numbers. Raises BadRecord for another lens model.
    """
    u = ((np.arange(camera.width_px) - camera.cx_px) / camera.fx_px)[None, :]
    v = ((np.arange(camera.height_px) - camera.cy_px) / camera.fy_px)[:, None]
    fx, fy, cx, cy = distorted.parameters[:4]
    a, b = _distort(distorted, *np.broadcast_arrays(u, v))
    return (fx * a + cx - 0.5).astype(np.float32), (fy * b + cy - 0.5).astype(np.float32)


def _distort(camera: ColmapCamera, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distorted coordinates of rays (u, v, 1), by the formula of the module's docstring."""
    if camera.model == PINHOLE:
        return u, v
    if camera.model != THIN_PRISM or len(camera.parameters) != 12:
        model = f"{camera.model} with {len(camera.parameters)} parameters"
        raise BadRecord("lens unknown", f"the lens model {model} is not supported: expected {PINHOLE} or {THIN_PRISM}.")
    k1, k2, p1, p2, k3, k4, sx1, sy1 = camera.parameters[4:]
    radius = np.hypot(u, v)
    shrink = np.where(radius > 1e-9, np.arctan(radius) / np.maximum(radius, 1e-9), 1.0)
    a, b = u * shrink, v * shrink
    q = a * a + b * b
    radial = q * (k1 + q * (k2 + q * (k3 + q * k4)))
    return (
        a + a * radial + 2 * p1 * a * b + p2 * (q + 2 * a * a) + sx1 * q,
        b + b * radial + 2 * p2 * a * b + p1 * (q + 2 * b * b) + sy1 * q,
    )


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scenes."""
    return find_folders_with(root, str(DEPTHS))


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for each image of a scene."""
    scene = (root / item).resolve()
    if options.as_released and options.format == "depthvlm":
        for image in list_files(scene / UNDISTORTED_IMAGES, ".jpg"):
            yield image.name, partial(_load_mismatched_view, scene, image)
        return
    images = list_files(scene / IMAGES, ".jpg")
    depths = (
        list_files(scene / DEPTHS, ".jpg") if options.as_released else [scene / DEPTHS / path.name for path in images]
    )
    for image, depth in zip(images, depths, strict=False):
        yield image.name, partial(_load_view, scene, image, depth, options)


def _load_view(scene: Path, image: Path, depth: Path, options: ReadOptions) -> SourceView:
    distorted, posed = _find_calibration(scene / CALIBRATION, image.name)
    rgb = read_rgb(image)
    if (rgb.shape[1], rgb.shape[0]) != distorted.size_px:
        sizes = f"{rgb.shape[1]} x {rgb.shape[0]}, its camera is {distorted.size_px[0]} x {distorted.size_px[1]}"
        raise BadRecord("image of another size", f"{image} is {sizes}.")
    file = DepthFile(require_path(depth, "depth map"), 1.0, distorted.size_px, RAW_FLOAT32)
    camera = _without_distortion(distorted)
    small = _limit_rows(camera)
    undistorted, depth_m = _undistort(rgb, read_depth(file), distorted, camera, small, options.as_released)
    return SourceView(
        key=f"{scene.name}/{image.stem}",
        image=undistorted,
        intrinsics=small,
        depth_m=depth_m,
        label=RANGE if options.as_released else Z,
        caps_m=RELEASED_CAPS_M if options.as_released else CAPS_M["eth3d"],
        margin_px=MARGIN_PX,
        scene=scene.name,
        camera="dslr",
        pose=posed.camera_to_world,
    )


def _undistort(
    rgb: np.ndarray,
    depth_m: np.ndarray,
    distorted: ColmapCamera,
    camera: Intrinsics,
    small: Intrinsics,
    as_released: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and depth as the pinhole camera `small` sees them.

    camera: the same pinhole camera at the size of the image. Depth is picked from single pixels, because means would
    mix depths across edges.
    """
    map_x, map_y = _compute_maps(distorted, camera, as_released)
    undistorted = cv2.remap(rgb, map_x, map_y, interpolation=cv2.INTER_LINEAR)
    undistorted = cv2.resize(undistorted, small.size_px, interpolation=cv2.INTER_AREA)
    rows, columns = (
        np.clip(np.rint((np.arange(small_n) + 0.5) * n / small_n - 0.5).astype(int), 0, n - 1)
        for small_n, n in ((small.height_px, camera.height_px), (small.width_px, camera.width_px))
    )
    picked = np.ix_(rows, columns)
    unknown = float("nan")
    return undistorted, cv2.remap(
        depth_m, map_x[picked], map_y[picked], interpolation=cv2.INTER_NEAREST, borderValue=(unknown,) * 4
    )


def _compute_maps(distorted: ColmapCamera, camera: Intrinsics, as_released: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns column and row in the distorted image, float32 (H, W) each, of each pixel of the pinhole camera."""
    if not as_released:
        return compute_source_pixels(distorted, camera)
    # The release uses the first four coefficients of the thin-prism model as those of OpenCV's fisheye model.
    k, four = camera.matrix, np.array(distorted.parameters[4:8], np.float64)
    return cv2.fisheye.initUndistortRectifyMap(k, four, np.eye(3), k, camera.size_px, cv2.CV_32FC1)


def _load_mismatched_view(scene: Path, image: Path) -> SourceView:
    """Returns an undistorted image with the depth of the distorted one, as DepthVLM's release pairs them."""
    undistorted, posed = _find_calibration(scene / UNDISTORTED_CALIBRATION, image.name)
    depth = require_path(scene / DEPTHS / image.name, "depth map")
    distorted, _ = _find_calibration(scene / CALIBRATION, image.name)
    file = DepthFile(depth, 1.0, distorted.size_px, RAW_FLOAT32, caps_m=CAPS_M["eth3d"])
    return SourceView(
        key=f"{scene.name}/{image.stem}",
        image=image,
        intrinsics=_without_distortion(undistorted),
        depth_m=read_depth(file),
        depth_file=file,
        caps_m=CAPS_M["eth3d"],
        scene=scene.name,
        camera="dslr",
        pose=posed.camera_to_world,
    )


def _without_distortion(camera: ColmapCamera) -> Intrinsics:
    """Returns the camera without distortion, with pixel centres at whole numbers."""
    fx, fy, cx, cy = camera.parameters[:4]
    return Intrinsics(fx, fy, cx - 0.5, cy - 0.5, *camera.size_px)


def _limit_rows(camera: Intrinsics) -> Intrinsics:
    """Returns the camera of the image shrunk to at most MAX_ROWS rows."""
    if camera.height_px <= MAX_ROWS:
        return camera
    width = round(camera.width_px * MAX_ROWS / camera.height_px)
    return resize_intrinsics(camera, (width, MAX_ROWS))


def _find_calibration(folder: Path, name: str) -> tuple[ColmapCamera, ColmapImage]:
    """Returns the camera and the pose of an image by its file name."""
    cameras, images = _read_calibration(folder)
    if name not in images:
        raise BadRecord("camera missing", f"{folder / 'images.txt'} has no image {name}.")
    return cameras[images[name].camera_id], images[name]


@lru_cache(maxsize=2)
def _read_calibration(folder: Path) -> tuple[dict[int, ColmapCamera], dict[str, ColmapImage]]:
    cameras_path, images_path = (require_path(folder / name, "calibration") for name in ("cameras.txt", "images.txt"))
    images = {Path(name).name: image for name, image in read_images(images_path).items()}
    return read_cameras(cameras_path), images


SET = DataSet(
    name="eth3d",
    title="ETH3D (high-resolution multi-view, training)",
    layout=f"SCENE/{IMAGES}/*.JPG, SCENE/{DEPTHS}/*.JPG, SCENE/{CALIBRATION}/cameras.txt and images.txt.",
    items=items,
    views=views,
    corrections=(
        "images are undistorted by the thin-prism fisheye model; DepthLM's release uses OpenCV's fisheye model",
        "labels are z; DepthLM's release labels distance along the ray",
        "images and depth maps are paired by name; DepthLM's release pairs sorted listings",
        "image and depth are undistorted together; DepthVLM's release pairs undistorted images with distorted depth",
        "depth is limited to 0.01 to 50 m; DepthLM's release uses 0.0001 to 1000000 m",
    ),
    caps_m=CAPS_M["eth3d"],
    depth_scale=1000.0,
)
