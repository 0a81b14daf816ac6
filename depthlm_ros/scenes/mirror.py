"""Polished floors: what stands on them is seen upside down below them, blurred, and more so at grazing angles.

The mirrored camera below the floor sees what the floor reflects: one more trace, coloured without texture.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from depthlm_ros.scenes.jit import MAKER
from depthlm_ros.scenes.raycast import trace
from depthlm_ros.scenes.surfaces import place, surface

FLOOR = -5
PLAIN_LOSS = 0.7


@njit(**MAKER)
def _mirrored(geo, paints, shell, R, t, cam, keys, light):
    """float32 (h, w, 3): colour of what is reflected at the floor's pixels, 0 elsewhere; light is a mean one (3,)."""
    height, width = keys.shape
    R2, t2 = R.copy(), t.copy()
    R2[2, 0], R2[2, 1], R2[2, 2], t2[2] = -R[2, 0], -R[2, 1], -R[2, 2], 2.0 * shell[0, 2] - t[2]
    depth, hit = trace(geo, shell, R2, t2, cam, 0.0, height, width)
    seen = np.zeros((height, width, 3), np.float32)
    p, q, n, eye = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for j in range(height):
        for i in range(width):
            if keys[j, i] >> 3 != FLOOR:
                continue
            index = int(hit[j, i])
            row = 6 + index if index >= 0 else -1 - index
            place(R2, t2, cam, float(i), float(j), depth[j, i], p, eye)
            surface(geo, shell, index, p, q, n)
            side = 0.75 + 0.25 * n[2]
            for c in range(3):
                tone = 0.6 * paints[row, c] + 0.4 * paints[row, c + 3] if paints[row, 6] > 0.0 else paints[row, c]
                seen[j, i, c] = min(4.0, tone * (side * light[c] + paints[row, 9]))
    return seen


@njit(**MAKER)
def _spread_down(seen, keys, reach):
    """Averages each column over `reach` pixels up and down, within the floor."""
    blurred = np.empty_like(seen)
    for j in range(seen.shape[0]):
        for i in range(seen.shape[1]):
            first, last = max(0, j - reach), min(seen.shape[0], j + reach + 1)
            count = np.float32(0.0)
            blurred[j, i, 0] = blurred[j, i, 1] = blurred[j, i, 2] = 0.0
            if keys[j, i] >> 3 != FLOOR:
                continue
            for k in range(first, last):
                if keys[k, i] >> 3 == FLOOR:
                    count += 1
                    for c in range(3):
                        blurred[j, i, c] += seen[k, i, c]
            for c in range(3):
                blurred[j, i, c] /= count
    return blurred


@njit(**MAKER)
def add_reflection(geo, paints, shell, R, t, cam, depth, keys, light, colour):
    """Adds to colour what a glossy floor reflects; the floor's paint says how glossy, its seed how blurred."""
    gloss = paints[4, 8]
    if gloss <= 0.0:
        return
    mean, count = np.zeros(3), 1e-6
    for j in range(0, keys.shape[0], 3):
        for i in range(0, keys.shape[1], 3):
            if keys[j, i] >> 3 != FLOOR:
                count += 1.0
                for c in range(3):
                    mean[c] += light[j, i, c]
    for c in range(3):
        mean[c] /= count
    reach = int(paints[4, 10]) % 4 * keys.shape[0] // 96
    seen = _spread_down(_mirrored(geo, paints, shell, R, t, cam, keys, mean), keys, reach)
    p, eye = np.empty(3), np.empty(3)
    for j in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            if keys[j, i] >> 3 == FLOOR:
                place(R, t, cam, float(i), float(j), depth[j, i], p, eye)
                # Schlick's approximation of Fresnel's law.
                share = gloss + PLAIN_LOSS * (1.0 - gloss) * (1.0 - max(0.0, eye[2])) ** 5
                for c in range(3):
                    colour[j, i, c] += share * seen[j, i, c]
