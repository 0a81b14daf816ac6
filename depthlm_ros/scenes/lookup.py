"""Short lists of solids, made once per scene: those near a floor cell, and those in a direction from a light."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.raycast import BIG, JIT, box_entry

CELL_M = 0.75
REACH_M = 0.35
NEAR_MAX = 28
SIDE = 20
SHADOW_MAX = 40


@njit(**JIT)
def octahedral(x, y, z):
    """Direction to (a, b) in [0, 1]^2: the octahedron unfolded onto a square."""
    q = 1.0 / (abs(x) + abs(y) + abs(z) + 1e-20)
    a, b = x * q, y * q
    if z < 0.0:
        a, b = (1.0 - abs(b)) * (1.0 if a >= 0.0 else -1.0), (1.0 - abs(a)) * (1.0 if b >= 0.0 else -1.0)
    return 0.5 * a + 0.5, 0.5 * b + 0.5


@njit(**JIT)
def _direction(a, b):
    """Inverse of octahedral, unit length."""
    x, y = 2.0 * a - 1.0, 2.0 * b - 1.0
    z = 1.0 - abs(x) - abs(y)
    if z < 0.0:
        x, y = (1.0 - abs(y)) * (1.0 if x >= 0.0 else -1.0), (1.0 - abs(x)) * (1.0 if y >= 0.0 else -1.0)
    q = 1.0 / math.sqrt(x * x + y * y + z * z)
    return x * q, y * q, z * q


@njit(**JIT)
def _cells():
    """float64 (SIDE, SIDE, 4): central direction of each cell and the angle that covers it."""
    cells = np.empty((SIDE, SIDE, 4))
    for j in range(SIDE):
        for i in range(SIDE):
            x, y, z = _direction((i + 0.5) / SIDE, (j + 0.5) / SIDE)
            least = 1.0
            for k in range(4):
                cx, cy, cz = _direction((i + (k & 1)) / SIDE, (j + (k >> 1)) / SIDE)
                least = min(least, x * cx + y * cy + z * cz)
            cells[j, i, 0], cells[j, i, 1], cells[j, i, 2], cells[j, i, 3] = x, y, z, 1.05 * math.acos(least)
    return cells


@njit(**JIT)
def _in_cone(solid, size, m, light, cell, c, distance, radius):
    """May the solid cut a segment that leaves the light inside this cone of directions?"""
    cosine = (c[0] * cell[0] + c[1] * cell[1] + c[2] * cell[2]) / distance
    reach = radius + light[3]
    if math.acos(min(1.0, max(-1.0, cosine))) > math.asin(min(1.0, reach / distance)) + cell[3]:
        return False
    grow = (distance + radius) * math.tan(cell[3]) + light[3]
    o, d = np.empty(3), np.empty(3)
    inside = True
    for i in range(3):
        f = size[i] / (size[i] + grow)
        o[i] = -f * (m[i, 0] * c[0] + m[i, 1] * c[1] + m[i, 2] * c[2])
        d[i] = f * (m[i, 0] * cell[0] + m[i, 1] * cell[1] + m[i, 2] * cell[2])
        inside = inside and abs(o[i]) <= 1.0
    return inside or box_entry(o[0], o[1], o[2], d[0], d[1], d[2]) < BIG


@njit(**JIT)
def shadow_lists(solids, emits, maps, lights):
    """int16 (L, SIDE, SIDE, SHADOW_MAX): rows of solids in each direction from each light, -1 ends a list."""
    cells = _cells()
    lists = np.full((lights.shape[0], SIDE, SIDE, SHADOW_MAX), -1, np.int16)
    used = np.zeros((SIDE, SIDE), np.int16)
    size, c = np.empty(3), np.empty(3)
    for k in range(lights.shape[0]):
        used[:] = 0
        for n in range(solids.shape[0]):
            if emits[n] > 0.0:
                continue
            for i in range(3):
                a = solids[n, 3 + 3 * i : 6 + 3 * i]
                size[i] = math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])
                c[i] = solids[n, i] - lights[k, i]
            radius = math.sqrt(size[0] ** 2 + size[1] ** 2 + size[2] ** 2)
            distance = math.sqrt(c[0] ** 2 + c[1] ** 2 + c[2] ** 2) + 1e-9
            for j in range(SIDE):
                for i in range(SIDE):
                    if used[j, i] < SHADOW_MAX and _in_cone(
                        solids[n], size, maps[n], lights[k], cells[j, i], c, distance, radius
                    ):
                        lists[k, j, i, used[j, i]] = n
                        used[j, i] += 1
    return lists


@njit(**JIT)
def near_lists(solids, shell):
    """int16 (ny, nx, NEAR_MAX): rows of solids within REACH_M of each CELL_M square of the floor, -1 ends a list."""
    nx = int(min(60.0, (shell[1, 0] - shell[0, 0]) / CELL_M)) + 1
    ny = int(min(60.0, (shell[1, 1] - shell[0, 1]) / CELL_M)) + 1
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
