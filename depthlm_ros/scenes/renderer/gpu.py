"""Renders many pictures at once on an NVIDIA GPU, with the functions that render one on the CPU.

Needs a driver and numba-cuda (extra [scenes-cuda]). Depth, ids and colours agree with the CPU's to rounding; arithmetic
is in double precision as there, which GPUs made for games do slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.scenes.camera.lens import bent_lattice
from depthlm_ros.scenes.renderer.batch import PLAN, Shot, Views, World, pack_shots
from depthlm_ros.scenes.renderer.mirror import mirror_camera
from depthlm_ros.scenes.renderer.render import Rendered, camera_vector, render

THREADS = 128
INSTALL = "install a driver and `pip install depthlm_ros[scenes-cuda]`, or render on the CPU"


class Launch(NamedTuple):
    """One kernel over (threads, views) threads."""

    kernel: Any
    threads: int
    views: int
    args: tuple


class Made(NamedTuple):
    """What the kernels write for V pictures of h x w pixels; `corner_...` are of the (h + 1) x (w + 1) corners."""

    plan: Any
    bent: Any
    corner_bent: Any
    depth: Any
    hit: Any
    corner_depth: Any
    corner_hit: Any
    keys: Any
    meets: Any
    light: Any
    smoothed: Any
    centre: Any
    corner: Any
    mean: Any
    seen: Any
    blurred: Any
    rgb: Any
    depth_m: Any
    object_id: Any


def buffers(make: Callable, world: World, views: int, height: int, width: int) -> Made:
    """Made of arrays from make(shape, dtype)."""
    most = int(np.diff(world.first_solid).max())
    pixels, corners = (views, height, width), (views, height + 1, width + 1)
    f4, f8, i2, i4 = np.float32, np.float64, np.int16, np.int32
    return Made(
        plan=make((views, most, PLAN), f8),
        bent=make((*pixels, 2), f8),
        corner_bent=make((*corners, 2), f8),
        depth=make(pixels, f8),
        hit=make(pixels, i2),
        corner_depth=make(corners, f8),
        corner_hit=make(corners, i2),
        keys=make(pixels, i4),
        meets=make((*pixels, 6), f4),
        light=make((*pixels, 4), f4),
        smoothed=make((*pixels, 4), f4),
        centre=make((*pixels, 3), f4),
        corner=make((*corners, 3), f4),
        mean=make((views, 3), f8),
        seen=make((*pixels, 3), f4),
        blurred=make((*pixels, 3), f4),
        rgb=make((*pixels, 3), f4),
        depth_m=make(pixels, f4),
        object_id=make(pixels, i2),
    )


def mirrored_views(world: World, views: Views) -> Views:
    """The cameras below the floors."""
    R, t = np.empty_like(views.R), np.empty_like(views.t)
    for n, s in enumerate(views.scene_of):
        mirror_camera(world.shell[s], views.R[n], views.t[n], R[n], t[n])
    return views._replace(R=R, t=t)


def launches(world: World, views: Views, mirrored: Views, m: Made) -> Iterator[Launch]:
    """The kernels that make the pictures, in order."""
    from depthlm_ros.scenes.renderer import kernels as k

    count, height, width = m.depth.shape
    pixels, corners, quarter = height * width, (height + 1) * (width + 1), ((height + 1) // 2) * ((width + 1) // 2)
    camera = (views.scene_of, views.R, views.t, views.cam)
    met = (m.bent, m.depth, m.keys, m.meets)

    yield Launch(k.plan_solids, m.plan.shape[1], count, (world, *camera, m.plan))
    yield Launch(k.bend, pixels, count, (views.cam, views.lens, 0.0, m.bent))
    yield Launch(k.bend, corners, count, (views.cam, views.lens, -0.5, m.corner_bent))
    yield Launch(k.trace, pixels, count, (world, views, m.plan, m.bent, m.depth, m.hit))
    yield Launch(k.trace, corners, count, (world, views, m.plan, m.corner_bent, m.corner_depth, m.corner_hit))
    yield Launch(k.meet, pixels, count, (world, views, m.bent, m.depth, m.hit, m.keys, m.meets))
    for turn in range(4):
        yield Launch(k.shine, quarter, count, (world, views, *met, turn, m.light))
    yield Launch(k.smooth, pixels, count, (m.keys, m.light, m.smoothed))
    yield Launch(k.paint_centres, pixels, count, (world, views, *met, m.smoothed, m.centre))
    at_corners = (m.corner_bent, m.corner_depth, m.corner_hit, m.centre, m.keys, m.smoothed, m.corner)
    yield Launch(k.paint_corners, corners, count, (world, views, *at_corners))
    resolved = (m.corner, m.centre, m.depth, m.hit, m.rgb, m.depth_m, m.object_id)
    yield Launch(k.resolve, pixels, count, (world, views, *resolved))
    yield Launch(k.average_light, count, 1, (m.keys, m.smoothed, m.mean))
    below = (mirrored.scene_of, mirrored.R, mirrored.t, mirrored.cam)
    yield Launch(k.plan_solids, m.plan.shape[1], count, (world, *below, m.plan))
    rays = (m.plan, m.bent, m.keys, m.mean, m.corner_depth, m.corner_hit)
    yield Launch(k.mirror, pixels, count, (world, mirrored, *rays, m.seen))
    yield Launch(k.spread, pixels, count, (world, views, m.seen, m.keys, m.blurred))
    yield Launch(k.reflect, pixels, count, (world, views, m.bent, m.depth, m.keys, m.blurred, m.rgb))


def render_on(device: str, shots: Iterable[Shot], intrinsics: Intrinsics) -> Iterator[Rendered]:
    """The pictures of the shots, in order.

    device: "cpu" takes each shot only when its picture is asked for; "cuda" takes all and renders them together.
    Raises UnknownName for another, SetupError without a GPU.
    """
    if device == "cpu":
        return (render(shot.scene, shot.pose, intrinsics, shot.lens) for shot in shots)
    if device == "cuda":
        return iter(render_batch(list(shots), intrinsics))
    raise UnknownName(f"there is no device {device!r} to render on: it is cpu or cuda.")


def require_gpu() -> Any:
    """numba's CUDA module. Raises SetupError where nothing can be rendered with it."""
    try:
        from numba import cuda
    except (ImportError, AttributeError) as exc:  # AttributeError: numba-cuda 0.30 beside numpy 2.5
        raise SetupError(f"this numba has no CUDA target ({exc}): {INSTALL}.") from exc
    if not cuda.is_available():
        raise SetupError(f"no GPU that numba's CUDA target can use: {INSTALL}.")
    return cuda


def render_batch(shots: Sequence[Shot], intrinsics: Intrinsics) -> list[Rendered]:
    """What render.render gives for each shot, all made together; 32 or more at a time keep a GPU busy.

    Raises SetupError without a usable GPU. The first call in a process compiles the kernels.
    """
    cuda = require_gpu()
    world, views = pack_shots(shots, intrinsics)
    mirrored = mirrored_views(world, views)
    height, width = intrinsics.height_px, intrinsics.width_px
    made = buffers(cuda.device_array, world, len(shots), height, width)
    world_there = World(*map(cuda.to_device, world))
    views_there, mirrored_there = Views(*map(cuda.to_device, views)), Views(*map(cuda.to_device, mirrored))
    for launch in launches(world_there, views_there, mirrored_there, made):
        blocks = (-(-launch.threads // THREADS), launch.views)
        launch.kernel[blocks, (THREADS, 1)](*launch.args)
    rgb, depth_m, object_id = (part.copy_to_host() for part in (made.rgb, made.depth_m, made.object_id))
    cam = camera_vector(intrinsics)
    return [
        Rendered(
            rgb[n],
            depth_m[n],
            object_id[n],
            shot.scene,
            shot.pose,
            None if shot.lens is None else bent_lattice(shot.lens.vector(), cam, 0.0, height, width),
        )
        for n, shot in enumerate(shots)
    ]
