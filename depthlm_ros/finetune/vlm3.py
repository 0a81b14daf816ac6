"""VLM3's samples: several questions about one image, or about two, with every place written as numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from depthlm_ros.data.read import ObjectRecord
from depthlm_ros.data.records import BadRecord, PairRecord, Record
from depthlm_ros.families.base import normalised
from depthlm_ros.families.vlm3 import (
    MATCH_COORDINATE_SCALE,
    MATCH_QUESTION,
    POINT_REPLY,
    QUESTIONS,
    point_text,
    pose_replies,
)
from depthlm_ros.finetune.samples import Sample, Showing, Turn, metres, read_picture, seen_whole
from depthlm_ros.geometry.canonical_view import CanonicalView, fitted_view

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
