"""What is learnt from one record: pictures as the model sees them, questions with replies, dense depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.records import BadRecord, Record, depth_of, z_of
from depthlm_ros.errors import BadImage
from depthlm_ros.finetune.settings import DataSettings
from depthlm_ros.geometry.canonical_view import fitted_view
from depthlm_ros.image_io import read_rgb
from depthlm_ros.model_files.spec import ModelSpec


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
