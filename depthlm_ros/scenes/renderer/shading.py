# SPDX-License-Identifier: Apache-2.0
"""Colour of a lattice of rays, from the surface that each ray meets, the light there and the texture.

Light changes slowly along a surface, and texture does not. So light is computed where it changes, and shared between
neighbours that show the same face; colour is computed for every pixel centre, and for pixel corners at edges.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT, JIT_ALLOCATING
from depthlm_ros.scenes.renderer.lighting import light_at
from depthlm_ros.scenes.renderer.raycast import ray_pixel
from depthlm_ros.scenes.renderer.surfaces import face_coordinates, surface, world_point
from depthlm_ros.scenes.renderer.texture import albedo

# Neighbours as (rows down, columns right). AROUND: for each quarter of the pixels, the neighbours that it takes its
# light from. CROSS: a pixel with its four neighbours. SQUARE: the pixel centres around a corner.
AROUND = np.array(
    [
        [[0, 0], [0, 0], [0, 0], [0, 0]],
        [[-1, -1], [-1, 1], [1, -1], [1, 1]],
        [[0, -1], [0, 1], [-1, 0], [1, 0]],
        [[-1, 0], [1, 0], [0, -1], [0, 1]],
    ]
)
# Where light changes by more than this factor between neighbours, it is computed and not taken from them.
UNEVEN = 1.3
CROSS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
SQUARE = np.array([[-1, -1], [-1, 0], [0, -1], [0, 0]])


@njit(forceinline=True, **JIT)
def _fill_noise(i, j, noise):
    """Fills noise (3,) with numbers in [-0.6, 0.6] that differ well between pixels (Roberts' R2 and R1 sequences)."""
    x, y, z = 0.7548776662 * i + 0.5698402910 * j, 0.5698402910 * i + 0.7548776662 * j, 0.6180339887 * (i + 2 * j)
    noise[0] = 1.2 * (x - math.floor(x)) - 0.6
    noise[1] = 1.2 * (y - math.floor(y)) - 0.6
    noise[2] = 1.2 * (z - math.floor(z)) - 0.6


@njit(forceinline=True, **JIT)
def _neighbour_light(light, keys, around, j, i, key, out):
    """Fills out with the mean light of those neighbours of (j, i) that show the face `key`.

    Returns their largest light divided by their smallest, 0 if no neighbour shows the face.
    """
    found, low, high = 0.0, np.float32(1e30), np.float32(0.0)
    out[0] = out[1] = out[2] = out[3] = 0.0
    for k in range(around.shape[0]):
        y, x = j + around[k, 0], i + around[k, 1]
        if 0 <= y < keys.shape[0] and 0 <= x < keys.shape[1] and keys[y, x] == key:
            found += 1.0
            low, high = min(low, light[y, x, 1]), max(high, light[y, x, 1])
            for c in range(4):
                out[c] += light[y, x, c]
    if found == 0.0:
        return 0.0
    for c in range(4):
        out[c] /= found
    return high / max(low, np.float32(1e-6))


@njit(forceinline=True, **JIT)
def light_pixel(scene, R, t, cam, lattice, depth, keys, surface_points, turn, j, i, work, light):
    """Fills the light of pixel (j, i): turn 0 computes it, the other turns take it from neighbours on the same face."""
    geo, paints, shell, near_list, shadow_list, lights, ambient = scene
    p, n, eye, noise, out = work[0, :3], work[1, :3], work[2, :3], work[3, :3], work[4]
    if turn == 0 or not 0.0 < _neighbour_light(light, keys, AROUND[turn], j, i, keys[j, i], out) < UNEVEN:
        u, v = ray_pixel(lattice, i, j, 0.0)
        world_point(R, t, cam, u, v, depth[j, i], p, eye)
        n[0], n[1], n[2] = surface_points[j, i, 3], surface_points[j, i, 4], surface_points[j, i, 5]
        index = keys[j, i] >> 3
        gloss = paints[6 + index if index >= 0 else -1 - index, 8]
        _fill_noise(i, j, noise)
        light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out)
    for c in range(4):
        light[j, i, c] = out[c]


@njit(**JIT)
def _fill_light(scene, R, t, cam, lattice, depth, keys, surface_points, turn, work, light):
    """Fills the light of every fourth pixel."""
    for j in range(turn & 1, depth.shape[0], 2):
        for i in range((turn + 1) // 2 & 1, depth.shape[1], 2):
            light_pixel(scene, R, t, cam, lattice, depth, keys, surface_points, turn, j, i, work, light)


@njit(forceinline=True, **JIT)
def smooth_pixel(light, keys, j, i, out, smooth):
    """Averages light with the four neighbours on the same face, so that soft shadows have no grain."""
    _neighbour_light(light, keys, CROSS, j, i, keys[j, i], out)
    for c in range(4):
        smooth[j, i, c] = out[c]


@njit(**JIT)
def _smooth(light, keys, out, smooth):
    for j in range(light.shape[0]):
        for i in range(light.shape[1]):
            smooth_pixel(light, keys, j, i, out, smooth)


@njit(**JIT_ALLOCATING)
def shade_light(scene, R, t, cam, lattice, depth, keys, surface_points):
    """Returns float32 (h, w, 4): light r, g, b and highlight on what each pixel shows.

    scene: geo, paints, shell, near_list, shadow_list, lights, ambient. Light is computed for every fourth pixel, where
    a shadow ends, and where no pixel around shows the same face.
    """
    light, smooth, work = (
        np.empty((*keys.shape, 4), np.float32),
        np.empty((*keys.shape, 4), np.float32),
        np.empty((5, 4)),
    )
    for turn in range(4):
        _fill_light(scene, R, t, cam, lattice, depth, keys, surface_points, turn, work, light)
    _smooth(light, keys, work[4], smooth)
    return smooth


@njit(forceinline=True, **JIT)
def _paint_at(scene, cam, far, index, face, q, n, eye, out):
    """Returns the colour (r, g, b) of a surface under the light `out`."""
    geo, paints, shell = scene[0], scene[1], scene[2]
    row = 6 + index if index >= 0 else -1 - index
    slant = max(0.12, abs(n[0] * eye[0] + n[1] * eye[1] + n[2] * eye[2]))
    a, b, ha, hb = face_coordinates(geo, shell, index, face, q)
    r, g, c = albedo(paints, row, a, b, ha, hb, far / (cam[0] * slant))
    glow = paints[row, 9]
    return r * (out[0] + glow) + out[3], g * (out[1] + glow) + out[3], c * (out[2] + glow) + out[3]


@njit(forceinline=True, **JIT)
def centre_pixel(scene, R, t, cam, lattice, depth, keys, surface_points, light, j, i, work, colour):
    """Fills the colour of the ray through the centre of pixel (j, i)."""
    p, q, n, eye, out = work[0, :3], work[1, :3], work[2, :3], work[3, :3], work[4]
    u, v = ray_pixel(lattice, i, j, 0.0)
    world_point(R, t, cam, u, v, depth[j, i], p, eye)
    for k in range(3):
        q[k], n[k] = surface_points[j, i, k], surface_points[j, i, k + 3]
    for c in range(4):
        out[c] = light[j, i, c]
    index, face = keys[j, i] >> 3, keys[j, i] & 7
    r, g, b = _paint_at(scene, cam, depth[j, i], index, face, q, n, eye, out)
    colour[j, i, 0], colour[j, i, 1], colour[j, i, 2] = r, g, b


@njit(**JIT)
def _fill_centres(scene, R, t, cam, lattice, depth, keys, surface_points, light, work, colour):
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            centre_pixel(scene, R, t, cam, lattice, depth, keys, surface_points, light, j, i, work, colour)


@njit(**JIT_ALLOCATING)
def shade_centres(scene, R, t, cam, lattice, depth, keys, surface_points, light):
    """Returns the colour of the rays through pixel centres, float32 (h, w, 3)."""
    colour = np.empty((*keys.shape, 3), np.float32)
    _fill_centres(scene, R, t, cam, lattice, depth, keys, surface_points, light, np.empty((5, 4)), colour)
    return colour


@njit(forceinline=True, **JIT)
def _flat(centre, keys, j, i, index):
    """Returns whether the pixels around corner (j, i) show one face of solid `index`, in nearly one colour."""
    if j == 0 or i == 0 or j == keys.shape[0] or i == keys.shape[1]:
        return False
    key = keys[j, i]
    if key >> 3 != index or keys[j - 1, i] != key or keys[j, i - 1] != key or keys[j - 1, i - 1] != key:
        return False
    a, b, c, d = centre[j, i, 1], centre[j - 1, i, 1], centre[j, i - 1, 1], centre[j - 1, i - 1, 1]
    return max(max(a, b), max(c, d)) <= 1.4 * min(min(a, b), min(c, d))


@njit(forceinline=True, **JIT)
def corner_pixel(scene, R, t, cam, lattice, depth, hit, centre, keys, known, j, i, work, colour):
    """Fills the colour of the ray through the upper left corner of pixel (j, i)."""
    geo, paints, shell, near_list, shadow_list, lights, ambient = scene
    p, q, n, eye, noise, out = work[0, :3], work[1, :3], work[2, :3], work[3, :3], work[4, :3], work[5]
    index, far = int(hit[j, i]), depth[j, i]
    if _flat(centre, keys, j, i, index):
        for c in range(3):
            four = centre[j - 1, i - 1, c] + centre[j - 1, i, c] + centre[j, i - 1, c] + centre[j, i, c]
            colour[j, i, c] = 0.25 * four
        return
    u, v = ray_pixel(lattice, i, j, -0.5)
    world_point(R, t, cam, u, v, far, p, eye)
    face = surface(geo, shell, index, p, q, n)
    if _neighbour_light(known, keys, SQUARE, j, i, 8 * index + face, out) == 0.0:
        gloss = paints[6 + index if index >= 0 else -1 - index, 8]
        _fill_noise(i, j, noise)
        light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out)
    r, g, b = _paint_at(scene, cam, far, index, face, q, n, eye, out)
    colour[j, i, 0], colour[j, i, 1], colour[j, i, 2] = r, g, b


@njit(**JIT)
def _fill_corners(scene, R, t, cam, lattice, depth, hit, centre, keys, known, work, colour):
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            corner_pixel(scene, R, t, cam, lattice, depth, hit, centre, keys, known, j, i, work, colour)


@njit(**JIT_ALLOCATING)
def shade_corners(scene, R, t, cam, lattice, depth, hit, centre, keys, light):
    """Returns the colour of the rays through pixel corners, float32 (h + 1, w + 1, 3), with the light of the centres.

    Where the centres around a corner show the same face in one colour, the corner gets their mean colour.
    """
    colour = np.empty((*depth.shape, 3), np.float32)
    _fill_corners(scene, R, t, cam, lattice, depth, hit, centre, keys, light, np.empty((6, 4)), colour)
    return colour
