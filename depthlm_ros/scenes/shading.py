"""Light on what the rays see: direct light with soft shadows, ambient light, occlusion near surfaces."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from depthlm_ros.scenes.lookup import CELL_M, NEAR_MAX, REACH_M, SHADOW_MAX, SIDE, octahedral
from depthlm_ros.scenes.raycast import JIT, solid_entry
from depthlm_ros.scenes.texture import albedo, hash01


@njit(**JIT)
def surface(solids, maps, shell, index, p, q, n):
    """Fills q (local unit coordinates) and n (world normal) at world point p; returns the face: 0..5, or 6 if round."""
    if index < 0:
        face = -1 - index
        n[0] = n[1] = n[2] = 0.0
        n[face // 2] = 1.0 if face % 2 == 0 else -1.0
        for i in range(3):
            q[i] = p[i] - 0.5 * (shell[0, i] + shell[1, i])
        return face
    s, m = solids[index], maps[index]
    x, y, z = p[0] - s[0], p[1] - s[1], p[2] - s[2]
    for i in range(3):
        q[i] = m[i, 0] * x + m[i, 1] * y + m[i, 2] * z
    gx, gy, gz, face = q[0], q[1], q[2], 6
    shape = int(s[12])
    if shape == 0:
        ax, ay, az = abs(gx), abs(gy), abs(gz)
        axis = 0 if (ax >= ay and ax >= az) else (1 if ay >= az else 2)
        side = 1.0 if q[axis] > 0.0 else -1.0
        face = 2 * axis + (1 if side > 0.0 else 0)
        gx, gy, gz = (side if axis == 0 else 0.0), (side if axis == 1 else 0.0), (side if axis == 2 else 0.0)
    elif shape == 2:
        k = 0.5 * s[13]
        if abs(q[2]) > 0.9995:
            gx, gy, gz, face = 0.0, 0.0, q[2], 5
        else:
            gz = k * (1.0 - k - k * q[2])
    for i in range(3):
        n[i] = m[0, i] * gx + m[1, i] * gy + m[2, i] * gz
    length = 1.0 / math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    n[0], n[1], n[2] = n[0] * length, n[1] * length, n[2] * length
    return face


@njit(**JIT)
def face_coordinates(solids, shell, index, face, q):
    """Metric coordinates on a face and its half extents: a_m, b_m, half_a, half_b; b is the more vertical one."""
    if index < 0:
        hx, hy, hz = 0.5 * (shell[1, 0] - shell[0, 0]), 0.5 * (shell[1, 1] - shell[0, 1]), 0.5 * (shell[1, 2] - shell[0, 2])
        x, y, z = q[0], q[1], q[2]
    else:
        s = solids[index]
        hx = math.sqrt(s[3] * s[3] + s[4] * s[4] + s[5] * s[5])
        hy = math.sqrt(s[6] * s[6] + s[7] * s[7] + s[8] * s[8])
        hz = math.sqrt(s[9] * s[9] + s[10] * s[10] + s[11] * s[11])
        x, y, z = q[0] * hx, q[1] * hy, q[2] * hz
    if face == 6:
        return math.atan2(q[1], q[0]) * hx, z, 3.2 * hx, hz
    if face < 2:
        return y, z, hy, hz
    if face < 4:
        return x, z, hx, hz
    return (x, y, hx, hy) if hx >= hy else (y, x, hy, hx)


@njit(**JIT)
def _gap(solids, maps, index, x, y, z):
    """Distance from a point to a solid, good to a few percent near it (round solids as scaled balls or pipes)."""
    s, m = solids[index], maps[index]
    x, y, z = x - s[0], y - s[1], z - s[2]
    total, radial, size = 0.0, 0.0, 0.0
    for i in range(3):
        h2 = s[3 + 3 * i] ** 2 + s[4 + 3 * i] ** 2 + s[5 + 3 * i] ** 2
        q = abs(m[i, 0] * x + m[i, 1] * y + m[i, 2] * z)
        shape = s[12]
        if shape == 0 or (shape == 2 and i == 2):
            d = max(0.0, q - 1.0)
            total += d * d * h2
        else:
            radial += q * q
            size = max(size, h2)
    if radial > 1.0:
        d = math.sqrt(radial) - 1.0
        total += d * d * size
    return math.sqrt(total)


@njit(**JIT)
def openness(solids, maps, shell, near_list, p, n):
    """Share of ambient light that reaches a point: how far the next surface is along the normal, at two distances."""
    i, j = int((p[0] - shell[0, 0]) / CELL_M), int((p[1] - shell[0, 1]) / CELL_M)
    i, j = max(0, min(near_list.shape[1] - 1, i)), max(0, min(near_list.shape[0] - 1, j))
    lost = 0.0
    for step in range(2):
        h = 0.09 if step == 0 else REACH_M
        x, y, z = p[0] + h * n[0], p[1] + h * n[1], p[2] + h * n[2]
        gap = min(min(x - shell[0, 0], shell[1, 0] - x), min(y - shell[0, 1], shell[1, 1] - y))
        gap = min(min(gap, h), min(z - shell[0, 2], shell[1, 2] - z))
        for k in range(NEAR_MAX):
            index = near_list[j, i, k]
            if index < 0:
                break
            gap = min(gap, _gap(solids, maps, index, x, y, z))
        lost += (h - max(gap, 0.0)) / h * (0.35 if step == 0 else 0.45)
    return 1.0 - lost


@njit(**JIT)
def shadowed(solids, maps, light_lists, light, p, target):
    """Is a solid between p and target, a point of this light?"""
    dx, dy, dz = target[0] - p[0], target[1] - p[1], target[2] - p[2]
    a, b = octahedral(p[0] - light[0], p[1] - light[1], p[2] - light[2])
    i, j = min(SIDE - 1, int(a * SIDE)), min(SIDE - 1, int(b * SIDE))
    for k in range(SHADOW_MAX):
        index = light_lists[j, i, k]
        if index < 0:
            return False
        s, m = solids[index], maps[index]
        x, y, z = p[0] - s[0], p[1] - s[1], p[2] - s[2]
        t = solid_entry(
            int(s[12]),
            s[13],
            m[0, 0] * x + m[0, 1] * y + m[0, 2] * z,
            m[1, 0] * x + m[1, 1] * y + m[1, 2] * z,
            m[2, 0] * x + m[2, 1] * y + m[2, 2] * z,
            m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz,
            m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz,
            m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz,
        )
        if t < 1.0:
            return True
    return False


@njit(**JIT)
def light_at(solids, maps, shell, near_list, shadow_list, lights, ambient, p, n, gloss, eye, noise, out):
    """Fills out: diffuse light r, g, b and a white highlight at world point p with normal n.

    noise: two numbers in [0, 1) that place the shadow ray's end on the light.
    """
    free = openness(solids, maps, shell, near_list, p, n)
    up = 0.5 + 0.5 * n[2]
    for c in range(3):
        out[c] = free * (ambient[0, c] * up + ambient[1, c] * (1.0 - up))
    out[3] = 0.0
    start, target = np.empty(3), np.empty(3)
    for i in range(3):
        start[i] = p[i] + 0.004 * n[i]
    angle, height = 6.2831853 * noise[0], 2.0 * noise[1] - 1.0
    ring = math.sqrt(1.0 - height * height)
    for k in range(lights.shape[0]):
        light = lights[k]
        x, y, z = light[0] - p[0], light[1] - p[1], light[2] - p[2]
        far2 = x * x + y * y + z * z
        q = 1.0 / math.sqrt(far2)
        cosine = (x * n[0] + y * n[1] + z * n[2]) * q
        facing = -(x * light[7] + y * light[8] + z * light[9]) * q
        if light[7] == 0.0 and light[8] == 0.0 and light[9] == 0.0:
            facing = 0.7
        if cosine <= 0.0 or facing <= 0.0:
            continue
        gain = cosine * facing / (far2 + 0.3)
        if gain * light[5] < 0.03 * out[1]:
            continue
        target[0] = light[0] + light[3] * ring * math.cos(angle)
        target[1] = light[1] + light[3] * ring * math.sin(angle)
        target[2] = light[2] + light[3] * height
        if shadowed(solids, maps, shadow_list[k], light, start, target):
            continue
        gain *= 0.6 + 0.4 * free
        for c in range(3):
            out[c] += gain * light[4 + c]
        if gloss > 0.0:
            hx, hy, hz = x * q + eye[0], y * q + eye[1], z * q + eye[2]
            h = (hx * n[0] + hy * n[1] + hz * n[2]) / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
            out[3] += gloss * light[5] * facing / (far2 + 0.3) * max(0.0, h) ** 60


@njit(**JIT)
def shade(solids, maps, shell, paints, near_list, shadow_list, lights, ambient, R, t, cam, offset, depth, hit, known):
    """Colour of a lattice of hits: float64 (h, w, 3) linear, and the light on it (h, w, 5): r, g, b, highlight, key.

    known: the light of the lattice at pixel centres, from which a corner ray takes its light where one of the four
    centres around it sees the same face; an empty array when there is none.
    """
    height, width = depth.shape
    colour, light = np.empty((height, width, 3)), np.empty((height, width, 5))
    p, q, n, eye, noise, out = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(2), np.empty(4)
    for j in range(height):
        for i in range(width):
            x, y, far = (i + offset - cam[2]) / cam[0], (j + offset - cam[3]) / cam[1], depth[j, i]
            ray = 1.0 / math.sqrt(x * x + y * y + 1.0)
            for k in range(3):
                d = R[k, 0] * x + R[k, 1] * y + R[k, 2]
                p[k], eye[k] = t[k] + far * d, -d * ray
            index = int(hit[j, i])
            face = surface(solids, maps, shell, index, p, q, n)
            key = float(index * 8 + face)
            paint = paints[6 + index if index >= 0 else -1 - index]
            if not _borrow(known, j, i, key, out):
                noise[0], noise[1] = hash01(i, j, 11 + height), hash01(i, j, 12 + height)
                light_at(
                    solids, maps, shell, near_list, shadow_list, lights, ambient, p, n, paint[8], eye, noise, out
                )
            slant = max(0.12, abs(n[0] * eye[0] + n[1] * eye[1] + n[2] * eye[2]))
            a, b, ha, hb = face_coordinates(solids, shell, index, face, q)
            rgb = albedo(paint, a, b, ha, hb, far / (cam[0] * slant))
            for c in range(3):
                colour[j, i, c] = rgb[c] * (out[c] + paint[9]) + out[3]
            for c in range(4):
                light[j, i, c] = out[c]
            light[j, i, 4] = key
    return colour, light


@njit(**JIT)
def _borrow(known, j, i, key, out):
    """Mean light of the pixel centres around corner (j, i) that see the same face; False if none does."""
    found = 0.0
    out[0] = out[1] = out[2] = out[3] = 0.0
    for dj in range(-1, 1):
        for di in range(-1, 1):
            y, x = j + dj, i + di
            if 0 <= y < known.shape[0] and 0 <= x < known.shape[1] and known[y, x, 4] == key:
                found += 1.0
                for c in range(4):
                    out[c] += known[y, x, c]
    if found == 0.0:
        return False
    for c in range(4):
        out[c] /= found
    return True
