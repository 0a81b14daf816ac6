# SPDX-License-Identifier: Apache-2.0
"""Measures how exact distances, height, width and gaps are, given true boxes and true depth of rendered scenes.

The truth is computed from each object's true mask and the true vertical. The objects have a name and at least LEAST_PX
visible pixels at 640 x 480. "clear" objects are those that the scenes' own questions ask about; "whole" objects are
completely visible. An error is a share of the truth; for a gap it is a share of the larger of gap and distance. With a
model, its depth replaces the true depth, and the truth stays the same. Prints the share within 2 % and percentiles of
the error, and ends with one JSON line.

    . ./env.sh && python bench/geometry.py [--pictures 100] [--seed 0] [--model tiny]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from depthlm_ros.core import DepthMap, Frame, Intrinsics, Measurement, Region
from depthlm_ros.measurement.measure import measure
from depthlm_ros.model import load_model
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.visibility import Sighting, find_sightings, is_clear
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.sample import sample_scene

CAMERA = Intrinsics(480.0, 480.0, 319.5, 239.5, 640, 480)
LEAST_PX, WITHIN, PAIRS = 100, 0.02, 3
WHOLE_SHARE = 0.98
GAP_SAMPLE = 1500
SETS = ("all", "clear", "whole")
QUANTITIES = ("distance", "nearest", "height", "width", "gap")


@dataclass(frozen=True)
class Target:
    """An object of a picture. mask: bool (H, W). region: the box around its visible pixels. sets: some of SETS."""

    name: str
    mask: np.ndarray
    region: Region
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A rendered scene: true depth, true vertical (3,) in the optical frame, objects, and the camera's image."""

    depth: DepthMap
    down: np.ndarray
    targets: tuple[Target, ...]
    frame: Frame


@dataclass(frozen=True)
class Result:
    """One measured value and the truth. The error is a share of `scale`."""

    quantity: str
    name: str
    value: float
    truth: float
    scale: float
    sets: tuple[str, ...]

    @property
    def error(self) -> float:
        """The relative error, 0 or more; infinite if nothing was measured."""
        error = abs(self.value - self.truth) / self.scale
        return error if np.isfinite(error) else np.inf


def pictures(seed: int, count: int) -> Iterator[Picture]:
    """Yields rendered views of random scenes, the same for the same seed."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        while True:
            scene = sample_scene(rng)
            try:
                pose = sample_pose(rng, scene)
                break
            except RuntimeError:
                continue
        rendered = render(scene, pose, CAMERA)
        seen = [one for one in find_sightings(scene, rendered, CAMERA) if one.pixels >= LEAST_PX]
        targets = tuple(_target(one, rendered.object_id == one.thing.object_id) for one in seen)
        frame = Frame(photograph(rng, rendered), CAMERA)
        yield Picture(DepthMap(rendered.depth_m, CAMERA), pose.R.T @ (0.0, 0.0, -1.0), targets, frame)


def _target(seen: Sighting, mask: np.ndarray) -> Target:
    """Returns an object with the sets to which it belongs."""
    left, top, right, bottom = seen.edges_px
    sets = ["all"]
    if is_clear(seen.pixels, seen.share, seen.inside, mask.size):
        sets.append("clear")
    if seen.share >= WHOLE_SHARE and left > 0 and top > 0 and right < CAMERA.width_px and bottom < CAMERA.height_px:
        sets.append("whole")
    return Target(seen.thing.name, mask, Region(left, top, right - left, bottom - top, seen.thing.name), tuple(sets))


def true_points(depth: DepthMap, mask: np.ndarray) -> np.ndarray:
    """Returns float64 (N, 3): the points at a mask's pixels, metres, optical frame."""
    camera = depth.intrinsics
    v, u = np.nonzero(mask)
    z = depth.depth_m[v, u].astype(np.float64)
    return np.stack([(u - camera.cx_px) / camera.fx_px * z, (v - camera.cy_px) / camera.fy_px * z, z], axis=1)


def true_sizes(depth: DepthMap, target: Target, down: np.ndarray) -> dict[str, float]:
    """Returns distances, height and width, metres, of an object's visible surface, to the edges of its pixels."""
    points_m, camera, box = true_points(depth, target.mask), depth.intrinsics, target.region
    u, v = box.x_px + (box.width_px - 1) / 2, box.y_px + (box.height_px - 1) / 2
    ahead = np.array([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, 1.0])
    across = np.cross(down, ahead)
    ranges_m = np.linalg.norm(points_m, axis=1)
    found = {"distance": float(np.median(ranges_m)), "nearest": float(ranges_m.min())}
    for quantity, axis in (("height", down), ("width", across / np.linalg.norm(across))):
        along = points_m @ axis
        half_m = points_m[:, 2] / 2 * (abs(axis[0]) / camera.fx_px + abs(axis[1]) / camera.fy_px)
        found[quantity] = float((along + half_m).max() - (along - half_m).min())
    return found


def true_gap(one_m: np.ndarray, two_m: np.ndarray) -> float:
    """Returns the least distance, metres, between two sets of points; of large sets it uses a sample."""
    one_m, two_m = (points_m[:: -(-len(points_m) // GAP_SAMPLE)] for points_m in (one_m, two_m))
    squares = (one_m**2).sum(1)[:, None] + (two_m**2).sum(1) - 2 * one_m @ two_m.T
    return float(np.sqrt(max(squares.min(), 0.0)))


def results(picture: Picture, depth: DepthMap) -> Iterator[Result]:
    """Yields all measurements in a depth map of a picture, with the truth; gaps between the first PAIRS objects."""
    truths = [true_sizes(picture.depth, target, picture.down) for target in picture.targets]
    for target, truth in zip(picture.targets, truths, strict=True):
        for found in measure(depth, [target.region], (), 0.0):
            true_m = truth[found.quantity]
            yield Result(found.quantity, target.name, found.value, true_m, true_m, target.sets)
    for one, two in combinations(range(min(PAIRS, len(picture.targets))), 2):
        pair = picture.targets[one], picture.targets[two]
        gap_m = true_gap(*(true_points(picture.depth, target.mask) for target in pair))
        scale_m = max(gap_m, truths[one]["nearest"], truths[two]["nearest"])
        found = of_quantity(measure(depth, [target.region for target in pair], (), 0.0), "gap")
        sets = tuple(name for name in SETS if all(name in target.sets for target in pair))
        yield Result("gap", f"{pair[0].name}, {pair[1].name}", found.value, gap_m, scale_m, sets)


def of_quantity(measurements: tuple[Measurement, ...], quantity: str) -> Measurement:
    """Returns the only measurement of a quantity."""
    (found,) = (one for one in measurements if one.quantity == quantity)
    return found


def summary(found: list[Result], quantity: str, which: str) -> dict[str, float]:
    """Returns n, the share within WITHIN, and percentiles of the relative error, for a quantity and a set."""
    errors = np.array([one.error for one in found if one.quantity == quantity and which in one.sets])
    if not len(errors):
        return {"n": 0}
    share = {"n": len(errors), "within": round(float((errors <= WITHIN).mean()), 4)}
    return share | {f"p{p}": round(float(np.percentile(errors, p)), 4) for p in (50, 75, 90, 95)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="the model whose depth is used (default: the true depth)")
    args = parser.parse_args()
    found, began = [], time.perf_counter()
    model = load_model(args.model) if args.model else None
    for picture in pictures(args.seed, args.pictures):
        found += results(picture, model.look(picture.frame).depth() if model else picture.depth)
    table = {which: {quantity: summary(found, quantity, which) for quantity in QUANTITIES} for which in SETS}
    print(f"{'objects':8}{'quantity':10}{'n':>6}{'within 2 %':>12}{'p50':>9}{'p75':>9}{'p90':>9}{'p95':>9}")
    for which, rows in table.items():
        for quantity, row in rows.items():
            cells = "".join(f"{row.get(key, np.nan):9.2%}" for key in ("p50", "p75", "p90", "p95"))
            print(f"{which:8}{quantity:10}{row['n']:6}{row.get('within', np.nan):12.1%}{cells}")
    print(
        json.dumps(
            {"model": args.model, "pictures": args.pictures, "seconds": round(time.perf_counter() - began, 1), **table}
        )
    )


if __name__ == "__main__":
    main()
