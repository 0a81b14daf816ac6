"""What is learnt from one record: pictures as the model sees them, questions with replies, dense depth.

Images of records as the model sees them in training: canonical focal length, DepthLM's crops and aspect noise, then
the checkpoint's own processor's size.

Without crop or noise it is what `look` shows the model at run time, pixel for pixel.

DepthLM's samples: one point of an image, marked by a red arrow in the picture itself.

DepthVLM's samples: a whole image with its depth map, and a fixed reply.

VLM3's samples: several questions about one image, or about two, with every place written as numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth, read_z
from depthlm_ros.data.read import ObjectRecord
from depthlm_ros.data.records import BadRecord, PairRecord, Record, depth_of, z_of
from depthlm_ros.errors import BadImage
from depthlm_ros.families.base import normalised
from depthlm_ros.families.depthlm import POINT_QUESTION, draw_marks, fits
from depthlm_ros.families.qwen_vl import DepthVLM
from depthlm_ros.families.vlm3 import (
    MATCH_COORDINATE_SCALE,
    MATCH_QUESTION,
    POINT_REPLY,
    QUESTIONS,
    point_text,
    pose_replies,
)
from depthlm_ros.geometry.canonical_view import Axis, CanonicalView, fitted_view
from depthlm_ros.geometry.resize_rules import canonical_size, fitted_sizes, limited_size
from depthlm_ros.image_io import read_rgb
from depthlm_ros.model_files.spec import CanvasRule, ModelSpec
from depthlm_ros.training.finetune.recipe import DataSettings, Span, named


@dataclass(frozen=True)
class Turn:
    """A question behind the pictures, and the whole reply expected."""

    question: str
    reply: str


@dataclass(frozen=True, eq=False)
class Sample:
    """pictures: uint8 (h, w, 3) each. depth_m: float32 (h, w) label of the first one, at any size, NaN = unknown.

    truth_m: metres that each turn's reply tells, where it is one number.
    """

    pictures: tuple[np.ndarray, ...]
    turns: tuple[Turn, ...]
    depth_m: np.ndarray | None = None
    truth_m: tuple[float, ...] = ()


@dataclass(frozen=True)
class Showing:
    """How records are shown: to which model (its canvas rule already that of the checkpoint) and by which settings."""

    spec: ModelSpec
    data: DataSettings


# (showing, record, its file, source of chance) -> Sample; raises BadRecord for a record that cannot be shown so.
MakeSample = Callable[[Showing, Any, Path, np.random.Generator], Sample]


def read_picture(path: Path, intrinsics: Intrinsics) -> np.ndarray:
    """uint8 (H, W, 3). Raises BadRecord if it cannot be read or is not of the camera's size."""
    try:
        rgb = read_rgb(path)
    except BadImage as exc:
        raise BadRecord("image unreadable", str(exc)) from exc
    if (rgb.shape[1], rgb.shape[0]) != intrinsics.size_px:
        raise BadRecord(
            "image of another size",
            f"{path} is {rgb.shape[1]} x {rgb.shape[0]}, its camera {intrinsics.width_px} x {intrinsics.height_px}.",
        )
    return rgb


def seen_whole(showing: Showing, rgb: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """uint8 (h, w, 3): the whole image as the model sees it at run time."""
    return fitted_view(intrinsics, showing.spec.canvas).image_to_canvas(rgb)


def metres(showing: Showing, record: Record) -> np.ndarray:
    """float64 (N,): the labels of a record's points as replies are to tell them."""
    wanted = showing.data.depth_type
    if wanted in ("label", record.depth_type):
        return record.depth_m
    z_m = z_of(record.depth_type, record.depth_m, record.uv_px, record.intrinsics)
    return depth_of(wanted, z_m, record.uv_px, record.intrinsics)


Size = tuple[int, int]


@dataclass(frozen=True)
class Cut:
    """A picture that is made of a record's image before the checkpoint's processor sees it: the image is resized to
    whole_px (width, height), of which size_px about the middle are kept."""

    whole_px: Size
    size_px: Size

    @property
    def left_top_px(self) -> Size:
        left, top = ((whole - kept) // 2 for whole, kept in zip(self.whole_px, self.size_px, strict=True))
        return left, top

    def view(self, size_px: Size) -> CanonicalView:
        """How an image of this size lies in the picture."""
        x, y = (
            Axis(image, kept, whole / image, float(-start))
            for image, kept, whole, start in zip(size_px, self.size_px, self.whole_px, self.left_top_px, strict=True)
        )
        return CanonicalView(x, y)


def plain_cut(intrinsics: Intrinsics, rule: CanvasRule) -> Cut:
    """The whole image at the canonical focal length."""
    size = limited_size(canonical_size(intrinsics, rule), rule.longest_px)
    return Cut(size, size)


def centre_cut(cut: Cut, most_px: int | None) -> Cut:
    """At most most_px of each axis (DepthVLM, for two data sets)."""
    if most_px is None:
        return cut
    width, height = (min(side, most_px) for side in cut.size_px)
    return replace(cut, size_px=(width, height))


def random_cut(cut: Cut, rng: np.random.Generator, height_px: Span, width_px: Span) -> Cut:
    """DepthLM's crop: both extents drawn, bounded by the image's own, about its centre."""
    high, wide = (int(rng.integers(int(low), int(most) + 1)) for low, most in (height_px, width_px))
    return replace(cut, size_px=(min(cut.size_px[0], wide), min(cut.size_px[1], high)))


def stretched_cut(cut: Cut, rng: np.random.Generator, ratio: Span) -> Cut:
    """DepthLM's noise of intrinsics for Taskonomy: width / height is drawn, the height follows, nothing is cut off."""
    width = cut.size_px[0]
    size = (width, max(1, int(width / rng.uniform(*ratio))))
    return Cut(size, size)


def processed(picture: np.ndarray, rule: CanvasRule) -> np.ndarray:
    """uint8 (h, w, 3): the picture as the checkpoint's own processor resizes it."""
    return _own_size(picture.shape[1], picture.shape[0], rule).image_to_canvas(picture)


def seen_size(size_px: Size, rule: CanvasRule) -> Size:
    """(width, height) of the part of a picture that the model sees: Pixtral does not see what fills no patch."""
    return fitted_sizes(_no_camera(*size_px), _processor_only(rule))[1] if rule.multiple_by == "crop" else size_px


def label_on(cut: Cut, depth_m: np.ndarray) -> np.ndarray:
    """float32 (h, w): a depth map (H, W) of the record's image, at any resolution, as it lies on the cut: nearest
    neighbours, since depths must not be mixed over edges."""
    whole = cv2.resize(depth_m, cut.whole_px, interpolation=cv2.INTER_NEAREST_EXACT)
    (left, top), (width, height) = cut.left_top_px, cut.size_px
    return np.ascontiguousarray(whole[top : top + height, left : left + width])


def _own_size(width: int, height: int, rule: CanvasRule) -> CanonicalView:
    return fitted_view(_no_camera(width, height), _processor_only(rule))


def _processor_only(rule: CanvasRule) -> CanvasRule:
    return replace(rule, focal_px=None, longest_px=None)


def _no_camera(width: int, height: int) -> Intrinsics:
    return Intrinsics(1.0, 1.0, 0.0, 0.0, width, height)


def depthlm_sample(showing: Showing, record: Record, file: Path, rng: np.random.Generator) -> Sample:
    """Crop or stretch, one random point, the arrow, then the checkpoint's processor, in the released order.

    Released code cuts fractions of pixels off where this takes the nearest pixel, as at run time.
    """
    if not len(record.uv_px):
        raise BadRecord("record without a usable point", f"{record.where}: no point to ask about.")
    rgb = read_picture(record.image, record.intrinsics)
    cut = point_cut(showing, record.intrinsics, file, record.image.parent, rng)
    view = cut.view(record.intrinsics.size_px)
    index = nearest_valid(view.contains(record.uv_px), int(rng.integers(len(record.uv_px))))
    if index is None:
        raise BadRecord("no point in the crop", f"{record.where}: the crop holds none of its points.")
    uv_px = view.uv_to_canvas(record.uv_px[index : index + 1])
    if not fits(uv_px, seen_size(cut.size_px, showing.spec.canvas)).all():
        raise BadRecord("no room for the arrow", f"{record.where}: the point is too close to the crop's border.")
    picture = processed(draw_marks(view.image_to_canvas(rgb), uv_px), showing.spec.canvas)
    truth_m = float(metres(showing, record)[index])
    return Sample((picture,), (Turn(POINT_QUESTION, POINT_REPLY.format(depth_m=truth_m)),), truth_m=(truth_m,))


def point_cut(showing: Showing, intrinsics: Intrinsics, file: Path, folder: Path, rng: np.random.Generator) -> Cut:
    """What is cut of the image: by data set a stretched whole, else a random crop where there is one to make."""
    data, cut = showing.data, plain_cut(intrinsics, showing.spec.canvas)
    if (ratio := named(data.stretch, file, folder)) is not None:
        return stretched_cut(cut, rng, ratio)
    if data.crop_height_px is None or data.crop_width_px is None:
        return cut
    return random_cut(cut, rng, data.crop_height_px, data.crop_width_px)


def nearest_valid(valid: np.ndarray, drawn: int) -> int | None:
    """The drawn index if it is valid, else the valid one nearest in the list, the lower one of two; None if none is."""
    indices = np.flatnonzero(valid)
    if not len(indices):
        return None
    # argmin takes the first of equals, and indices rise.
    return int(indices[np.abs(indices - drawn).argmin()])


def depthvlm_sample(showing: Showing, record: Record, file: Path, rng: np.random.Generator) -> Sample:
    """The label is at the canonical size (that of the crop, where one is made); the map is resized to it by the loss.

    Nothing is drawn at random.
    """
    rgb = read_picture(record.image, record.intrinsics)
    whole = plain_cut(record.intrinsics, showing.spec.canvas)
    cut = centre_cut(whole, named(showing.data.centre_crop_px, file))
    if cut == whole:
        picture = seen_whole(showing, rgb, record.intrinsics)
    else:
        picture = processed(cut.view(record.intrinsics.size_px).image_to_canvas(rgb), showing.spec.canvas)
    depth_m = label_on(cut, labelled_map(showing, record))
    if not (depth_m > 0).any():
        raise BadRecord("depth map without a depth", f"{record.where}: nothing of its depth map is known.")
    return Sample((picture,), (Turn(DepthVLM.DEPTH_QUESTION, DepthVLM.DEPTH_REPLY),), depth_m)


def labelled_map(showing: Showing, record: Record) -> np.ndarray:
    """float32 (h, w), metres as the model is to mean them, NaN unknown. Raises BadRecord."""
    if record.depth is None:
        raise BadRecord("record without a depth map", f"{record.where}: there is no depth_path.")
    try:
        return read_depth(record.depth) if showing.data.depth_type == "label" else read_z(record)
    except BadImage as exc:
        raise BadRecord("depth map unreadable", str(exc)) from exc


# What is thought is unpublished; the question prescribes the form around it.
MATCH_REPLY = (
    "<think> The pixel ({x1}, {y1}) of the first image shows what the pixel ({x2}, {y2}) of the second image shows. "
    "</think>\n\n({x2}, {y2})"
)


def point_sample(showing: Showing, record: Record, file: Path, rng: np.random.Generator) -> Sample:
    """Depth at random points of the record, each at most once."""
    if not len(record.uv_px):
        raise BadRecord("record without a usable point", f"{record.where}: no point to ask about.")
    rgb = read_picture(record.image, record.intrinsics)
    view = fitted_view(record.intrinsics, showing.spec.canvas)
    chosen = _drawn(rng, len(record.uv_px), showing.data.questions)
    truth_m = tuple(float(value) for value in metres(showing, record)[chosen])
    turns = tuple(
        Turn(point_text(u, v, view.canvas_size_px, showing.spec.most_coordinate), POINT_REPLY.format(depth_m=value_m))
        for (u, v), value_m in zip(view.uv_to_canvas(record.uv_px[chosen]).tolist(), truth_m, strict=True)
    )
    return Sample((view.image_to_canvas(rgb),), turns, truth_m=truth_m)


def object_sample(showing: Showing, record: ObjectRecord, file: Path, rng: np.random.Generator) -> Sample:
    """Random questions of the record, in its order."""
    rgb = read_picture(record.image, record.intrinsics)
    chosen = np.sort(_drawn(rng, len(record.turns), showing.data.questions))
    turns = tuple(Turn(*record.turns[index]) for index in chosen)
    return Sample((seen_whole(showing, rgb, record.intrinsics),), turns)


def match_sample(showing: Showing, record: PairRecord, file: Path, rng: np.random.Generator) -> Sample:
    """Where random points of the first image are in the second."""
    if not len(record.uv_px):
        raise BadRecord("pair without a match", f"{record.where}: no point to ask about.")
    pictures, views = _pair(showing, record)
    chosen = _drawn(rng, len(record.uv_px), showing.data.questions)
    both = zip(
        *(_coordinates(view, uv[chosen]) for view, uv in zip(views, (record.uv_px, record.matched_px), strict=True)),
        strict=True,
    )
    turns = tuple(
        Turn(MATCH_QUESTION.format(x1=x1, y1=y1), MATCH_REPLY.format(x1=x1, y1=y1, x2=x2, y2=y2))
        for (x1, y1), (x2, y2) in both
    )
    return Sample(pictures, turns)


def pose_sample(showing: Showing, record: PairRecord, file: Path, rng: np.random.Generator) -> Sample:
    """Random ones of the four questions, in their order; three at a time are published, which ones is not."""
    replies = pose_replies(record.rotation, record.translation_m)
    known = [name for name in QUESTIONS if name in replies]
    chosen = np.sort(_drawn(rng, len(known), showing.data.questions))
    turns = tuple(Turn(QUESTIONS[known[index]], replies[known[index]]) for index in chosen)
    return Sample(_pair(showing, record)[0], turns)


def _pair(showing: Showing, record: PairRecord) -> tuple[tuple[np.ndarray, ...], tuple[CanonicalView, ...]]:
    """Both pictures as the model sees them, and how the images lie in them."""
    views = tuple(fitted_view(intrinsics, showing.spec.canvas) for intrinsics in record.intrinsics)
    pictures = tuple(
        view.image_to_canvas(read_picture(path, intrinsics))
        for view, path, intrinsics in zip(views, record.images, record.intrinsics, strict=True)
    )
    return pictures, views


def _coordinates(view: CanonicalView, uv_px: np.ndarray) -> list[tuple[int, int]]:
    """Pixels (N, 2) of an image as numbers of 0 to 1000 of the picture."""
    width, height = view.canvas_size_px
    return [
        (normalised(u, width, MATCH_COORDINATE_SCALE), normalised(v, height, MATCH_COORDINATE_SCALE))
        for u, v in view.uv_to_canvas(uv_px).tolist()
    ]


def _drawn(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count`, each once, in random order."""
    return rng.permutation(count)[:most]
