"""DepthLM's samples: one point of an image, marked by a red arrow in the picture itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import BadRecord, Record
from depthlm_ros.families.depthlm import POINT_QUESTION, draw_marks, fits
from depthlm_ros.families.vlm3 import POINT_REPLY
from depthlm_ros.finetune.pictures import Cut, plain_cut, processed, random_cut, seen_size, stretched_cut
from depthlm_ros.finetune.samples import Sample, Showing, Turn, metres, read_picture
from depthlm_ros.finetune.settings import named


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
