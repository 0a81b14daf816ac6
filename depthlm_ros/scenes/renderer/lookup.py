# SPDX-License-Identifier: Apache-2.0
"""Look-up lists of solids, made once per scene, that keep shading fast.

`near_lists` holds the solids near each cell of the floor, `shadow_lists` those in each direction from each light.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT, JIT_ALLOCATING, cached_kernel
from depthlm_ros.scenes.renderer.raycast import BIG, box_entry

# Side of a floor cell, and how far around it solids count as near.
CELL_M = 0.5
REACH_M = 0.35
NEAR_MAX = 28
# Directions from a light are binned into SIDE x SIDE cells of an octahedral map.
SIDE = 32
SHADOW_MAX = 40


@njit(**JIT)
def octahedral(x, y, z):
    """Maps a direction to (a, b) in [0, 1]^2: the octahedron unfolded onto a square."""
    q = 1.0 / (abs(x) + abs(y) + abs(z) + 1e-20)
    a, b = x * q, y * q
    if z < 0.0:
        a, b = (1.0 - abs(b)) * (1.0 if a >= 0.0 else -1.0), (1.0 - abs(a)) * (1.0 if b >= 0.0 else -1.0)
    return 0.5 * a + 0.5, 0.5 * b + 0.5


@njit(**JIT)
def _direction(a, b):
    """Inverts octahedral; returns a unit vector."""
    x, y = 2.0 * a - 1.0, 2.0 * b - 1.0
    z = 1.0 - abs(x) - abs(y)
    if z < 0.0:
        x, y = (1.0 - abs(y)) * (1.0 if x >= 0.0 else -1.0), (1.0 - abs(x)) * (1.0 if y >= 0.0 else -1.0)
    q = 1.0 / math.sqrt(x * x + y * y + z * z)
    return x * q, y * q, z * q


@njit(**JIT_ALLOCATING)
def _cells():
    """Returns the central direction of each cell, float64 (SIDE, SIDE, 3), and the largest angle from a centre to a
    corner of its cell, radians."""
    cells, least = np.empty((SIDE, SIDE, 3)), 1.0
    for j in range(SIDE):
        for i in range(SIDE):
            x, y, z = _direction((i + 0.5) / SIDE, (j + 0.5) / SIDE)
            for k in range(4):
                cx, cy, cz = _direction((i + (k & 1)) / SIDE, (j + (k >> 1)) / SIDE)
                least = min(least, x * cx + y * cy + z * cz)
            cells[j, i, 0], cells[j, i, 1], cells[j, i, 2] = x, y, z
    return cells, 1.02 * math.acos(least)


@njit(**JIT)
def _grown(geo, n, lights, k, angle, g, o):
    """Enlarges solid n's box, as seen from light k, by the width of a cone of this half angle and the light's size.

    Fills g, the map from directions to the unit space of the enlarged box, and o, the position of the light in it.
    Returns whether the light is inside, the direction to the box, and the cosine below which a direction misses the
    ball around the box.
    """
    c0, c1, c2 = geo[n, 0] - lights[k, 0], geo[n, 1] - lights[k, 1], geo[n, 2] - lights[k, 2]
    distance = math.sqrt(c0 * c0 + c1 * c1 + c2 * c2) + 1e-9
    radius = math.sqrt(geo[n, 12] ** 2 + geo[n, 13] ** 2 + geo[n, 14] ** 2)
    grow = (distance + radius) * math.tan(angle) + lights[k, 3]
    inside = True
    for i in range(3):
        f = geo[n, 12 + i] / (geo[n, 12 + i] + grow)
        g[i, 0], g[i, 1], g[i, 2] = f * geo[n, 3 + 3 * i], f * geo[n, 4 + 3 * i], f * geo[n, 5 + 3 * i]
        o[i] = -(g[i, 0] * c0 + g[i, 1] * c1 + g[i, 2] * c2)
        inside = inside and abs(o[i]) <= 1.0
    wide = math.asin(min(1.0, (radius + lights[k, 3]) / distance)) + angle
    return inside, c0 / distance, c1 / distance, c2 / distance, math.cos(min(math.pi, wide))


@cached_kernel
def shadow_lists(geo, emits, lights):
    """Returns int16 (L, SIDE, SIDE, SHADOW_MAX): rows of solids in each direction from each light; -1 ends a list.

    geo: from raycast.geometry. emits: (N,) emission of each solid; solids that emit light cast no shadow.
    """
    cells, angle = _cells()
    lists = np.full((lights.shape[0], SIDE, SIDE, SHADOW_MAX), -1, np.int16)
    used = np.zeros((SIDE, SIDE), np.int16)
    g, o = np.empty((3, 3)), np.empty(3)
    for k in range(lights.shape[0]):
        used[:] = 0
        for n in range(geo.shape[0]):
            if emits[n] > 0.0:
                continue
            inside, cx, cy, cz, least = _grown(geo, n, lights, k, angle, g, o)
            for j in range(SIDE):
                for i in range(SIDE):
                    x, y, z = cells[j, i, 0], cells[j, i, 1], cells[j, i, 2]
                    if used[j, i] == SHADOW_MAX or (cx * x + cy * y + cz * z < least and not inside):
                        continue
                    dx = g[0, 0] * x + g[0, 1] * y + g[0, 2] * z
                    dy = g[1, 0] * x + g[1, 1] * y + g[1, 2] * z
                    dz = g[2, 0] * x + g[2, 1] * y + g[2, 2] * z
                    if inside or box_entry(o[0], o[1], o[2], dx, dy, dz) < BIG:
                        lists[k, j, i, used[j, i]] = n
                        used[j, i] += 1
    return lists


@cached_kernel
def near_lists(solids, shell):
    """Returns int16 (ny, nx, NEAR_MAX): rows of solids within REACH_M of each cell of the floor; -1 ends a list."""
    nx = int(min(256.0, (shell[1, 0] - shell[0, 0]) / CELL_M)) + 1
    ny = int(min(256.0, (shell[1, 1] - shell[0, 1]) / CELL_M)) + 1
    lists = np.full((ny, nx, NEAR_MAX), -1, np.int16)
    used = np.zeros((ny, nx), np.int16)
    for n in range(solids.shape[0]):
        ex = abs(solids[n, 3]) + abs(solids[n, 6]) + abs(solids[n, 9]) + REACH_M
        ey = abs(solids[n, 4]) + abs(solids[n, 7]) + abs(solids[n, 10]) + REACH_M
        x, y = solids[n, 0] - shell[0, 0], solids[n, 1] - shell[0, 1]
        for j in range(max(0, int((y - ey) / CELL_M)), min(ny, int((y + ey) / CELL_M) + 1)):
            for i in range(max(0, int((x - ex) / CELL_M)), min(nx, int((x + ex) / CELL_M) + 1)):
                if used[j, i] < NEAR_MAX:
                    lists[j, i, used[j, i]] = n
                    used[j, i] += 1
    return lists
