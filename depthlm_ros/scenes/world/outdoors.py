# SPDX-License-Identifier: Apache-2.0
"""Streets, yards and gardens: ground, sky, facades, cars, trees, lamp posts and people. Conventions: furniture.py."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.world import belongings, clutter, colours, equipment
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import (
    FACADE,
    FRUSTUM,
    LEAVES,
    NOISE,
    SKY,
    SPECKLE,
    TILES,
    Paint,
    Part,
    Piece,
    PlacedPiece,
    Xyz,
    ball,
    box,
    frustum,
)

SIZE_M = (120.0, 120.0, 60.0)
# Cameras stay within this distance of the middle, along each axis.
ROAM_M = 9.0
# Distance of the light that stands for the sun.
SUN_M = 90.0


def car(dice: Dice) -> Piece:
    """A car of 3.6 to 4.9 m: body, cabin with dark glass, wheels, lamps; its length runs along x."""
    length, w, h = dice.between(3.6, 4.9), dice.between(1.65, 1.9), dice.between(1.42, 1.75)
    colour, body = dice.pick(tuple(colours.NAMED_COLOURS.items()))
    paint = Paint(dice.similar_colour(body, 0.05), gloss=0.12, seed=dice.seed())
    glass, tyre = dice.paint((0.03, 0.035, 0.04), gloss=0.15), dice.paint((0.02, 0.02, 0.02))
    rim, turned = dice.paint((0.35, 0.35, 0.36)), math.pi / 2
    mid, belt = -0.05 * length, 0.62 * h
    parts = [
        box((0, 0, (0.22 + belt) / 2), (length, w, belt - 0.22), paint),
        box((mid, 0, (belt + h) / 2 - 0.03), (0.5 * length, w * 0.86, h - belt), glass),
        box((mid, 0, h - 0.03), (0.44 * length, w * 0.8, 0.06), paint),
    ]
    for a in (-1, 1):
        for b in (-1, 1):
            at = (a * 0.31 * length, b * (w / 2 - 0.09), 0.32)
            parts.append(Part(FRUSTUM, at, (0.32, 0.32, 0.1), tyre, 0.0, 0.0, turned))
            parts.append(Part(FRUSTUM, at, (0.2, 0.2, 0.105), rim, 0.0, 0.0, turned))
        lamp = dice.paint((0.7, 0.7, 0.65) if a > 0 else (0.5, 0.02, 0.02), emission=0.3)
        parts += [box((a * length / 2, b * (w / 2 - 0.2), 0.65), (0.04, 0.32, 0.14), lamp) for b in (-1, 1)]
    return Piece("car", colour, tuple(parts), (length, w, h))


def tree(dice: Dice) -> Piece:
    """Trunk and a crown of a few balls of leaves."""
    h, r = dice.between(4.0, 11.0), dice.between(0.08, 0.25)
    leaf = dice.paint((0.06, 0.14, 0.03), (0.16, 0.28, 0.07), LEAVES, dice.between(0.15, 0.4))
    trunk, crown = dice.between(0.25, 0.45) * h, 0.0
    parts = [frustum((0, 0, 0), r, h * 0.6, dice.paint((0.16, 0.11, 0.07), (0.1, 0.07, 0.05), NOISE, 0.08), 0.4)]
    for _ in range(dice.integer(3, 7)):
        size, a = dice.between(0.3, 0.5) * h, dice.between(0, 6.3)
        z, out = dice.between(trunk + size / 2, h - size / 2), 0.3 * size
        parts.append(ball((out * math.cos(a), out * math.sin(a), z), (size, size, 0.9 * size), leaf))
        crown = max(crown, size * 1.6)
    return Piece("tree", "", tuple(parts), (crown, crown, h))


def lamp_post(dice: Dice) -> Piece:
    """Street lamp, sign post or plain pole."""
    kind, steel = dice.unit(), colours.metal(dice)
    if kind < 0.5:
        h = dice.between(3.5, 8.0)
        parts = [frustum((0, 0, 0), 0.09, h, steel, 0.4), box((0.4, 0, h), (1.0, 0.14, 0.1), steel)]
        return Piece("", "", tuple(parts), (1.8, 0.3, h))
    elif kind < 0.8:
        h, face = dice.between(2.2, 3.0), dice.paint(dice.pick(((0.6, 0.05, 0.05), (0.05, 0.1, 0.5), (0.8, 0.8, 0.8))))
        parts = [frustum((0, 0, 0), 0.035, h, steel), box((0, -0.05, h - 0.3), (0.6, 0.02, 0.6), face)]
        return Piece("", "", tuple(parts), (0.6, 0.3, h))
    else:
        h = dice.between(0.8, 1.1)
        parts = [frustum((0, 0, 0), 0.07, h, steel), ball((0, 0, h), (0.16, 0.16, 0.12), steel)]
    return Piece("", "", tuple(parts), (0.3, 0.3, h))


def bush(dice: Dice) -> Piece:
    """Bush or a piece of hedge."""
    h, leaf = (
        dice.between(0.5, 1.8),
        dice.paint((0.05, 0.13, 0.03), (0.14, 0.25, 0.06), LEAVES, dice.between(0.06, 0.2)),
    )
    if dice.chance(0.4):
        w = dice.between(2.0, 6.0)
        return Piece("", "", (box((0, 0, h / 2), (w, 0.7, h), leaf),), (w, 0.7, h))
    parts = [
        ball((dice.between(-0.3, 0.3) * h, dice.between(-0.3, 0.3) * h, h * 0.45), (h * 1.1, h, h * 0.95), leaf)
        for _ in range(3)
    ]
    return Piece("", "", tuple(parts), (1.7 * h, 1.7 * h, h))


def fence(dice: Dice) -> Piece:
    """Boards or rails between posts."""
    w, h, paint = dice.between(3.0, 8.0), dice.between(0.9, 1.8), colours.board(dice)
    posts = int(w / 1.5) + 1
    parts = [box((w * (k / (posts - 1) - 0.5), 0, h / 2), (0.08, 0.08, h), paint) for k in range(posts)]
    if dice.chance(0.5):
        parts.append(box((0, 0, h / 2 + 0.05), (w, 0.03, h - 0.15), paint))
    else:
        parts += [box((0, 0, z), (w, 0.04, 0.08), paint) for z in (0.25 * h, 0.6 * h, h - 0.06)]
    return Piece("", "", tuple(parts), (w, 0.1, h))


def house(dice: Dice, wide: float, deep: float) -> Piece:
    """House with rows of windows, a door of 2 m, a plinth and a roof edge; its front is at -y."""
    floors, storey = dice.integer(1, 5), dice.between(2.8, 3.4)
    h, tone = floors * storey + 0.4, dice.between(0.3, 0.75)
    wall = (tone, tone * dice.between(0.8, 1.0), tone * dice.between(0.6, 1.0))
    if dice.chance(0.25):
        wall = (0.33, 0.15, 0.1)
    front = Paint(dice.similar_colour(wall), (0.04, 0.05, 0.06), FACADE, storey, seed=dice.seed())
    leaf, dark = colours.board(dice), dice.paint((0.1, 0.09, 0.09))
    x = dice.between(-0.35, 0.35) * wide
    parts = (
        box((0, 0, h / 2), (wide, deep, h), front),
        box((0, -deep / 2 - 0.02, 0.2), (wide, 0.06, 0.4), dice.paint((0.25, 0.25, 0.25))),
        box((x, -deep / 2 - 0.03, 1.03), (0.95, 0.08, 2.06), leaf),
        box((x, -deep / 2 - 0.02, 1.1), (1.15, 0.07, 2.2), dice.paint((0.7, 0.7, 0.68))),
        box((0, 0, h + 0.15), (wide + 0.5, deep + 0.5, 0.3), dark),
    )
    return Piece("", "", parts, (wide, deep, h))


LOOSE = (
    *(car, car, car, tree, tree, lamp_post, lamp_post, bush, bush, clutter.person, clutter.person, clutter.person),
    *(equipment.bench, belongings.bicycle, clutter.bin_, fence, clutter.carton, clutter.plant, clutter.bag),
)


def ground(dice: Dice) -> Paint:
    """Draws the ground: asphalt, paving, gravel or grass."""
    kind = dice.unit()
    if kind < 0.4:
        tone = dice.between(0.08, 0.25)
        paint = dice.paint(
            (tone, tone, tone), (tone * 0.8,) * 3, dice.pick((NOISE, SPECKLE)), dice.pick((0.02, 0.3, 1.0))
        )
        return paint._replace(gloss=dice.pick((0.0, 0.0, 0.0, 0.08)))
    if kind < 0.7:
        tone = dice.between(0.2, 0.45)
        return dice.paint((tone, tone, tone * 0.95), (tone * 0.6,) * 3, TILES, dice.pick((0.2, 0.3, 0.4, 0.5)))
    if kind < 0.9:
        return dice.paint(
            (0.08, 0.15, 0.04), (0.15, 0.22, 0.07), dice.pick((NOISE, LEAVES)), dice.pick((0.03, 0.1, 0.5))
        )
    return dice.paint((0.35, 0.3, 0.22), (0.22, 0.19, 0.14), dice.pick((SPECKLE, NOISE)), dice.between(0.02, 0.1))


def sky(dice: Dice) -> Paint:
    """Draws a sky, blue to overcast."""
    blue = (0.25, 0.45, 0.85) if dice.chance(0.6) else (0.6, 0.65, 0.7)
    return Paint(
        dice.similar_colour(blue), (0.9, 0.92, 0.95), SKY, SIZE_M[2], emission=dice.between(0.9, 2.2), seed=dice.seed()
    )


def street(dice: Dice) -> list[PlacedPiece]:
    """Draws the border of the open space: houses or nothing on either side, pavements, markings, a house at the end."""
    placed, (w, length, _) = [], SIZE_M
    half, middle = dice.between(3.5, 11.0), w / 2
    for side in (-1, 1):
        if dice.chance(0.75):
            y = dice.between(0.0, 4.0)
            while y < length - 6:
                wide = dice.between(6.0, 16.0)
                piece = house(dice, wide, 8.0)
                x = middle + side * (half + 4.0 + dice.between(0.0, 1.0))
                placed.append(PlacedPiece(piece, (x, y + wide / 2, 0.0), side * -math.pi / 2, True))
                y += wide + dice.pick((0.0, 0.0, 2.0, 5.0))
        if dice.chance(0.6):
            walk, pale = dice.between(1.5, 3.0), dice.paint((0.35, 0.35, 0.34), (0.22, 0.22, 0.21), TILES, 0.3)
            kerb = box((middle + side * (half - walk / 2), length / 2, 0.06), (walk, length, 0.12), pale)
            placed.append(PlacedPiece(Piece("", "", (kerb,), SIZE_M), (0.0, 0.0, 0.0), 0.0, True))
    if dice.chance(0.5):
        white = dice.paint((0.7, 0.7, 0.68))
        marks = tuple(box((middle, 3.0 + 6.0 * k, 0.004), (0.12, 3.0, 0.008), white) for k in range(19))
        placed.append(PlacedPiece(Piece("", "", marks, SIZE_M), (0.0, 0.0, 0.0), 0.0, True))
    if dice.chance(0.7):
        far = dice.between(18.0, 50.0)
        x, y = middle + dice.between(-5, 5), length / 2 + dice.pick((-far, far))
        yaw = 0.0 if y > length / 2 else math.pi
        placed.append(PlacedPiece(house(dice, dice.between(10, 40), 7.0), (x, y, 0.0), yaw, True))
    return placed


def daylight(dice: Dice) -> tuple[list[tuple[float, ...]], np.ndarray]:
    """Draws the light of a day: rows of Scene.lights (the sun, if it shines), and the ambient light (see Scene)."""
    turn, rise, sunny = dice.between(0, 6.3), dice.between(0.35, 1.2), dice.chance(0.65)
    level = dice.between(0.5, 0.9)
    ambient = np.array(
        [(0.85 * level, 0.95 * level, 1.1 * level), (0.3 * level,) * 3, (0.0,) * 3, (0.0,) * 3], np.float32
    )
    if not sunny:
        return [], 1.5 * ambient
    flat, power = SUN_M * math.cos(rise), SUN_M**2 * dice.between(1.2, 2.6) / 0.7
    x, y = SIZE_M[0] / 2 + flat * math.cos(turn), SIZE_M[1] / 2 + flat * math.sin(turn)
    return [(x, y, SUN_M * math.sin(rise), 0.25, power, 0.93 * power, 0.82 * power, 0.0, 0.0, 0.0)], ambient


def roam() -> tuple[Xyz, Xyz]:
    """Returns two corners of the space in which cameras stay, metres."""
    x, y = SIZE_M[0] / 2, SIZE_M[1] / 2
    return (x - ROAM_M, y - ROAM_M, 0.0), (x + ROAM_M, y + ROAM_M, 2.6)
