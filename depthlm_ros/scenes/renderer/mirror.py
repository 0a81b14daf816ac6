"""Polished floors: what stands on them is seen upside down below them, blurred, and more so at grazing angles.

The mirrored camera below the floor sees what the floor reflects: one more trace, coloured without texture.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT, MAKER
from depthlm_ros.scenes.renderer.raycast import seen_px, trace
from depthlm_ros.scenes.renderer.surfaces import place, surface

FLOOR = -5
PLAIN_LOSS = 0.7


@njit(forceinline=True, **JIT)
def mirror_camera(shell, R, t, R2, t2):
    """Fills R2, t2: the camera mirrored in the floor."""
    for i in range(3):
        R2[0, i], R2[1, i], R2[2, i] = R[0, i], R[1, i], -R[2, i]
    t2[0], t2[1], t2[2] = t[0], t[1], 2.0 * shell[0, 2] - t[2]


@njit(**JIT)
def mean_light(keys, light, mean):
    """Fills mean (3,): the light on what is not floor, from every ninth pixel."""
    mean[0] = mean[1] = mean[2] = 0.0
    count = 1e-6
    for j in range(0, keys.shape[0], 3):
        for i in range(0, keys.shape[1], 3):
            if keys[j, i] >> 3 != FLOOR:
                count += 1.0
                for c in range(3):
                    mean[c] += light[j, i, c]
    for c in range(3):
        mean[c] /= count


@njit(forceinline=True, **JIT)
def mirrored_pixel(geo, paints, shell, R2, t2, cam, bent, depth, hit, keys, mean, j, i, work, seen):
    """Colour of what is reflected at pixel (j, i) if the floor is seen there, else 0; R2, t2: the mirrored camera."""
    p, q, n, eye = work[0], work[1], work[2], work[3]
    seen[j, i, 0] = seen[j, i, 1] = seen[j, i, 2] = 0.0
    if keys[j, i] >> 3 != FLOOR:
        return
    index = int(hit[j, i])
    row = 6 + index if index >= 0 else -1 - index
    u, v = seen_px(bent, i, j, 0.0)
    place(R2, t2, cam, u, v, depth[j, i], p, eye)
    surface(geo, shell, index, p, q, n)
    side = 0.75 + 0.25 * n[2]
    for c in range(3):
        tone = 0.6 * paints[row, c] + 0.4 * paints[row, c + 3] if paints[row, 6] > 0.0 else paints[row, c]
        seen[j, i, c] = min(4.0, tone * (side * mean[c] + paints[row, 9]))


@njit(forceinline=True, **JIT)
def spread_pixel(seen, keys, reach, j, i, blurred):
    """Averages over `reach` pixels up and down, within the floor."""
    first, last = max(0, j - reach), min(seen.shape[0], j + reach + 1)
    count = np.float32(0.0)
    blurred[j, i, 0] = blurred[j, i, 1] = blurred[j, i, 2] = 0.0
    if keys[j, i] >> 3 != FLOOR:
        return
    for k in range(first, last):
        if keys[k, i] >> 3 == FLOOR:
            count += 1
            for c in range(3):
                blurred[j, i, c] += seen[k, i, c]
    for c in range(3):
        blurred[j, i, c] /= count


@njit(forceinline=True, **JIT)
def reflect_pixel(paints, R, t, cam, bent, depth, keys, blurred, j, i, work, colour):
    """Adds to colour what a glossy floor reflects at pixel (j, i)."""
    p, eye = work[0], work[1]
    if keys[j, i] >> 3 == FLOOR:
        u, v = seen_px(bent, i, j, 0.0)
        place(R, t, cam, u, v, depth[j, i], p, eye)
        # Schlick's approximation of Fresnel's law.
        gloss = paints[4, 8]
        share = gloss + PLAIN_LOSS * (1.0 - gloss) * (1.0 - max(0.0, eye[2])) ** 5
        for c in range(3):
            colour[j, i, c] += share * blurred[j, i, c]


@njit(forceinline=True, **JIT)
def blur_reach(paints, height):
    """Over how many pixels a floor blurs what it reflects, by its paint's seed."""
    return int(paints[4, 10]) % 4 * height // 96


@njit(**JIT)
def _fill_reflection(scene, R, t, R2, t2, cam, bent, depth, depth2, hit2, keys, mean, work, seen, blurred, colour):
    geo, paints, shell = scene
    height, width = keys.shape
    reach = blur_reach(paints, height)
    for j in range(height):
        for i in range(width):
            mirrored_pixel(geo, paints, shell, R2, t2, cam, bent, depth2, hit2, keys, mean, j, i, work, seen)
    for j in range(height):
        for i in range(width):
            spread_pixel(seen, keys, reach, j, i, blurred)
    for j in range(height):
        for i in range(width):
            reflect_pixel(paints, R, t, cam, bent, depth, keys, blurred, j, i, work, colour)


@njit(**MAKER)
def add_reflection(geo, paints, shell, R, t, cam, bent, depth, keys, light, colour):
    """Adds to colour what a glossy floor reflects; the floor's paint says how glossy, its seed how blurred."""
    if paints[4, 8] <= 0.0:
        return
    height, width = keys.shape
    R2, t2, mean = np.empty((3, 3)), np.empty(3), np.empty(3)
    mirror_camera(shell, R, t, R2, t2)
    mean_light(keys, light, mean)
    depth2, hit2 = trace(geo, shell, R2, t2, cam, 0.0, height, width, bent)
    seen, blurred = np.empty((height, width, 3), np.float32), np.empty((height, width, 3), np.float32)
    scene, work = (geo, paints, shell), np.empty((4, 3))
    _fill_reflection(scene, R, t, R2, t2, cam, bent, depth, depth2, hit2, keys, mean, work, seen, blurred, colour)
