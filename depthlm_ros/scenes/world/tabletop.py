# SPDX-License-Identifier: Apache-2.0
"""Objects on tables, shelves and counters. Conventions: furniture.py."""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import clutter, colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import BOOKS, PLAIN, SCREEN, Piece, ball, box, frustum


def monitor(dice: Dice) -> Piece:
    """Computer screen, its front at -y."""
    w = dice.between(0.45, 0.7)
    h, dark = w * 0.58, dice.paint((0.03, 0.03, 0.03), gloss=0.05)
    light = dice.chance(0.6)
    face = dice.paint(
        (0.7, 0.75, 0.8) if light else (0.01, 0.01, 0.015),
        (0.2, 0.2, 0.3),
        SCREEN if light else PLAIN,
        0.02,
        gloss=0.05,
        emission=1.2 if light else 0.0,
    )
    parts = (
        box((0, 0, 0.1 + h / 2), (w, 0.03, h), dark),
        box((0, -0.016, 0.1 + h / 2), (w - 0.03, 0.004, h - 0.03), face),
        box((0, 0.03, 0.08), (0.05, 0.03, 0.16), dark),
        box((0, 0.02, 0.008), (0.25, 0.18, 0.016), dark),
        box((0, -0.25, 0.012), (0.42, 0.14, 0.02), dark),
    )
    return Piece("monitor", "", parts, (w, 0.5, h + 0.1))


def laptop(dice: Dice) -> Piece:
    """Open laptop, the user at -y."""
    dark = dice.paint(dice.pick(((0.05, 0.05, 0.05), (0.5, 0.5, 0.5))))
    face = dice.paint((0.6, 0.65, 0.8), (0.1, 0.1, 0.2), SCREEN, 0.015, emission=1.0)
    parts = (
        box((0, 0, 0.01), (0.33, 0.23, 0.02), dark),
        box((0, 0.13, 0.12), (0.33, 0.01, 0.21), dark, pitch=-0.3),
        box((0, 0.124, 0.12), (0.31, 0.004, 0.19), face, pitch=-0.3),
    )
    return Piece("laptop", "", parts, (0.33, 0.3, 0.22))


def cup(dice: Dice) -> Piece:
    """Mug, glass or bottle."""
    paint = dice.paint(dice.pick(((0.8, 0.8, 0.78), (0.1, 0.2, 0.3), (0.4, 0.1, 0.06), (0.05, 0.15, 0.06))), gloss=0.1)
    if dice.chance(0.3):
        parts = (
            frustum((0, 0, 0), 0.038, 0.2, paint),
            frustum((0, 0, 0.2), 0.038, 0.05, paint, 0.6),
            frustum((0, 0, 0.25), 0.014, 0.05, paint),
        )
        return Piece("bottle", "", parts, (0.08, 0.08, 0.3))
    h, r = dice.between(0.08, 0.13), dice.between(0.035, 0.05)
    return Piece("cup", "", (frustum((0, 0, 0), r, h, paint, dice.pick((0.0, -0.3, 0.2))),), (2 * r, 2 * r, h))


def stack(dice: Dice) -> Piece:
    """Stack of books or papers."""
    parts, z = [], 0.0
    for _ in range(dice.integer(1, 4)):
        h = dice.between(0.008, 0.04)
        paint = dice.paint(dice.pick((*colours.FABRICS, (0.8, 0.8, 0.78))))
        parts.append(
            box(
                (0, 0, z + h / 2),
                (dice.between(0.16, 0.22), dice.between(0.22, 0.3), h),
                paint,
                yaw=dice.between(-0.2, 0.2),
            )
        )
        z += h
    return Piece("", "", tuple(parts), (0.25, 0.32, z))


def row_of_books(dice: Dice) -> Piece:
    """Books between supports."""
    w, h = dice.between(0.2, 0.5), dice.between(0.2, 0.3)
    return Piece(
        "",
        "",
        (box((0, 0, h / 2), (w, 0.18, h), dice.paint((0.25, 0.2, 0.18), texture=BOOKS, scale_m=0.03)),),
        (w, 0.18, h),
    )


def bowl(dice: Dice) -> Piece:
    """Fruit bowl, vase, jar."""
    r, h = dice.between(0.06, 0.16), dice.between(0.06, 0.3)
    paint = dice.paint(dice.pick(((0.8, 0.8, 0.78), (0.1, 0.15, 0.3), (0.35, 0.2, 0.1), (0.3, 0.35, 0.3))), gloss=0.05)
    parts = [frustum((0, 0, 0), r * 0.6, h, paint, dice.pick((-0.6, 0.2)))]
    for k in range(dice.integer(0, 3)):
        fruit = dice.paint(dice.pick(((0.6, 0.2, 0.03), (0.3, 0.45, 0.05), (0.5, 0.04, 0.03))))
        parts.append(ball((0.4 * r * math.cos(2 * k), 0.4 * r * math.sin(2 * k), h), (0.075,) * 3, fruit))
    return Piece("", "", tuple(parts), (2 * r, 2 * r, h))


def table_lamp(dice: Dice) -> Piece:
    """Foot, stem and a shade that glows a little."""
    h, r = dice.between(0.3, 0.6), dice.between(0.08, 0.16)
    shade = dice.paint((0.8, 0.72, 0.55), emission=dice.between(0.0, 1.5))
    stem = colours.metal(dice)
    parts = (
        frustum((0, 0, 0), 0.07, 0.02, stem),
        frustum((0, 0, 0), 0.012, h - 0.1, stem),
        frustum((0, 0, h - 0.18), r, 0.18, shade, 0.35),
    )
    return Piece("lamp", "", parts, (2 * r, 2 * r, h))


def paper(dice: Dice) -> Piece:
    """Flat sheet of paper."""
    sheet = dice.paint((0.8, 0.8, 0.78), (0.2, 0.2, 0.2), dice.pick((PLAIN, SCREEN)), 0.015)
    return Piece(
        "", "", (box((0, 0, 0.002), (0.21, 0.297, 0.004), sheet, yaw=dice.between(-0.6, 0.6)),), (0.3, 0.35, 0.004)
    )


def vase(dice: Dice) -> Piece:
    """Flowers in a vase."""
    h, r = dice.between(0.15, 0.3), dice.between(0.04, 0.07)
    parts = [frustum((0, 0, 0), r, h, colours.lacquer(dice), dice.pick((-0.3, 0.3)))]
    for k in range(dice.integer(2, 5)):
        petal = dice.paint(
            dice.pick(
                (colours.NAMED_COLOURS["red"], colours.NAMED_COLOURS["yellow"], (0.8, 0.8, 0.8), (0.1, 0.3, 0.06))
            )
        )
        size = dice.between(0.06, 0.12)
        parts.append(
            ball((r * math.cos(1.7 * k), r * math.sin(1.7 * k), h + dice.between(0.05, 0.2)), (size,) * 3, petal)
        )
    return Piece("", "", tuple(parts), (0.25, 0.25, h + 0.2))


def bits(dice: Dice) -> Piece:
    """Three to eight small objects: pens, phones, remote controls, keys, tins."""
    parts = []
    for _ in range(dice.integer(3, 8)):
        x, y, paint = (
            dice.between(-0.2, 0.2),
            dice.between(-0.15, 0.15),
            dice.paint(dice.pick((*colours.FABRICS, (0.7, 0.7, 0.7)))),
        )
        if dice.chance(0.3):
            parts.append(frustum((x, y, 0), dice.between(0.02, 0.04), dice.between(0.03, 0.15), paint))
        else:
            w, d, h = dice.between(0.03, 0.18), dice.between(0.02, 0.1), dice.between(0.008, 0.08)
            parts.append(box((x, y, h / 2), (w, d, h), paint, yaw=dice.between(0, 3)))
    return Piece("", "", tuple(parts), (0.45, 0.35, 0.15))


def appliance(dice: Dice) -> Piece:
    """Kettle, toaster, microwave, printer, loudspeaker."""
    body = colours.lacquer(dice)
    if dice.chance(0.3):
        kettle = [
            frustum((0, 0, 0), 0.08, 0.2, body, 0.25),
            ball((0, 0, 0.2), (0.12, 0.12, 0.05), body),
            box((0.1, 0, 0.12), (0.03, 0.02, 0.14), body),
        ]
        return Piece("", "", tuple(kettle), (0.25, 0.2, 0.24))
    w, d, h = dice.between(0.28, 0.5), dice.between(0.2, 0.38), dice.between(0.17, 0.32)
    front = dice.paint((0.03, 0.03, 0.035), gloss=0.06)
    parts = (
        box((0, 0, h / 2), (w, d, h), body),
        box((-0.1 * w, -d / 2 - 0.002, h / 2), (0.65 * w, 0.004, 0.7 * h), front),
    )
    return Piece("", "", parts, (w, d, h))


SMALL = (
    vase,
    bits,
    bits,
    bits,
    appliance,
    cup,
    cup,
    stack,
    stack,
    laptop,
    monitor,
    row_of_books,
    clutter.carton,
    bowl,
    paper,
    paper,
    table_lamp,
    clutter.bag,
)
