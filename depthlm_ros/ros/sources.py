"""What the replay camera shows: pictures in a folder, a video, labelled images, or a rendered room.

A source is a function that starts from the beginning each time it is called, and yields shots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.eval.judges import read_records
from depthlm_ros.image_io import read_rgb

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

# The first pictures of a folder are decoded once: shown in a loop, the processor belongs to those who look at it.
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Shot:
    """One picture of a pinhole camera. rgb: uint8 (H, W, 3). depth_m: float32 (H, W), z, where it is known exactly."""

    name: str
    rgb: np.ndarray
    intrinsics: Intrinsics
    depth_m: np.ndarray | None = None


@dataclass(frozen=True)
class Lens:
    """Focal lengths and principal point in pixels of the picture, whatever its size."""

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float

    def intrinsics(self, rgb: np.ndarray) -> Intrinsics:
        """The camera of a picture (H, W, 3) taken through this lens."""
        return Intrinsics(self.fx_px, self.fy_px, self.cx_px, self.cy_px, rgb.shape[1], rgb.shape[0])


Source = Callable[[], Iterator[Shot]]
Report = Callable[[str], object]


class Shelf:
    """Reads pictures, and keeps those that fit into so many bytes. A file that is no picture is reported once, and left
    out; BadInput when a whole round had nothing else."""

    def __init__(self, most_bytes: int, report: Report) -> None:
        self._left_bytes, self._report = most_bytes, report
        self._kept: dict[Path, np.ndarray] = {}
        self._unreadable: set[Path] = set()

    def shots(self, files: Iterable[tuple[Path, Callable[[np.ndarray], Intrinsics]]]) -> Iterator[Shot]:
        """Of each file and its camera, which may depend on the picture (H, W, 3)."""
        shown = False
        for file, camera in files:
            rgb = self._read(file)
            if rgb is not None:
                shown = True
                yield Shot(file.name, rgb, camera(rgb))
        if not shown:
            raise BadInput("none of these pictures can be read: nothing to show.")

    def _read(self, file: Path) -> np.ndarray | None:
        if file in self._kept:
            return self._kept[file]
        if file in self._unreadable:
            return None
        try:
            rgb = read_rgb(file)
        except BadImage as exc:
            self._unreadable.add(file)
            self._report(f"left out: {exc}")
            return None
        if rgb.nbytes <= self._left_bytes:
            self._left_bytes -= rgb.nbytes
            self._kept[file] = rgb
        return rgb


def pictures(path: Path, lens: Lens, report: Report, kept_bytes: int = KEPT_BYTES) -> Source:
    """The pictures of a folder in the order of their names, one picture, or the frames of a video.

    report: told of files that cannot be read; the others are shown. kept_bytes: how much may be kept of the decoded
    pictures, so that a second round need not decode them.

    All must have one size, that of the first, because the lens is given for it; others raise BadImage when they
    come. Raises BadInput if there is nothing to show.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist: name a folder of pictures, a picture or a video.")
    shelf = Shelf(kept_bytes, report)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise BadInput(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
        return lambda: _of_one_size(shelf.shots((file, lens.intrinsics) for file in files))
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return lambda: shelf.shots([(path, lens.intrinsics)])
    return video(path, lens)


def video(path: Path, lens: Lens) -> Source:
    """The frames of a video. Raises BadInput if it cannot be opened."""
    if not cv2.VideoCapture(str(path)).read()[0]:
        raise BadInput(f"{path} is neither a picture nor a video that OpenCV can read.")
    return lambda: _frames(path, lens)


def labelled(path: Path, report: Report) -> Source:
    """The images of a labels file in DepthLM's JSONL schema, each with its own intrinsics. report: told of images that
    cannot be read; the others are shown. Raises BadInput."""
    files = [(record.image, _always(record.intrinsics)) for record in read_records(path).records]
    shelf = Shelf(0, report)
    return lambda: shelf.shots(files)


def _always(camera: Intrinsics) -> Callable[[np.ndarray], Intrinsics]:
    return lambda rgb: camera


def _frames(path: Path, lens: Lens) -> Iterator[Shot]:
    capture = cv2.VideoCapture(str(path))
    number = 0
    while True:
        there, bgr = capture.read()
        if not there:
            return
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        yield Shot(f"frame {number}", rgb, lens.intrinsics(rgb))
        number += 1


def _of_one_size(shots: Iterator[Shot]) -> Iterator[Shot]:
    first: Shot | None = None
    for shot in shots:
        first = first or shot
        if shot.intrinsics.size_px != first.intrinsics.size_px:
            raise BadImage(
                f"{shot.name} is {shot.intrinsics.size_px} but {first.name} is {first.intrinsics.size_px}: "
                "one lens belongs to one size; put other sizes into other folders, or use a labels file."
            )
        yield shot
