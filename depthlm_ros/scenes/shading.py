"""Colour of a lattice of rays: what surface each one meets, the light there, the texture.

Light changes slowly along a surface, texture does not: light is computed where it changes and shared between
neighbours that see the same face; colour is computed for every pixel, and for corners of pixels at edges.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.jit import JIT, MAKER
from depthlm_ros.scenes.lighting import light_at
from depthlm_ros.scenes.texture import albedo

# Neighbours as (rows down, columns right): those that the n-th quarter of the pixels takes its light from (none, left
# and right, across, above and below), a pixel with its neighbours, and the centres around a corner.
AROUND = np.array(
    [
        [[0, 0], [0, 0], [0, 0], [0, 0]],
        [[-1, -1], [-1, 1], [1, -1], [1, 1]],
        [[0, -1], [0, 1], [-1, 0], [1, 0]],
        [[-1, 0], [1, 0], [0, -1], [0, 1]],
    ]
)
# Light that changes by more than this between neighbours is computed, not borrowed.
UNEVEN = 1.3
CROSS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
SQUARE = np.array([[-1, -1], [-1, 0], [0, -1], [0, 0]])


@njit(**JIT)
def _round_normal(geo, index, q, n):
    """Fills the normal n of a ball or frustum at its local point q; returns its face: 5 for a flat end, else 6."""
    gx, gy, gz, face = q[0], q[1], q[2], 6
    if geo[index, 15] == 2.0:
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


@njit(forceinline=True, **JIT)
def surface(geo, shell, index, p, q, n):
    """Fills q (local unit coordinates) and n (world normal) at world point p; returns the face: 0..5, or 6 if round."""
    if index < 0:
        face = -1 - index
        n[0] = n[1] = n[2] = 0.0
        n[face >> 1] = 1.0 if face & 1 == 0 else -1.0
        for i in range(3):
            q[i] = p[i] - 0.5 * (shell[0, i] + shell[1, i])
        return face
    x, y, z = p[0] - geo[index, 0], p[1] - geo[index, 1], p[2] - geo[index, 2]
    a = geo[index, 3] * x + geo[index, 4] * y + geo[index, 5] * z
    b = geo[index, 6] * x + geo[index, 7] * y + geo[index, 8] * z
    c = geo[index, 9] * x + geo[index, 10] * y + geo[index, 11] * z
    q[0], q[1], q[2] = a, b, c
    if geo[index, 15] > 0.0:
        return _round_normal(geo, index, q, n)
    ax, ay, az = abs(a), abs(b), abs(c)
    axis = 0 if (ax >= ay and ax >= az) else (1 if ay >= az else 2)
    positive = (a if axis == 0 else (b if axis == 1 else c)) > 0.0
    # A row of the map is an axis over its squared length: times the half extent it is a unit vector.
    gain = geo[index, 12 + axis] if positive else -geo[index, 12 + axis]
    for i in range(3):
        n[i] = gain * geo[index, 3 + 3 * axis + i]
    return 2 * axis + (1 if positive else 0)


@njit(forceinline=True, **JIT)
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


@njit(forceinline=True, **JIT)
def place(R, t, cam, u, v, far, p, eye):
    """Fills the world point that a ray ends at and the direction from there to the camera."""
    x, y = (u - cam[2]) / cam[0], (v - cam[3]) / cam[1]
    ray = 1.0 / math.sqrt(x * x + y * y + 1.0)
    for k in range(3):
        d = R[k, 0] * x + R[k, 1] * y + R[k, 2]
        p[k], eye[k] = t[k] + far * d, -d * ray


@njit(**JIT)
def _fill_surfaces(geo, shell, R, t, cam, depth, hit, work, keys, meets):
    p, q, n, eye = work[0], work[1], work[2], work[3]
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            index = int(hit[j, i])
            place(R, t, cam, float(i), float(j), depth[j, i], p, eye)
            keys[j, i] = 8 * index + surface(geo, shell, index, p, q, n)
            for k in range(3):
                meets[j, i, k], meets[j, i, k + 3] = q[k], n[k]


@njit(**MAKER)
def surfaces(geo, shell, R, t, cam, depth, hit):
    """What the rays through pixel centres meet: face keys int32 (h, w), float32 (h, w, 6) local point and normal.

    A key is 8 * index + face, see `surface`.
    """
    keys, meets = np.empty(depth.shape, np.int32), np.empty((*depth.shape, 6), np.float32)
    _fill_surfaces(geo, shell, R, t, cam, depth, hit, np.empty((4, 3)), keys, meets)
    return keys, meets


@njit(forceinline=True, **JIT)
def _spread(i, j, noise):
    """Three numbers in [-0.6, 0.6], well spread among neighbours (Roberts' R2 and R1 sequences over the pixels)."""
    x, y, z = 0.7548776662 * i + 0.5698402910 * j, 0.5698402910 * i + 0.7548776662 * j, 0.6180339887 * (i + 2 * j)
    noise[0] = 1.2 * (x - math.floor(x)) - 0.6
    noise[1] = 1.2 * (y - math.floor(y)) - 0.6
    noise[2] = 1.2 * (z - math.floor(z)) - 0.6


@njit(forceinline=True, **JIT)
def _borrow(light, keys, around, j, i, key, out):
    """Mean light of those neighbours of (j, i) that see the face `key`.

    Returns the largest over the smallest light among them, 0 if none sees it.
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


@njit(**JIT)
def _fill_light(scene, R, t, cam, depth, keys, meets, turn, work, light):
    """Light of every fourth pixel: turn 0 computes it, the others take it from around where the face is the same."""
    geo, paints, shell, near_list, shadow_list, lights, ambient = scene
    p, n, eye, noise, out = work[0, :3], work[1, :3], work[2, :3], work[3, :3], work[4]
    around = AROUND[turn]
    for j in range(turn & 1, depth.shape[0], 2):
        for i in range((turn + 1) // 2 & 1, depth.shape[1], 2):
            if turn == 0 or not 0.0 < _borrow(light, keys, around, j, i, keys[j, i], out) < UNEVEN:
                place(R, t, cam, float(i), float(j), depth[j, i], p, eye)
                n[0], n[1], n[2] = meets[j, i, 3], meets[j, i, 4], meets[j, i, 5]
                index = keys[j, i] >> 3
                gloss = paints[6 + index if index >= 0 else -1 - index, 8]
                _spread(i, j, noise)
                light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out)
            for c in range(4):
                light[j, i, c] = out[c]


@njit(**JIT)
def _smooth(light, keys, out, smooth):
    """Each light averaged with its four neighbours on the same face: half-shadows without grain."""
    for j in range(light.shape[0]):
        for i in range(light.shape[1]):
            _borrow(light, keys, CROSS, j, i, keys[j, i], out)
            for c in range(4):
                smooth[j, i, c] = out[c]


@njit(**MAKER)
def shade_light(scene, R, t, cam, depth, keys, meets):
    """float32 (h, w, 4): light r, g, b and highlight on what each pixel sees.

    scene: geo, paints, shell, near_list, shadow_list, lights, ambient. Light is computed for every fourth pixel, and
    where none of the pixels around sees the same face or a shadow ends.
    """
    light, smooth, work = (
        np.empty((*keys.shape, 4), np.float32),
        np.empty((*keys.shape, 4), np.float32),
        np.empty((5, 4)),
    )
    for turn in range(4):
        _fill_light(scene, R, t, cam, depth, keys, meets, turn, work, light)
    _smooth(light, keys, work[4], smooth)
    return smooth


@njit(forceinline=True, **JIT)
def _paint_at(scene, cam, far, index, face, q, n, eye, out):
    """Colour (r, g, b) of a met surface under the light `out`."""
    geo, paints, shell = scene[0], scene[1], scene[2]
    row = 6 + index if index >= 0 else -1 - index
    slant = max(0.12, abs(n[0] * eye[0] + n[1] * eye[1] + n[2] * eye[2]))
    a, b, ha, hb = face_coordinates(geo, shell, index, face, q)
    r, g, c = albedo(paints, row, a, b, ha, hb, far / (cam[0] * slant))
    glow = paints[row, 9]
    return r * (out[0] + glow) + out[3], g * (out[1] + glow) + out[3], c * (out[2] + glow) + out[3]


@njit(**JIT)
def _fill_centres(scene, R, t, cam, depth, keys, meets, light, work, colour):
    p, q, n, eye, out = work[0, :3], work[1, :3], work[2, :3], work[3, :3], work[4]
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            place(R, t, cam, float(i), float(j), depth[j, i], p, eye)
            for k in range(3):
                q[k], n[k] = meets[j, i, k], meets[j, i, k + 3]
            for c in range(4):
                out[c] = light[j, i, c]
            index, face = keys[j, i] >> 3, keys[j, i] & 7
            r, g, b = _paint_at(scene, cam, depth[j, i], index, face, q, n, eye, out)
            colour[j, i, 0], colour[j, i, 1], colour[j, i, 2] = r, g, b


@njit(**MAKER)
def shade_centres(scene, R, t, cam, depth, keys, meets, light):
    """Colour of the rays through pixel centres, float32 (h, w, 3)."""
    colour = np.empty((*keys.shape, 3), np.float32)
    _fill_centres(scene, R, t, cam, depth, keys, meets, light, np.empty((5, 4)), colour)
    return colour


@njit(forceinline=True, **JIT)
def _flat(centre, keys, j, i, index):
    """Do the pixels around corner (j, i) see one face of solid `index`, in nearly one colour?"""
    if j == 0 or i == 0 or j == keys.shape[0] or i == keys.shape[1]:
        return False
    key = keys[j, i]
    if key >> 3 != index or keys[j - 1, i] != key or keys[j, i - 1] != key or keys[j - 1, i - 1] != key:
        return False
    a, b, c, d = centre[j, i, 1], centre[j - 1, i, 1], centre[j, i - 1, 1], centre[j - 1, i - 1, 1]
    return max(max(a, b), max(c, d)) <= 1.4 * min(min(a, b), min(c, d))


@njit(**JIT)
def _fill_corners(scene, R, t, cam, depth, hit, centre, keys, known, work, colour):
    geo, paints, shell, near_list, shadow_list, lights, ambient = scene
    p, q, n, eye, noise, out = work[0, :3], work[1, :3], work[2, :3], work[3, :3], work[4, :3], work[5]
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            index, far = int(hit[j, i]), depth[j, i]
            if _flat(centre, keys, j, i, index):
                for c in range(3):
                    four = centre[j - 1, i - 1, c] + centre[j - 1, i, c] + centre[j, i - 1, c] + centre[j, i, c]
                    colour[j, i, c] = 0.25 * four
                continue
            place(R, t, cam, i - 0.5, j - 0.5, far, p, eye)
            face = surface(geo, shell, index, p, q, n)
            if _borrow(known, keys, SQUARE, j, i, 8 * index + face, out) == 0.0:
                gloss = paints[6 + index if index >= 0 else -1 - index, 8]
                _spread(i, j, noise)
                light_at(geo, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out)
            r, g, b = _paint_at(scene, cam, far, index, face, q, n, eye, out)
            colour[j, i, 0], colour[j, i, 1], colour[j, i, 2] = r, g, b


@njit(**MAKER)
def shade_corners(scene, R, t, cam, depth, hit, centre, keys, light):
    """Colour of the rays through pixel corners, float32 (h + 1, w + 1, 3), lit as the centres around them.

    Where the centres around a corner see the same face in one colour, their mean is its colour.
    """
    colour = np.empty((*depth.shape, 3), np.float32)
    _fill_corners(scene, R, t, cam, depth, hit, centre, keys, light, np.empty((6, 4)), colour)
    return colour
