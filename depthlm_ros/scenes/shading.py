"""Light on what the rays see: direct light with soft shadows, ambient light, occlusion near surfaces.

`geo` is the table of raycast.geometry: one row of numbers per solid.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.lookup import CELL_M, NEAR_MAX, REACH_M, SHADOW_MAX, SIDE, octahedral
from depthlm_ros.scenes.raycast import JIT, solid_entry
from depthlm_ros.scenes.texture import albedo


@njit(inline="always", **JIT)
def surface(geo, shell, index, p, q, n):
    """Fills q (local unit coordinates) and n (world normal) at world point p; returns the face: 0..5, or 6 if round."""
    if index < 0:
        face = -1 - index
        n[0] = n[1] = n[2] = 0.0
        n[face // 2] = 1.0 if face % 2 == 0 else -1.0
        for i in range(3):
            q[i] = p[i] - 0.5 * (shell[0, i] + shell[1, i])
        return face
    x, y, z = p[0] - geo[index, 0], p[1] - geo[index, 1], p[2] - geo[index, 2]
    for i in range(3):
        q[i] = geo[index, 3 + 3 * i] * x + geo[index, 4 + 3 * i] * y + geo[index, 5 + 3 * i] * z
    gx, gy, gz, face = q[0], q[1], q[2], 6
    if geo[index, 15] == 0.0:
        ax, ay, az = abs(gx), abs(gy), abs(gz)
        axis = 0 if (ax >= ay and ax >= az) else (1 if ay >= az else 2)
        side = 1.0 if q[axis] > 0.0 else -1.0
        face = 2 * axis + (1 if side > 0.0 else 0)
        gx, gy, gz = (side if axis == 0 else 0.0), (side if axis == 1 else 0.0), (side if axis == 2 else 0.0)
    elif geo[index, 15] == 2.0:
        k = 0.5 * geo[index, 16]
        if abs(q[2]) > 0.9995:
            gx, gy, gz, face = 0.0, 0.0, q[2], 5
        else:
            gz = k * (1.0 - k - k * q[2])
    for i in range(3):
        n[i] = geo[index, 3 + i] * gx + geo[index, 6 + i] * gy + geo[index, 9 + i] * gz
    length = 1.0 / math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    n[0], n[1], n[2] = n[0] * length, n[1] * length, n[2] * length
    return face


@njit(inline="always", **JIT)
def face_coordinates(geo, shell, index, face, q):
    """Metric coordinates on a face and its half extents: a_m, b_m, half_a, half_b; b is the more vertical one."""
    if index < 0:
        hx, hy, hz = (
            0.5 * (shell[1, 0] - shell[0, 0]),
            0.5 * (shell[1, 1] - shell[0, 1]),
            0.5 * (shell[1, 2] - shell[0, 2]),
        )
        x, y, z = q[0], q[1], q[2]
    else:
        hx, hy, hz = geo[index, 12], geo[index, 13], geo[index, 14]
        x, y, z = q[0] * hx, q[1] * hy, q[2] * hz
    if face == 6:
        return math.atan2(q[1], q[0]) * hx, z, 3.2 * hx, hz
    if face < 2:
        return y, z, hy, hz
    if face < 4:
        return x, z, hx, hz
    return (x, y, hx, hy) if hx >= hy else (y, x, hy, hx)


@njit(**JIT)
def _gap(geo, k, x, y, z, most):
    """Distance from a point to solid k, good to a few percent near it (round solids as scaled balls or pipes).

    Where it is clear that the distance exceeds `most`, `most` is returned.
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


@njit(inline="always", **JIT)
def openness(geo, shell, near_list, p, n):
    """Share of ambient light that reaches a point: how far the next surface is along the normal, at two distances."""
    i, j = int((p[0] - shell[0, 0]) / CELL_M), int((p[1] - shell[0, 1]) / CELL_M)
    i, j = max(0, min(near_list.shape[1] - 1, i)), max(0, min(near_list.shape[0] - 1, j))
    lost = 0.0
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
        lost += (h - max(gap, 0.0)) / h * (0.45 if step == 0 else 0.35)
    return 1.0 - lost


@njit(inline="always", **JIT)
def shadowed(geo, shadow_list, lights, light, px, py, pz, tx, ty, tz):
    """Is a solid between point p and point t of this light?"""
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


@njit(inline="always", **JIT)
def light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out):
    """Fills out: diffuse light r, g, b and a white highlight at world point p with normal n.

    noise: where on the light's ball the shadow ray ends, each in [-1, 1].
    """
    free = openness(geo, shell, near_list, p, n)
    up = 0.5 + 0.5 * n[2]
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
        gain = cosine * facing / (far2 + 0.3)
        if gain * lights[k, 5] < 0.03 * out[1]:
            continue
        r = lights[k, 3]
        tx, ty, tz = lights[k, 0] + r * noise[0], lights[k, 1] + r * noise[1], lights[k, 2] + r * noise[2]
        if shadowed(geo, shadow_list, lights, k, px, py, pz, tx, ty, tz):
            continue
        gain *= 0.6 + 0.4 * free
        for c in range(3):
            out[c] += gain * lights[k, 4 + c]
        if gloss > 0.0:
            hx, hy, hz = x * q + eye[0], y * q + eye[1], z * q + eye[2]
            h = (hx * n[0] + hy * n[1] + hz * n[2]) / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
            out[3] += gloss * lights[k, 5] * facing / (far2 + 0.3) * max(0.0, h) ** 60


@njit(inline="always", **JIT)
def _borrow(known, around, j, i, key, out):
    """Mean light of those neighbours of (j, i) that see the same face; False if none does."""
    found = 0.0
    out[0] = out[1] = out[2] = out[3] = 0.0
    for k in range(4):
        y, x = j + around[k, 0], i + around[k, 1]
        if 0 <= y < known.shape[0] and 0 <= x < known.shape[1] and known[y, x, 4] == key:
            found += 1.0
            for c in range(4):
                out[c] += known[y, x, c]
    if found == 0.0:
        return False
    for c in range(4):
        out[c] /= found
    return True


@njit(**JIT)
def _shade(scene, R, t, cam, offset, depth, hit, phase, known, around, colour, light):
    """Every other ray of a lattice (phase 0 or 1, like a chessboard); where `around` has rows, light is borrowed."""
    geo, paints, shell, near_list, shadow_list, lights, ambient = scene
    height, width = depth.shape
    p, q, n, eye, noise, out = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(4)
    for j in range(height):
        for i in range((j + phase) & 1, width, 2):
            x, y, far = (i + offset - cam[2]) / cam[0], (j + offset - cam[3]) / cam[1], depth[j, i]
            ray = 1.0 / math.sqrt(x * x + y * y + 1.0)
            for k in range(3):
                d = R[k, 0] * x + R[k, 1] * y + R[k, 2]
                p[k], eye[k] = t[k] + far * d, -d * ray
            index = int(hit[j, i])
            face = surface(geo, shell, index, p, q, n)
            key = float(index * 8 + face)
            row = 6 + index if index >= 0 else -1 - index
            if around.shape[0] == 0 or not _borrow(known, around, j, i, key, out):
                for k in range(3):
                    # Roberts' R2 and R1 sequences over the pixels: neighbours get well spread points.
                    x = i * (0.7548776662 if k == 0 else 0.5698402910 if k == 1 else 0.6180339887)
                    x += j * (0.5698402910 if k == 0 else 0.7548776662 if k == 1 else 0.3819660113)
                    noise[k] = 1.2 * (x - math.floor(x)) - 0.6
                light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, paints[row, 8], eye, noise, out)
            slant = max(0.12, abs(n[0] * eye[0] + n[1] * eye[1] + n[2] * eye[2]))
            a, b, ha, hb = face_coordinates(geo, shell, index, face, q)
            rgb = albedo(paints, row, a, b, ha, hb, far / (cam[0] * slant))
            for c in range(3):
                colour[j, i, c] = rgb[c] * (out[c] + paints[row, 9]) + out[3]
            for c in range(4):
                light[j, i, c] = out[c]
            light[j, i, 4] = key


@njit(**JIT)
def shade_centres(scene, R, t, cam, depth, hit):
    """Colour of the rays through pixel centres, float64 (h, w, 3), and the light on what they see (h, w, 5).

    scene: geo, paints, shell, near_list, shadow_list, lights, ambient. The light (r, g, b, highlight, key of the
    face) is computed for every other pixel; the rest take the mean of their neighbours on the same face.
    """
    colour, light = np.empty((*depth.shape, 3)), np.empty((*depth.shape, 5))
    cross = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
    _shade(scene, R, t, cam, 0.0, depth, hit, 0, light, cross[:0], colour, light)
    _shade(scene, R, t, cam, 0.0, depth, hit, 1, light, cross, colour, light)
    return colour, light


@njit(**JIT)
def shade_corners(scene, R, t, cam, depth, hit, known):
    """Colour of the rays through pixel corners, float64 (h + 1, w + 1, 3), lit as the centres around them."""
    colour, light = np.empty((*depth.shape, 3)), np.empty((*depth.shape, 5))
    square = np.array([[-1, -1], [-1, 0], [0, -1], [0, 0]])
    for phase in range(2):
        _shade(scene, R, t, cam, -0.5, depth, hit, phase, known, square, colour, light)
    return colour
