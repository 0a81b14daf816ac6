# SPDX-License-Identifier: Apache-2.0
"""Small objects, people and plants, and the simple objects that have a named colour. Conventions: furniture.py."""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import LEAVES, NOISE, PATCHES, PLAIN, Paint, Piece, ball, box, frustum


def coloured_object(dice: Dice, kind: str, colour: str, size_m: float) -> Piece:
    """Draws a simple object of a named colour; size_m is roughly its largest extent."""
    paint = Paint(
        dice.similar_colour(colours.NAMED_COLOURS[colour], 0.05),
        texture=PLAIN,
        gloss=dice.pick((0.0, 0.0, 0.03, 0.1)),
        seed=dice.seed(),
    )
    if kind == "ball":
        return Piece(kind, colour, (ball((0, 0, size_m / 2), (size_m,) * 3, paint),), (size_m,) * 3)
    if kind == "box":
        w, d, h = size_m, size_m * dice.between(0.5, 1.0), size_m * dice.between(0.4, 1.0)
        return Piece(kind, colour, (box((0, 0, h / 2), (w, d, h), paint),), (w, d, h))
    r = size_m * (dice.between(0.2, 0.4) if kind == "cylinder" else dice.between(0.28, 0.45))
    part = frustum((0, 0, 0), r, size_m, paint, 0.0 if kind == "cylinder" else 0.97)
    return Piece(kind, colour, (part,), (2 * r, 2 * r, size_m))


def carton(dice: Dice) -> Piece:
    """Grey, brown or black box of the size of hand luggage: a carton, a crate or a printer."""
    w, d, h = dice.between(0.2, 0.6), dice.between(0.2, 0.5), dice.between(0.12, 0.45)
    colour, rgb = dice.pick((("brown", (0.33, 0.20, 0.10)), ("gray", (0.3, 0.3, 0.29)), ("black", (0.03, 0.03, 0.03))))
    paint = dice.paint(rgb, (rgb[0] * 0.8, rgb[1] * 0.8, rgb[2] * 0.8), dice.pick((PLAIN, NOISE)))
    parts = [box((0, 0, h / 2), (w, d, h), paint)]
    if dice.chance(0.5):
        parts.append(box((0, 0, h + 0.001), (0.05, d + 0.004, 0.004), dice.paint((0.5, 0.4, 0.25))))
    return Piece("box", colour, tuple(parts), (w, d, h))


def plant(dice: Dice) -> Piece:
    """Pot with leaves."""
    h, r = dice.between(0.3, 1.6), dice.between(0.08, 0.2)
    pot = min(0.4, h * 0.3)
    leaf = dice.paint((0.05, 0.16, 0.03), (0.13, 0.30, 0.07), LEAVES, dice.between(0.03, 0.08))
    parts = [
        frustum((0, 0, 0), r, pot, dice.paint(dice.pick(((0.4, 0.16, 0.08), (0.7, 0.7, 0.68), (0.1, 0.1, 0.1)))), -0.25)
    ]
    parts.append(frustum((0, 0, pot), 0.015, (h - pot) * 0.6, dice.paint((0.2, 0.12, 0.06))))
    for _ in range(dice.integer(3, 6)):
        a, s = dice.between(0, 6.28), dice.between(0.3, 0.6) * (h - pot)
        z = h - s / 2 - dice.between(0, 0.35) * (h - pot)
        parts.append(ball((0.35 * s * math.cos(a), 0.35 * s * math.sin(a), z), (s * 0.9, s * 0.7, s), leaf))
    return Piece("plant", "", tuple(parts), (max(0.3, 0.85 * (h - pot)),) * 2 + (h,))


def person(dice: Dice) -> Piece:
    """A standing figure: legs, trunk, arms, head."""
    h = dice.between(1.55, 1.9)
    cloth, legs = colours.fabric(dice), colours.fabric(dice)
    skin = dice.paint(dice.pick(((0.55, 0.33, 0.22), (0.3, 0.16, 0.1), (0.12, 0.06, 0.04))))
    parts = [frustum((s * 0.1, 0, 0), 0.085, h * 0.48, legs, -0.15) for s in (-1, 1)]
    parts += [frustum((s * 0.25, 0, h * 0.46), 0.045, h * 0.36, cloth, -0.2) for s in (-1, 1)]
    parts += [
        ball((0, 0, h * 0.65), (0.42, 0.26, h * 0.42), cloth),
        ball((0, 0, h - 0.12), (0.17, 0.2, 0.24), skin),
        ball((0, 0.02, h - 0.08), (0.185, 0.2, 0.2), dice.paint(dice.pick(((0.03, 0.02, 0.02), (0.2, 0.12, 0.05))))),
        frustum((0, 0, h * 0.82), 0.06, 0.1, skin),
    ]
    return Piece("person", "", tuple(parts), (0.58, 0.3, h))


def bin_(dice: Dice) -> Piece:
    """Waste-paper bin."""
    h, r = dice.between(0.28, 0.6), dice.between(0.12, 0.2)
    colour, paint = colours.named_colour_or_fabric(dice)
    return Piece("bin", colour, (frustum((0, 0, 0), r, h, paint, -0.2),), (2 * r, 2 * r, h))


def rug(dice: Dice) -> Piece:
    """Flat carpet on the floor."""
    w, d = dice.between(1.2, 3.0), dice.between(0.8, 2.2)
    rgb = dice.pick(colours.FABRICS)
    paint = dice.paint(rgb, dice.pick(colours.FABRICS), dice.pick((PATCHES, NOISE, PLAIN)), dice.between(0.1, 0.4))
    return Piece("rug", "", (box((0, 0, 0.006), (w, d, 0.012), paint),), (w, d, 0.012))


def bench_row(dice: Dice, wide: float, top: Paint, seat: Paint) -> Piece:
    """One row of a lecture hall: a long desk at -y, a bench with a back at +y."""
    parts = (
        box((0, -0.2, 0.735), (wide, 0.4, 0.03), top),
        box((0, -0.38, 0.45), (wide, 0.02, 0.55), top),
        box((0, 0.25, 0.44), (wide, 0.38, 0.04), seat),
        box((0, 0.44, 0.68), (wide, 0.03, 0.36), seat, pitch=-0.1),
        *(box((s * (wide / 2 - 0.05), 0, 0.36), (0.05, 0.75, 0.72), top) for s in (-1, 0, 1)),
    )
    return Piece("table", "", parts, (wide, 0.9, 0.88))


def bag(dice: Dice) -> Piece:
    """Rucksack or bag."""
    w, d, h = dice.between(0.25, 0.45), dice.between(0.15, 0.25), dice.between(0.3, 0.5)
    colour, cloth = colours.named_colour_or_fabric(dice)
    parts = (
        ball((0, 0, h * 0.45), (w, d, h * 0.95), cloth),
        box((0, 0, h * 0.25), (w * 0.85, d * 0.8, h * 0.5), cloth),
    )
    return Piece("bag", colour, parts, (w, d, h))


def pouf(dice: Dice) -> Piece:
    """Low round seat."""
    r, h = dice.between(0.2, 0.35), dice.between(0.3, 0.45)
    colour, cloth = colours.named_colour_or_fabric(dice)
    parts = (frustum((0, 0, 0), r, h - 0.04, cloth), ball((0, 0, h - 0.05), (2 * r, 2 * r, 0.1), cloth))
    return Piece("stool", colour, parts, (2 * r, 2 * r, h))
