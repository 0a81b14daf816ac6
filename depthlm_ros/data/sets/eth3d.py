"""ETH3D, high-resolution multi-view training images, with depth rendered from laser scans.

On disk: SCENE/images/dslr_images/*.JPG, SCENE/ground_truth_depth/dslr_images/*.JPG (not pictures: float32, row by row,
metres along the optical axis, infinity unknown, of the images as they are, with distortion) and SCENE/
dslr_calibration_jpg/{cameras,images}.txt in COLMAP's format (world to camera; pixel centres at one half, so that
principal points are half a pixel less here). Images and depth are undistorted here together, by the thin-prism fisheye
model (thin_prism.py), at 1280 rows at most.

DepthVLM's release pairs the undistorted images with the depth of the distorted ones, which are of another size and
shape: --as-released with its format repeats that, and needs images/dslr_images_undistorted and
dslr_calibration_undistorted.

COLMAP's text files of cameras and images (colmap.github.io, "Output Format").

The thin-prism fisheye lens: where a pinhole camera's pixels are in the image of such a lens.

Formula: COLMAP's THIN_PRISM_FISHEYE (src/colmap/sensor/models.h), parameters fx, fy, cx, cy, k1, k2, p1, p2, k3, k4,
sx1, sy1, also given in ETH3D's documentation. With r = |(u, v)| of a ray (u, v, 1) and (a, b) = (u, v) atan(r) / r:
    a' = a + a R + 2 p1 a b + p2 (q + 2 a^2) + sx1 q,   b' = b + b R + 2 p2 a b + p1 (q + 2 b^2) + sy1 q
where q = a^2 + b^2 and R = k1 q + k2 q^2 + k3 q^3 + k4 q^4.
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
from depthlm_ros.data.records import CAPS_M, RANGE, RAW_FLOAT32, BadRecord, DepthFile, Z, resized
from depthlm_ros.data.sets.folder import files_in, folders_with, must_exist
from depthlm_ros.data.sets.lidar import inverse, rigid
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import read_rgb


@dataclass(frozen=True)
class Lens:
    """A line of cameras.txt. parameters: as the model orders them, fx, fy, cx, cy first; the image's edge is 0."""

    model: str
    size_px: tuple[int, int]
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class Posed:
    """An image of images.txt. camera_to_world: float64 (4, 4), optical frame."""

    name: str
    camera_id: int
    camera_to_world: np.ndarray


def read_cameras(path: Path) -> dict[int, Lens]:
    """By camera id. Raises ValueError for a line that is none."""
    lenses = {}
    for words in (line.split() for line in _lines(path)):
        if words:
            size_px = int(words[2]), int(words[3])
            lenses[int(words[0])] = Lens(words[1], size_px, tuple(float(word) for word in words[4:]))
    return lenses


def read_images(path: Path) -> dict[str, Posed]:
    """By name. Each image has two lines, the second (its points) possibly empty. Raises ValueError for other lines."""
    images = {}
    for line in _lines(path)[::2]:
        words = line.split()
        if words:
            values = np.array([float(word) for word in words[1:8]])
            name = " ".join(words[9:])
            images[name] = Posed(name, int(words[8]), inverse(rigid(values[:4], values[4:])))
    return images


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


PINHOLE, THIN_PRISM = "PINHOLE", "THIN_PRISM_FISHEYE"


def source_pixels(lens: Lens, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """float32 (H, W) twice: column and row in the lens's image of each pixel of a pinhole camera with the same axis.

    Pixel centres are whole numbers on both sides. Raises BadRecord for another lens model.
    """
    u = ((np.arange(camera.width_px) - camera.cx_px) / camera.fx_px)[None, :]
    v = ((np.arange(camera.height_px) - camera.cy_px) / camera.fy_px)[:, None]
    fx, fy, cx, cy = lens.parameters[:4]
    a, b = _distorted(lens, *np.broadcast_arrays(u, v))
    return (fx * a + cx - 0.5).astype(np.float32), (fy * b + cy - 0.5).astype(np.float32)


def _distorted(lens: Lens, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if lens.model == PINHOLE:
        return u, v
    if lens.model != THIN_PRISM or len(lens.parameters) != 12:
        raise BadRecord("lens unknown", f"lens model {lens.model} with {len(lens.parameters)} parameters is not read.")
    k1, k2, p1, p2, k3, k4, sx1, sy1 = lens.parameters[4:]
    radius = np.hypot(u, v)
    shrink = np.where(radius > 1e-9, np.arctan(radius) / np.maximum(radius, 1e-9), 1.0)
    a, b = u * shrink, v * shrink
    q = a * a + b * b
    radial = q * (k1 + q * (k2 + q * (k3 + q * k4)))
    return (
        a + a * radial + 2 * p1 * a * b + p2 * (q + 2 * a * a) + sx1 * q,
        b + b * radial + 2 * p2 * a * b + p1 * (q + 2 * b * b) + sy1 * q,
    )


IMAGES, DEPTHS = Path("images/dslr_images"), Path("ground_truth_depth/dslr_images")
CALIBRATION = Path("dslr_calibration_jpg")
FLAT_IMAGES, FLAT_CALIBRATION = Path("images/dslr_images_undistorted"), Path("dslr_calibration_undistorted")
MOST_ROWS = 1280
MARGIN_PX = 10
RELEASED_M = (1e-4, 1e6)


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes."""
    return folders_with(root, str(DEPTHS))


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    """One view for each image of a scene."""
    scene = (root / item).resolve()
    if choice.as_released and choice.format == "depthvlm":
        for image in files_in(scene / FLAT_IMAGES, ".jpg"):
            yield image.name, partial(_mismatched_view, scene, image)
        return
    images = files_in(scene / IMAGES, ".jpg")
    depths = files_in(scene / DEPTHS, ".jpg") if choice.as_released else [scene / DEPTHS / path.name for path in images]
    for image, depth in zip(images, depths, strict=False):
        yield image.name, partial(_view, scene, image, depth, choice)


def _view(scene: Path, image: Path, depth: Path, choice: Choice) -> View:
    lens, posed = _calibrated(scene / CALIBRATION, image.name)
    rgb = read_rgb(image)
    if (rgb.shape[1], rgb.shape[0]) != lens.size_px:
        raise BadRecord("image of another size", f"{image} is {rgb.shape[1]} x {rgb.shape[0]}, not {lens.size_px}.")
    file = DepthFile(must_exist(depth, "depth map"), 1.0, lens.size_px, RAW_FLOAT32)
    camera = _pinhole(lens)
    small = _shrunk(camera)
    straight, depth_m = _undistorted(rgb, read_depth(file), lens, camera, small, choice.as_released)
    return View(
        key=f"{scene.name}/{image.stem}",
        image=straight,
        intrinsics=small,
        depth_m=depth_m,
        label=RANGE if choice.as_released else Z,
        caps_m=RELEASED_M if choice.as_released else CAPS_M["eth3d"],
        margin_px=MARGIN_PX,
        scene=scene.name,
        camera="dslr",
        pose=posed.camera_to_world,
    )


def _undistorted(
    rgb: np.ndarray, depth_m: np.ndarray, lens: Lens, camera: Intrinsics, small: Intrinsics, as_released: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Image and depth as the pinhole `small` sees them; depth is picked, never mixed over edges."""
    map_x, map_y = _maps(lens, camera, as_released)
    straight = cv2.remap(rgb, map_x, map_y, interpolation=cv2.INTER_LINEAR)
    straight = cv2.resize(straight, small.size_px, interpolation=cv2.INTER_AREA)
    rows, columns = (
        np.clip(np.rint((np.arange(n) + 0.5) * whole / n - 0.5).astype(int), 0, whole - 1)
        for n, whole in ((small.height_px, camera.height_px), (small.width_px, camera.width_px))
    )
    picked = np.ix_(rows, columns)
    unknown = float("nan")
    return straight, cv2.remap(
        depth_m, map_x[picked], map_y[picked], interpolation=cv2.INTER_NEAREST, borderValue=(unknown,) * 4
    )


def _maps(lens: Lens, camera: Intrinsics, as_released: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the pinhole camera is in the image, float32 (H, W) twice."""
    if not as_released:
        return source_pixels(lens, camera)
    # As released: the thin prism's first four coefficients as those of OpenCV's fisheye model.
    k, four = camera.matrix, np.array(lens.parameters[4:8], np.float64)
    return cv2.fisheye.initUndistortRectifyMap(k, four, np.eye(3), k, camera.size_px, cv2.CV_32FC1)


def _mismatched_view(scene: Path, image: Path) -> View:
    lens, posed = _calibrated(scene / FLAT_CALIBRATION, image.name)
    depth = must_exist(scene / DEPTHS / image.name, "depth map")
    distorted, _ = _calibrated(scene / CALIBRATION, image.name)
    file = DepthFile(depth, 1.0, distorted.size_px, RAW_FLOAT32, caps_m=CAPS_M["eth3d"])
    return View(
        key=f"{scene.name}/{image.stem}",
        image=image,
        intrinsics=_pinhole(lens),
        depth_m=read_depth(file),
        depth_file=file,
        caps_m=CAPS_M["eth3d"],
        scene=scene.name,
        camera="dslr",
        pose=posed.camera_to_world,
    )


def _pinhole(lens: Lens) -> Intrinsics:
    """The camera without distortion, pixel centres at whole numbers."""
    fx, fy, cx, cy = lens.parameters[:4]
    return Intrinsics(fx, fy, cx - 0.5, cy - 0.5, *lens.size_px)


def _shrunk(camera: Intrinsics) -> Intrinsics:
    if camera.height_px <= MOST_ROWS:
        return camera
    width = round(camera.width_px * MOST_ROWS / camera.height_px)
    return resized(camera, (width, MOST_ROWS))


def _calibrated(folder: Path, name: str) -> tuple[Lens, Posed]:
    lenses, images = _calibration(folder)
    if name not in images:
        raise BadRecord("camera missing", f"{folder / 'images.txt'} does not know {name}.")
    return lenses[images[name].camera_id], images[name]


@lru_cache(maxsize=2)
def _calibration(folder: Path) -> tuple[dict[int, Lens], dict[str, Posed]]:
    cameras, images = (must_exist(folder / name, "calibration") for name in ("cameras.txt", "images.txt"))
    posed = read_images(images)
    return read_cameras(cameras), {Path(name).name: found for name, found in posed.items()}


SET = DataSet(
    name="eth3d",
    title="ETH3D (high-resolution multi-view, training)",
    layout=f"SCENE/{IMAGES}/*.JPG, SCENE/{DEPTHS}/*.JPG, SCENE/{CALIBRATION}/cameras.txt and images.txt.",
    items=items,
    views=views,
    corrections=(
        "the lens is undistorted by its thin-prism fisheye model; DepthLM's release takes it for OpenCV's fisheye",
        "z; DepthLM's release labels distance along the ray",
        "images and depth maps are paired by name; DepthLM's release pairs sorted listings",
        "image and depth are undistorted together; DepthVLM's release pairs undistorted images with distorted depth",
        "0.01 to 50 m; DepthLM's release takes 0.0001 to 1000000 m",
    ),
    caps_m=CAPS_M["eth3d"],
    depth_scale=1000.0,
)
