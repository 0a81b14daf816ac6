# SPDX-License-Identifier: Apache-2.0
"""Renders a picture of a scene on the CPU with exact depth and object ids: `render` returns a `RenderedImage`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.lens import LensDistortion, undistorted_lattice
from depthlm_ros.scenes.renderer.jit import JIT, cached_kernel
from depthlm_ros.scenes.renderer.mirror import add_reflection
from depthlm_ros.scenes.renderer.raycast import geometry, trace
from depthlm_ros.scenes.renderer.shading import shade_centres, shade_corners, shade_light
from depthlm_ros.scenes.renderer.surfaces import surfaces
from depthlm_ros.scenes.world.primitives import SKY, Pose, Scene

# Surfaces farther away than this have no depth.
FAR_M = 200.0
# Bright panes are clipped to this before averaging, as a sensor clips them, so that they do not bleed into the edges.
BRIGHT = np.float32(4.0)


@dataclass(frozen=True)
class RenderedImage:
    """A picture of a scene with its ground truth.

    rgb: float32 (H, W, 3), linear light without exposure. depth_m: float32 (H, W), z-depth at pixel centres, NaN for
    the sky. object_id: int16 (H, W), -1 for the building, others as in scene.objects. undistorted_lattice_px: float64
    (H, W, 2), where a camera without lens distortion shows what each pixel shows; None if there is no distortion.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    object_id: np.ndarray
    scene: Scene
    pose: Pose
    undistorted_lattice_px: np.ndarray | None = None

    def undistorted_px(self, uv_px: np.ndarray) -> np.ndarray:
        """Returns the undistorted positions (N, 2) of integer pixels (N, 2); rays for depth go through these."""
        return uv_px if self.undistorted_lattice_px is None else self.undistorted_lattice_px[uv_px[:, 1], uv_px[:, 0]]


@njit(forceinline=True, **JIT)
def resolve_pixel(object_of, paints, corner, centre, depth, hit, j, i, rgb, depth_m, object_id):
    """Fills colour (from its centre and four corners), z-depth and object id of pixel (j, i), see RenderedImage."""
    for c in range(3):
        near = min(BRIGHT, corner[j, i, c]) + min(BRIGHT, corner[j, i + 1, c])
        near += min(BRIGHT, corner[j + 1, i, c]) + min(BRIGHT, corner[j + 1, i + 1, c])
        rgb[j, i, c] = 0.5 * min(BRIGHT, centre[j, i, c]) + 0.125 * near
    known = depth[j, i] < FAR_M and (hit[j, i] >= 0 or paints[-1 - hit[j, i], 6] != SKY)
    depth_m[j, i] = depth[j, i] if known else np.nan
    object_id[j, i] = object_of[hit[j, i]] if hit[j, i] >= 0 else -1


@cached_kernel
def _render_arrays(
    solids, object_of, paints, shell, lights, ambient, near_list, shadow_list, R, t, cam, height, width, lattices
):
    geo = geometry(solids)
    lattice, corner_lattice = lattices
    depth, hit = trace(geo, shell, R, t, cam, 0.0, height, width, lattice)
    scene = (geo, paints, shell, near_list, shadow_list, lights, ambient)
    keys, surface_points = surfaces(geo, shell, R, t, cam, lattice, depth, hit)
    light = shade_light(scene, R, t, cam, lattice, depth, keys, surface_points)
    centre = shade_centres(scene, R, t, cam, lattice, depth, keys, surface_points, light)
    depth2, hit2 = trace(geo, shell, R, t, cam, -0.5, height + 1, width + 1, corner_lattice)
    corner = shade_corners(scene, R, t, cam, corner_lattice, depth2, hit2, centre, keys, light)
    rgb = np.empty((height, width, 3), np.float32)
    depth_m, object_id = np.empty((height, width), np.float32), np.empty((height, width), np.int16)
    for j in range(height):
        for i in range(width):
            resolve_pixel(object_of, paints, corner, centre, depth, hit, j, i, rgb, depth_m, object_id)
    add_reflection(geo, paints, shell, R, t, cam, lattice, depth, keys, light, rgb)
    return rgb, depth_m, object_id


def camera_vector(intrinsics: Intrinsics) -> np.ndarray:
    """Returns fx, fy, cx, cy in pixels, float64 (4,), as the kernels read them."""
    return np.array([intrinsics.fx_px, intrinsics.fy_px, intrinsics.cx_px, intrinsics.cy_px])


def render(scene: Scene, pose: Pose, intrinsics: Intrinsics, lens: LensDistortion | None = None) -> RenderedImage:
    """Renders linear colour (mean over each pixel's centre and four corners), exact z-depth and object ids.

    lens: distortion that bends the rays; None for a camera that is exactly as its intrinsics say.
    """
    cam, height, width = camera_vector(intrinsics), intrinsics.height_px, intrinsics.width_px
    lattices: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if lens is not None:
        centres = undistorted_lattice(lens.vector(), cam, 0.0, height, width)
        lattices = centres, undistorted_lattice(lens.vector(), cam, -0.5, height + 1, width + 1)
    rgb, depth_m, object_id = _render_arrays(
        scene.solids,
        scene.object_of,
        scene.paints,
        scene.shell_m,
        scene.lights,
        scene.ambient,
        scene.near_list,
        scene.shadow_list,
        pose.R,
        pose.t,
        cam,
        height,
        width,
        lattices,
    )
    return RenderedImage(rgb, depth_m, object_id, scene, pose, lattices[0])
