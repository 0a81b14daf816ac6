# SPDX-License-Identifier: Apache-2.0
"""Light at a point of a surface: direct light with soft shadows, ambient light, and occlusion near other surfaces.

`light_at` adds all of them up. `geo` is the table from raycast.geometry with one row per solid.
"""

from __future__ import annotations

import math

from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT
from depthlm_ros.scenes.renderer.lookup import CELL_M, NEAR_MAX, REACH_M, SHADOW_MAX, SIDE, octahedral
from depthlm_ros.scenes.renderer.raycast import solid_entry

# The shell darkens surfaces up to this distance.
CORNER_M = 1.1


@njit(**JIT)
def _gap(geo, k, x, y, z, most):
    """Returns the distance from a point to solid k, metres, or `most` if the distance is certainly larger.

    It is accurate to a few percent near the solid; round solids are treated as scaled balls or pipes.
    """
    x, y, z = x - geo[k, 0], y - geo[k, 1], z - geo[k, 2]
    a = (abs(geo[k, 3] * x + geo[k, 4] * y + geo[k, 5] * z) - 1.0) * geo[k, 12]
    if a > most:
        return most
    b = (abs(geo[k, 6] * x + geo[k, 7] * y + geo[k, 8] * z) - 1.0) * geo[k, 13]
    if b > most:
        return most
    c = (abs(geo[k, 9] * x + geo[k, 10] * y + geo[k, 11] * z) - 1.0) * geo[k, 14]
    if c > most:
        return most
    if geo[k, 15] > 0.0:
        h, g = geo[k, 12], geo[k, 14]
        ua, ub, uc = a / h + 1.0, b / geo[k, 13] + 1.0, c / g + 1.0
        if geo[k, 15] == 1.0:
            return max(0.0, math.sqrt(ua * ua + ub * ub + uc * uc) - 1.0) * max(h, g)
        a, b = (math.sqrt(ua * ua + ub * ub) - 1.0) * h, 0.0
    a, b, c = max(a, 0.0), max(b, 0.0), max(c, 0.0)
    return math.sqrt(a * a + b * b + c * c)


@njit(forceinline=True, **JIT)
def openness(geo, shell, near_list, p, n):
    """Returns the share of ambient light that reaches point p with normal n.

    It depends on the distance to the nearest surface from two points along the normal.
    """
    i, j = int((p[0] - shell[0, 0]) / CELL_M), int((p[1] - shell[0, 1]) / CELL_M)
    i, j = max(0, min(near_list.shape[1] - 1, i)), max(0, min(near_list.shape[0] - 1, j))
    # Corners of the building darken surfaces over a longer distance than objects do.
    x, y, z = p[0] + CORNER_M * n[0], p[1] + CORNER_M * n[1], p[2] + CORNER_M * n[2]
    gap = min(min(x - shell[0, 0], shell[1, 0] - x), min(y - shell[0, 1], shell[1, 1] - y))
    gap = min(min(gap, CORNER_M), min(z - shell[0, 2], shell[1, 2] - z))
    lost = 0.25 * (1.0 - max(gap, 0.0) / CORNER_M)
    for step in range(2):
        h = REACH_M if step == 0 else 0.09
        x, y, z = p[0] + h * n[0], p[1] + h * n[1], p[2] + h * n[2]
        gap = min(min(x - shell[0, 0], shell[1, 0] - x), min(y - shell[0, 1], shell[1, 1] - y))
        gap = min(min(gap, h), min(z - shell[0, 2], shell[1, 2] - z))
        for k in range(NEAR_MAX):
            index = near_list[j, i, k]
            if index < 0 or gap <= 0.0:
                break
            gap = min(gap, _gap(geo, index, x, y, z, gap))
        if gap > 0.999 * h:
            # The smaller ball lies in the larger one, which is empty.
            break
        lost += (h - max(gap, 0.0)) / h * (0.4 if step == 0 else 0.3)
    return 1.0 - lost


@njit(forceinline=True, **JIT)
def shadowed(geo, shadow_list, lights, light, px, py, pz, tx, ty, tz):
    """Returns whether a solid is between point p and point t of this light."""
    dx, dy, dz = tx - px, ty - py, tz - pz
    a, b = octahedral(px - lights[light, 0], py - lights[light, 1], pz - lights[light, 2])
    i, j = min(SIDE - 1, int(a * SIDE)), min(SIDE - 1, int(b * SIDE))
    for n in range(SHADOW_MAX):
        k = shadow_list[light, j, i, n]
        if k < 0:
            return False
        x, y, z = px - geo[k, 0], py - geo[k, 1], pz - geo[k, 2]
        t = solid_entry(
            int(geo[k, 15]),
            geo[k, 16],
            geo[k, 3] * x + geo[k, 4] * y + geo[k, 5] * z,
            geo[k, 6] * x + geo[k, 7] * y + geo[k, 8] * z,
            geo[k, 9] * x + geo[k, 10] * y + geo[k, 11] * z,
            geo[k, 3] * dx + geo[k, 4] * dy + geo[k, 5] * dz,
            geo[k, 6] * dx + geo[k, 7] * dy + geo[k, 8] * dz,
            geo[k, 9] * dx + geo[k, 10] * dy + geo[k, 11] * dz,
        )
        if t < 1.0:
            return True
    return False


@njit(forceinline=True, **JIT)
def _passes_opening(lights, k, p):
    """Returns whether the line from p to light k passes the opening that the light shines through."""
    axis = int(lights[k, 10])
    other, step = 1 - axis, (lights[k, 11] - p[axis]) / (lights[k, axis] - p[axis] + 1e-9)
    across, up = p[other] + step * (lights[k, other] - p[other]), p[2] + step * (lights[k, 2] - p[2])
    return lights[k, 12] < across < lights[k, 13] and lights[k, 14] < up < lights[k, 15]


@njit(forceinline=True, **JIT)
def light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out):
    """Fills out with diffuse light r, g, b and a white highlight at world point p with normal n.

    eye: direction to the camera. noise: the point of the light's ball where the shadow ray ends, in units of its
    radius.
    """
    free = openness(geo, shell, near_list, p, n)
    up, slope = 0.5 + 0.5 * n[2], 1.0
    for c in range(3):
        slope += ambient[2, c] * (p[c] - 0.5 * (shell[0, c] + shell[1, c])) + 0.25 * ambient[3, c] * n[c]
    free *= min(1.8, max(0.4, slope))
    for c in range(3):
        out[c] = free * (ambient[0, c] * up + ambient[1, c] * (1.0 - up))
    out[3] = 0.0
    px, py, pz = p[0] + 0.004 * n[0], p[1] + 0.004 * n[1], p[2] + 0.004 * n[2]
    for k in range(lights.shape[0]):
        x, y, z = lights[k, 0] - p[0], lights[k, 1] - p[1], lights[k, 2] - p[2]
        far2 = x * x + y * y + z * z
        q = 1.0 / math.sqrt(far2)
        cosine = (x * n[0] + y * n[1] + z * n[2]) * q
        facing = -(x * lights[k, 7] + y * lights[k, 8] + z * lights[k, 9]) * q
        if lights[k, 7] == 0.0 and lights[k, 8] == 0.0 and lights[k, 9] == 0.0:
            facing = 0.7
        if cosine <= 0.0 or facing <= 0.0:
            continue
        if lights[k, 10] >= 0.0 and not _passes_opening(lights, k, p):
            continue
        gain = cosine * facing / (far2 + 0.3)
        if gain * lights[k, 5] < 0.03 * out[1]:
            continue
        r = lights[k, 3]
        tx, ty, tz = lights[k, 0] + r * noise[0], lights[k, 1] + r * noise[1], lights[k, 2] + r * noise[2]
        if shadowed(geo, shadow_list, lights, k, px, py, pz, tx, ty, tz):
            continue
        gain *= 0.6 + 0.4 * min(1.0, free)
        for c in range(3):
            out[c] += gain * lights[k, 4 + c]
        if gloss > 0.0:
            hx, hy, hz = x * q + eye[0], y * q + eye[1], z * q + eye[2]
            h = (hx * n[0] + hy * n[1] + hz * n[2]) / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
            out[3] += gloss * lights[k, 5] * facing / (far2 + 0.3) * max(0.0, h) ** 60
