# SPDX-License-Identifier: Apache-2.0
"""Photographs with labels that other models, the teachers, gave them: the format of one sample of a shard.

A sample holds KEY.jpg (the photograph), KEY.depth.png (the teachers' depth, one byte a pixel: `encode_depth`), KEY.json
and, where a segmenter has seen the photograph, KEY.seg.png (one class of SEGMENT_CLASSES a pixel). `decode` and
`encode` convert between the files of a sample and PhotoLabels. `fit_photo` and `label_photo` make such labels.

The focal length of a photograph from the web is unknown. Depth is what a teacher sees if fx is a fixed share of the
image's width; it belongs to that camera, whose principal point is in the middle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import parse_positive
from depthlm_ros.data.webdataset import Sample
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.file_io import JsonObject
from depthlm_ros.image_io import check_size, decode_rgb

# Focal length over width of the camera that took NYU Depth v2, which most small teachers learnt from.
REFERENCE_FX_OVER_WIDTH = 0.888
# Code c of 1 to 255 means NEAREST_M * DEPTH_RATIO ** (c / 255) metres: 0.25 to 20 m in steps of 1.7 %.
NEAREST_M, DEPTH_RATIO, UNKNOWN_DEPTH_CODE = 0.25, 80.0, 0
UNKNOWN_SEGMENT = 255
_SEGMENT_NAMES = (
    "other wall building sky floor tree ceiling road bed window grass cabinet sidewalk person earth door table "
    "mountain plant curtain chair car water painting sofa shelf house sea mirror rug field armchair"
)
# The 32 classes of ADE20K in MLPerf's mobile segmenter, by index.
SEGMENT_CLASSES = tuple(_SEGMENT_NAMES.split())
# Pixels of the photograph to one pixel of its depth and segments, along each side.
LABEL_STRIDE_PX = 4
JPEG_QUALITY = 90
# Two teachers disagree where their depths differ by more than this in ln, after equal medians.
MOST_DISAGREEMENT_LN = 0.25
FIRST_TEACHER_WEIGHT = 2 / 3

# Returns depth, float32 (H, W), metres, NaN unknown, of an image, uint8 (H, W, 3), under the assumed camera.
DepthTeacher: TypeAlias = Callable[[np.ndarray], np.ndarray]


class PhotoBox(NamedTuple):
    """An object that a detector saw. Corners are shares (0 to 1) of the width and the height of the photograph."""

    name: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float


class TeacherNote(NamedTuple):
    """Which model gave labels, and the licence of its weights."""

    name: str
    licence: str


@dataclass(frozen=True, eq=False)
class PhotoLabels:
    """One photograph with its labels.

    rgb: uint8 (H, W, 3), red first. depth_m: float32 (h, w), z in metres, NaN unknown, for a camera whose fx is
    `fx_over_width` of the image's width. segments: uint8 (h, w), index into SEGMENT_CLASSES, UNKNOWN_SEGMENT where the
    segmenter was not sure; None if no segmenter looked.
    boxes: objects, inside the photograph. maybe: names of which it is not known whether the photograph shows them.
    has_boxes: whether a detector looked. If not, a name without a box says nothing. dropped_boxes: number of boxes of
    the sample that were empty or outside of the photograph.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    segments: np.ndarray | None = None
    boxes: tuple[PhotoBox, ...] = ()
    maybe: frozenset[str] = frozenset()
    has_boxes: bool = True
    dropped_boxes: int = 0
    fx_over_width: float = REFERENCE_FX_OVER_WIDTH
    room: str = ""
    source: str = ""
    teachers: tuple[TeacherNote, ...] = ()


def decode(sample: Sample) -> PhotoLabels:
    """Reads a sample of a shard. Raises BadImage or BadInput with the shard, the key and the reason."""
    where = f"{sample.get('__url__', 'shard')}: sample {sample.get('__key__', '?')}"
    for suffix in ("jpg", "depth.png", "json"):
        if suffix not in sample:
            raise BadInput(f"{where} has no {suffix}: it is not a photograph with depth.")
    depth_m = decode_depth(_decode_codes(sample["depth.png"], f"{where}: depth.png"))
    segments = _decode_codes(sample["seg.png"], f"{where}: seg.png") if "seg.png" in sample else None
    if segments is not None:
        _check_segments(segments, depth_m, where)
    rgb = decode_rgb(np.frombuffer(sample["jpg"], np.uint8), f"{where}: jpg")
    return PhotoLabels(rgb, depth_m, segments, **_decode_description(sample["json"], where))


def encode(labels: PhotoLabels) -> dict[str, bytes]:
    """Returns the files of a sample by suffix, for webdataset.write_shard. Depth is rounded to its steps of 1.7 %."""
    description: JsonObject = {"agree": round(float(np.isfinite(labels.depth_m).mean()), 2)}
    description |= {key: value for key, value in (("room", labels.room), ("source", labels.source)) if value}
    if labels.has_boxes:
        description |= {"boxes": [[*box] for box in labels.boxes], "maybe": [*sorted(labels.maybe)]}
    if labels.fx_over_width != REFERENCE_FX_OVER_WIDTH:
        description["fx_over_width"] = labels.fx_over_width
    if labels.teachers:
        description["teachers"] = [teacher._asdict() for teacher in labels.teachers]
    bgr = cv2.cvtColor(labels.rgb, cv2.COLOR_RGB2BGR)
    members = {
        "jpg": cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes(),
        "depth.png": cv2.imencode(".png", encode_depth(labels.depth_m))[1].tobytes(),
        "json": json.dumps(description).encode(),
    }
    if labels.segments is not None:
        members["seg.png"] = cv2.imencode(".png", labels.segments)[1].tobytes()
    return members


def encode_depth(depth_m: np.ndarray) -> np.ndarray:
    """Returns uint8 codes of depth in metres. Depth outside of 0.25 to 20 m is unknown, as are NaN and infinity."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    steps = 255 / np.log(DEPTH_RATIO) * np.log(np.where(known, depth_m, NEAREST_M) / NEAREST_M)
    codes = np.rint(steps)
    return np.where(known & (codes >= 1) & (codes <= 255), codes, UNKNOWN_DEPTH_CODE).astype(np.uint8)


def decode_depth(codes: np.ndarray) -> np.ndarray:
    """Returns float32 depth in metres of uint8 codes, NaN unknown."""
    return _DEPTH_OF_CODE_M[codes]


_DEPTH_OF_CODE_M = (NEAREST_M * DEPTH_RATIO ** (np.arange(256) / 255)).astype(np.float32)
_DEPTH_OF_CODE_M[UNKNOWN_DEPTH_CODE] = np.nan


def reference_camera(size_px: tuple[int, int], fx_over_width: float = REFERENCE_FX_OVER_WIDTH) -> Intrinsics:
    """Returns the camera that labels of a photograph of this size (width, height) assume. Raises BadIntrinsics."""
    width, height = size_px
    focal_px = fx_over_width * width
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def fit_photo(rgb: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Returns the middle of an image, cut to the shape of `size_px` (width, height) and resized to that size."""
    height, width = rgb.shape[:2]
    kept_width = min(width, max(1, round(height * size_px[0] / size_px[1])))
    kept_height = min(height, max(1, round(width * size_px[1] / size_px[0])))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    middle = rgb[top : top + kept_height, left : left + kept_width]
    shrinks = kept_width >= size_px[0]
    return cv2.resize(middle, size_px, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def label_photo(
    rgb: np.ndarray,
    teachers: Sequence[DepthTeacher],
    most_disagreement_ln: float = MOST_DISAGREEMENT_LN,
    flip: bool = False,
) -> np.ndarray:
    """Returns the depth of one or two teachers, float32 (H / 4, W / 4), metres, NaN unknown.

    rgb: uint8 (H, W, 3), both sides multiples of LABEL_STRIDE_PX. flip: average each teacher's depth with that of the
    mirrored image. Of two teachers, the depth is their mean in ln, 2:1, after the second one was scaled to the median
    of the first one; it is unknown where they still differ by more than `most_disagreement_ln`.
    """
    log_depths = [_log_depth(teacher, rgb, flip) for teacher in teachers]
    if len(log_depths) == 1:
        return np.exp(log_depths[0])
    first, second = log_depths
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        return np.full(first.shape, np.nan, np.float32)
    second = second + (np.median(first[both]) - np.median(second[both]))
    mean = FIRST_TEACHER_WEIGHT * first + (1 - FIRST_TEACHER_WEIGHT) * second
    # A comparison with NaN is False.
    return np.where(np.abs(first - second) <= most_disagreement_ln, np.exp(mean), np.nan).astype(np.float32)


def _log_depth(teacher: DepthTeacher, rgb: np.ndarray, flip: bool) -> np.ndarray:
    """Returns ln of a teacher's depth, float32 (H / 4, W / 4): the mean of each square, NaN if it is not all known."""
    logs = _log(teacher(rgb))
    if flip:
        logs = (logs + _log(teacher(np.ascontiguousarray(rgb[:, ::-1])))[:, ::-1]) / 2
    height, width = (side // LABEL_STRIDE_PX for side in logs.shape)
    return logs.reshape(height, LABEL_STRIDE_PX, width, LABEL_STRIDE_PX).mean(axis=(1, 3))


def _log(depth_m: np.ndarray) -> np.ndarray:
    return np.log(np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.nan)).astype(np.float32)


def _decode_description(fields: object, where: str) -> dict[str, Any]:
    """Returns the fields of PhotoLabels that a sample's json holds. Raises BadInput."""
    try:
        stated = dict(cast("Mapping[str, Any]", fields))
        boxes, dropped = _inside(PhotoBox(str(name), *map(float, rest)) for name, *rest in stated.get("boxes", ()))
        return {
            "boxes": boxes,
            "dropped_boxes": dropped,
            "has_boxes": "boxes" in stated,
            "maybe": frozenset(stated.get("maybe", ())),
            "fx_over_width": parse_positive("fx_over_width", stated.get("fx_over_width", REFERENCE_FX_OVER_WIDTH)),
            "room": str(stated.get("room", "")),
            "source": str(stated.get("source", "")),
            "teachers": tuple(TeacherNote(**one) for one in stated.get("teachers", ())),
        }
    except (TypeError, ValueError) as exc:
        raise BadInput(f"{where}: json malformed ({exc}): {str(fields)[:200]}") from exc


def _inside(boxes: Iterable[PhotoBox]) -> tuple[tuple[PhotoBox, ...], int]:
    """Returns the boxes, cut at the edges of the photograph, and the number of boxes of which nothing is left."""
    cut = [PhotoBox(box.name, box.score, *(min(max(share, 0.0), 1.0) for share in box[2:])) for box in boxes]
    kept = tuple(box for box in cut if box.x0 < box.x1 and box.y0 < box.y1)
    return kept, len(cut) - len(kept)


def _check_segments(segments: np.ndarray, depth_m: np.ndarray, where: str) -> None:
    """Raises BadImage for segments of another size than the depth, or with a class that does not exist."""
    if segments.shape != depth_m.shape:
        raise BadImage(f"{where}: seg.png is {segments.shape} but depth.png is {depth_m.shape}: both need one size.")
    most = int(np.max(segments, where=segments != UNKNOWN_SEGMENT, initial=0))
    if most >= len(SEGMENT_CLASSES):
        raise BadImage(f"{where}: seg.png holds class {most}: there are {len(SEGMENT_CLASSES)} classes.")


def _decode_codes(encoded: bytes, where: str) -> np.ndarray:
    """Decodes a PNG of one byte a pixel, uint8 (h, w). Raises BadImage."""
    content = np.frombuffer(encoded, np.uint8)
    check_size(content, where)
    try:
        codes = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if encoded else None
    except cv2.error as exc:
        raise BadImage(f"{where}: cannot be decoded ({exc.err}).") from exc
    if codes is None:
        raise BadImage(f"{where}: its {len(encoded)} bytes are not an image.")
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise BadImage(f"{where} is {codes.dtype} {codes.shape}: expected one byte a pixel.")
    return codes
