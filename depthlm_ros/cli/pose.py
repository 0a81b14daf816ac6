"""`depthlm pose`: how a second camera stands to a first."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from depthlm_ros.cli.common import add_pair, load, numbers, read_pair
from depthlm_ros.core import RelativePose
from depthlm_ros.file_io import to_json_value
from depthlm_ros.geometry.rotations import quaternion_xyzw, rotation_angle_deg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pair(parser, "vlm3-pose")


def run(args: argparse.Namespace) -> None:
    """Tell the pose."""
    first, second = read_pair(args.first, args.second, args)
    model = load(args)
    pose = model.look_pair(first, second).pose()
    print(json.dumps({"model": model.name, **pose_dict(pose)}) if args.json else pose_text(pose))


def pose_dict(pose: RelativePose) -> dict[str, Any]:
    """In plain types, fit for JSON: what is unknown is null."""
    return to_json_value(vars(pose) | {"quaternion_xyzw": _quaternion(pose)})


def pose_text(pose: RelativePose) -> str:
    """A line for each part; the second camera in the first's optical frame (x right, y down, z forward)."""
    angle_deg = rotation_angle_deg(pose.rotation) if np.isfinite(pose.rotation).all() else np.nan
    rows = (
        ("rotation", f"quaternion (x, y, z, w) {numbers(_quaternion(pose), 4)}, {numbers([angle_deg], 1, 'degrees')}"),
        ("translation", numbers(pose.translation_m, 2, "m")),
        ("direction", numbers(pose.direction, 2)),
        ("distance", numbers([pose.distance_m], 2, "m")),
        ("angle as told", numbers([pose.angle_deg], 1, "degrees")),
    )
    return "\n".join(f"{name:14}{text}" for name, text in rows)


def _quaternion(pose: RelativePose) -> np.ndarray:
    return quaternion_xyzw(pose.rotation) if np.isfinite(pose.rotation).all() else np.full(4, np.nan)
