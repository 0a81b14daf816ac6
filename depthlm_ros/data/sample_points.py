# SPDX-License-Identifier: Apache-2.0
"""Turns a view of a data set into a record: draws points from its known depth and writes the files that it needs.

`write_view` does the whole step; `WriteOptions` says what is written. `write_benchmark` makes a benchmark of records
that exist: some of the images, balanced over scenes and cameras, with points, by the rules of DepthVLM-Bench.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from depthlm_ros.data.depthfile import read_depth, write_depth
from depthlm_ros.data.records import (
    BadRecord,
    DepthFile,
    Record,
    RecordProblem,
    depth_from_z,
    rescale_pixels,
    resize_intrinsics,
)
from depthlm_ros.data.source_view import SourceView
from depthlm_ros.data.write import depthlm_line, depthvlm_line
from depthlm_ros.errors import BadImage, BadInput
from depthlm_ros.file_io import replacing, write_atomically
from depthlm_ros.image_io import read_rgb, write_rgb

# The ratio of the sides of a depth map may differ by this share from that of its image: sizes are rounded, and some
# data sets undistort the image but not its depth map.
RATIO_TOLERANCE = 0.05
# numpy's RandomState takes no seed above this.
MOST_SEED = 2**32 - 1

T = TypeVar("T")


@dataclass(frozen=True)
class WriteOptions:
    """What is written for a view.

    out: folder of the JSONL file. format: "depthlm" or "depthvlm". points: number of points drawn from each image.
    focal_px: images of a longer focal length are shrunk to it (0: never). It does not apply to DepthVLM's format, whose
    depth maps belong to the original image. depth_scale: scale of depth maps that are written.
    Raises BadInput for numbers out of range.
    """

    out: Path
    format: str = "depthlm"
    points: int = 100
    seed: int = 42
    focal_px: float = 0.0
    depth_scale: float = 256.0

    def __post_init__(self) -> None:
        least = 0 if self.format == "depthvlm" else 1
        if self.points < least:
            raise BadInput(f"--points is {self.points}: it must be at least {least}.")
        if self.seed < 0:
            raise BadInput(f"--seed is {self.seed}: it must be at least 0.")


def write_view(view: SourceView, options: WriteOptions) -> tuple[str, int]:
    """Writes the files that a view needs, and returns its line of JSON and its number of points.

    Raises BadRecord if the view is not usable.
    """
    uv_grid_px = draw_pixels(view, options)
    z_m = view.depth_m[uv_grid_px[:, 1], uv_grid_px[:, 0]].astype(np.float64)
    uv_px = rescale_pixels(uv_grid_px, _size_px(view.depth_m), view.intrinsics.size_px)
    record = Record(
        where=view.key,
        image=Path(),
        intrinsics=view.intrinsics,
        uv_px=uv_px,
        depth_m=depth_from_z(view.label, z_m, uv_px, view.intrinsics),
        depth_type=view.label,
        scene=view.scene,
        camera=view.camera,
        split=view.split,
    )
    if options.format == "depthvlm":
        record = replace(record, image=write_view_image(view, options), depth=_write_depth_file(view, options))
        return depthvlm_line(record, options.out), len(uv_px)
    record = _with_shrunk_image(record, view, options)
    return depthlm_line(record, options.out, view.image_key), len(uv_px)


def draw_pixels(view: SourceView, options: WriteOptions) -> np.ndarray:
    """Returns int64 (N, 2): pixels of the depth map, drawn without replacement from the usable ones.

    The result depends only on the seed and the view's key, so that workers and restarts change nothing.
    """
    check_shape(view)
    places = np.flatnonzero(usable_pixels(view))
    if len(places) < view.least_points:
        raise BadRecord("view without depth", f"{len(places)} pixels have a depth, {view.least_points} are needed.")
    rng = np.random.default_rng([options.seed, zlib.crc32(view.key.encode())])
    chosen = rng.choice(places, min(options.points, len(places)), replace=False)
    v, u = np.divmod(chosen, view.depth_m.shape[1])
    return np.stack([u, v], axis=1)


def check_shape(view: SourceView) -> None:
    """Raises BadRecord if the depth map cannot cover the image because its sides have another ratio."""
    (height, width), camera = view.depth_m.shape, view.intrinsics
    if abs(width - camera.width_px * height / camera.height_px) > max(1.0, RATIO_TOLERANCE * width):
        raise BadRecord(
            "depth map of another shape",
            f"the depth map is {width} x {height}, the image {camera.width_px} x {camera.height_px}.",
        )


def known_pixels(view: SourceView) -> np.ndarray:
    """Returns bool (h, w): pixels of the depth map that are known and within the limits."""
    near_m, far_m = view.caps_m
    with np.errstate(invalid="ignore"):
        return (view.depth_m >= near_m) & (view.depth_m <= far_m) & (view.depth_m > 0)


def usable_pixels(view: SourceView) -> np.ndarray:
    """Returns bool (h, w): known pixels outside of the margin."""
    if not view.margin_px:
        return known_pixels(view)
    height, width = view.depth_m.shape
    x = math.ceil(view.margin_px * width / view.intrinsics.width_px)
    y = math.ceil(view.margin_px * height / view.intrinsics.height_px)
    inner = np.zeros((height, width), bool)
    inner[y : height - y, x : width - x] = True
    return known_pixels(view) & inner


def write_view_image(view: SourceView, options: WriteOptions) -> Path:
    """Returns the file of a view's image, and writes it if there is none yet."""
    return view.image if isinstance(view.image, Path) else _write_jpeg(view.image, view.key, options)


def _with_shrunk_image(record: Record, view: SourceView, options: WriteOptions) -> Record:
    """Returns the record with its image on disk, shrunk to options.focal_px if its focal length is longer."""
    camera = view.intrinsics
    if not options.focal_px or camera.fx_px <= options.focal_px:
        return replace(record, image=write_view_image(view, options))
    scale = options.focal_px / camera.fx_px
    size_px = math.trunc(camera.width_px * scale), math.trunc(camera.height_px * scale)
    rgb = read_rgb(view.image) if isinstance(view.image, Path) else view.image
    small = cv2.resize(rgb, size_px, interpolation=cv2.INTER_LANCZOS4 if view.truncate else cv2.INTER_AREA)
    if view.truncate:
        # The releases multiply everything by the scale and cut pixels to whole numbers.
        intrinsics = replace(
            camera,
            fx_px=camera.fx_px * scale,
            fy_px=camera.fy_px * scale,
            cx_px=camera.cx_px * scale,
            cy_px=camera.cy_px * scale,
            width_px=size_px[0],
            height_px=size_px[1],
        )
        uv_px = np.trunc(record.uv_px * scale)
    else:
        intrinsics = resize_intrinsics(camera, size_px)
        uv_px = rescale_pixels(record.uv_px, camera.size_px, size_px)
    return replace(record, image=_write_jpeg(small, view.key, options), intrinsics=intrinsics, uv_px=uv_px)


def _write_jpeg(rgb: np.ndarray, key: str, options: WriteOptions) -> Path:
    path = options.out / "images" / f"{key}.jpg"
    with replacing(path, sync=False) as partial_path:
        write_rgb(partial_path, rgb)
    return path


def _write_depth_file(view: SourceView, options: WriteOptions) -> DepthFile:
    """Returns the view's own depth map, or writes one that holds its known pixels in the label's depth type."""
    size_px = _size_px(view.depth_m)
    if view.depth_file is not None:
        return replace(view.depth_file, size_px=size_px)
    path = options.out / "depth" / f"{view.key}.png"
    with replacing(path, sync=False) as partial_path:
        write_depth(partial_path, _known_depth_of_label(view), options.depth_scale)
    return DepthFile(path, options.depth_scale, size_px, caps_m=view.caps_m)


def _known_depth_of_label(view: SourceView) -> np.ndarray:
    """Returns float32 (h, w): the known depth in the label's depth type, NaN elsewhere."""
    depth_m = np.full(view.depth_m.shape, np.nan, np.float32)
    v, u = np.nonzero(known_pixels(view))
    uv_px = rescale_pixels(np.stack([u, v], axis=1), _size_px(view.depth_m), view.intrinsics.size_px)
    depth_m[v, u] = depth_from_z(view.label, view.depth_m[v, u].astype(np.float64), uv_px, view.intrinsics)
    return depth_m


def _size_px(depth_m: np.ndarray) -> tuple[int, int]:
    """Returns (width, height)."""
    return depth_m.shape[1], depth_m.shape[0]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a benchmark is made of.

    images: how many. points: of each image; total_points: of all images together instead (0: points counts), the first
    images having one more where they cannot all have as many. Raises BadInput for numbers out of range.
    """

    images: int = 1000
    points: int = 10
    total_points: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("points", 1), ("total_points", 0), ("seed", 0)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise BadInput(f"--{option} is {getattr(self, name)}: it must be at least {least}.")
        if self.seed > MOST_SEED - self.images:
            raise BadInput(f"--seed is {self.seed}: it must be at most {MOST_SEED - self.images}.")

    def points_of_images(self, images: int) -> list[int]:
        """Returns how many points each of so many images has."""
        if not self.total_points:
            return [self.points] * images
        each, more = divmod(self.total_points, images)
        return [each + (index < more) for index in range(images)]


def write_benchmark(
    records: Sequence[Record],
    out: Path,
    options: BenchmarkOptions,
    problems: list[RecordProblem],
    on_image: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """Writes a benchmark of records to a JSONL file, and returns its records with the points that were drawn.

    Images are chosen by `balanced_order`. The points of image i of the benchmark, counted from 0, are drawn without
    replacement with numpy's RandomState(seed + i), from the known pixels of its depth map at the map's own size, or
    from the points of a record without a map. An image with too few of them is appended to `problems`, and the next one
    takes its place. DepthVLM's released description names these rules; its scripts are unpublished, so that the same
    seed need not choose the same images and pixels as theirs. Raises BadInput for fewer points than images.
    """
    wanted = min(options.images, len(records))
    if 0 < options.total_points < wanted:
        raise BadInput(f"--total-points is {options.total_points}: give at least one for each of the {wanted} images.")
    least = max(options.points_of_images(max(wanted, 1)))
    chosen: list[int] = []
    for index in balanced_order([(record.scene, record.camera) for record in records], options.seed):
        if len(chosen) == wanted:
            break
        try:
            known_points(records[index], least)
        except (BadImage, BadRecord) as exc:
            reason = exc.reason if isinstance(exc, BadRecord) else "depth map unusable"
            problems.append(RecordProblem(records[index].where, reason, str(exc)))
            continue
        chosen.append(index)
        if on_image:
            on_image(len(chosen), wanted)
    drawn = []
    # A map is read again here, because the maps of all images together would not fit into memory.
    for place, index in enumerate(sorted(chosen)):
        uv_px, depth_m = known_points(records[index], 1)
        count = min(options.points_of_images(len(chosen))[place], len(uv_px))
        points = np.random.RandomState(options.seed + place).choice(len(uv_px), count, replace=False)
        drawn.append(replace(records[index], uv_px=uv_px[points], depth_m=depth_m[points]))
    if drawn:
        write_atomically(out, "".join(f"{_benchmark_line(record, out.parent)}\n" for record in drawn))
    return drawn


def balanced_order(groups: Sequence[tuple[str, str]], seed: int) -> list[int]:
    """Returns the indices of images in an order of which every beginning is balanced.

    groups: (scene, camera) of each image, "" for unknown. The scenes take turns, within a scene its cameras, and within
    a camera its images; which one begins is random.
    """
    rng = np.random.RandomState(seed)
    scenes: dict[str, dict[str, list[int]]] = {}
    for index, (scene, camera) in enumerate(groups):
        scenes.setdefault(scene, {}).setdefault(camera, []).append(index)
    of_scenes = [
        list(_take_turns(_shuffled(map(rng.permutation, cameras.values()), rng))) for cameras in scenes.values()
    ]
    return [int(index) for index in _take_turns(_shuffled(of_scenes, rng))]


def _shuffled(items: Iterable[T], rng: np.random.RandomState) -> list[T]:
    listed = list(items)
    return [listed[index] for index in rng.permutation(len(listed))]


def _take_turns(rows: Iterable[Iterable[T]]) -> Iterator[T]:
    """Yields the first of each row, then the second of each row that has one, and so on."""
    waiting = deque(map(iter, rows))
    while waiting:
        row = waiting.popleft()
        for value in row:
            yield value
            waiting.append(row)
            break


def known_points(record: Record, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (N, 2) of the image and depths (N,) of all labelled pixels: of the depth map, else of the points.

    Raises BadDepthMap, and BadRecord for fewer than `least`.
    """
    uv_px, depth_m = record.uv_px, record.depth_m
    if record.depth is not None:
        map_m = read_depth(record.depth)
        v, u = np.nonzero(np.isfinite(map_m))
        uv_px = rescale_pixels(np.stack([u, v], axis=1), _size_px(map_m), record.intrinsics.size_px)
        depth_m = map_m[v, u].astype(np.float64)
    if len(uv_px) < least:
        raise BadRecord("too few known depths", f"{len(uv_px)} pixels have a depth, {least} are needed.")
    return uv_px, depth_m


def _benchmark_line(record: Record, folder: Path) -> str:
    return depthlm_line(record, folder) if record.depth is None else depthvlm_line(record, folder)
