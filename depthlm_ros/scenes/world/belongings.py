# SPDX-License-Identifier: Apache-2.0
"""Things that people leave in a room: bicycles, ladders, baskets, trolleys, toys, shoes. Conventions: furniture.py."""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import FRUSTUM, NOISE, PLAIN, STRIPES, Part, Piece, ball, box, frustum


def clothes_rack(dice: Dice) -> Piece:
    """Rail with hanging clothes."""
    w, h, steel = dice.between(0.8, 1.4), dice.between(1.4, 1.7), colours.metal(dice)
    parts = [frustum((s * w / 2, 0, 0), 0.015, h, steel) for s in (-1, 1)]
    parts += [box((s * w / 2, 0, 0.02), (0.04, 0.45, 0.03), steel) for s in (-1, 1)]
    parts.append(box((0, 0, h), (w, 0.03, 0.03), steel))
    for k in range(dice.integer(3, 7)):
        x, tall = (k / 7 - 0.42) * w, dice.between(0.5, 1.1)
        parts.append(
            box((x, 0, h - 0.06 - tall / 2), (0.06, 0.4, tall), colours.fabric(dice), yaw=dice.between(-0.2, 0.2))
        )
    return Piece("", "", tuple(parts), (w, 0.48, h))


def ladder(dice: Dice) -> Piece:
    """Step ladder."""
    h, steel = dice.between(0.8, 1.9), colours.metal(dice)
    steps = max(2, int(h / 0.27))
    parts = [box((s * 0.22, 0, h / 2), (0.04, 0.06, h), steel, pitch=-0.2) for s in (-1, 1)]
    parts += [box((s * 0.22, 0.2, h / 2), (0.03, 0.04, h), steel, pitch=0.2) for s in (-1, 1)]
    for k in range(steps):
        z = (k + 1) * h / (steps + 0.5)
        parts.append(box((0, 0.2 * (z - h / 2), z), (0.42, 0.1, 0.025), steel))
    return Piece("", "", tuple(parts), (0.52, 0.8, h))


def bicycle(dice: Dice) -> Piece:
    """A bicycle with thin discs as wheels (spokes would be too many solids) and a frame of tubes."""
    colour, frame = colours.named_colour_or_fabric(dice, 0.6)
    tyre, rim = dice.paint((0.03, 0.03, 0.03)), dice.paint((0.35, 0.35, 0.36), (0.15, 0.15, 0.15), NOISE, 0.05)
    parts = []
    for s in (-1, 1):
        parts.append(Part(FRUSTUM, (s * 0.52, 0, 0.34), (0.34, 0.34, 0.018), tyre, 0.0, 0.0, math.pi / 2))
        parts.append(Part(FRUSTUM, (s * 0.52, 0, 0.34), (0.29, 0.29, 0.021), rim, 0.0, 0.0, math.pi / 2))
    parts += [
        box((0.05, 0, 0.78), (0.62, 0.04, 0.04), frame),
        box((-0.2, 0, 0.55), (0.04, 0.04, 0.55), frame),
        box((0.42, 0, 0.68), (0.04, 0.04, 0.75), frame),
        box((-0.35, 0, 0.34), (0.4, 0.03, 0.03), frame),
        box((-0.2, 0, 0.92), (0.26, 0.14, 0.06), tyre),
        box((0.42, 0, 1.04), (0.05, 0.55, 0.03), tyre),
    ]
    return Piece("bicycle", colour, tuple(parts), (1.75, 0.6, 1.06))


def shoes(dice: Dice) -> Piece:
    """A pair on the floor."""
    skin, turn = colours.fabric(dice), dice.between(-0.3, 0.3)
    parts = []
    for s in (-1, 1):
        parts.append(box((s * 0.07, 0, 0.03), (0.09, 0.27, 0.06), skin, yaw=turn * s))
        parts.append(ball((s * 0.07, 0.07, 0.07), (0.09, 0.12, 0.09), skin))
    return Piece("", "", tuple(parts), (0.28, 0.32, 0.11))


def toys(dice: Dice) -> Piece:
    """Blocks and balls on a small patch of floor."""
    parts = []
    for _ in range(dice.integer(3, 7)):
        size, x, y = dice.between(0.04, 0.14), dice.between(-0.3, 0.3), dice.between(-0.3, 0.3)
        paint = dice.paint(dice.pick(tuple(colours.NAMED_COLOURS.values())))
        if dice.chance(0.5):
            parts.append(
                box((x, y, size / 2), (size, size * dice.between(0.5, 1.5), size), paint, yaw=dice.between(0, 3))
            )
        else:
            parts.append(ball((x, y, size / 2), (size,) * 3, paint))
    return Piece("", "", tuple(parts), (0.75, 0.75, 0.14))


def basket(dice: Dice) -> Piece:
    """Laundry or storage basket with cloth in it."""
    r, h, weave = (
        dice.between(0.18, 0.3),
        dice.between(0.3, 0.6),
        dice.paint((0.45, 0.33, 0.2), (0.3, 0.2, 0.1), NOISE, 0.02),
    )
    parts = [frustum((0, 0, 0), r * 0.85, h, weave, -0.15)]
    for k in range(dice.integer(1, 3)):
        parts.append(
            ball((0.3 * r * math.cos(2.1 * k), 0.3 * r * math.sin(2.1 * k), h), (1.1 * r,) * 3, colours.fabric(dice))
        )
    return Piece("", "", tuple(parts), (2 * r, 2 * r, h + 0.1))


def clothes(dice: Dice) -> Piece:
    """Clothes on a bed, a sofa or the floor."""
    cloth, parts = colours.fabric(dice), []
    for _ in range(dice.integer(2, 4)):
        w, h = dice.between(0.2, 0.5), dice.between(0.05, 0.16)
        parts.append(ball((dice.between(-0.15, 0.15), dice.between(-0.15, 0.15), h / 3), (w, w * 0.7, h), cloth))
    return Piece("", "", tuple(parts), (0.7, 0.55, 0.12))


def trolley(dice: Dice) -> Piece:
    """Serving or cleaning trolley with three levels."""
    w, d, h, steel = dice.between(0.5, 0.9), dice.between(0.4, 0.55), dice.between(0.8, 1.0), colours.metal(dice)
    tray = colours.lacquer(dice)
    parts = [
        frustum((a * (w / 2 - 0.02), b * (d / 2 - 0.02), 0.05), 0.014, h - 0.05, steel)
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    parts += [box((0, 0, z), (w, d, 0.03), tray) for z in (0.15, h / 2 + 0.05, h - 0.05)]
    for z in (0.17, h / 2 + 0.07, h - 0.03):
        if dice.chance(0.7):
            tall = dice.between(0.08, 0.25)
            parts.append(
                box(
                    (dice.between(-0.15, 0.15), 0, z + tall / 2),
                    (w * 0.4, d * 0.7, tall),
                    dice.paint(dice.pick(colours.FABRICS)),
                )
            )
    return Piece("", "", tuple(parts), (w, d, h))


def floor_fan(dice: Dice) -> Piece:
    """Fan on a stand: a thin pole with a round head."""
    h, dark = dice.between(1.0, 1.5), colours.metal(dice)
    head = dice.between(0.15, 0.22)
    parts = (
        frustum((0, 0, 0), 0.2, 0.025, dark),
        frustum((0, 0, 0.02), 0.013, h - head, dark),
        Part(
            FRUSTUM,
            (0, 0, h - head),
            (head, head, 0.06),
            dice.paint((0.5, 0.5, 0.5), (0.1, 0.1, 0.1), STRIPES, 0.02),
            0.0,
            0.0,
            math.pi / 2,
        ),
    )
    return Piece("", "", parts, (0.44, 0.42, h))


def stand_plain(dice: Dice) -> Piece:
    """Plain block of knee height, such as a loudspeaker, heater, suitcase or paper shredder."""
    w, d, h = dice.between(0.2, 0.5), dice.between(0.2, 0.4), dice.between(0.35, 1.1)
    body = dice.pick((colours.lacquer(dice), colours.fabric(dice)))
    parts = [box((0, 0, h / 2), (w, d, h), body)]
    if dice.chance(0.5):
        parts.append(
            box(
                (0, -d / 2 - 0.002, h * 0.5),
                (w * 0.8, 0.004, h * 0.75),
                dice.paint((0.05, 0.05, 0.05), (0.15, 0.15, 0.15), dice.pick((NOISE, PLAIN)), 0.02),
            )
        )
    if dice.chance(0.3):
        parts.append(box((0, 0, h + 0.06), (w * 0.5, 0.03, 0.12), colours.metal(dice)))
    return Piece("", "", tuple(parts), (w, d + 0.01, h))
