"""Matterport3D, the undistorted images, with one tripod camera of three lenses.

On disk: [v1/scans/]SCAN/undistorted_color_images/UUID_iL_Y.jpg, undistorted_depth_images/UUID_dL_Y.png (1/4000 m along
the optical axis), undistorted_camera_parameters/SCAN.conf: an intrinsics_matrix line holds for the scan lines after it,
of which there are three groups, one for each lens; a scan line ends with the camera-to-world matrix of a camera that
looks along -z with y up. The file counts rows from the bottom of the image (the data set's data_organization.md), so
that cy from the top is H - 1 - cy: for one lens it says 509.202 where Matterport's own calibration, which counts from
the top, says 513.798, and their sum is 1023.
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
from depthlm_ros.data.sets.folder import folders_with, must_exist
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import image_size

COLOR, DEPTH, PARAMETERS = "undistorted_color_images", "undistorted_depth_images", "undistorted_camera_parameters"
UNITS_PER_METRE = 4000.0
# A camera that looks along -z with y up, in the optical frame.
OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])
# DepthLM's release draws within these, and leaves images with fewer usable points out.
RELEASED_M, RELEASED_LEAST = (0.05, 50.0), 50


@dataclass(frozen=True)
class Shot:
    """A line of the parameters. k: fx, fy, cx, cy as they stand there. pose: camera to world, optical frame."""

    depth: str
    color: str
    k: tuple[float, float, float, float]
    pose: np.ndarray


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scans; of a split if ROOT holds scenes_SPLIT.txt."""
    base = root / "v1" / "scans" if (root / "v1" / "scans").is_dir() else root
    scans = [(base / name).relative_to(root).as_posix() for name in folders_with(base, PARAMETERS)]
    if not choice.split:
        return scans
    wanted = set(must_exist(root / f"scenes_{choice.split}.txt", "split").read_text(encoding="utf-8").split())
    return [scan for scan in scans if Path(scan).name in wanted]


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    """One view for each image of a scan."""
    folder = (root / item).resolve()
    shots = _shots(must_exist(folder / PARAMETERS / f"{folder.name}.conf", "camera parameters"))
    for shot in shots:
        yield Path(shot.color).stem, partial(_view, folder, shot, choice)


def _view(folder: Path, shot: Shot, choice: Choice) -> View:
    image = must_exist(folder / COLOR / shot.color, "image")
    released = choice.as_released and choice.format == "depthlm"
    caps_m = RELEASED_M if released else CAPS_M["matterport"]
    file = DepthFile(must_exist(folder / DEPTH / shot.depth, "depth map"), UNITS_PER_METRE, caps_m=caps_m)
    return View(
        key=f"{folder.name}/{image.stem}",
        image=image,
        intrinsics=_camera(shot, image_size(image), choice.as_released),
        depth_m=read_depth(file),
        depth_file=file,
        label=RANGE if released else Z,
        caps_m=caps_m,
        least_points=RELEASED_LEAST if released else 1,
        scene=folder.name,
        camera=image.stem.split("_")[-2],
        split=choice.split,
        pose=shot.pose,
        image_key="image_path" if released else "image",
    )


def _camera(shot: Shot, size_px: tuple[int, int], as_released: bool) -> Intrinsics:
    fx, fy, cx, cy = shot.k
    return Intrinsics(fx, fy, cx, cy if as_released else size_px[1] - 1 - cy, *size_px)


def _shots(path: Path) -> list[Shot]:
    shots: list[Shot] = []
    k: tuple[float, float, float, float] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == ["intrinsics_matrix"]:
            numbers = [float(word) for word in words[1:10]]
            k = numbers[0], numbers[4], numbers[2], numbers[5]
        elif words[:1] == ["scan"]:
            if k is None:
                raise BadRecord("camera missing", f"{path}: a scan line before the first intrinsics_matrix.")
            pose = np.array([float(word) for word in words[3:19]]).reshape(4, 4) @ OPTICAL
            shots.append(Shot(words[1], words[2], k, pose))
    return shots


SET = DataSet(
    name="matterport3d",
    title="Matterport3D",
    layout=f"[v1/scans/]SCAN/{COLOR}/, {DEPTH}/, {PARAMETERS}/SCAN.conf.",
    items=items,
    views=views,
    corrections=(
        'the image is called "image"; DepthLM\'s release writes image_path, which its own loader does not read',
        "z; DepthLM's release labels distance along the ray",
        "cy counts from the top of the image; the file's counts from the bottom",
        "0.01 to 10 m; DepthLM's release takes 0.05 to 50 m, and leaves out images with fewer than 50 points",
    ),
    caps_m=CAPS_M["matterport"],
    depth_scale=UNITS_PER_METRE,
)
