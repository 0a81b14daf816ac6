"""The renderer's kernels for a GPU: one thread a pixel, all pictures of a batch in one launch.

They hold no picture-making of their own. What a pixel does is in the functions that the CPU's loops call (raycast,
surfaces, shading, mirror, render); numba compiles the same functions for the device. Kernels follow one another where
a pixel reads what its neighbours wrote.
"""

from __future__ import annotations

from numba import cuda, float64, njit

from depthlm_ros.scenes.camera.lens import straight_px
from depthlm_ros.scenes.renderer.jit import JIT
from depthlm_ros.scenes.renderer.mirror import (
    FLOOR,
    blur_reach,
    mean_light,
    mirrored_pixel,
    reflect_pixel,
    spread_pixel,
)
from depthlm_ros.scenes.renderer.raycast import ray_planes, screen_rect, shell_entry, solid_entry
from depthlm_ros.scenes.renderer.render import resolve_pixel
from depthlm_ros.scenes.renderer.shading import centre_pixel, corner_pixel, light_pixel, smooth_pixel
from depthlm_ros.scenes.renderer.surfaces import surface_pixel

# Vectors that one thread works on.
ROOM = (6, 4)


@njit(**JIT)
def _pixel(width):
    """(view, row, column) of this thread."""
    index, view = cuda.grid(2)
    return view, index // width, index % width


@njit(**JIT)
def _scene(world, s):
    """Scene s as the functions of a pixel take it: geo, paints, shell, near_list, shadow_list, lights, ambient."""
    geo, first, _, paints, shell, near, near_size, shadow, lights, first_light, ambient = world
    a, b, k, m = first[s], first[s + 1], first_light[s], first_light[s + 1]
    own_near = near[s, : near_size[s, 0], : near_size[s, 1]]
    return geo[a:b], paints[a + 6 * s : b + 6 * s + 6], shell[s], own_near, shadow[k:m], lights[k:m], ambient[s]


@njit(**JIT)
def _nearest(geo, plan, shell, R, t, cam, u, v):
    """z-depth and index of what the ray through pixel (u, v) sees first, as raycast.trace has them."""
    best, face = shell_entry(shell, R, t, (u - cam[2]) / cam[0], (v - cam[3]) / cam[1])
    index = -1 - face
    for n in range(geo.shape[0]):
        if plan[n, 0] - 1.0 <= u <= plan[n, 2] + 1.0 and plan[n, 1] - 1.0 <= v <= plan[n, 3] + 1.0:
            dx, dy, dz = plan[n, 7] * v + plan[n, 10], plan[n, 8] * v + plan[n, 11], plan[n, 9] * v + plan[n, 12]
            dx, dy, dz = dx + plan[n, 4] * u, dy + plan[n, 5] * u, dz + plan[n, 6] * u
            shape, taper = int(geo[n, 15]), geo[n, 16]
            far = solid_entry(shape, taper, plan[n, 13], plan[n, 14], plan[n, 15], dx, dy, dz)
            if far < best:
                best, index = far, n
    return best, index


@cuda.jit
def plan_solids(world, scene_of, R, t, cam, plan):
    """One thread a solid and picture: fills plan, see batch.PLAN."""
    n, view = cuda.grid(2)
    if view >= plan.shape[0]:
        return
    geo = _scene(world, scene_of[view])[0]
    if n < geo.shape[0]:
        row, corners = plan[view, n], cuda.local.array((8, 3), float64)
        screen_rect(geo, n, R[view], t[view], cam[view], corners, row[:4])
        ray_planes(geo, n, R[view], t[view], cam[view], row[4:7], row[7:10], row[10:13], row[13:16])


@cuda.jit
def bend(cam, lens, offset, bent):
    """Fills bent float64 (V, h, w, 2), see lens.bent_lattice."""
    view, j, i = _pixel(bent.shape[2])
    if view < bent.shape[0] and j < bent.shape[1]:
        u, v = straight_px(lens[view], cam[view], i + offset, j + offset)
        bent[view, j, i, 0], bent[view, j, i, 1] = u, v


@cuda.jit
def trace(world, views, plan, bent, depth, hit):
    """Fills depth float64 and hit int16, both (V, h, w)."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(depth.shape[2])
    if view < depth.shape[0] and j < depth.shape[1]:
        scene, (u, v) = _scene(world, scene_of[view]), (bent[view, j, i, 0], bent[view, j, i, 1])
        far, index = _nearest(scene[0], plan[view], scene[2], R[view], t[view], cam[view], u, v)
        depth[view, j, i], hit[view, j, i] = far, index


@cuda.jit
def meet(world, views, bent, depth, hit, keys, meets):
    """Fills what each pixel meets, see surfaces.surfaces."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(ROOM, float64)
        seen = (bent[view], depth[view], hit[view])
        surface_pixel(scene[0], scene[2], R[view], t[view], cam[view], *seen, j, i, work, keys[view], meets[view])


@cuda.jit
def shine(world, views, bent, depth, keys, meets, turn, light):
    """Light of a quarter of the pixels, see shading.light_pixel."""
    scene_of, R, t, cam, _ = views
    view, row, column = _pixel((keys.shape[2] + 1) // 2)
    j, i = 2 * row + (turn & 1), 2 * column + ((turn + 1) // 2 & 1)
    if view < keys.shape[0] and j < keys.shape[1] and i < keys.shape[2]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(ROOM, float64)
        seen = (bent[view], depth[view], keys[view], meets[view])
        light_pixel(scene, R[view], t[view], cam[view], *seen, turn, j, i, work, light[view])


@cuda.jit
def smooth(keys, light, smoothed):
    """See shading.smooth_pixel."""
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        smooth_pixel(light[view], keys[view], j, i, cuda.local.array(4, float64), smoothed[view])


@cuda.jit
def paint_centres(world, views, bent, depth, keys, meets, light, colour):
    """Colour of the rays through pixel centres."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(ROOM, float64)
        seen = (bent[view], depth[view], keys[view], meets[view], light[view])
        centre_pixel(scene, R[view], t[view], cam[view], *seen, j, i, work, colour[view])


@cuda.jit
def paint_corners(world, views, bent, depth, hit, centre, keys, light, colour):
    """Colour of the rays through pixel corners."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(colour.shape[2])
    if view < colour.shape[0] and j < colour.shape[1]:
        scene, work = _scene(world, scene_of[view]), cuda.local.array(ROOM, float64)
        seen = (bent[view], depth[view], hit[view], centre[view], keys[view], light[view])
        corner_pixel(scene, R[view], t[view], cam[view], *seen, j, i, work, colour[view])


@cuda.jit
def resolve(world, views, corner, centre, depth, hit, rgb, depth_m, object_id):
    """Fills what render.Rendered holds."""
    view, j, i = _pixel(rgb.shape[2])
    if view < rgb.shape[0] and j < rgb.shape[1]:
        s = views[0][view]
        paints, object_of = _scene(world, s)[1], world[2][world[1][s] : world[1][s + 1]]
        seen = (corner[view], centre[view], depth[view], hit[view])
        resolve_pixel(object_of, paints, *seen, j, i, rgb[view], depth_m[view], object_id[view])


@cuda.jit
def average_light(keys, light, mean):
    """One thread a picture: mean float64 (V, 3), see mirror.mean_light."""
    view = cuda.grid(1)
    if view < keys.shape[0]:
        mean_light(keys[view], light[view], mean[view])


@cuda.jit
def mirror(world, mirrored, plan, bent, keys, mean, depth, hit, seen):
    """What polished floors reflect; mirrored: the cameras below them. depth, hit: room for their rays."""
    scene_of, R, t, cam, _ = mirrored
    view, j, i = _pixel(keys.shape[2])
    if view >= keys.shape[0] or j >= keys.shape[1]:
        return
    geo, paints, shell = _scene(world, scene_of[view])[:3]
    if paints[4, 8] <= 0.0:
        return
    if keys[view, j, i] >> 3 == FLOOR:
        u, v = bent[view, j, i, 0], bent[view, j, i, 1]
        far, index = _nearest(geo, plan[view], shell, R[view], t[view], cam[view], u, v)
        depth[view, j, i], hit[view, j, i] = far, index
    camera, work = (R[view], t[view], cam[view], bent[view]), cuda.local.array(ROOM, float64)
    rays = (depth[view], hit[view], keys[view], mean[view])
    mirrored_pixel(geo, paints, shell, *camera, *rays, j, i, work, seen[view])


@cuda.jit
def spread(world, views, seen, keys, blurred):
    """See mirror.spread_pixel."""
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        paints = _scene(world, views[0][view])[1]
        if paints[4, 8] > 0.0:
            spread_pixel(seen[view], keys[view], blur_reach(paints, keys.shape[1]), j, i, blurred[view])


@cuda.jit
def reflect(world, views, bent, depth, keys, blurred, rgb):
    """See mirror.reflect_pixel."""
    scene_of, R, t, cam, _ = views
    view, j, i = _pixel(keys.shape[2])
    if view < keys.shape[0] and j < keys.shape[1]:
        paints, work = _scene(world, scene_of[view])[1], cuda.local.array(ROOM, float64)
        if paints[4, 8] > 0.0:
            seen = (bent[view], depth[view], keys[view], blurred[view])
            reflect_pixel(paints, R[view], t[view], cam[view], *seen, j, i, work, rgb[view])
