# SPDX-License-Identifier: Apache-2.0
"""The lens of a folder of pictures, of one picture or of a video: `find_lens` and `picture_files`.

The focal length is the one that the user gives (KnownLens). Otherwise each picture whose Exif data hold one has its
own; the others share the median of those that the lines in some of them tell (geometry/focal_estimation.py); and where
these tell nothing, a usual one is assumed. Lens.text says in one line which it was and how far it can be trusted.

A focal length that is not given in pixels is a share of the picture's longer side, so that it holds for pictures of
every size and for both orientations.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics
from depthlm_ros.geometry.focal_estimation import LINES_ERROR, focal_from_exif, focal_from_lines
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.image_io import decode_rgb, image_size

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
# Files that are pictures or videos to a user and are no pictures that OpenCV reads -> what to do with them.
OTHER_SUFFIXES = dict.fromkeys(
    (".heic", ".heif", ".avif", ".jxl", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf"),
    "save as JPEG or PNG",
) | dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "a video is shown alone: give its path")
MOST_NAMED_FILES = 5
# Lines are looked for in this many pictures, spread evenly over the folder or video.
MOST_ESTIMATED = 12
# Focal length of a usual camera, in longer sides of the picture: a field of view of 64 degrees.
USUAL_SHARE = 0.8

LogLine = Callable[[str], object]


@dataclass(frozen=True)
class KnownLens:
    """What the user knows of the lens, None for the rest: fy is fx, and the principal point is the middle.

    fov_deg: field of view along the longer side. Raises BadIntrinsics for values that do not go together.
    """

    fx_px: float | None = None
    fy_px: float | None = None
    cx_px: float | None = None
    cy_px: float | None = None
    fov_deg: float | None = None

    def __post_init__(self) -> None:
        if self.fov_deg is not None and self.fx_px is not None:
            raise BadIntrinsics("both a focal length and a field of view are given: give FX or FOV, not both.")
        if self.fx_px is None and self.is_calibrated:
            raise BadIntrinsics("FY, CX or CY is given without FX: give the focal length FX, in pixels, too.")

    @property
    def is_calibrated(self) -> bool:
        """Whether more than one focal length is known, so that the lens belongs to one size and orientation."""
        return (self.fy_px, self.cx_px, self.cy_px) != (None, None, None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return self == KnownLens()

    def options(self) -> list[str]:
        """Returns the options of the command line that `add_lens_options` reads as this lens."""
        given = {name: getattr(self, name) for name in vars(self) if getattr(self, name) is not None}
        return [f"--{name.split('_')[0]}={value!r}" for name, value in given.items()]


@dataclass(frozen=True)
class Lens:
    """The cameras of a set of pictures.

    text: one line for people. size_px: (width, height) of the pictures to which a given focal length belongs, None if
    it holds for all. shares: focal length in longer sides of the pictures that have their own, by name; share: of
    the others.
    """

    text: str
    known: KnownLens
    size_px: tuple[int, int] | None = None
    share: float = USUAL_SHARE
    shares: Mapping[str, float] = field(default_factory=dict)

    def intrinsics_of(self, name: str, size_px: tuple[int, int]) -> Intrinsics:
        """Returns the camera of a picture. Raises BadImage for a size to which a given focal length does not belong."""
        known, (width, height) = self.known, size_px
        if known.fx_px is None:
            return centred_camera(size_px, max(size_px) * self.shares.get(name, self.share))
        turned = None if self.size_px is None or known.is_calibrated else self.size_px[::-1]
        if self.size_px is not None and size_px not in (self.size_px, turned):
            raise BadImage(
                f"{name}: is {width} x {height}, but the given focal length belongs to {self.size_px[0]} x "
                f"{self.size_px[1]}, the size of most pictures here: put other sizes into other folders, or give FOV."
            )
        fy_px = known.fx_px if known.fy_px is None else known.fy_px
        cx_px = (width - 1) / 2 if known.cx_px is None else known.cx_px
        cy_px = (height - 1) / 2 if known.cy_px is None else known.cy_px
        return Intrinsics(known.fx_px, fy_px, cx_px, cy_px, width, height)


def add_lens_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a KnownLens."""
    lens = parser.add_argument_group(
        "lens of --images (default: from Exif data, else estimated from lines, else a usual one)"
    )
    lens.add_argument("--fx", type=_focal_length, help="focal length, in pixels of the pictures as stored")
    lens.add_argument("--fy", type=_focal_length, help="focal length along v (default: as --fx)")
    lens.add_argument("--cx", type=_coordinate, help="principal point (default: the middle)")
    lens.add_argument("--cy", type=_coordinate, help="principal point (default: the middle)")
    lens.add_argument("--fov", type=_field_of_view, help="instead: degrees along the longer side of the picture")


def known_lens(args: argparse.Namespace) -> KnownLens:
    """Returns the lens that the options give. Raises BadIntrinsics for options that do not go together."""
    return KnownLens(args.fx, args.fy, args.cx, args.cy, args.fov)


def _number(text: str, low: float, high: float, kind: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
    return value


def _focal_length(text: str) -> float:
    return _number(text, 1, 1e6, "a focal length: give a positive number of pixels, for example 525")


def _coordinate(text: str) -> float:
    return _number(text, -1e6, 1e6, "a coordinate: give a number of pixels, for example 319.5")


def _field_of_view(text: str) -> float:
    return _number(text, 1, 170, "a field of view: give degrees from 1 to 170, for example 70")


def picture_files(path: Path, warn: LogLine) -> list[Path]:
    """Returns the pictures of a folder in the order of their names, or the one picture; empty for a video.

    warn: called for pictures of kinds that cannot be read. Raises BadInput, with their names, if there is nothing else.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist: name a folder of images, an image or a video.")
    if not path.is_dir():
        if OTHER_SUFFIXES.get(path.suffix.lower(), "").startswith("save"):
            raise BadInput(f"{path} is a picture of a kind that is not read: {OTHER_SUFFIXES[path.suffix.lower()]}.")
        return [path] if path.suffix.lower() in IMAGE_SUFFIXES else []
    visible = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    files = [file for file in visible if file.suffix.lower() in IMAGE_SUFFIXES]
    others = _describe_others(visible)
    if not files:
        raise BadInput(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})." + "".join(f" {o}." for o in others))
    for text in others:
        warn(f"left out: {text}.")
    return files


def _describe_others(files: Sequence[Path]) -> list[str]:
    """Returns a line for each kind of picture or video among these files that is not shown, with the files' names."""
    kinds = defaultdict(list)
    for file in files:
        if file.suffix.lower() in OTHER_SUFFIXES:
            kinds[file.suffix.lower()].append(file.name)
    lines = []
    for suffix, names in kinds.items():
        more = f" and {len(names) - MOST_NAMED_FILES} more" if len(names) > MOST_NAMED_FILES else ""
        lines.append(f"{', '.join(names[:MOST_NAMED_FILES])}{more} ({OTHER_SUFFIXES[suffix]})")
    return lines


def read_picture(path: Path, upright: bool) -> np.ndarray:
    """Reads a picture as uint8 (H, W, 3), red first. upright: turned as its Exif data say. Raises BadImage."""
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    return decode_rgb(encoded, str(path), upright)


def find_lens(path: Path, known: KnownLens) -> Lens:
    """Returns the lens of a folder of pictures, a picture or a video. Raises BadInput if there is nothing to show."""
    files = picture_files(path, lambda text: None)
    if not files:
        check_video(path)
    if known.fx_px is not None:
        return Lens(f"focal length: {known.fx_px:g} px, as given.", known, _usual_size(files))
    if known.fov_deg is not None:
        share = 0.5 / math.tan(math.radians(known.fov_deg) / 2)
        text = f"{share:.3g} of the longer side, from the given field of view of {known.fov_deg:g} degrees."
        return Lens(f"focal length: {text}", known, share=share)
    return _guessed_lens(path, files)


def _usual_size(files: Sequence[Path]) -> tuple[int, int] | None:
    """Returns the size that most of these pictures have as stored; None if none can be read."""
    sizes = Counter(size_px for size_px in map(_readable_size, files) if size_px is not None)
    return sizes.most_common(1)[0][0] if sizes else None


def _readable_size(file: Path) -> tuple[int, int] | None:
    try:
        return image_size(file)
    except BadImage:
        return None


def _guessed_lens(path: Path, files: Sequence[Path]) -> Lens:
    sizes = {file: size_px for file in files if (size_px := _readable_size(file)) is not None}
    shares = {file.name: share for file, size_px in sizes.items() if (share := _exif_share(file, size_px)) is not None}
    others = {file: size_px for file, size_px in sizes.items() if file.name not in shares}
    clauses = []
    if shares:
        focals_px = [shares[file.name] * max(size_px) for file, size_px in sizes.items() if file.name in shares]
        clauses.append(f"{_span(focals_px)} px, from the Exif data of {_count(shares, sizes)}, usually right to 5 %")
    share, note = (USUAL_SHARE, "")
    if others or not files:
        share, note = _share_without_exif(path, list(others))
        longest_px = {max(size_px) for size_px in others.values()} or {_video_longer_side(path)}
        clauses.append(f"{_span([share * side_px for side_px in longest_px])} px, {note}")
    return Lens(
        f"focal length: {'; '.join(clauses)}. If you know it, give FX (pixels) or FOV (degrees).",
        KnownLens(),
        share=share,
        shares=shares,
    )


def _exif_share(file: Path, size_px: tuple[int, int]) -> float | None:
    """Returns the focal length of a picture's Exif data in longer sides; None if it has none that is possible."""
    focal_px = focal_from_exif(file, size_px)
    return None if focal_px is None else focal_px / max(size_px)


def _share_without_exif(path: Path, files: Sequence[Path]) -> tuple[float, str]:
    """Returns the focal length in longer sides that these pictures, or this video, share, and where it is from."""
    looked_at = 0
    found = []
    for rgb in _sampled_pictures(path, files):
        looked_at += 1
        focal_px = focal_from_lines(rgb)
        found += [] if focal_px is None else [focal_px / max(rgb.shape[:2])]
    if not found:
        return USUAL_SHARE, (
            f"assumed ({USUAL_SHARE:g} of the longer side, as usual cameras have) because neither Exif "
            "data nor lines tell it; it can be wrong by a third, and all distances with it"
        )
    share = float(np.median(found))
    error = max(LINES_ERROR, 2 * float(np.median(np.abs(np.log(found) - math.log(share)))))
    pictures = f"{len(found)} of {looked_at} pictures" if looked_at > 1 else "the picture"
    return share, f"estimated from the lines in {pictures}, right to about {100 * error:.0f} %, and so are distances"


def _sampled_pictures(path: Path, files: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yields at most MOST_ESTIMATED pictures, uint8 (H, W, 3), evenly spread over the files, else over the video."""
    if not files:
        yield from _sampled_video(path)
        return
    for index in spread(len(files), MOST_ESTIMATED):
        try:
            yield read_picture(files[index], upright=True)
        except BadImage:  # The source that shows the pictures reports it.
            continue


def _sampled_video(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    for index in spread(max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1), MOST_ESTIMATED):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        success, bgr = capture.read()
        if success:
            yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def check_video(path: Path) -> None:
    """Raises BadInput if a file is not a video that OpenCV reads."""
    if not cv2.VideoCapture(str(path)).read()[0]:
        raise BadInput(f"{path} is neither an image nor a video that OpenCV can read.")


def _video_longer_side(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    return int(max(capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))


def spread(count: int, most: int) -> list[int]:
    """Returns at most this many indices, evenly spread over `count`."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, most)).round()]


def _span(values_px: Sequence[float]) -> str:
    low, high = f"{min(values_px):.0f}", f"{max(values_px):.0f}"
    return low if low == high else f"{low} to {high}"


def _count(some: Mapping, of_all: Mapping) -> str:
    if len(of_all) == 1:
        return "the picture"
    return f"all {len(of_all)} pictures" if len(some) == len(of_all) else f"{len(some)} of {len(of_all)} pictures"
