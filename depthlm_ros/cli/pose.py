# SPDX-License-Identifier: Apache-2.0
"""`depthlm pose`: tells the pose of a second camera relative to a first."""

from __future__ import annotations

import argparse
import json

import numpy as np

from depthlm_ros.cli.common import add_pair_options, format_numbers, load_named_model, read_pair
from depthlm_ros.core import RelativePose
from depthlm_ros.file_io import JsonObject, to_json_value
from depthlm_ros.geometry.rotations import quaternion_xyzw, rotation_angle_deg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_pair_options(parser, "vlm3-pose")


def run(args: argparse.Namespace) -> None:
    """Prints the relative pose."""
    first, second = read_pair(args.first, args.second, args)
    model = load_named_model(args)
    pose = model.look_pair(first, second).pose()
    print(json.dumps({"model": model.name, **pose_dict(pose)}) if args.json else pose_text(pose))


def pose_dict(pose: RelativePose) -> JsonObject:
    """Converts a pose to JSON values; unknown numbers are null."""
    return dict(to_json_value(vars(pose) | {"quaternion_xyzw": _quaternion(pose)}))


def pose_text(pose: RelativePose) -> str:
    """Returns a line for each part of the pose, in the first camera's optical frame (x right, y down, z forward)."""
    angle_deg = rotation_angle_deg(pose.rotation) if np.isfinite(pose.rotation).all() else np.nan
    quaternion = format_numbers(_quaternion(pose), 4)
    rows = (
        ("rotation", f"quaternion (x, y, z, w) {quaternion}, {format_numbers([angle_deg], 1, 'degrees')}"),
        ("translation", format_numbers(pose.translation_m, 2, "m")),
        ("direction", format_numbers(pose.direction, 2)),
        ("distance", format_numbers([pose.distance_m], 2, "m")),
        ("stated angle", format_numbers([pose.angle_deg], 1, "degrees")),
    )
    return "\n".join(f"{name:14}{text}" for name, text in rows)


def _quaternion(pose: RelativePose) -> np.ndarray:
    return quaternion_xyzw(pose.rotation) if np.isfinite(pose.rotation).all() else np.full(4, np.nan)
