# SPDX-License-Identifier: Apache-2.0
"""The surface point that a ray meets: the face, its normal, and metric coordinates on the face for the texture."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT, JIT_ALLOCATING
from depthlm_ros.scenes.renderer.raycast import ray_pixel


@njit(**JIT)
def _round_normal(geo, index, q, n):
    """Fills the normal n of a ball or frustum at its local point q; returns the face: 5 for a flat end, else 6."""
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
    """Fills q (local unit coordinates) and n (world normal) at world point p; returns the face (0 to 5, 6 if round)."""
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
    # A row of the map is an axis divided by its squared length; times the half extent it is a unit vector.
    gain = geo[index, 12 + axis] if positive else -geo[index, 12 + axis]
    for i in range(3):
        n[i] = gain * geo[index, 3 + 3 * axis + i]
    return 2 * axis + (1 if positive else 0)


@njit(forceinline=True, **JIT)
def face_coordinates(geo, shell, index, face, q):
    """Returns metric coordinates on a face and its half extents: a_m, b_m, half_a, half_b; b is more vertical."""
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
def world_point(R, t, cam, u, v, far, p, eye):
    """Fills p with the world point where a ray ends, and eye with the direction from there to the camera."""
    x, y = (u - cam[2]) / cam[0], (v - cam[3]) / cam[1]
    ray = 1.0 / math.sqrt(x * x + y * y + 1.0)
    for k in range(3):
        d = R[k, 0] * x + R[k, 1] * y + R[k, 2]
        p[k], eye[k] = t[k] + far * d, -d * ray


@njit(forceinline=True, **JIT)
def surface_pixel(geo, shell, R, t, cam, lattice, depth, hit, j, i, work, keys, surface_points):
    """Fills keys and surface_points of pixel (j, i), see `surfaces`; work: space for four vectors."""
    p, q, n, eye = work[0], work[1], work[2], work[3]
    index, (u, v) = int(hit[j, i]), ray_pixel(lattice, i, j, 0.0)
    world_point(R, t, cam, u, v, depth[j, i], p, eye)
    keys[j, i] = 8 * index + surface(geo, shell, index, p, q, n)
    for k in range(3):
        surface_points[j, i, k], surface_points[j, i, k + 3] = q[k], n[k]


@njit(**JIT)
def _fill_surfaces(geo, shell, R, t, cam, lattice, depth, hit, work, keys, surface_points):
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            surface_pixel(geo, shell, R, t, cam, lattice, depth, hit, j, i, work, keys, surface_points)


@njit(**JIT_ALLOCATING)
def surfaces(geo, shell, R, t, cam, lattice, depth, hit):
    """Returns what the rays through pixel centres meet.

    keys: int32 (h, w), 8 * index + face, see `surface`. surface_points: float32 (h, w, 6), local
    point and world normal.
    """
    keys, surface_points = np.empty(depth.shape, np.int32), np.empty((*depth.shape, 6), np.float32)
    _fill_surfaces(geo, shell, R, t, cam, lattice, depth, hit, np.empty((4, 3)), keys, surface_points)
    return keys, surface_points
