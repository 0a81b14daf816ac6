# SPDX-License-Identifier: Apache-2.0
"""Makes pairs of views from a data set with poses: matching pixels, covisibility, and the relative pose.

`curate_pairs` writes the pairs; `find_correspondences`, `compute_covisibility` and `compute_relative_pose` are the
geometry. A pixel p of view 1 with depth z is the point R z K1^-1 p + t in the camera of view 2. View 2 sees this point
if it falls into the image, and if the depth that view 2 measures at that pixel is the same. Otherwise something hides
the point, or view 2 has no depth there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.curate import CurationJob, ItemResult, call_or_record_problem, iter_lazy_views, run_job
from depthlm_ros.data.records import BadRecord, PairRecord, RecordProblem, rescale_pixels, resize_intrinsics
from depthlm_ros.data.sample_points import WriteOptions, check_shape, known_pixels, write_view_image
from depthlm_ros.data.sets.lidar import invert_rigid, transform_points
from depthlm_ros.data.source_view import SourceView
from depthlm_ros.data.write import pair_line
from depthlm_ros.errors import BadInput
from depthlm_ros.geometry.pinhole import backproject, nearest_pixel, pixels_inside, project

# VLM3's training data use pairs of views that share more than a quarter.
COVISIBLE = 0.25
# Depths of one surface in two views may differ by this share, because of noise and half a pixel of slope.
SAME_DEPTH = 0.05
# The same for thumbnails, whose large pixels cover a long stretch of a slanted floor.
SAME_DEPTH_COARSE = 0.2
# Covisibility is computed on about this many columns of the depth map.
COARSE_COLUMNS = 48
# Largest error of the entries of a rotation that was written with three digits.
RIGID_TOLERANCE = 2e-3
# Number of other views that are tried as partners of each view.
TRIES = 8


@dataclass(frozen=True)
class PairOptions:
    """Which pairs are made.

    covisible: the smallest share of each view that the other must see. per_view: the largest number of partners of a
    view. points: number of matches of each pair. Raises BadInput for numbers out of range.
    """

    covisible: float = COVISIBLE
    per_view: int = 2
    points: int = 100
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.covisible < 1:
            raise BadInput(f"--covisibility is {self.covisible:g}: it must be at least 0 and less than 1.")
        if self.per_view < 1:
            raise BadInput(f"--per-view is {self.per_view}: it must be at least 1.")


@dataclass(frozen=True)
class PosedDepth:
    """The geometry of a view.

    camera: at the size of the depth map. depth_m: float (h, w), along the optical axis, NaN unknown. camera_to_world:
    float64 (4, 4).
    """

    camera: Intrinsics
    depth_m: np.ndarray
    camera_to_world: np.ndarray


def curate_pairs(job: CurationJob, options: PairOptions, workers: int) -> dict[str, object]:
    """Writes NAME.pairs.jsonl, which data/read.py describes, and its report to the output folder; returns the report.

    Raises as curate.curate does.
    """
    process_item = partial(curate_item_pairs, options)
    return run_job(job, f"{job.name}.pairs", workers, process_item, extra={"pairs": vars(options)})


def curate_item_pairs(options: PairOptions, job: CurationJob, item: str) -> ItemResult:
    """Returns the lines of the pairs of one item, and writes their images. Runs in a worker process."""
    problems: list[RecordProblem] = []
    loaders = dict(iter_lazy_views(job, item, problems))
    thumbnails: dict[str, PosedDepth] = {}
    for name, load_view in loaders.items():
        thumbnail = call_or_record_problem(f"{item}: {name}", partial(_load_thumbnail, load_view), problems)
        if thumbnail is not None:
            thumbnails[name] = thumbnail
    load_cached = lru_cache(maxsize=4)(lambda name: loaders[name]())
    rng = np.random.default_rng([options.seed, zlib.crc32(item.encode())])
    lines, points = [], 0
    alone = set(thumbnails)
    for first, second in _find_candidates(thumbnails, options, rng):
        make_pair = partial(_make_pair, load_cached, first, second, options, job.write_options)
        pair = call_or_record_problem(f"{item}: {first} and {second}", make_pair, problems)
        if pair is not None:
            lines.append(pair_line(pair, job.write_options.out))
            points += len(pair.uv_px)
            alone -= {first, second}
    message = f"none of the up to {TRIES} views that were tried shares more than {options.covisible:g} with it"
    problems += (RecordProblem(f"{item}: {name}", "view without a partner", message) for name in sorted(alone))
    return ItemResult(tuple(lines), points, tuple(problems))


def compute_relative_pose(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rotation (3, 3), translation_m (3,)) of the second camera in the first camera's frame.

    first, second: camera to world, (4, 4). The rotation turns vectors of camera 2 into camera 1; the translation is the
    centre of camera 2 in camera 1.
    """
    between = invert_rigid(first) @ second
    return between[:3, :3], between[:3, 3]


def find_correspondences(
    first: PosedDepth, second: PosedDepth, uv_px: np.ndarray, same_depth: float = SAME_DEPTH
) -> np.ndarray:
    """Returns float64 (N, 2): the pixels of the second view that show the points at whole pixels (N, 2) of the first.

    NaN for points that the second view does not see: outside of the image, behind the camera, hidden, or with an
    unknown depth in either view. same_depth: the share by which depths of one surface may differ.
    """
    u, v = uv_px.T
    in_first_m = backproject(uv_px, first.depth_m[v, u], first.camera)
    in_second_m = transform_points(invert_rigid(second.camera_to_world) @ first.camera_to_world, in_first_m)
    matched_px = project(in_second_m, second.camera)
    inside = pixels_inside(matched_px, second.camera.size_px)
    nearest_u, nearest_v = nearest_pixel(matched_px[inside]).T
    measured_m = np.full(len(uv_px), np.nan)
    measured_m[inside] = second.depth_m[nearest_v, nearest_u]
    with np.errstate(invalid="ignore"):
        seen = np.abs(measured_m - in_second_m[:, 2]) <= same_depth * measured_m
    matched_px[~seen] = np.nan
    return matched_px


def compute_covisibility(first: PosedDepth, second: PosedDepth, same_depth: float = SAME_DEPTH) -> float:
    """Returns the share of a view's known pixels that the other view sees, the smaller of the two shares.

    Returns 0 if a view has no known depth.
    """
    return min(_share_seen(first, second, same_depth), _share_seen(second, first, same_depth))


def _share_seen(first: PosedDepth, second: PosedDepth, same_depth: float) -> float:
    v, u = np.nonzero(np.isfinite(first.depth_m))
    if not len(u):
        return 0.0
    step = max(len(u) // (COARSE_COLUMNS * COARSE_COLUMNS), 1)
    matched_px = find_correspondences(first, second, np.stack([u, v], axis=1)[::step], same_depth)
    return float(np.isfinite(matched_px[:, 0]).mean())


def posed_depth(view: SourceView) -> PosedDepth:
    """Returns the geometry of a view.

    Raises BadRecord for a view without a pose or without known depth, and for a pose that is not a rigid motion.
    """
    if view.pose is None:
        raise BadRecord("pose missing", "the view has no pose, which pairs need.")
    if not np.isfinite(view.pose).all():
        worst = view.pose[~np.isfinite(view.pose)][0]
        raise BadRecord("pose unknown", f"the pose of the view holds {worst:g}: its tracking was lost there.")
    if not is_rigid(view.pose):
        pose = np.round(view.pose, 4).tolist()
        raise BadRecord("pose not rigid", f"the pose {pose} is not a rotation and a translation.")
    check_shape(view)
    if not known_pixels(view).any():
        raise BadRecord("view without depth", "no pixel of its depth map is known and within the limits.")
    height, width = view.depth_m.shape
    depth_m = np.where(known_pixels(view), view.depth_m, np.nan)
    return PosedDepth(resize_intrinsics(view.intrinsics, (width, height)), depth_m, view.pose)


def is_rigid(pose: np.ndarray) -> bool:
    """Returns whether a matrix (4, 4) is a rotation and a translation, within the precision of data sets' files."""
    rotation = pose[:3, :3]
    orthonormal = np.abs(rotation @ rotation.T - np.eye(3)).max() < RIGID_TOLERANCE
    return bool(
        orthonormal and np.linalg.det(rotation) > 0 and np.allclose(pose[3], [0, 0, 0, 1], atol=RIGID_TOLERANCE)
    )


def _load_thumbnail(load_view: Callable[[], SourceView]) -> PosedDepth:
    """Loads a view and reduces it to so few pixels that a whole scene fits into memory."""
    full = posed_depth(load_view())
    height, width = full.depth_m.shape
    step = max(width // COARSE_COLUMNS, 1)
    rows, columns = np.arange(step // 2, height, step), np.arange(step // 2, width, step)
    # Every step-th pixel is taken, because means would mix depths across edges.
    camera = replace(
        full.camera,
        fx_px=full.camera.fx_px / step,
        fy_px=full.camera.fy_px / step,
        cx_px=(full.camera.cx_px - step // 2) / step,
        cy_px=(full.camera.cy_px - step // 2) / step,
        width_px=len(columns),
        height_px=len(rows),
    )
    return PosedDepth(camera, full.depth_m[np.ix_(rows, columns)], full.camera_to_world)


def _find_candidates(
    thumbnails: Mapping[str, PosedDepth], options: PairOptions, rng: np.random.Generator
) -> Iterator[tuple[str, str]]:
    """Yields pairs of names whose thumbnails share enough, each pair once."""
    names: Sequence[str] = sorted(thumbnails)
    for index, first in enumerate(names):
        later = names[index + 1 :]
        tried = rng.permutation(len(later))[:TRIES]
        seconds = [later[i] for i in tried]
        shares = (compute_covisibility(thumbnails[first], thumbnails[name], SAME_DEPTH_COARSE) for name in seconds)
        partners = [name for name, share in zip(seconds, shares, strict=True) if share > options.covisible]
        yield from ((first, second) for second in partners[: options.per_view])


def _make_pair(
    load_view: Callable[[str], SourceView],
    first: str,
    second: str,
    options: PairOptions,
    write_options: WriteOptions,
) -> PairRecord | None:
    """Returns the pair of two views by name, or None if the full views share less than their thumbnails do."""
    views = load_view(first), load_view(second)
    one, two = posed_depth(views[0]), posed_depth(views[1])
    share = compute_covisibility(one, two)
    if share <= options.covisible:
        return None
    v, u = np.nonzero(np.isfinite(one.depth_m))
    rng = np.random.default_rng([options.seed, zlib.crc32(f"{first} {second}".encode())])
    order = rng.permutation(len(u))[: 20 * options.points]
    uv_px = np.stack([u, v], axis=1)[order]
    matched_px = find_correspondences(one, two, uv_px)
    kept = np.flatnonzero(np.isfinite(matched_px[:, 0]))[: options.points]
    rotation, translation_m = compute_relative_pose(one.camera_to_world, two.camera_to_world)
    return PairRecord(
        where=f"{first} {second}",
        images=(write_view_image(views[0], write_options), write_view_image(views[1], write_options)),
        intrinsics=(views[0].intrinsics, views[1].intrinsics),
        uv_px=rescale_pixels(uv_px[kept], one.camera.size_px, views[0].intrinsics.size_px),
        matched_px=rescale_pixels(matched_px[kept], two.camera.size_px, views[1].intrinsics.size_px),
        rotation=rotation,
        translation_m=translation_m,
        covisibility=share,
        scene=views[0].scene,
    )
