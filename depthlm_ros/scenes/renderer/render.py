"""One picture of a scene with its exact depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.lens import Lens, bent_lattice
from depthlm_ros.scenes.renderer.jit import JIT, cached
from depthlm_ros.scenes.renderer.mirror import add_reflection
from depthlm_ros.scenes.renderer.raycast import geometry, trace
from depthlm_ros.scenes.renderer.shading import shade_centres, shade_corners, shade_light
from depthlm_ros.scenes.renderer.surfaces import surfaces
from depthlm_ros.scenes.world.primitives import SKY, Pose, Scene

FAR_M = 200.0
# Bright panes are cut here before averaging: a clipped sensor does not let them bleed either.
BRIGHT = np.float32(4.0)


@dataclass(frozen=True)
class Rendered:
    """rgb: float32 (H, W, 3) linear light, not exposed. depth_m: float32 (H, W), z at pixel centres, NaN = sky.

    object_id: int16 (H, W), -1 = building; others as in scene.objects. bent_px: float64 (H, W, 2), where a camera
    without lens shows what each pixel shows; None: there.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    object_id: np.ndarray
    scene: Scene
    pose: Pose
    bent_px: np.ndarray | None = None

    def straight_px(self, uv_px: np.ndarray) -> np.ndarray:
        """(N, 2): where a camera without lens shows pixels (N, 2), integers: what depth is to be multiplied with."""
        return uv_px if self.bent_px is None else self.bent_px[uv_px[:, 1], uv_px[:, 0]]


@njit(forceinline=True, **JIT)
def resolve_pixel(object_of, paints, corner, centre, depth, hit, j, i, rgb, depth_m, object_id):
    """Colour of pixel (j, i) from its centre and four corners, its z-depth and object id, see Rendered."""
    for c in range(3):
        near = min(BRIGHT, corner[j, i, c]) + min(BRIGHT, corner[j, i + 1, c])
        near += min(BRIGHT, corner[j + 1, i, c]) + min(BRIGHT, corner[j + 1, i + 1, c])
        rgb[j, i, c] = 0.5 * min(BRIGHT, centre[j, i, c]) + 0.125 * near
    known = depth[j, i] < FAR_M and (hit[j, i] >= 0 or paints[-1 - hit[j, i], 6] != SKY)
    depth_m[j, i] = depth[j, i] if known else np.nan
    object_id[j, i] = object_of[hit[j, i]] if hit[j, i] >= 0 else -1


@cached
def _picture(
    solids, object_of, paints, shell, lights, ambient, near_list, shadow_list, R, t, cam, height, width, bends
):
    geo = geometry(solids)
    bent, bent_corners = bends
    depth, hit = trace(geo, shell, R, t, cam, 0.0, height, width, bent)
    scene = (geo, paints, shell, near_list, shadow_list, lights, ambient)
    keys, meets = surfaces(geo, shell, R, t, cam, bent, depth, hit)
    light = shade_light(scene, R, t, cam, bent, depth, keys, meets)
    centre = shade_centres(scene, R, t, cam, bent, depth, keys, meets, light)
    depth2, hit2 = trace(geo, shell, R, t, cam, -0.5, height + 1, width + 1, bent_corners)
    corner = shade_corners(scene, R, t, cam, bent_corners, depth2, hit2, centre, keys, light)
    rgb = np.empty((height, width, 3), np.float32)
    depth_m, object_id = np.empty((height, width), np.float32), np.empty((height, width), np.int16)
    for j in range(height):
        for i in range(width):
            resolve_pixel(object_of, paints, corner, centre, depth, hit, j, i, rgb, depth_m, object_id)
    add_reflection(geo, paints, shell, R, t, cam, bent, depth, keys, light, rgb)
    return rgb, depth_m, object_id


def camera_vector(intrinsics: Intrinsics) -> np.ndarray:
    """float64 (4,): fx, fy, cx, cy in pixels, as the kernels read them."""
    return np.array([intrinsics.fx_px, intrinsics.fy_px, intrinsics.cx_px, intrinsics.cy_px])


def render(scene: Scene, pose: Pose, intrinsics: Intrinsics, lens: Lens | None = None) -> Rendered:
    """Linear colour (each pixel's centre and four corners averaged), exact z-depth and object ids.

    lens: bends the rays; None for a camera that is exactly what its intrinsics say.
    """
    cam, height, width = camera_vector(intrinsics), intrinsics.height_px, intrinsics.width_px
    bends: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if lens is not None:
        centres = bent_lattice(lens.vector(), cam, 0.0, height, width)
        bends = centres, bent_lattice(lens.vector(), cam, -0.5, height + 1, width + 1)
    rgb, depth_m, object_id = _picture(
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
        bends,
    )
    return Rendered(rgb, depth_m, object_id, scene, pose, bends[0])
