# SPDX-License-Identifier: Apache-2.0
"""Pictures to label and their cameras: those of a folder, of the records of a JSONL file, or of WebDataset shards.

`list_pictures` finds them, `Picture.load` reads one, and `CameraRule.frame` gives it its camera: that of its record,
else the one that the user states, else an estimate. Where the picture is turned upright or its lens distortion is
removed, its labels belong to the changed picture.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.data.read import iter_numbered_lines, parse_camera, parse_json_object
from depthlm_ros.data.records import BadRecord, RecordProblem, parse_file_path, unusable_file_error
from depthlm_ros.data.webdataset import Sample, SamplePlace, ShardIndex
from depthlm_ros.data.write import relative_path
from depthlm_ros.errors import BadInput, BadIntrinsics
from depthlm_ros.geometry.calibration_file import read_camera
from depthlm_ros.geometry.focal_estimation import (
    ASSUMED_ERROR,
    QUARTER_TURNS,
    FocalEstimator,
    FocalSettings,
    estimate_focal,
    make_estimator,
    orientation_from_exif,
)
from depthlm_ros.geometry.pinhole import centred_camera, turned_camera
from depthlm_ros.geometry.rectify import Rectifier
from depthlm_ros.image_io import decode_rgb

T = TypeVar("T")
# Those of phones' own formats too, so that each such picture is told of.
PICTURE_SUFFIXES = (".bmp", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SHARD_SUFFIX = ".tar"
CAMERA_KEYS = ("intrinsics", "original_fx")
# What is kept of a record: its camera and its description, but no labels.
KEPT_KEYS = (*CAMERA_KEYS, "original_rgb_size", "scene", "scene_id", "camera", "split")


@dataclass(frozen=True)
class Picture:
    """A picture to label.

    name: its path relative to its source, or its shard and the key of its sample. key: names the files that are written
    for it: a relative path without suffix, unique within its source. file: the image file, or the sample of a shard
    that holds it. fields: what its record states of its camera and its scene; for a sample that is read with it.
    """

    name: str
    key: str
    file: Path | SamplePlace
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Names it in messages."""
        return f"{self.file.shard}: sample {self.file.key}" if isinstance(self.file, SamplePlace) else str(self.file)

    def load(self) -> LoadedPicture:
        """Reads the picture. Raises BadInput or OSError."""
        if isinstance(self.file, Path):
            return LoadedPicture(self, self.file.read_bytes(), self.file.suffix, self.fields)
        sample = self.file.read()
        suffix = _image_suffix(sample)
        description = sample.get("json", {})
        fields = {key: description[key] for key in KEPT_KEYS if key in description}
        return LoadedPicture(self, sample[suffix], f".{suffix}", fields)


@dataclass(frozen=True)
class LoadedPicture:
    """encoded: the bytes of the image file. suffix: of its name, such as ".jpg"."""

    picture: Picture
    encoded: bytes
    suffix: str
    fields: Mapping[str, object]

    def rgb(self, upright: bool = False) -> np.ndarray:
        """Returns uint8 (H, W, 3). upright: turned as its orientation tag says. Raises BadImage."""
        return decode_rgb(np.frombuffer(self.encoded, np.uint8), self.picture.where, upright)


@dataclass(frozen=True)
class PictureList:
    """The pictures of a source, and what is wrong with the others."""

    pictures: tuple[Picture, ...]
    problems: tuple[RecordProblem, ...] = ()


@dataclass(frozen=True)
class PictureFrame:
    """A picture with its camera. changed: it was turned or rectified, so that its labels do not fit the file.

    camera_from: where the camera comes from, in words. notes: what is doubtful about it.
    """

    frame: Frame
    camera_from: str
    changed: bool = False
    notes: tuple[RecordProblem, ...] = ()


@dataclass(frozen=True)
class CameraRule:
    """The camera of pictures whose record has none: at most one of the first four, else an estimate from each picture.

    intrinsics: (fx, fy, cx, cy), pixels. focal_px: on both axes, with the principal point in the middle. calibration: a
    ROS calibration file; its lens distortion is removed. fx_over_width: focal length in longer sides of the picture.
    size_px: (width, height) of the pictures that intrinsics or focal_px belong to. estimator: FocalSettings.estimator.
    turn: turn pictures upright as their orientation tags say, with their cameras.
    """

    intrinsics: tuple[float, ...] | None = None
    focal_px: float | None = None
    calibration: Path | None = None
    fx_over_width: float | None = None
    size_px: tuple[int, int] | None = None
    estimator: str = "auto"
    turn: bool = False

    def frame(self, loaded: LoadedPicture) -> PictureFrame:
        """Returns a picture with its camera. Raises BadImage, BadIntrinsics, BadRecord, and SetupError (estimator)."""
        rgb = loaded.rgb()
        size_px = rgb.shape[1], rgb.shape[0]
        if any(key in loaded.fields for key in CAMERA_KEYS):
            return PictureFrame(Frame(rgb, parse_camera(loaded.fields)), "its record")
        if self.calibration is not None:
            rectifier = _rectifier(self.calibration)
            frame = Frame(rectifier.rectify(rgb), rectifier.intrinsics, seen=rectifier.valid)
            return PictureFrame(frame, str(self.calibration), changed=frame.rgb is not rgb)
        camera, camera_from, notes = self._camera(loaded, size_px)
        orientation = _with_file(loaded, orientation_from_exif)
        turns = QUARTER_TURNS.get(orientation, 0)
        if turns and self.turn:
            turned = np.ascontiguousarray(np.rot90(rgb, turns))
            return PictureFrame(Frame(turned, turned_camera(camera, turns)), camera_from, True, notes)
        if turns:
            message = f"its orientation tag ({orientation}) says that it is shown turned: --turn turns it upright"
            notes = (*notes, RecordProblem(loaded.picture.where, "picture lies on its side", message))
        return PictureFrame(Frame(rgb, camera), camera_from, False, notes)

    def stated_camera(self, size_px: tuple[int, int]) -> Intrinsics | None:
        """Returns the camera that the user states, of a picture of this size (width, height); None if there is none.

        Raises BadIntrinsics.
        """
        if self.intrinsics is not None:
            fx_px, fy_px, cx_px, cy_px = self.intrinsics
            return Intrinsics(fx_px, fy_px, cx_px, cy_px, *size_px)
        return None if self.focal_px is None else centred_camera(size_px, self.focal_px)

    def _camera(
        self, loaded: LoadedPicture, size_px: tuple[int, int]
    ) -> tuple[Intrinsics, str, tuple[RecordProblem, ...]]:
        """Returns the stated or estimated camera of a picture of this size, where it is from, and doubts about it."""
        if self.size_px is not None and size_px != self.size_px:
            raise BadIntrinsics(
                f"{loaded.picture.where} is {size_px[0]} x {size_px[1]}, but the intrinsics are those of the first "
                f"picture, {self.size_px[0]} x {self.size_px[1]}."
            )
        if (stated := self.stated_camera(size_px)) is not None:
            return stated, "the command", ()
        if self.fx_over_width is not None:
            focal_px = self.fx_over_width * max(size_px)
            return centred_camera(size_px, focal_px), f"assumed: {self.fx_over_width:g} of the longer side", ()
        estimate = _with_file(loaded, lambda path: estimate_focal(path, size_px, _estimator(self.estimator)))
        notes: tuple[RecordProblem, ...] = ()
        if estimate.error == ASSUMED_ERROR:
            message = f"its focal length is {estimate.source}: its depth is a guess"
            notes = (RecordProblem(loaded.picture.where, "focal length assumed", message),)
        return centred_camera(size_px, estimate.focal_px), f"estimated: {estimate.source}", notes


def list_pictures(source: Path, without: Path | None = None) -> PictureList:
    """Returns the pictures of a source, in a fixed order.

    source: a folder, whose pictures in all subfolders are taken in the order of their paths, or whose shards if it
    holds no pictures; a shard; or a JSONL file, whose images are taken in its order, an equal line once. A line needs
    an image only; it may have labels, which are not used. without: a folder in the source whose pictures are not
    taken, for the output. Raises BadInput if there are no pictures.
    """
    if source.is_dir():
        return _list_folder(source, without)
    if not source.is_file():
        raise BadInput(f"{source} does not exist: give a folder of pictures or shards, or a JSONL file of records.")
    if source.suffix == SHARD_SUFFIX:
        return _list_shards([source])
    if source.suffix.lower() in PICTURE_SUFFIXES:
        raise BadInput(f"{source} is one picture: give its folder, or use `depthlm depth`.")
    return _list_records(source)


def _list_folder(folder: Path, without: Path | None) -> PictureList:
    if without is not None and folder.resolve().is_relative_to(without.resolve()):
        raise BadInput(f"{folder} lies in the output folder {without}, from which nothing is read: give another --out.")
    inner = (Path(inner) for inner, _, _ in os.walk(folder))
    folders = [one for one in inner if without is None or not one.resolve().is_relative_to(without.resolve())]
    found = (path for one in folders for path in one.iterdir() if not path.is_dir())
    names = sorted(path.relative_to(folder).as_posix() for path in found if path.suffix.lower() in PICTURE_SUFFIXES)
    if not names:
        shards = sorted(folder.glob(f"*{SHARD_SUFFIX}"))
        if not shards:
            kinds = ", ".join((*PICTURE_SUFFIXES, SHARD_SUFFIX))
            raise BadInput(f"{folder}: no pictures found (looked for {kinds} in all subfolders).")
        return _list_shards(shards)
    problems = tuple(
        RecordProblem(repr(name), "name is no text", "the name of the file is not UTF-8: rename it.")
        for name in names
        if not _is_text(name)
    )
    names = [name for name in names if _is_text(name)]
    keys = _unique(PurePosixPath(name).with_suffix("").as_posix() for name in names)
    pictures = (Picture(name, key, folder / name) for key, name in zip(keys, names, strict=True))
    return PictureList(tuple(pictures), problems)


def _is_text(name: str) -> bool:
    """Whether the name of a file can be written into a file of labels."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_shards(shards: list[Path]) -> PictureList:
    index = ShardIndex(shards)
    places = [index.place(number) for number in range(len(index))]
    names = [f"{place.shard.stem}/{_inside(place.key)}" for place in places]
    pictures = (Picture(name, key, place) for name, key, place in zip(names, _unique(names), places, strict=True))
    return PictureList(tuple(pictures), tuple(index.problems))


def _list_records(path: Path) -> PictureList:
    problems: list[RecordProblem] = []
    found: dict[str, tuple[Path, dict[str, object]]] = {}
    for where, line in iter_numbered_lines(path):
        try:
            fields = parse_json_object(line)
            image = parse_file_path(fields.get("image", fields.get("image_path")), path.parent)
        except BadRecord as exc:
            problems.append(RecordProblem(where, exc.reason, str(exc)))
            continue
        kept = {key: fields[key] for key in KEPT_KEYS if key in fields}
        found.setdefault(json.dumps([str(image), kept]), (image, kept))
    if not found:
        raise unusable_file_error(path, problems, "record with an image")
    names = [relative_path(image, path.parent) for image, _ in found.values()]
    keys = _unique(_inside(PurePosixPath(name).with_suffix("").as_posix()) for name in names)
    named = zip(names, keys, found.values(), strict=True)
    pictures = tuple(Picture(name, key, image, fields) for name, key, (image, fields) in named)
    return PictureList(pictures, tuple(problems))


def _inside(name: str) -> str:
    """Returns a relative path without its steps out of the folder, so that it can name a file in another one."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("..", "/")) or "picture"


def _unique(names: Iterable[str]) -> list[str]:
    """Returns the names; the second one of equal names ends in -2, and so on."""
    taken: dict[str, int] = {}
    unique = []
    for name in names:
        key, number = name, taken.get(name, 0)
        while key in taken:
            number += 1
            key = f"{name}-{number + 1}"
        taken[name], taken[key] = number, taken.get(key, 0)
        unique.append(key)
    return unique


def _image_suffix(sample: Sample) -> str:
    """Returns the suffix of the file of a sample that is its image. Raises BadRecord if there is none."""
    suffix = next((name for name in sample if f".{name}" in PICTURE_SUFFIXES), None)
    if suffix is None:
        files = ", ".join(name for name in sample if not name.startswith("__"))
        raise BadRecord("image missing", f"{sample['__url__']}: sample {sample['__key__']} has no image but {files}.")
    return suffix


def _with_file(loaded: LoadedPicture, function: Callable[[Path], T]) -> T:
    """Returns what a function returns for the picture's file, which is written for a moment if it lies in a shard."""
    if isinstance(loaded.picture.file, Path):
        return function(loaded.picture.file)
    with tempfile.NamedTemporaryFile(suffix=loaded.suffix) as file:
        file.write(loaded.encoded)
        file.flush()
        return function(Path(file.name))


@lru_cache(maxsize=4)
def _rectifier(calibration: Path) -> Rectifier:
    return Rectifier(read_camera(calibration), rectified=False)


@lru_cache(maxsize=4)
def _estimator(name: str) -> FocalEstimator:
    return make_estimator(FocalSettings(name))
