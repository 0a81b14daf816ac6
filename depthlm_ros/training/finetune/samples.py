# SPDX-License-Identifier: Apache-2.0
"""What is learnt from one record: images as the model sees them, questions with replies, and a dense depth map.

One function for each task makes a `TrainingSample` of a record. Images are brought to the canonical focal length, then
cropped or stretched and marked as DepthLM's released code does (Crop), then resized as the checkpoint's own processor
does (resize_rules.process_picture). Without crop and stretch they are, pixel for pixel, the images that the model sees
at run time, and so are the pixels that are asked about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import cv2
import numpy as np

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.data.depthfile import read_depth, read_z
from depthlm_ros.data.read import ObjectConversation
from depthlm_ros.data.records import BadRecord, PairRecord, Record, depth_from_z, z_from_depth
from depthlm_ros.errors import BadImage
from depthlm_ros.families.base import normalise_coordinate
from depthlm_ros.families.depthlm import POINT_QUESTION
from depthlm_ros.families.qwen_vl import DepthVLM
from depthlm_ros.families.vlm3 import (
    MATCH_COORDINATE_SCALE,
    MATCH_QUESTION,
    POINT_REPLY,
    QUESTIONS,
    point_question,
    pose_replies,
)
from depthlm_ros.geometry.canonical_view import PICTURE, CanonicalView, CanvasPlacement, fitted_view
from depthlm_ros.geometry.resize_rules import Axis, CanvasRule, fitted_sizes, picture_size, process_picture, resize
from depthlm_ros.geometry.visual_prompt import draw_markers, markers_fit
from depthlm_ros.image_io import read_rgb
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.training.finetune.recipe import FinetuneDataSettings, Range, value_for_data_set
from depthlm_ros.training.packing import ChatTurn

Size = tuple[int, int]
R = TypeVar("R")
# The thought before the answer is unpublished; the question prescribes its form.
MATCH_REPLY = (
    "<think> The pixel ({x1}, {y1}) of the first image shows what the pixel ({x2}, {y2}) of the second image shows. "
    "</think>\n\n({x2}, {y2})"
)


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """images: uint8 (h, w, 3) each. depth_m: float32 (h, w) label of the first image, at any size, NaN = unknown.

    truth_m: the metres that the reply of each turn names, where it is one number.
    """

    images: tuple[np.ndarray, ...]
    turns: tuple[ChatTurn, ...]
    depth_m: np.ndarray | None = None
    truth_m: tuple[float, ...] = ()


@dataclass(frozen=True)
class SampleContext:
    """The model that samples are made for (with the canvas rule of its checkpoint), and the settings of the recipe."""

    spec: ModelSpec
    data: FinetuneDataSettings


# (context, record, its file, source of randomness) -> sample. Raises BadRecord for a record that is not usable.
SampleMaker: TypeAlias = Callable[[SampleContext, R, Path, np.random.Generator], TrainingSample]


def make_depthlm_sample(context: SampleContext, record: Record, file: Path, rng: np.random.Generator) -> TrainingSample:
    """DepthLM: one random point, marked by a red arrow. Crop or stretch, arrow and processor are in the released order.

    Where the released code cuts off fractions of pixels, the nearest pixel is taken, as at run time.
    """
    _check_points(record)
    rgb = read_record_image(record.image, record.intrinsics)
    crop = depthlm_crop(context, record.intrinsics, file, record.image.parent, rng)
    view, rule = crop.view(record.intrinsics.size_px), context.spec.canvas
    index = nearest_valid_index(view.contains(record.uv_px), int(rng.integers(len(record.uv_px))))
    if index is None:
        raise BadRecord("no point in the crop", f"{record.where}: the crop holds none of its points.")
    uv_px = view.uv_to_canvas(record.uv_px[index : index + 1])
    if not markers_fit(uv_px, visible_size(crop.size_px, rule)).all():
        raise BadRecord("no room for the arrow", f"{record.where}: the point is too close to the crop's border.")
    image = process_picture(draw_markers(crop.picture(rgb, rule), uv_px), rule)
    truth_m = float(labels_m(context, record)[index])
    turn = ChatTurn(POINT_QUESTION, POINT_REPLY.format(depth_m=truth_m))
    return TrainingSample((image,), (turn,), truth_m=(truth_m,))


def make_depthvlm_sample(
    context: SampleContext, record: Record, file: Path, rng: np.random.Generator
) -> TrainingSample:
    """DepthVLM: a whole image with its depth map and a fixed reply. Nothing is random.

    The label has the canonical size, or that of the crop; the loss resizes the predicted map to it.
    """
    rgb = read_record_image(record.image, record.intrinsics)
    whole = whole_image_crop(record.intrinsics, context.spec.canvas)
    crop = centre_crop(whole, value_for_data_set(context.data.centre_crop_px, file))
    image = process_picture(crop.picture(rgb, context.spec.canvas), context.spec.canvas)
    depth_m = crop_depth_map(crop, read_depth_map(context, record))
    if not (depth_m > 0).any():
        raise BadRecord("depth map without a depth", f"{record.where}: its depth map has no known depth.")
    return TrainingSample((image,), (ChatTurn(DepthVLM.DEPTH_QUESTION, DepthVLM.DEPTH_REPLY),), depth_m)


def make_point_sample(context: SampleContext, record: Record, file: Path, rng: np.random.Generator) -> TrainingSample:
    """VLM3: the depth of random points of the record, each at most once."""
    _check_points(record)
    rgb = read_record_image(record.image, record.intrinsics)
    frame = CanvasPlacement(Frame(rgb, record.intrinsics), fitted_view(record.intrinsics, context.spec.canvas))
    chosen = _choose(rng, len(record.uv_px), context.data.questions)
    truth_m = tuple(float(value) for value in labels_m(context, record)[chosen])
    questions = [
        point_question(u, v, frame.size_in(PICTURE), context.spec.most_coordinate)
        for u, v in frame.uv_in(PICTURE, record.uv_px[chosen]).tolist()
    ]
    turns = tuple(
        ChatTurn(question, POINT_REPLY.format(depth_m=value_m))
        for question, value_m in zip(questions, truth_m, strict=True)
    )
    return TrainingSample((frame.canvas,), turns, truth_m=truth_m)


def make_object_sample(
    context: SampleContext, record: ObjectConversation, file: Path, rng: np.random.Generator
) -> TrainingSample:
    """VLM3: random questions of the record, in the record's order."""
    rgb = read_record_image(record.image, record.intrinsics)
    chosen = np.sort(_choose(rng, len(record.turns), context.data.questions))
    turns = tuple(ChatTurn(*record.turns[index]) for index in chosen)
    return TrainingSample((whole_image(context, rgb, record.intrinsics),), turns)


def make_match_sample(
    context: SampleContext, record: PairRecord, file: Path, rng: np.random.Generator
) -> TrainingSample:
    """VLM3: where random points of the first image are in the second image."""
    if not len(record.uv_px):
        raise BadRecord("pair without a match", f"{record.where}: it has no point to ask about.")
    frames = _read_pair(context, record)
    chosen = _choose(rng, len(record.uv_px), context.data.questions)
    first, second = (
        _match_coordinates(frame, uv_px[chosen])
        for frame, uv_px in zip(frames, (record.uv_px, record.matched_px), strict=True)
    )
    turns = tuple(
        ChatTurn(MATCH_QUESTION.format(x1=x1, y1=y1), MATCH_REPLY.format(x1=x1, y1=y1, x2=x2, y2=y2))
        for (x1, y1), (x2, y2) in zip(first, second, strict=True)
    )
    return TrainingSample(tuple(frame.canvas for frame in frames), turns)


def make_pose_sample(
    context: SampleContext, record: PairRecord, file: Path, rng: np.random.Generator
) -> TrainingSample:
    """VLM3: random ones of the four questions, in their order. Three at a time are published, but not which ones."""
    replies = pose_replies(record.rotation, record.translation_m)
    known = [name for name in QUESTIONS if name in replies]
    chosen = np.sort(_choose(rng, len(known), context.data.questions))
    turns = tuple(ChatTurn(QUESTIONS[known[index]], replies[known[index]]) for index in chosen)
    return TrainingSample(tuple(frame.canvas for frame in _read_pair(context, record)), turns)


def read_record_image(path: Path, intrinsics: Intrinsics) -> np.ndarray:
    """Returns uint8 (H, W, 3). Raises BadRecord if it cannot be read or does not have the camera's size."""
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


def whole_image(context: SampleContext, rgb: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns uint8 (h, w, 3): the whole image as the model sees it at run time."""
    return fitted_view(intrinsics, context.spec.canvas).image_to_canvas(rgb)


def labels_m(context: SampleContext, record: Record) -> np.ndarray:
    """Returns float64 (N,): the labels of a record's points, with the meaning that metres have in replies."""
    meaning = context.data.depth_type
    if meaning in ("label", record.depth_type):
        return record.depth_m
    z_m = z_from_depth(record.depth_type, record.depth_m, record.uv_px, record.intrinsics)
    return depth_from_z(meaning, z_m, record.uv_px, record.intrinsics)


def read_depth_map(context: SampleContext, record: Record) -> np.ndarray:
    """Returns float32 (h, w): metres with the meaning that the model's metres have, NaN = unknown. Raises BadRecord."""
    if record.depth is None:
        raise BadRecord("record without a depth map", f"{record.where}: it has no depth_path.")
    try:
        return read_depth(record.depth) if context.data.depth_type == "label" else read_z(record)
    except BadImage as exc:
        raise BadRecord("depth map unreadable", str(exc)) from exc


@dataclass(frozen=True)
class Crop:
    """A picture that is made of a record's image before the checkpoint's processor sees it.

    The image is resized to the canonical_px (width, height) of its focal length, then, if they differ, to whole_px, and
    size_px about its centre are kept.
    """

    whole_px: Size
    size_px: Size
    canonical_px: Size

    @property
    def left_top_px(self) -> Size:
        left, top = ((whole - kept) // 2 for whole, kept in zip(self.whole_px, self.size_px, strict=True))
        return left, top

    def view(self, image_size_px: Size) -> CanonicalView:
        """Returns how an image of this size lies in the picture."""
        x, y = (
            Axis(image, kept, whole / image, float(-start))
            for image, kept, whole, start in zip(
                image_size_px, self.size_px, self.whole_px, self.left_top_px, strict=True
            )
        )
        return CanonicalView(x, y)

    def picture(self, rgb: np.ndarray, rule: CanvasRule) -> np.ndarray:
        """Returns uint8 (h, w, 3): the picture of a record's image."""
        whole = resize(resize(rgb, self.canonical_px, rule.canonical_filter), self.whole_px, rule.canonical_filter)
        (left, top), (width, height) = self.left_top_px, self.size_px
        return np.ascontiguousarray(whole[top : top + height, left : left + width])


def depthlm_crop(
    context: SampleContext, intrinsics: Intrinsics, file: Path, folder: Path, rng: np.random.Generator
) -> Crop:
    """Returns DepthLM's crop: stretched or random as the data set's settings ask, else the whole image."""
    data, crop = context.data, whole_image_crop(intrinsics, context.spec.canvas)
    if (ratio := value_for_data_set(data.stretch, file, folder)) is not None:
        return stretched_crop(crop, rng, ratio)
    if data.crop_height_px is None or data.crop_width_px is None:
        return crop
    return random_crop(crop, rng, data.crop_height_px, data.crop_width_px)


def whole_image_crop(intrinsics: Intrinsics, rule: CanvasRule) -> Crop:
    """Returns the whole image at the canonical focal length."""
    size = picture_size(intrinsics, rule)
    return Crop(size, size, size)


def centre_crop(crop: Crop, most_px: int | None) -> Crop:
    """Keeps at most most_px of each axis (DepthVLM, for two data sets); None keeps everything."""
    if most_px is None:
        return crop
    width, height = (min(side, most_px) for side in crop.size_px)
    return replace(crop, size_px=(width, height))


def random_crop(crop: Crop, rng: np.random.Generator, height_px: Range, width_px: Range) -> Crop:
    """DepthLM's crop about the image's centre: both extents are random, and at most those of the image."""
    height, width = (int(rng.integers(int(low), int(most) + 1)) for low, most in (height_px, width_px))
    return replace(crop, size_px=(min(crop.size_px[0], width), min(crop.size_px[1], height)))


def stretched_crop(crop: Crop, rng: np.random.Generator, ratio: Range) -> Crop:
    """DepthLM's noise of intrinsics for Taskonomy: a random width / height decides the height; nothing is cut off."""
    width = crop.size_px[0]
    size = (width, max(1, int(width / rng.uniform(*ratio))))
    return Crop(size, size, crop.canonical_px)


def crop_depth_map(crop: Crop, depth_m: np.ndarray) -> np.ndarray:
    """Returns float32 (h, w): a depth map (H, W) of the record's image, at any resolution, on the crop.

    Takes nearest neighbours, since depths must not be mixed over edges.
    """
    whole = cv2.resize(depth_m, crop.whole_px, interpolation=cv2.INTER_NEAREST_EXACT)
    (left, top), (width, height) = crop.left_top_px, crop.size_px
    return np.ascontiguousarray(whole[top : top + height, left : left + width])


def visible_size(size_px: Size, rule: CanvasRule) -> Size:
    """Returns (width, height) of the part of a picture that the model sees. Pixtral does not see incomplete patches."""
    if rule.multiple_by != "crop":
        return size_px
    # Only its size counts for this rule.
    camera = Intrinsics(1.0, 1.0, 0.0, 0.0, *size_px)
    return fitted_sizes(camera, replace(rule, focal_px=None, longest_px=None))[1]


def nearest_valid_index(valid: np.ndarray, drawn: int) -> int | None:
    """Returns the valid index nearest to the drawn one, the lower one of two; None if no index is valid."""
    indices = np.flatnonzero(valid)
    if not len(indices):
        return None
    # argmin returns the first of equal distances, and indices rise.
    return int(indices[np.abs(indices - drawn).argmin()])


def _check_points(record: Record) -> None:
    if not len(record.uv_px):
        raise BadRecord("record without a usable point", f"{record.where}: it has no point to ask about.")


def _read_pair(context: SampleContext, record: PairRecord) -> tuple[CanvasPlacement, ...]:
    """Returns both images as the model sees them."""
    return tuple(
        CanvasPlacement(
            Frame(read_record_image(path, intrinsics), intrinsics), fitted_view(intrinsics, context.spec.canvas)
        )
        for path, intrinsics in zip(record.images, record.intrinsics, strict=True)
    )


def _match_coordinates(frame: CanvasPlacement, uv_px: np.ndarray) -> list[tuple[int, int]]:
    """Returns pixels (N, 2) of an image as coordinates from 0 to 1000 of the picture."""
    width, height = frame.size_in(PICTURE)
    scale = MATCH_COORDINATE_SCALE
    return [
        (normalise_coordinate(u, width, scale), normalise_coordinate(v, height, scale))
        for u, v in frame.uv_in(PICTURE, uv_px).tolist()
    ]


def _choose(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Returns the indices of at most `most` of `count`, each once, in random order."""
    return rng.permutation(count)[:most]
