"""Colour of a lattice of rays: what surface each one meets, the light there, the texture.

Light changes slowly along a surface, texture does not: light is computed for every other pixel, like the white
fields of a chessboard, and shared between neighbours that see the same face; colour is computed for every ray.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.jit import JIT
from depthlm_ros.scenes.lighting import light_at
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


@njit(inline="always", **JIT)
def _meet(geo, shell, R, t, cam, u, v, far, index, p, q, n, eye):
    """Fills world point, local point, normal and direction to the camera of a ray's hit; returns face and key."""
    x, y = (u - cam[2]) / cam[0], (v - cam[3]) / cam[1]
    ray = 1.0 / math.sqrt(x * x + y * y + 1.0)
    for k in range(3):
        d = R[k, 0] * x + R[k, 1] * y + R[k, 2]
        p[k], eye[k] = t[k] + far * d, -d * ray
    face = surface(geo, shell, index, p, q, n)
    return face, float(index * 8 + face)


@njit(inline="always", **JIT)
def _spread(i, j, noise):
    """Three numbers in [-0.6, 0.6], well spread among neighbours (Roberts' R2 and R1 sequences over the pixels)."""
    x, y, z = 0.7548776662 * i + 0.5698402910 * j, 0.5698402910 * i + 0.7548776662 * j, 0.6180339887 * (i + 2 * j)
    noise[0] = 1.2 * (x - math.floor(x)) - 0.6
    noise[1] = 1.2 * (y - math.floor(y)) - 0.6
    noise[2] = 1.2 * (z - math.floor(z)) - 0.6


@njit(inline="always", **JIT)
def _borrow(known, around, j, i, key, out):
    """Mean light of those neighbours of (j, i) that see the same face; False if none does."""
    found = 0.0
    out[0] = out[1] = out[2] = out[3] = 0.0
    for k in range(around.shape[0]):
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
def _light_half(scene, R, t, cam, depth, hit):
    """float64 (h, w, 5): light r, g, b, highlight and key of the face at every other pixel; key NaN elsewhere."""
    geo, paints, shell, near_list, shadow_list, lights, ambient = scene
    light = np.empty((*depth.shape, 5))
    p, q, n, eye, noise, out = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(4)
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            light[j, i, 4] = np.nan
            if (i + j) & 1:
                continue
            index = int(hit[j, i])
            _, light[j, i, 4] = _meet(geo, shell, R, t, cam, i, j, depth[j, i], index, p, q, n, eye)
            gloss = paints[6 + index if index >= 0 else -1 - index, 8]
            _spread(i, j, noise)
            light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out)
            for c in range(4):
                light[j, i, c] = out[c]
    return light


@njit(**JIT)
def _smooth(light):
    """Each computed light averaged with its diagonal neighbours on the same face: half-shadows without grain."""
    smooth, out = light.copy(), np.empty(4)
    around = np.array([[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]])
    for j in range(light.shape[0]):
        for i in range(j & 1, light.shape[1], 2):
            if _borrow(light, around, j, i, light[j, i, 4], out):
                for c in range(4):
                    smooth[j, i, c] = out[c]
    return smooth


@njit(**JIT)
def _colour(scene, R, t, cam, offset, depth, hit, phase, known, around, colour, light):
    """Colour of every other ray of a lattice, with light borrowed from `known` where a neighbour sees the same face."""
    geo, paints, shell, near_list, shadow_list, lights, ambient = scene
    p, q, n, eye, noise, out = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(4)
    for j in range(depth.shape[0]):
        for i in range((j + phase) & 1, depth.shape[1], 2):
            index, far = int(hit[j, i]), depth[j, i]
            face, key = _meet(geo, shell, R, t, cam, i + offset, j + offset, far, index, p, q, n, eye)
            row = 6 + index if index >= 0 else -1 - index
            if not _borrow(known, around, j, i, key, out):
                _spread(i, j, noise)
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

    scene: geo, paints, shell, near_list, shadow_list, lights, ambient. Light is r, g, b, highlight, key of the face.
    """
    known = _smooth(_light_half(scene, R, t, cam, depth, hit))
    colour, light = np.empty((*depth.shape, 3)), np.empty((*depth.shape, 5))
    itself, cross = np.array([[0, 0]]), np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
    _colour(scene, R, t, cam, 0.0, depth, hit, 0, known, itself, colour, light)
    _colour(scene, R, t, cam, 0.0, depth, hit, 1, known, cross, colour, light)
    return colour, light


@njit(**JIT)
def shade_corners(scene, R, t, cam, depth, hit, known):
    """Colour of the rays through pixel corners, float64 (h + 1, w + 1, 3), lit as the centres around them."""
    colour, light = np.empty((*depth.shape, 3)), np.empty((*depth.shape, 5))
    square = np.array([[-1, -1], [-1, 0], [0, -1], [0, 0]])
    for phase in range(2):
        _colour(scene, R, t, cam, -0.5, depth, hit, phase, known, square, colour, light)
    return colour
