# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: `albedo` gives the colour at metric surface coordinates.

A texture fades to its mean where a pixel covers more than one period. The numbers of the textures are the constants of
world/primitives.py (PLAIN, CHECKER, ...).
"""

from __future__ import annotations

import math

from numba import njit

from depthlm_ros.scenes.renderer.jit import JIT
from depthlm_ros.scenes.world.primitives import (
    BOOKS,
    BRICKS,
    CHECKER,
    FACADE,
    LEAVES,
    MARBLE,
    NOISE,
    PANES,
    PATCHES,
    PLAIN,
    SCREEN,
    SKY,
    STRIPES,
    TILES,
    WOOD,
)


@njit(forceinline=True, **JIT)
def hash01(i, j, seed):
    """Returns a pseudo-random number in [0, 1) for integer coordinates."""
    h = (int(i) * 374761393 + int(j) * 668265263 + int(seed) * 974634777) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF) / 16777216.0


@njit(**JIT)
def value_noise(a, b, seed):
    """Returns smooth noise in [0, 1] on a lattice with cells of size 1."""
    i, j = math.floor(a), math.floor(b)
    x, y = a - i, b - j
    x, y = x * x * (3.0 - 2.0 * x), y * y * (3.0 - 2.0 * y)
    low = hash01(i, j, seed) * (1.0 - x) + hash01(i + 1, j, seed) * x
    high = hash01(i, j + 1, seed) * (1.0 - x) + hash01(i + 1, j + 1, seed) * x
    return low * (1.0 - y) + high * y


@njit(**JIT)
def _bricks(a, b, seed):
    """Returns mix (0 stone, 1 joint) and brightness of running-bond bricks, one unit high and three units wide."""
    row = math.floor(b)
    col = math.floor(a / 3.0 + 0.5 * (row % 2))
    x, y = a / 3.0 + 0.5 * (row % 2) - col, b - row
    joint = 1.0 if (x < 0.04 or y < 0.12) else 0.0
    return joint, 0.8 + 0.4 * hash01(col, row, seed)


@njit(**JIT)
def _wood(a, b, seed):
    """Returns mix and brightness of planks, two units wide, with stretched grain."""
    plank = math.floor(b * 0.5)
    shift = 17.0 * hash01(plank, 3, seed)
    grain = value_noise(a * 0.15 + shift, b * 3.0, seed) * 0.6 + value_noise(a * 0.6 + shift, b * 11.0, seed + 1) * 0.4
    along = a * 0.07 + shift
    gap = 0.6 if b * 0.5 - plank < 0.03 or along - math.floor(along) < 0.006 else 1.0
    return grain, gap * (0.82 + 0.36 * hash01(plank, 7 + math.floor(along), seed))


@njit(**JIT)
def _books(a, b, seed):
    """Returns red, green and blue factors of book spines, and 1 where the dark back shows above a short book."""
    i = math.floor(a)
    empty = 1.0 if (hash01(i // 9, 5, seed) < 0.12) or (b > 0.62 + 0.38 * hash01(i, 1, seed)) else 0.0
    band = 0.6 if 0.2 < b < 0.27 and hash01(i, 9, seed) > 0.5 else 1.0
    edge = 0.55 if a - i < 0.12 else band
    tone = 0.25 + 0.75 * hash01(i, 8, seed)
    r, g, c = hash01(i, 2, seed), hash01(i, 3, seed), hash01(i, 4, seed)
    return edge * tone * (0.2 + r), edge * tone * (0.2 + g), edge * tone * (0.2 + c), empty


@njit(**JIT)
def _mix_and_gain(kind, a, b, seed, fade):
    """Returns mix in [0, 1], gain, and the mix to fade to, for a texture that mixes two albedos."""
    if kind == CHECKER:
        return float((math.floor(a) + math.floor(b)) % 2), 1.0, 0.5
    if kind == TILES:
        i, j = math.floor(a), math.floor(b)
        joint = 1.0 if (a - i < 0.035 or b - j < 0.035) else 0.0
        return joint, 0.93 + 0.14 * hash01(i, j, seed) * fade, 0.07
    if kind == STRIPES:
        return (1.0 if a - math.floor(a) < 0.5 else 0.0), 1.0, 0.5
    if kind == WOOD:
        grain, gain = _wood(a, b, seed)
        return grain, 1.0 + (gain - 1.0) * fade, 0.5
    if kind == NOISE:
        low = value_noise(a * 0.23, b * 0.23, seed + 2)
        return low * 0.35 + value_noise(a, b, seed) * 0.4 + value_noise(a * 2.7, b * 2.7, seed + 1) * 0.25, 1.0, 0.5
    if kind == BRICKS:
        joint, gain = _bricks(a, b, seed)
        return joint, 1.0 + (gain - 1.0) * fade, 0.15
    if kind == FACADE:
        # Rows of windows, one row per storey; some have light curtains.
        i, j = math.floor(a * 1.1), math.floor(b + 0.5)
        x, y = a * 1.1 - i, b + 0.5 - j
        inside = 0.25 < x < 0.75 and 0.25 < y < 0.75
        cross = abs(x - 0.5) < 0.02 or abs(y - 0.5) < 0.015
        pale = 0.25 + 0.5 * hash01(i, j, seed) * hash01(i, j, seed + 1)
        return (1.0 - pale if inside and not cross else 0.0), 0.9 + 0.2 * value_noise(a * 2.0, b * 2.0, seed), 0.15
    if kind == MARBLE:
        vein = value_noise(a * 0.7, b * 0.7, seed) * 3.0 + value_noise(a * 3.1, b * 3.1, seed + 1)
        vein = abs(2.0 * (vein - math.floor(vein)) - 1.0)
        return vein * vein, 0.9 + 0.2 * value_noise(a * 0.3, b * 0.3, seed + 2), 0.35
    if kind == LEAVES:
        # Leaves: light and dark flecks with gaps.
        return value_noise(a, b, seed), 0.4 + 0.9 * value_noise(a * 2.1 + 5.0, b * 2.1, seed + 3), 0.5
    if kind == SCREEN:
        row = math.floor(b)
        ink = hash01(row, 2, seed) > 0.25 and a < 14.0 * hash01(row, 4, seed) - 7.0
        return (1.0 if ink and b - row > 0.4 and hash01(math.floor(a * 2.0), row, seed) > 0.2 else 0.0), 1.0, 0.2
    return hash01(math.floor(a), math.floor(b), seed), 1.0, 0.5


@njit(**JIT)
def albedo(paints, row, a_m, b_m, half_a, half_b, footprint_m):
    """Returns the albedo (r, g, b) of a paint at surface coordinates a_m, b_m from the middle of a face.

    half_a, half_b: half extents of the face, metres. footprint_m: width of surface that one pixel covers.
    """
    kind, scale, seed = int(paints[row, 6]), paints[row, 7], int(paints[row, 10])
    r, g, c = float(paints[row, 0]), float(paints[row, 1]), float(paints[row, 2])
    if kind == PLAIN:
        # Wear and uneven paint at two scales; the strength differs from surface to surface.
        much = 0.04 + 0.2 * hash01(seed, 11, 3) * hash01(seed, 12, 3)
        gain = 1.0 + much * (value_noise(a_m * 2.3 + 7.0, b_m * 2.3, seed) - 0.5)
        if much > 0.1:
            gain += much * (value_noise(a_m * 9.0, b_m * 7.0, seed) - 0.5)
        return r * gain, g * gain, c * gain
    fade = min(1.0, max(0.0, 1.6 - 1.6 * footprint_m / scale))
    a, b = a_m / scale, b_m / scale
    if kind == BOOKS:
        x, y, z, empty = _books(a, (b_m + half_b) / (2.0 * half_b + 1e-9), seed)
        w = 1.0 - fade
        keep = 1.0 - empty
        return keep * (x * fade + r * w) + 0.03, keep * (y * fade + g * w) + 0.03, keep * (z * fade + c * w) + 0.03
    if kind == PATCHES:
        # A print: two tones in large shapes, and a third tone in small ones.
        n0 = value_noise(a, b, seed)
        n0 = min(1.0, max(0.0, 3.0 * n0 - 1.0)) * 0.8 + 0.2 * value_noise(a * 4.0, b * 4.0, seed + 5)
        n1 = 1.0 if value_noise(a * 2.0 + 3.0, b * 2.0, seed + 1) > 0.72 else 0.0
        x, y, z = hash01(seed, 1, 7), hash01(seed, 2, 7), hash01(seed, 3, 7)
        r, g, c = r + (paints[row, 3] - r) * n0, g + (paints[row, 4] - g) * n0, c + (paints[row, 5] - c) * n0
        return r + (x * x - r) * n1, g + (y * y - g) * n1, c + (z * z - c) * n1
    if kind == SKY:
        # Sky: paler towards the horizon (b = 0), with clouds that get smaller towards it.
        up = min(1.0, max(0.0, (b_m + half_b) / scale))
        cloud = value_noise(a_m * 8.0 / scale, (b_m + 0.02) * 20.0 / scale, seed) * 0.6
        cloud += value_noise(a_m * 25.0 / scale, b_m * 60.0 / scale, seed + 1) * 0.4
        w = min(1.0, max(0.0, 2.5 * (cloud - hash01(seed, 1, 1)))) * 0.8 + 0.2
        w = max(w, 1.0 - 2.5 * up)
        return r + (paints[row, 3] - r) * w, g + (paints[row, 4] - g) * w, c + (paints[row, 5] - c) * w
    if kind == PANES:
        frame = abs(abs(a_m) - half_a) < 0.05 or abs(abs(b_m) - half_b) < 0.05 or abs(a_m) < 0.025
        sky = 0.55 + 0.45 * value_noise(a_m * 1.5, b_m * 1.5 + 9.0, seed) if b_m > -0.35 * half_b else 0.35
        green = value_noise(a_m * 6.0, b_m * 6.0, seed + 1) * 0.3 if b_m <= -0.35 * half_b else 0.0
        if frame:
            return 0.2 * paints[row, 3], 0.2 * paints[row, 4], 0.2 * paints[row, 5]
        return r * (sky - green), g * (sky - 0.5 * green), c * (sky - green)
    mix, gain, mean = _mix_and_gain(kind, a, b, seed, fade)
    mix = mean + (mix - mean) * fade
    return (
        (r + (paints[row, 3] - r) * mix) * gain,
        (g + (paints[row, 4] - g) * mix) * gain,
        (c + (paints[row, 5] - c) * mix) * gain,
    )
