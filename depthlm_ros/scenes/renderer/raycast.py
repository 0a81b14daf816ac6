# SPDX-License-Identifier: Apache-2.0
"""Ray casting: kernels that find which solid each pixel shows, and at which depth.

A ray is origin + t * direction, and the z of its direction is 1 in the camera's frame, so that t is the z-depth. Each
solid is tested only inside the screen rectangle of its bounding box. In the solid's own unit space the direction is
linear in (u, v), so that a test costs only a few operations. `geometry` prepares the solids and `trace` casts the rays.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT, cached_kernel
from depthlm_ros.scenes.world.primitives import BALL, BOX

BIG = 1e30
NEAR_M = 0.02


@njit(forceinline=True, **JIT)
def box_entry(ox, oy, oz, dx, dy, dz):
    """Returns t where a ray from outside enters the unit box, BIG if it misses the box."""
    ix, iy, iz = 1.0 / (dx + 1e-20), 1.0 / (dy + 1e-20), 1.0 / (dz + 1e-20)
    ax, bx = (-1.0 - ox) * ix, (1.0 - ox) * ix
    ay, by = (-1.0 - oy) * iy, (1.0 - oy) * iy
    az, bz = (-1.0 - oz) * iz, (1.0 - oz) * iz
    near = max(max(min(ax, bx), min(ay, by)), min(az, bz))
    far = min(min(max(ax, bx), max(ay, by)), max(az, bz))
    return near if (near <= far) and (near > 0.0) else BIG


@njit(**JIT)
def ball_entry(ox, oy, oz, dx, dy, dz):
    """Returns t where a ray from outside enters the unit ball, BIG if it misses the ball."""
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - 1.0
    disc = b * b - a * c
    if disc < 0.0:
        return BIG
    t = (-b - math.sqrt(disc)) / a
    return t if t > 0.0 else BIG


@njit(**JIT)
def frustum_entry(ox, oy, oz, dx, dy, dz, taper):
    """Returns t where a ray from outside enters the frustum, BIG if it misses it.

    The frustum is |z| <= 1 with radius 1 - taper * (z + 1) / 2.
    """
    best = BIG
    k = 0.5 * taper
    w = 1.0 - k - k * oz
    a = dx * dx + dy * dy - k * k * dz * dz
    b = ox * dx + oy * dy + k * dz * w
    c = ox * ox + oy * oy - w * w
    disc = b * b - a * c
    if disc >= 0.0 and abs(a) > 1e-15:
        root = math.sqrt(disc)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            if 0.0 < t < best and abs(oz + t * dz) <= 1.0:
                best = t
    for cap in (-1.0, 1.0):
        t = (cap - oz) / (dz + 1e-20)
        if 0.0 < t < best:
            x, y, r = ox + t * dx, oy + t * dy, 1.0 - k - k * cap
            if x * x + y * y <= r * r:
                best = t
    return best


@njit(forceinline=True, **JIT)
def solid_entry(shape, taper, ox, oy, oz, dx, dy, dz):
    """Returns t where a ray enters a solid; origin and direction are in the solid's unit space."""
    if shape == BOX:
        return box_entry(ox, oy, oz, dx, dy, dz)
    if shape == BALL:
        return ball_entry(ox, oy, oz, dx, dy, dz)
    return frustum_entry(ox, oy, oz, dx, dy, dz, taper)


@cached_kernel
def geometry(solids):
    """Prepares Scene.solids (N, 14) for ray casting.

    Returns float64 (N, 17): centre 3, map from world directions to the unit space 9 (row-major), half extents 3,
    shape, taper. The axes of a solid are orthogonal, so the rows of the map are axes divided by their squared length.
    """
    geo = np.empty((solids.shape[0], 17))
    for n in range(solids.shape[0]):
        for i in range(3):
            a0, a1, a2 = float(solids[n, 3 + 3 * i]), float(solids[n, 4 + 3 * i]), float(solids[n, 5 + 3 * i])
            size2 = a0 * a0 + a1 * a1 + a2 * a2
            geo[n, i] = solids[n, i]
            geo[n, 3 + 3 * i], geo[n, 4 + 3 * i], geo[n, 5 + 3 * i] = a0 / size2, a1 / size2, a2 / size2
            geo[n, 12 + i] = math.sqrt(size2)
        geo[n, 15], geo[n, 16] = solids[n, 12], solids[n, 13]
    return geo


@njit(**JIT)
def _corners(geo, n, R, t, out):
    """Fills out (8, 3) with the corners of solid n's bounding box in the camera's frame."""
    for k in range(8):
        x, y, z = geo[n, 0] - t[0], geo[n, 1] - t[1], geo[n, 2] - t[2]
        for i in range(3):
            s = geo[n, 12 + i] * geo[n, 12 + i] * (1.0 if (k >> i) & 1 else -1.0)
            x += s * geo[n, 3 + 3 * i]
            y += s * geo[n, 4 + 3 * i]
            z += s * geo[n, 5 + 3 * i]
        for j in range(3):
            out[k, j] = R[0, j] * x + R[1, j] * y + R[2, j] * z


@njit(**JIT)
def screen_rect(geo, n, R, t, cam, corners, rect):
    """Fills rect with the pixel rectangle (u0, v0, u1, v1) around the part of solid n in front of the camera.

    Returns False if no part of it is. cam: fx, fy, cx, cy. Edges that cross the near plane are cut there.
    """
    _corners(geo, n, R, t, corners)
    rect[0], rect[1], rect[2], rect[3] = BIG, BIG, -BIG, -BIG
    for k in range(8):
        for axis in range(4):
            # Axis 3 is the corner itself; the other axes are the edges that leave it.
            other = k if axis == 3 else k ^ (1 << axis)
            z, z2 = corners[k, 2], corners[other, 2]
            x, y = corners[k, 0], corners[k, 1]
            if axis == 3:
                if z < NEAR_M:
                    continue
            else:
                if other < k or (z < NEAR_M) == (z2 < NEAR_M):
                    continue
                f = (NEAR_M - z) / (z2 - z)
                x, y, z = x + f * (corners[other, 0] - x), y + f * (corners[other, 1] - y), NEAR_M
            u, v = cam[0] * x / z + cam[2], cam[1] * y / z + cam[3]
            rect[0], rect[1] = min(rect[0], u), min(rect[1], v)
            rect[2], rect[3] = max(rect[2], u), max(rect[3], v)
    return rect[2] >= rect[0]


@njit(**JIT)
def pixel_window(rect, offset, height, width, window):
    """Fills window with the rays (i0, j0, i1, j1), ends excluded, that a screen rectangle covers; False if none."""
    for k in range(2):
        size = width if k == 0 else height
        window[k] = int(max(0.0, math.floor(min(rect[k] - offset, 1e6))))
        window[k + 2] = int(min(float(size), math.ceil(max(rect[k + 2] - offset, -1e6)) + 1.0))
    return window[0] < window[2] and window[1] < window[3]


@njit(**JIT)
def ray_planes(geo, n, R, t, cam, A, B, C, o):
    """Fills, in solid n's unit space, the origin o of the rays and their direction A * u + B * v + C."""
    for i in range(3):
        m0, m1, m2 = geo[n, 3 + 3 * i], geo[n, 4 + 3 * i], geo[n, 5 + 3 * i]
        o[i] = m0 * (t[0] - geo[n, 0]) + m1 * (t[1] - geo[n, 1]) + m2 * (t[2] - geo[n, 2])
        A[i] = (m0 * R[0, 0] + m1 * R[1, 0] + m2 * R[2, 0]) / cam[0]
        B[i] = (m0 * R[0, 1] + m1 * R[1, 1] + m2 * R[2, 1]) / cam[1]
        C[i] = m0 * R[0, 2] + m1 * R[1, 2] + m2 * R[2, 2] - A[i] * cam[2] - B[i] * cam[3]


@njit(forceinline=True, **JIT)
def ray_pixel(lattice, i, j, offset):
    """Returns the undistorted pixel (u, v) of ray (i, j): (i, j) + offset, or the entry of the lens's lattice.

    lattice: float64 (h, w, 2) from lens.undistorted_lattice, or None. Compiled for None, no code of the lens remains.
    """
    if lattice is None:
        return i + offset, j + offset
    return lattice[j, i, 0], lattice[j, i, 1]


@njit(forceinline=True, **JIT)
def shell_entry(shell, R, t, x, y):
    """Returns t and the face where the ray (x, y, 1) leaves the room, a box seen from inside."""
    best, face = BIG, 0
    for k in range(3):
        d = R[k, 0] * x + R[k, 1] * y + R[k, 2]
        side = 1 if d > 0.0 else 0
        far = (shell[side, k] - t[k]) / (d + 1e-20)
        # Not positive: the ray is parallel to this wall.
        if 0.0 < far < best:
            best, face = far, 2 * k + side
    return best, face


@njit(**JIT)
def _trace_solid(shape, taper, o, A, B, C, offset, lattice, window, index, depth, hit):
    ox, oy, oz = o[0], o[1], o[2]
    for j in range(window[1], window[3]):
        for i in range(window[0], window[2]):
            u, v = ray_pixel(lattice, i, j, offset)
            px, py, pz = B[0] * v + C[0], B[1] * v + C[1], B[2] * v + C[2]
            t = solid_entry(shape, taper, ox, oy, oz, px + A[0] * u, py + A[1] * u, pz + A[2] * u)
            if t < depth[j, i]:
                depth[j, i] = t
                hit[j, i] = index


@njit(**JIT)
def _trace_shell(shell, R, t, cam, offset, lattice, depth, hit):
    """Fills depth and hit of every ray from the shell alone; hit = -1 - face."""
    for j in range(depth.shape[0]):
        for i in range(depth.shape[1]):
            u, v = ray_pixel(lattice, i, j, offset)
            best, face = shell_entry(shell, R, t, (u - cam[2]) / cam[0], (v - cam[3]) / cam[1])
            depth[j, i] = best
            hit[j, i] = -1 - face


@njit(**JIT)
def _largest_shift(lattice, offset):
    """Returns by how many pixels the lens moves a ray at most along either axis."""
    most = 0.0
    if lattice is not None:
        for j in range(lattice.shape[0]):
            for i in range(lattice.shape[1]):
                aside, down = abs(lattice[j, i, 0] - i - offset), abs(lattice[j, i, 1] - j - offset)
                most = max(most, max(aside, down))
    return most


@cached_kernel
def trace(geo, shell, R, t, cam, offset, height, width, lattice):
    """Returns the z-depth float64 (h, w), metres, and the index int16 (h, w) of what each ray meets first.

    index: row of a solid, or -1 - face for the shell. offset and lattice: see ray_pixel.
    """
    depth = np.empty((height, width))
    hit = np.empty((height, width), np.int16)
    _trace_shell(shell, R, t, cam, offset, lattice, depth, hit)
    slack = _largest_shift(lattice, offset)
    A, B, C, o = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    corners, rect, window = np.empty((8, 3)), np.empty(4), np.empty(4, np.int64)
    for n in range(geo.shape[0]):
        if not screen_rect(geo, n, R, t, cam, corners, rect):
            continue
        rect[0], rect[1], rect[2], rect[3] = rect[0] - slack, rect[1] - slack, rect[2] + slack, rect[3] + slack
        if not pixel_window(rect, offset, height, width, window):
            continue
        ray_planes(geo, n, R, t, cam, A, B, C, o)
        _trace_solid(int(geo[n, 15]), geo[n, 16], o, A, B, C, offset, lattice, window, n, depth, hit)
    return depth, hit
