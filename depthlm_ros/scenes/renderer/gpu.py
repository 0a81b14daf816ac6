"""Renders many pictures at once on an NVIDIA GPU, with the same functions per pixel as on the CPU.

`render_shots` renders on the device that it is given, `render_batch` on the GPU. The GPU needs a driver and numba-cuda
(extra [scenes-cuda]). Depth, ids and colours agree with the CPU's up to rounding. The arithmetic is in double precision
as on the CPU, which is slow on GPUs made for games.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.scenes.camera.lens import undistorted_lattice
from depthlm_ros.scenes.renderer.batch import PROJECTION_SIZE, CameraShot, PackedCameras, PackedScenes, pack_shots
from depthlm_ros.scenes.renderer.mirror import mirror_camera
from depthlm_ros.scenes.renderer.render import RenderedImage, camera_vector, render

# An array on the device (numba has no types), or a numpy array where kernels are only compiled.
DeviceArray = Any

THREADS = 128
INSTALL_HINT = "install a driver and `pip install depthlm_ros[scenes-cuda]`, or render on the CPU"


class CudaKernel(Protocol):
    """A function with numba's cuda.jit."""

    def __getitem__(self, blocks_and_threads: tuple[tuple[int, int], tuple[int, int]]) -> Callable[..., None]: ...


class KernelLaunch(NamedTuple):
    """A kernel to run over (threads, views) threads with these arguments."""

    kernel: CudaKernel
    threads: int
    views: int
    args: tuple


class DeviceBuffers(NamedTuple):
    """Arrays that the kernels write for V pictures of h x w pixels; `corner...` belong to (h + 1) x (w + 1) corners."""

    projections: DeviceArray
    lattice: DeviceArray
    corner_lattice: DeviceArray
    depth: DeviceArray
    hit: DeviceArray
    corner_depth: DeviceArray
    corner_hit: DeviceArray
    keys: DeviceArray
    surface_points: DeviceArray
    light: DeviceArray
    smoothed: DeviceArray
    centre: DeviceArray
    corner: DeviceArray
    mean: DeviceArray
    reflected: DeviceArray
    blurred: DeviceArray
    rgb: DeviceArray
    depth_m: DeviceArray
    object_id: DeviceArray


def allocate_buffers(make: Callable, world: PackedScenes, views: int, height: int, width: int) -> DeviceBuffers:
    """Returns buffers for these scenes and views; make(shape, dtype) makes one array."""
    most = int(np.diff(world.first_solid).max())
    pixels, corners = (views, height, width), (views, height + 1, width + 1)
    f4, f8, i2, i4 = np.float32, np.float64, np.int16, np.int32
    return DeviceBuffers(
        projections=make((views, most, PROJECTION_SIZE), f8),
        lattice=make((*pixels, 2), f8),
        corner_lattice=make((*corners, 2), f8),
        depth=make(pixels, f8),
        hit=make(pixels, i2),
        corner_depth=make(corners, f8),
        corner_hit=make(corners, i2),
        keys=make(pixels, i4),
        surface_points=make((*pixels, 6), f4),
        light=make((*pixels, 4), f4),
        smoothed=make((*pixels, 4), f4),
        centre=make((*pixels, 3), f4),
        corner=make((*corners, 3), f4),
        mean=make((views, 3), f8),
        reflected=make((*pixels, 3), f4),
        blurred=make((*pixels, 3), f4),
        rgb=make((*pixels, 3), f4),
        depth_m=make(pixels, f4),
        object_id=make(pixels, i2),
    )


def mirror_cameras(world: PackedScenes, views: PackedCameras) -> PackedCameras:
    """Returns the cameras mirrored in the floors of their scenes."""
    R, t = np.empty_like(views.R), np.empty_like(views.t)
    for n, s in enumerate(views.scene_of):
        mirror_camera(world.shell[s], views.R[n], views.t[n], R[n], t[n])
    return views._replace(R=R, t=t)


def kernel_launches(
    world: PackedScenes, views: PackedCameras, mirrored: PackedCameras, m: DeviceBuffers
) -> Iterator[KernelLaunch]:
    """Yields the kernels that render the pictures, in order."""
    from depthlm_ros.scenes.renderer import kernels as k

    count, height, width = m.depth.shape
    pixels, corners, quarter = height * width, (height + 1) * (width + 1), ((height + 1) // 2) * ((width + 1) // 2)
    camera = (views.scene_of, views.R, views.t, views.cam)
    met = (m.lattice, m.depth, m.keys, m.surface_points)

    yield KernelLaunch(k.project_solids, m.projections.shape[1], count, (world, *camera, m.projections))
    yield KernelLaunch(k.undistort_rays, pixels, count, (views.cam, views.lens, 0.0, m.lattice))
    yield KernelLaunch(k.undistort_rays, corners, count, (views.cam, views.lens, -0.5, m.corner_lattice))
    yield KernelLaunch(k.trace, pixels, count, (world, views, m.projections, m.lattice, m.depth, m.hit))
    yield KernelLaunch(
        k.trace, corners, count, (world, views, m.projections, m.corner_lattice, m.corner_depth, m.corner_hit)
    )
    yield KernelLaunch(
        k.find_surfaces, pixels, count, (world, views, m.lattice, m.depth, m.hit, m.keys, m.surface_points)
    )
    for turn in range(4):
        yield KernelLaunch(k.compute_light, quarter, count, (world, views, *met, turn, m.light))
    yield KernelLaunch(k.smooth, pixels, count, (m.keys, m.light, m.smoothed))
    yield KernelLaunch(k.paint_centres, pixels, count, (world, views, *met, m.smoothed, m.centre))
    at_corners = (m.corner_lattice, m.corner_depth, m.corner_hit, m.centre, m.keys, m.smoothed, m.corner)
    yield KernelLaunch(k.paint_corners, corners, count, (world, views, *at_corners))
    resolved = (m.corner, m.centre, m.depth, m.hit, m.rgb, m.depth_m, m.object_id)
    yield KernelLaunch(k.resolve, pixels, count, (world, views, *resolved))
    yield KernelLaunch(k.average_light, count, 1, (m.keys, m.smoothed, m.mean))
    below = (mirrored.scene_of, mirrored.R, mirrored.t, mirrored.cam)
    yield KernelLaunch(k.project_solids, m.projections.shape[1], count, (world, *below, m.projections))
    rays = (m.projections, m.lattice, m.keys, m.mean, m.corner_depth, m.corner_hit)
    yield KernelLaunch(k.mirror, pixels, count, (world, mirrored, *rays, m.reflected))
    yield KernelLaunch(k.blur_reflection, pixels, count, (world, views, m.reflected, m.keys, m.blurred))
    yield KernelLaunch(k.add_reflections, pixels, count, (world, views, m.lattice, m.depth, m.keys, m.blurred, m.rgb))


def render_shots(device: str, shots: Iterable[CameraShot], intrinsics: Intrinsics) -> Iterator[RenderedImage]:
    """Returns an iterator over the pictures of the shots, in order.

    device: "cpu" reads each shot only when its picture is needed; "cuda" reads all shots and renders them together.
    Raises UnknownName for another device, and SetupError for "cuda" without a usable GPU.
    """
    if device == "cpu":
        return (render(shot.scene, shot.pose, intrinsics, shot.lens) for shot in shots)
    if device == "cuda":
        return iter(render_batch(list(shots), intrinsics))
    raise UnknownName(f"unknown render device {device!r}: use cpu or cuda.")


def require_gpu() -> ModuleType:
    """Returns numba's CUDA module. Raises SetupError if it cannot render here."""
    try:
        from numba import cuda
    except (ImportError, AttributeError) as exc:  # AttributeError: numba-cuda 0.30 with numpy 2.5
        raise SetupError(f"this numba has no CUDA target ({exc}): {INSTALL_HINT}.") from exc
    if not cuda.is_available():
        raise SetupError(f"numba's CUDA target found no usable GPU: {INSTALL_HINT}.")
    return cuda


def render_batch(shots: Sequence[CameraShot], intrinsics: Intrinsics) -> list[RenderedImage]:
    """Renders all shots together; each picture is as from render.render. 32 or more shots keep a GPU busy.

    Raises SetupError without a usable GPU. The first call in a process compiles the kernels.
    """
    cuda = require_gpu()
    world, views = pack_shots(shots, intrinsics)
    mirrored = mirror_cameras(world, views)
    height, width = intrinsics.height_px, intrinsics.width_px
    buffers = allocate_buffers(cuda.device_array, world, len(shots), height, width)
    device_scenes = PackedScenes(*map(cuda.to_device, world))
    device_views, device_mirrored = (
        PackedCameras(*map(cuda.to_device, views)),
        PackedCameras(*map(cuda.to_device, mirrored)),
    )
    for launch in kernel_launches(device_scenes, device_views, device_mirrored, buffers):
        blocks = (-(-launch.threads // THREADS), launch.views)
        launch.kernel[blocks, (THREADS, 1)](*launch.args)
    rgb, depth_m, object_id = (part.copy_to_host() for part in (buffers.rgb, buffers.depth_m, buffers.object_id))
    cam = camera_vector(intrinsics)
    return [
        RenderedImage(
            rgb[n],
            depth_m[n],
            object_id[n],
            shot.scene,
            shot.pose,
            None if shot.lens is None else undistorted_lattice(shot.lens.vector(), cam, 0.0, height, width),
        )
        for n, shot in enumerate(shots)
    ]
