# SPDX-License-Identifier: Apache-2.0
"""Matterport3D: the undistorted images of a tripod with three cameras.

On disk: [v1/scans/]SCAN/undistorted_color_images/UUID_iL_Y.jpg, undistorted_depth_images/UUID_dL_Y.png (1/4000 m along
the optical axis) and undistorted_camera_parameters/SCAN.conf. In this file an intrinsics_matrix line is valid for the
scan lines after it; there are three such groups, one for each camera. A scan line ends with the camera-to-world matrix
of a camera that looks along -z with y up. The file counts rows from the bottom of the image (the data set's
data_organization.md), so that cy from the top is H - 1 - cy. For example, it states 509.202 for a camera for which
Matterport's own calibration, which counts from the top, states 513.798; their sum is 1023.

Splits: --split NAME uses the scans that ROOT/scenes_NAME.txt names.

Defects of DepthLM's release, which --as-released reproduces: it writes the key image_path, which its own loader does
not read; it labels distance along the ray; it uses the cy of the file unchanged; its limits of depth are too wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, RANGE, BadRecord, DepthFile, Z
from depthlm_ros.data.sets.folder import find_folders_with, require_path
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.image_io import image_size

COLOR, DEPTH, PARAMETERS = "undistorted_color_images", "undistorted_depth_images", "undistorted_camera_parameters"
UNITS_PER_METRE = 4000.0
# Transform between a camera frame that looks along -z with y up and the optical frame.
OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])
# DepthLM's release draws points within these limits, and leaves out images with fewer usable points.
RELEASED_CAPS_M, RELEASED_LEAST_POINTS = (0.05, 50.0), 50


@dataclass(frozen=True)
class ScanImage:
    """A scan line of the camera parameters.

    depth, color: file names. k: fx, fy, cx, cy as the file states them. pose: float64 (4, 4), camera (optical frame) to
    world.
    """

    depth: str
    color: str
    k: tuple[float, float, float, float]
    pose: np.ndarray


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the scans, of one split if it is chosen."""
    base = root / "v1" / "scans" if (root / "v1" / "scans").is_dir() else root
    scans = [(base / name).relative_to(root).as_posix() for name in find_folders_with(base, PARAMETERS)]
    if not options.split:
        return scans
    wanted = set(require_path(root / f"scenes_{options.split}.txt", "split").read_text(encoding="utf-8").split())
    return [scan for scan in scans if Path(scan).name in wanted]


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields one view for each image of a scan."""
    folder = (root / item).resolve()
    scan_images = _read_scan_images(require_path(folder / PARAMETERS / f"{folder.name}.conf", "camera parameters"))
    for scan_image in scan_images:
        yield Path(scan_image.color).stem, partial(_load_view, folder, scan_image, options)


def _load_view(folder: Path, scan_image: ScanImage, options: ReadOptions) -> SourceView:
    image = require_path(folder / COLOR / scan_image.color, "image")
    released = options.as_released and options.format == "depthlm"
    caps_m = RELEASED_CAPS_M if released else CAPS_M["matterport"]
    file = DepthFile(require_path(folder / DEPTH / scan_image.depth, "depth map"), UNITS_PER_METRE, caps_m=caps_m)
    return SourceView(
        key=f"{folder.name}/{image.stem}",
        image=image,
        intrinsics=_camera(scan_image, image_size(image), options.as_released),
        depth_m=read_depth(file),
        depth_file=file,
        label=RANGE if released else Z,
        caps_m=caps_m,
        least_points=RELEASED_LEAST_POINTS if released else 1,
        scene=folder.name,
        camera=image.stem.split("_")[-2],
        split=options.split,
        pose=scan_image.pose,
        image_key="image_path" if released else "image",
    )


def _camera(scan_image: ScanImage, size_px: tuple[int, int], as_released: bool) -> Intrinsics:
    fx, fy, cx, cy = scan_image.k
    return Intrinsics(fx, fy, cx, cy if as_released else size_px[1] - 1 - cy, *size_px)


def _read_scan_images(path: Path) -> list[ScanImage]:
    found: list[ScanImage] = []
    k: tuple[float, float, float, float] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == ["intrinsics_matrix"]:
            numbers = [float(word) for word in words[1:10]]
            k = numbers[0], numbers[4], numbers[2], numbers[5]
        elif words[:1] == ["scan"]:
            if k is None:
                raise BadRecord("camera missing", f"{path}: a scan line comes before the first intrinsics_matrix line.")
            pose = np.array([float(word) for word in words[3:19]]).reshape(4, 4) @ OPTICAL
            found.append(ScanImage(words[1], words[2], k, pose))
    return found


SET = DataSet(
    name="matterport3d",
    title="Matterport3D",
    layout=f"[v1/scans/]SCAN/{COLOR}/, {DEPTH}/, {PARAMETERS}/SCAN.conf.",
    items=items,
    views=views,
    corrections=(
        'the image is called "image"; DepthLM\'s release writes image_path, which its own loader does not read',
        "labels are z; DepthLM's release labels distance along the ray",
        "cy counts from the top of the image; in the file it counts from the bottom",
        "depth is limited to 0.01 to 10 m; DepthLM's release uses 0.05 to 50 m, and leaves out images with fewer than "
        "50 points",
    ),
    caps_m=CAPS_M["matterport"],
    depth_scale=UNITS_PER_METRE,
)
