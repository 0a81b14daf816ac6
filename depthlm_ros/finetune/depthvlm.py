"""DepthVLM's samples: a whole image with its depth map, and a fixed reply."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from depthlm_ros.data.depthfile import read_depth, read_z
from depthlm_ros.data.records import BadRecord, Record
from depthlm_ros.errors import BadImage
from depthlm_ros.families.qwen_vl import DepthVLM
from depthlm_ros.finetune.pictures import centre_cut, label_on, plain_cut, processed
from depthlm_ros.finetune.samples import Sample, Showing, Turn, read_picture, seen_whole
from depthlm_ros.finetune.settings import named


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
