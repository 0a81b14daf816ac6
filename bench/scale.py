# SPDX-License-Identifier: Apache-2.0
"""Measures how much a known camera height, or a range sensor with one beam, mends the scale of the depth on real rooms.

    . ./env.sh && python bench/scale.py [--model tiny] [--data FOLDER] [--scenes hololens_dvmvs] [--limit 40]

FOLDER holds the frames of depth sensors (labels.jsonl, see depthlm_ros/data/sensor_frames.py); the default is
real_frames in $DEPTHLM_DATA. Only scenes count of which LEAST_FLOOR_FRAMES frames show a floor in the sensor's own
depth. What a robot would know is taken from the sensor: the height above the floor and the direction of gravity by the
sensor's map ("height"), or the true depth in the image's middle, as by a range sensor with one beam ("range"). The
frames of a scene go through the node's filter in their order, RATE_HZ a second. The error of a frame is
|ln(true / told)| of the medians over its pixels, the share by which all its sizes are wrong; the numbers are medians
over the frames of a scene, and means over scenes. The frames before the first estimate count as they are. Ends with one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.core import DepthMap, Frame, Intrinsics
from depthlm_ros.data.records import BadRecord, Record, RecordProblem
from depthlm_ros.data.sensor_frames import EVALUATE, ROOM, read_sensor_frames
from depthlm_ros.errors import DepthLMError
from depthlm_ros.eval.judges import read_true_map, resize_depth
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.image_io import read_rgb
from depthlm_ros.measurement.extents import estimate_down
from depthlm_ros.measurement.floor_height import floor_heights, height_ratios
from depthlm_ros.measurement.range_scale import range_ratios
from depthlm_ros.measurement.scale import ScaleTracker, robust_mean
from depthlm_ros.model import Model, load_model
from depthlm_ros.progress import progress_callback

DEFAULT_DATA = Path(os.environ.get("DEPTHLM_DATA", "data")) / "real_frames"
RATE_HZ = 5.0
# A level surface nearer below the camera than this is a table rather than the floor.
LEAST_HEIGHT_M = 0.7
LEAST_FLOOR_FRAMES = 4
HEIGHT, RANGE = "height", "range"


@dataclass(frozen=True)
class RealFrame:
    """A frame with the model's depth and the sensor's. height_m: above the sensor's floor, NaN if it shows none."""

    told: DepthMap
    true_m: np.ndarray
    height_m: float
    down: np.ndarray

    @property
    def log_error(self) -> float:
        """ln(true / told) of the medians over the pixels that both know; NaN without any."""
        both = np.isfinite(self.true_m) & np.isfinite(self.told.depth_m) & (self.true_m > 0)
        if not both.any():
            return math.nan
        return math.log(np.median(self.true_m[both]) / np.median(self.told.depth_m[both]))


def read_frame(record: Record, model: Model) -> RealFrame:
    """Returns what the model and the sensor say about one image. Raises BadRecord, BadInput."""
    rgb, camera = read_rgb(record.image), record.intrinsics
    told = model.look(Frame(rgb, camera)).depth(with_std=False)
    true_m = resize_depth(read_true_map(record), told.depth_m.shape)
    sensor = DepthMap(true_m.astype(np.float32), camera)
    down = estimate_down(sensor)
    heights_m = floor_heights(sensor, down)
    height_m = math.exp(robust_mean(np.log(heights_m))[0]) if len(heights_m) else math.nan
    return RealFrame(told, sensor.depth_m, height_m if height_m >= LEAST_HEIGHT_M else math.nan, down)


def ratios_by(source: str, frame: RealFrame) -> np.ndarray:
    """Returns the ratios (N,) of measured to told depth that a robot would have at this frame."""
    if source == RANGE:
        return range_ratios(frame.told, beam_points(frame.true_m, frame.told.intrinsics))
    if math.isnan(frame.height_m):
        return np.zeros(0)
    return height_ratios(frame.told, frame.height_m, frame.down)


def beam_points(true_m: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Returns float64 (1, 3): what a range sensor with one beam beside the camera measures in the image's middle."""
    u, v = camera.width_px // 2, camera.height_px // 2
    return backproject(np.array([[u, v]]), true_m[v : v + 1, u], camera)


def errors_after(source: str, frames: Sequence[RealFrame]) -> tuple[list[float], int]:
    """Returns |ln(true / corrected)| of each frame, and the number of frames that gave samples."""
    tracker, errors, used = ScaleTracker(), [], 0
    for number, frame in enumerate(frames):
        now_s = number / RATE_HZ
        used += tracker.add(now_s, source, ratios_by(source, frame)) > 0
        estimate = tracker.estimate(now_s)
        errors.append(abs(frame.log_error - (math.log(estimate.ratio) if estimate.is_sure else 0.0)))
    return errors, used


def score_scene(frames: Sequence[RealFrame]) -> dict[str, float]:
    """Returns the median error before and after, in percent, and the number of frames behind each."""
    scores = {"frames": float(len(frames)), "floor_frames": float(sum(frame.height_m > 0 for frame in frames))}
    scores["before_percent"] = 100 * float(np.nanmedian([abs(frame.log_error) for frame in frames]))
    for source in (HEIGHT, RANGE):
        errors, used = errors_after(source, frames)
        scores[f"after_{source}_percent"] = 100 * float(np.nanmedian(errors))
        scores[f"frames_{source}"] = float(used)
    return scores


def read_scenes(args: argparse.Namespace, model: Model) -> dict[str, list[RealFrame]]:
    """Returns the frames of each scene, in their order."""
    problems: list[RecordProblem] = []
    found = read_sensor_frames(args.data, args.use, problems, (ROOM,))
    chosen: dict[str, list[Record]] = defaultdict(list)
    for frame in found:
        record = frame.record
        if not args.scenes or any(record.scene.startswith(name) for name in args.scenes):
            chosen[record.scene].append(record)
    scenes: dict[str, list[RealFrame]] = defaultdict(list)
    records = [record for several in chosen.values() for record in several[: args.limit]]
    with progress_callback(f"{model.name}: rooms", "images") as show:
        for done, record in enumerate(records):
            try:
                scenes[record.scene].append(read_frame(record, model))
            except (BadRecord, DepthLMError) as error:
                print(f"left out: {record.where}: {error}")
            show(done + 1, len(records))
    return scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--use", default=EVALUATE, help="frames of this use (default: %(default)s)")
    parser.add_argument("--scenes", nargs="*", default=[], help="beginnings of the names of scenes (default: all)")
    parser.add_argument("--limit", type=int, help="frames of each scene")
    args = parser.parse_args()
    scenes = read_scenes(args, load_model(args.model))
    scores = {
        name: score_scene(frames)
        for name, frames in scenes.items()
        if sum(frame.height_m > 0 for frame in frames) >= LEAST_FLOOR_FRAMES
    }
    for name, one in scores.items():
        print(f"{name:32} " + "  ".join(f"{key.removesuffix('_percent')} {value:.3g}" for key, value in one.items()))
    keys = [key for key in next(iter(scores.values()), {}) if key.endswith("_percent")]
    means = {key: round(float(np.mean([one[key] for one in scores.values()])), 1) for key in keys}
    print(json.dumps({"model": args.model, "scenes": len(scores), "mean": means, "by_scene": scores}))


if __name__ == "__main__":
    main()
