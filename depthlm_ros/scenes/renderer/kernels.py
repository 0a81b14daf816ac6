"""The renderer's kernels for a GPU: one thread per pixel, and all pictures of a batch in one launch.

They contain no rendering of their own: numba compiles for the device the same functions per pixel that the CPU's loops
call (raycast, surfaces, shading, mirror, render). A new kernel begins wherever a pixel reads what its neighbours wrote.
"""

from __future__ import annotations

from numba import cuda, float64, njit

from depthlm_ros.scenes.camera.lens import undistorted_px
from depthlm_ros.scenes.renderer.jit import JIT
from depthlm_ros.scenes.renderer.mirror import (
    FLOOR,
    blur_pixel,
    blur_reach,
    mean_light,
    mirrored_pixel,
    reflect_pixel,
)
from depthlm_ros.scenes.renderer.raycast import ray_planes, screen_rect, shell_entry, solid_entry
from depthlm_ros.scenes.renderer.render import resolve_pixel
from depthlm_ros.scenes.renderer.shading import centre_pixel, corner_pixel, light_pixel, smooth_pixel
from depthlm_ros.scenes.renderer.surfaces import surface_pixel

# Shape of the scratch array of one thread.
SCRATCH = (6, 4)


@njit(**JIT)
def _pixel(width):
    """Returns (view, row, column) of this thread."""
    index, view = cuda.grid(2)
    return view, index // width, index % width


@njit(**JIT)
def _scene(world, s):
    """Returns scene s for the functions per pixel: geo, paints, shell, near_list, shadow_list, lights, ambient."""
    geo, first, _, paints, shell, near, near_size, shadow, lights, first_light, ambient = world
    a, b, k, m = first[s], first[s + 1], first_light[s], first_light[s + 1]
    own_near = near[s, : near_size[s, 0], : near_size[s, 1]]
    return geo[a:b], paints[a + 6 * s : b + 6 * s + 6], shell[s], own_near, shadow[k:m], lights[k:m], ambient[s]


@njit(**JIT)
def _nearest(geo, proj, shell, R, t, cam, u, v):
    """Returns z-depth and index of what the ray through pixel (u, v) meets first, as raycast.trace does."""
    best, face = shell_entry(shell, R, t, (u - cam[2]) / cam[0], (v - cam[3]) / cam[1])
    index = -1 - face
    for n in range(geo.shape[0]):
        if proj[n, 0] - 1.0 <= u <= proj[n, 2] + 1.0 and proj[n, 1] - 1.0 <= v <= proj[n, 3] + 1.0:
            dx, dy, dz = (
                proj[n, 7] * v + proj[n, 10],
                proj[n, 8] * v + proj[n, 11],
                proj[n, 9] * v + proj[n, 12],
            )
            dx, dy, dz = dx + proj[n, 4] * u, dy + proj[n, 5] * u, dz + proj[n, 6] * u
            shape, taper = int(geo[n, 15]), geo[n, 16]
            far = solid_entry(shape, taper, proj[n, 13], proj[n, 14], proj[n, 15], dx, dy, dz)
            if far < best:
                best, index = far, n
    return best, index


@cuda.jit
def project_solids(world, scene_of, R, t, cam, projections):
    """Fills projections, see batch.PROJECTION_SIZE; one thread per solid and picture."""
    n, view = cuda.grid(2)
    if view >= projections.shape[0]:
        return
    geo = _scene(world, scene_of[view])[0]
    if n < geo.shape[0]:
        row, corners = projections[view, n], cuda.local.array((8, 3), float64)
        screen_rect(geo, n, R[view], t[view], cam[view], corners, row[:4])
        ray_planes(geo, n, R[view], t[view], cam[view], row[4:7], row[7:10], row[10:13], row[13:16])


@cuda.jit
def undistort_rays(cam, lens, offset, lattice):
    """Fills lattice float64 (V, h, w, 2), see lens.undistorted_lattice."""
    view, j, i = _pixel(lattice.shape[2])
    if view < lattice.shape[0] and j < lattice.shape[1]:
        u, v = undistorted_px(lens[view], cam[view], i + offset, j + offset)
        lattice[view, j, i, 0], lattice[view, j, i, 1] = u, v


@cuda.jit
def trace(world, views, projections, lattice, depth, hit):
    """Fills depth float64 and hit int16, both (V, h, w)."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(depth.shape[2])
    if view < depth.shape[0] and j < depth.shape[1]:
        scene, (u, v) = _scene(world, scene_of[view]), (lattice[view, j, i, 0], lattice[view, j, i, 1])
        far, index = _nearest(scene[0], projections[view], scene[2], R[view], t[view], cam[view], u, v)
        depth[view, j, i], hit[view, j, i] = far, index


@cuda.jit
def find_surfaces(world, views, lattice, depth, hit, keys, surface_points):
    """Fills keys and surface_points of each pixel, see surfaces.surfaces."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(SCRATCH, float64)
        arrays = (lattice[view], depth[view], hit[view])
        surface_pixel(
            scene[0], scene[2], R[view], t[view], cam[view], *arrays, j, i, work, keys[view], surface_points[view]
        )


@cuda.jit
def compute_light(world, views, lattice, depth, keys, surface_points, turn, light):
    """Fills the light of a quarter of the pixels, see shading.light_pixel."""
    scene_of, R, t, cam, _ = views
    view, row, column = _pixel((keys.shape[2] + 1) // 2)
    j, i = 2 * row + (turn & 1), 2 * column + ((turn + 1) // 2 & 1)
    if view < keys.shape[0] and j < keys.shape[1] and i < keys.shape[2]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(SCRATCH, float64)
        arrays = (lattice[view], depth[view], keys[view], surface_points[view])
        light_pixel(scene, R[view], t[view], cam[view], *arrays, turn, j, i, work, light[view])


@cuda.jit
def smooth(keys, light, smoothed):
    """Fills the smoothed light, see shading.smooth_pixel."""
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        smooth_pixel(light[view], keys[view], j, i, cuda.local.array(4, float64), smoothed[view])


@cuda.jit
def paint_centres(world, views, lattice, depth, keys, surface_points, light, colour):
    """Fills the colour of the rays through pixel centres."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(SCRATCH, float64)
        arrays = (lattice[view], depth[view], keys[view], surface_points[view], light[view])
        centre_pixel(scene, R[view], t[view], cam[view], *arrays, j, i, work, colour[view])


@cuda.jit
def paint_corners(world, views, lattice, depth, hit, centre, keys, light, colour):
    """Fills the colour of the rays through pixel corners."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(colour.shape[2])
    if view < colour.shape[0] and j < colour.shape[1]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(SCRATCH, float64)
        arrays = (lattice[view], depth[view], hit[view], centre[view], keys[view], light[view])
        corner_pixel(scene, R[view], t[view], cam[view], *arrays, j, i, work, colour[view])


@cuda.jit
def resolve(world, views, corner, centre, depth, hit, rgb, depth_m, object_id):
    """Fills rgb, depth_m and object_id of render.RenderedImage."""
    view, j, i = _pixel(rgb.shape[2])
    if view < rgb.shape[0] and j < rgb.shape[1]:
        s = views[0][view]
        paints, object_of = _scene(world, s)[1], world[2][world[1][s] : world[1][s + 1]]
        arrays = (corner[view], centre[view], depth[view], hit[view])
        resolve_pixel(object_of, paints, *arrays, j, i, rgb[view], depth_m[view], object_id[view])


@cuda.jit
def average_light(keys, light, mean):
    """Fills mean float64 (V, 3), see mirror.mean_light; one thread per picture."""
    view = cuda.grid(1)
    if view < keys.shape[0]:
        mean_light(keys[view], light[view], mean[view])


@cuda.jit
def mirror(world, mirrored, projections, lattice, keys, mean, depth, hit, reflected):
    """Fills the colours that polished floors reflect.

    mirrored: the cameras below the floors. depth, hit: space for the results of their rays.
    """
    scene_of, R, t, cam, _ = mirrored
    view, j, i = _pixel(keys.shape[2])
    if view >= keys.shape[0] or j >= keys.shape[1]:
        return
    geo, paints, shell = _scene(world, scene_of[view])[:3]
    if paints[4, 8] <= 0.0:
        return
    if keys[view, j, i] >> 3 == FLOOR:
        u, v = lattice[view, j, i, 0], lattice[view, j, i, 1]
        far, index = _nearest(geo, projections[view], shell, R[view], t[view], cam[view], u, v)
        depth[view, j, i], hit[view, j, i] = far, index
    camera, work = (R[view], t[view], cam[view], lattice[view]), cuda.local.array(SCRATCH, float64)
    rays = (depth[view], hit[view], keys[view], mean[view])
    mirrored_pixel(geo, paints, shell, *camera, *rays, j, i, work, reflected[view])


@cuda.jit
def blur_reflection(world, views, reflected, keys, blurred):
    """Fills the blurred reflection, see mirror.spread_pixel."""
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        paints = _scene(world, views[0][view])[1]
        if paints[4, 8] > 0.0:
            blur_pixel(reflected[view], keys[view], blur_reach(paints, keys.shape[1]), j, i, blurred[view])


@cuda.jit
def add_reflections(world, views, lattice, depth, keys, blurred, rgb):
    """Adds the reflection to rgb, see mirror.reflect_pixel."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        paints, work = _scene(world, scene_of[view])[1], cuda.local.array(SCRATCH, float64)
        if paints[4, 8] > 0.0:
            arrays = (lattice[view], depth[view], keys[view], blurred[view])
            reflect_pixel(paints, R[view], t[view], cam[view], *arrays, j, i, work, rgb[view])
