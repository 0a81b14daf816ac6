"""Two views of one scene from posed depth: how much they share, where points of one are in the other, how it moved.

A point of view 1 at pixel p with depth z is R z K1^-1 p + t in view 2's camera; it is seen there if it falls into the
image and what view 2 measures at that pixel is as far (else something stands in between, or view 2 knows nothing).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.curate import ItemResult, Job, attempt, guarded_views, run
from depthlm_ros.data.records import BadRecord, PairRecord, Problem, between_grids, resized
from depthlm_ros.data.sample_points import check_shape, known, view_image
from depthlm_ros.data.sets.lidar import inverse, moved
from depthlm_ros.data.source_view import View
from depthlm_ros.data.write import pair_line
from depthlm_ros.errors import BadInput
from depthlm_ros.geometry.pinhole import backproject, project

# VLM3's mixture takes pairs that share more than a quarter.
COVISIBLE = 0.25
# Depths of the same surface in two views differ by noise and by half a pixel of slope; this share is still the same.
SAME_DEPTH = 0.05
# As much may the depths of thumbnails differ, whose pixels reach far along a slanted floor.
SAME_DEPTH_COARSE = 0.2
# Covisibility is judged on so many columns of the depth map.
COARSE_COLUMNS = 48
# Entries of a rotation that was written with three digits are wrong by less.
RIGID = 2e-3
# So many other views are tried for each view.
TRIES = 8


@dataclass(frozen=True)
class PairPlan:
    """covisible: the least share that each must see of the other. per_view: how many partners a view gets at most.

    Raises BadInput for numbers that make no sense."""

    covisible: float = COVISIBLE
    per_view: int = 2
    points: int = 100
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.covisible < 1:
            raise BadInput(f"--covisibility is {self.covisible:g}: a share from 0 to less than 1.")
        if self.per_view < 1:
            raise BadInput(f"--per-view is {self.per_view}: at least 1.")


@dataclass(frozen=True)
class Posed:
    """A view with what geometry needs of it: camera at the size of its depth map, depth along the axis, and pose."""

    camera: Intrinsics
    depth_m: np.ndarray
    camera_to_world: np.ndarray


def curate_pairs(job: Job, plan: PairPlan, workers: int) -> dict[str, Any]:
    """Write job.plan.out/NAME.pairs.jsonl (pairreading.py says what is in it) and its report; returns the report.

    Raises as curate.curate does.
    """
    return run(job, f"{job.name}.pairs", workers, partial(work, plan), extra={"pairs": vars(plan)})


def work(plan: PairPlan, job: Job, item: str) -> ItemResult:
    """The pairs of one item; in a worker process."""
    problems: list[Problem] = []
    makers = dict(guarded_views(job, item, problems))
    thumbs: dict[str, Posed] = {}
    for name, make in makers.items():
        thumb = attempt(f"{item}: {name}", partial(_thumb, make), problems)
        if thumb is not None:
            thumbs[name] = thumb
    full = lru_cache(maxsize=4)(lambda name: makers[name]())
    rng = np.random.default_rng([plan.seed, zlib.crc32(item.encode())])
    lines, points = [], 0
    alone = set(thumbs)
    for first, second in _candidates(thumbs, plan, rng):
        make_pair = partial(_pair, full, first, second, plan, job.plan)
        pair = attempt(f"{item}: {first} and {second}", make_pair, problems)
        if pair is not None:
            lines.append(pair_line(pair, job.plan.out))
            points += len(pair.uv_px)
            alone -= {first, second}
    problems += (_without_partner(item, name, plan) for name in sorted(alone))
    return ItemResult(tuple(lines), points, tuple(problems))


def _without_partner(item: str, name: str, plan: PairPlan) -> Problem:
    told = f"no view that was tried shares more than {plan.covisible:g} with it (tried: up to {TRIES} drawn for each)"
    return Problem(f"{item}: {name}", "view without a partner", told)


def relative_pose(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rotation (3, 3), translation_m (3,)): the second camera in the first one's frame, from both poses (4, 4) in the
    world: rotation turns vectors of camera 2 into camera 1, translation is the centre of camera 2 in camera 1."""
    between = inverse(first) @ second
    return between[:3, :3], between[:3, 3]


def correspond(first: Posed, second: Posed, uv_px: np.ndarray, same: float = SAME_DEPTH) -> np.ndarray:
    """float64 (N, 2): where whole pixels (N, 2) of the first depth map are in the second one's image; NaN where they
    are not seen: outside, behind, hidden, or with an unknown depth on either side. same: the share by which depths of
    one surface may differ."""
    u, v = uv_px.T
    in_first_m = backproject(uv_px, first.depth_m[v, u], first.camera)
    in_second_m = moved(inverse(second.camera_to_world) @ first.camera_to_world, in_first_m)
    matched_px = project(in_second_m, second.camera)
    nearest = np.rint(np.nan_to_num(matched_px, nan=-1.0)).astype(np.int64)
    inside = np.all((nearest >= 0) & (nearest < second.camera.size_px), axis=1)
    met_m = np.full(len(uv_px), np.nan)
    met_m[inside] = second.depth_m[nearest[inside, 1], nearest[inside, 0]]
    with np.errstate(invalid="ignore"):
        seen = np.abs(met_m - in_second_m[:, 2]) <= same * met_m
    matched_px[~seen] = np.nan
    return matched_px


def covisibility(first: Posed, second: Posed, same: float = SAME_DEPTH) -> float:
    """The share of each view's known pixels that the other sees, the smaller of the two; 0 where nothing is known."""
    return min(_share_seen(first, second, same), _share_seen(second, first, same))


def _share_seen(first: Posed, second: Posed, same: float) -> float:
    v, u = np.nonzero(np.isfinite(first.depth_m))
    if not len(u):
        return 0.0
    step = max(len(u) // (COARSE_COLUMNS * COARSE_COLUMNS), 1)
    matched_px = correspond(first, second, np.stack([u, v], axis=1)[::step], same)
    return float(np.isfinite(matched_px[:, 0]).mean())


def _thumb(make: Any) -> Posed:
    """A view in so few pixels that a whole scene's fit into memory."""
    whole = posed(make())
    height, width = whole.depth_m.shape
    step = max(width // COARSE_COLUMNS, 1)
    rows, columns = np.arange(step // 2, height, step), np.arange(step // 2, width, step)
    # Every step-th pixel, not means: depths must not be mixed over edges.
    camera = replace(
        whole.camera,
        fx_px=whole.camera.fx_px / step,
        fy_px=whole.camera.fy_px / step,
        cx_px=(whole.camera.cx_px - step // 2) / step,
        cy_px=(whole.camera.cy_px - step // 2) / step,
        width_px=len(columns),
        height_px=len(rows),
    )
    return Posed(camera, whole.depth_m[np.ix_(rows, columns)], whole.camera_to_world)


def posed(view: View) -> Posed:
    """Raises BadRecord for a view without a pose or without depth, and for a pose that is no rigid motion."""
    if view.pose is None or not np.isfinite(view.pose).all():
        raise BadRecord("pose missing", "the view has no pose: pairs need one.")
    if not is_rigid(view.pose):
        raise BadRecord("pose not rigid", f"the pose {np.round(view.pose, 4).tolist()} is no rotation and translation.")
    check_shape(view)
    if not known(view).any():
        raise BadRecord("view without depth", "nothing of its depth map is known and within the caps.")
    height, width = view.depth_m.shape
    depth_m = np.where(known(view), view.depth_m, np.nan)
    return Posed(resized(view.intrinsics, (width, height)), depth_m, view.pose)


def is_rigid(pose: np.ndarray) -> bool:
    """Whether a matrix (4, 4) is a rotation and a translation, as far as the digits of a data set's files tell."""
    rotation = pose[:3, :3]
    orthonormal = np.abs(rotation @ rotation.T - np.eye(3)).max() < RIGID
    return bool(orthonormal and np.linalg.det(rotation) > 0 and np.allclose(pose[3], [0, 0, 0, 1], atol=RIGID))


def _candidates(thumbs: dict[str, Posed], plan: PairPlan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Pairs of names that share enough as far as the thumbnails tell; each pair once."""
    names: Sequence[str] = sorted(thumbs)
    for index, first in enumerate(names):
        later = names[index + 1 :]
        tried = rng.permutation(len(later))[:TRIES]
        seconds = [later[i] for i in tried]
        shares = (covisibility(thumbs[first], thumbs[second], SAME_DEPTH_COARSE) for second in seconds)
        enough = [second for second, share in zip(seconds, shares, strict=True) if share > plan.covisible]
        yield from ((first, second) for second in enough[: plan.per_view])


def _pair(full: Any, first: str, second: str, plan: PairPlan, out: Any) -> PairRecord | None:
    """None if the whole views share less than their thumbnails."""
    views = full(first), full(second)
    one, two = posed(views[0]), posed(views[1])
    share = covisibility(one, two)
    if share <= plan.covisible:
        return None
    v, u = np.nonzero(np.isfinite(one.depth_m))
    rng = np.random.default_rng([plan.seed, zlib.crc32(f"{first} {second}".encode())])
    order = rng.permutation(len(u))[: 20 * plan.points]
    uv_px = np.stack([u, v], axis=1)[order]
    matched_px = correspond(one, two, uv_px)
    kept = np.flatnonzero(np.isfinite(matched_px[:, 0]))[: plan.points]
    rotation, translation_m = relative_pose(one.camera_to_world, two.camera_to_world)
    return PairRecord(
        where=f"{first} {second}",
        images=(view_image(views[0], out), view_image(views[1], out)),
        intrinsics=(views[0].intrinsics, views[1].intrinsics),
        uv_px=between_grids(uv_px[kept], one.camera.size_px, views[0].intrinsics.size_px),
        matched_px=between_grids(matched_px[kept], two.camera.size_px, views[1].intrinsics.size_px),
        rotation=rotation,
        translation_m=translation_m,
        covisibility=share,
        scene=views[0].scene,
    )
