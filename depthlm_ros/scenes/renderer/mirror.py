# SPDX-License-Identifier: Apache-2.0
"""Reflections on polished floors: blurred, and stronger at grazing angles.

A camera mirrored in the floor sees what the floor reflects. Its rays are traced once more and coloured without
texture; `add_reflection` adds the result to a picture.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT, JIT_ALLOCATING
from depthlm_ros.scenes.renderer.raycast import ray_pixel, trace
from depthlm_ros.scenes.renderer.surfaces import surface, world_point

# Index of the floor in a face key (see surfaces.surfaces).
FLOOR = -5
# Weight of the Fresnel term.
FRESNEL_GAIN = 0.7


@njit(forceinline=True, **JIT)
def mirror_camera(shell, R, t, R2, t2):
    """Fills R2 (3, 3) and t2 (3,) with the pose of the camera mirrored in the floor."""
    for i in range(3):
        R2[0, i], R2[1, i], R2[2, i] = R[0, i], R[1, i], -R[2, i]
    t2[0], t2[1], t2[2] = t[0], t[1], 2.0 * shell[0, 2] - t[2]


@njit(**JIT)
def mean_light(keys, light, mean):
    """Fills mean (3,) with the mean light on everything but the floor, from every ninth pixel."""
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
def mirrored_pixel(geo, paints, shell, R2, t2, cam, lattice, depth, hit, keys, mean, j, i, work, reflected):
    """Fills the reflected colour at pixel (j, i), 0 where it does not show the floor; R2, t2: the mirrored camera."""
    p, q, n, eye = work[0], work[1], work[2], work[3]
    reflected[j, i, 0] = reflected[j, i, 1] = reflected[j, i, 2] = 0.0
    if keys[j, i] >> 3 != FLOOR:
        return
    index = int(hit[j, i])
    row = 6 + index if index >= 0 else -1 - index
    u, v = ray_pixel(lattice, i, j, 0.0)
    world_point(R2, t2, cam, u, v, depth[j, i], p, eye)
    surface(geo, shell, index, p, q, n)
    side = 0.75 + 0.25 * n[2]
    for c in range(3):
        tone = 0.6 * paints[row, c] + 0.4 * paints[row, c + 3] if paints[row, 6] > 0.0 else paints[row, c]
        reflected[j, i, c] = min(4.0, tone * (side * mean[c] + paints[row, 9]))


@njit(forceinline=True, **JIT)
def blur_pixel(reflected, keys, reach, j, i, blurred):
    """Averages the reflection over `reach` pixels up and down, within the floor."""
    first, last = max(0, j - reach), min(reflected.shape[0], j + reach + 1)
    count = np.float32(0.0)
    blurred[j, i, 0] = blurred[j, i, 1] = blurred[j, i, 2] = 0.0
    if keys[j, i] >> 3 != FLOOR:
        return
    for k in range(first, last):
        if keys[k, i] >> 3 == FLOOR:
            count += 1
            for c in range(3):
                blurred[j, i, c] += reflected[k, i, c]
    for c in range(3):
        blurred[j, i, c] /= count


@njit(forceinline=True, **JIT)
def reflect_pixel(paints, R, t, cam, lattice, depth, keys, blurred, j, i, work, colour):
    """Adds the reflection of a glossy floor to colour at pixel (j, i)."""
    p, eye = work[0], work[1]
    if keys[j, i] >> 3 == FLOOR:
        u, v = ray_pixel(lattice, i, j, 0.0)
        world_point(R, t, cam, u, v, depth[j, i], p, eye)
        # Schlick's approximation of Fresnel's law.
        gloss = paints[4, 8]
        share = gloss + FRESNEL_GAIN * (1.0 - gloss) * (1.0 - max(0.0, eye[2])) ** 5
        for c in range(3):
            colour[j, i, c] += share * blurred[j, i, c]


@njit(forceinline=True, **JIT)
def blur_reach(paints, height):
    """Returns over how many pixels a floor blurs its reflection; it depends on the seed of the floor's paint."""
    return int(paints[4, 10]) % 4 * height // 96


@njit(**JIT)
def _fill_reflection(
    scene, R, t, R2, t2, cam, lattice, depth, depth2, hit2, keys, mean, work, reflected, blurred, colour
):
    geo, paints, shell = scene
    height, width = keys.shape
    reach = blur_reach(paints, height)
    for j in range(height):
        for i in range(width):
            mirrored_pixel(geo, paints, shell, R2, t2, cam, lattice, depth2, hit2, keys, mean, j, i, work, reflected)
    for j in range(height):
        for i in range(width):
            blur_pixel(reflected, keys, reach, j, i, blurred)
    for j in range(height):
        for i in range(width):
            reflect_pixel(paints, R, t, cam, lattice, depth, keys, blurred, j, i, work, colour)


@njit(**JIT_ALLOCATING)
def add_reflection(geo, paints, shell, R, t, cam, lattice, depth, keys, light, colour):
    """Adds the reflection of a glossy floor to colour (h, w, 3).

    The floor's paint gives the gloss, and the paint's seed the blur.
    """
    if paints[4, 8] <= 0.0:
        return
    height, width = keys.shape
    R2, t2, mean = np.empty((3, 3)), np.empty(3), np.empty(3)
    mirror_camera(shell, R, t, R2, t2)
    mean_light(keys, light, mean)
    depth2, hit2 = trace(geo, shell, R2, t2, cam, 0.0, height, width, lattice)
    reflected, blurred = np.empty((height, width, 3), np.float32), np.empty((height, width, 3), np.float32)
    scene, work = (geo, paints, shell), np.empty((4, 3))
    _fill_reflection(
        scene, R, t, R2, t2, cam, lattice, depth, depth2, hit2, keys, mean, work, reflected, blurred, colour
    )
