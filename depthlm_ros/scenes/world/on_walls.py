# SPDX-License-Identifier: Apache-2.0
"""Pieces that hang on walls and from ceilings; their back is at +y, at the wall, and heights are above the floor."""

from __future__ import annotations

from depthlm_ros.scenes.world import colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import (
    BOOKS,
    BOX,
    FRUSTUM,
    PATCHES,
    SCREEN,
    STRIPES,
    Paint,
    Part,
    Piece,
    box,
    frustum,
)

# A quarter turn, radians, with as many digits as the scenes were made with.
QUARTER_TURN = 1.5707963


def wall_shelf(dice: Dice) -> Piece:
    """One to three boards with objects on them."""
    w, d, board = dice.between(0.5, 1.4), dice.between(0.18, 0.28), colours.board(dice)
    parts, z = [], dice.between(1.2, 1.5)
    for _ in range(dice.integer(1, 3)):
        parts.append(box((0, -d / 2, z), (w, d, 0.025), board))
        wide, tall = w * dice.between(0.3, 0.9), dice.between(0.15, 0.28)
        paint = dice.paint((0.25, 0.2, 0.18), texture=BOOKS, scale_m=dice.between(0.025, 0.05))
        parts.append(
            box((dice.between(-0.5, 0.5) * (w - wide), -d / 2, z + 0.012 + tall / 2), (wide, d * 0.7, tall), paint)
        )
        if dice.chance(0.5):
            r = dice.between(0.04, 0.08)
            parts.append(
                frustum(
                    ((w / 2 - r) * dice.pick((-1, 1)), -d / 2, z + 0.012),
                    r,
                    dice.between(0.1, 0.25),
                    colours.lacquer(dice),
                    dice.pick((0.0, 0.3)),
                )
            )
        z += 0.35
    return Piece("", "", tuple(parts), (w, d, z))


def clock(dice: Dice) -> Piece:
    """Round clock."""
    r, z = dice.between(0.12, 0.2), dice.between(1.8, 2.2)
    face = Paint((0.8, 0.8, 0.78), seed=dice.seed())
    parts = (
        Part(FRUSTUM, (0, -0.02, z), (r, r, 0.02), colours.lacquer(dice), 0.0, 0.0, QUARTER_TURN),
        Part(FRUSTUM, (0, -0.024, z), (r * 0.88, r * 0.88, 0.02), face, 0.0, 0.0, QUARTER_TURN),
        box((0, -0.046, z + r * 0.3), (0.014, 0.004, r * 0.6), dice.paint((0.03, 0.03, 0.03))),
        box((r * 0.2, -0.046, z), (r * 0.4, 0.004, 0.014), dice.paint((0.03, 0.03, 0.03))),
    )
    return Piece("clock", "", parts, (2 * r, 0.05, z + r))


def notice_board(dice: Dice) -> Piece:
    """Pin board with sheets of paper on it."""
    w, h, z = dice.between(0.6, 1.6), dice.between(0.6, 1.0), dice.between(1.4, 1.6)
    back = dice.paint(dice.pick(((0.45, 0.3, 0.17), (0.1, 0.15, 0.3), (0.3, 0.3, 0.3), (0.75, 0.75, 0.75))))
    parts = [
        box((0, -0.01, z), (w, 0.02, h), colours.lacquer(dice)),
        box((0, -0.012, z), (w - 0.05, 0.02, h - 0.05), back),
    ]
    for _ in range(dice.integer(2, 7)):
        sheet = dice.paint(
            dice.pick(((0.8, 0.8, 0.78), (0.8, 0.8, 0.78), (0.8, 0.7, 0.2), (0.3, 0.5, 0.7))),
            (0.25, 0.25, 0.25),
            dice.pick((SCREEN, PATCHES)),
            dice.between(0.01, 0.06),
        )
        x, y = dice.between(-0.5, 0.5) * (w - 0.3), dice.between(-0.5, 0.5) * (h - 0.35)
        parts.append(
            box((x, -0.023, z + y), dice.pick(((0.21, 0.003, 0.297), (0.297, 0.003, 0.21), (0.12, 0.003, 0.12))), sheet)
        )
    return Piece("", "", tuple(parts), (w, 0.03, z + h / 2))


def blackboard(dice: Dice) -> Piece:
    """Black, green or white board of a classroom."""
    w, h, z = dice.between(1.6, 4.0), dice.between(1.0, 1.3), dice.between(1.4, 1.6)
    face = dice.pick(
        (
            dice.paint((0.03, 0.08, 0.06), gloss=0.02),
            dice.paint((0.03, 0.03, 0.03)),
            Paint((0.82, 0.82, 0.82), gloss=0.05),
        )
    )
    parts = (
        box((0, -0.02, z), (w, 0.04, h), colours.metal(dice)),
        box((0, -0.022, z), (w - 0.06, 0.04, h - 0.06), face),
        box((0, -0.06, z - h / 2), (w * 0.8, 0.1, 0.03), colours.metal(dice)),
    )
    return Piece("", "", parts, (w, 0.12, z + h / 2))


def switches(dice: Dice) -> Piece:
    """Switch, socket, thermostat, sign or vent."""
    white, z = colours.lacquer(dice), dice.pick((0.3, 1.05, 1.05, 1.5, 2.2))
    s = dice.between(0.08, 0.25)
    return Piece("", "", (box((0, -0.01, z), (s, 0.02, s * dice.between(0.6, 1.4)), white),), (s, 0.02, z + s))


def coat_hooks(dice: Dice) -> Piece:
    """A rail with coats."""
    w, z = dice.between(0.6, 1.2), dice.between(1.55, 1.75)
    parts = [box((0, -0.015, z), (w, 0.03, 0.1), colours.board(dice))]
    for k in range(dice.integer(1, 5)):
        tall = dice.between(0.5, 1.1)
        parts.append(
            box(
                ((k / 5 - 0.4) * w, -0.1, z - tall / 2),
                (0.24, 0.14, tall),
                colours.fabric(dice),
                yaw=dice.between(-0.2, 0.2),
            )
        )
    return Piece("", "", tuple(parts), (w, 0.2, z))


def curtain(dice: Dice, wide: float, top: float, foot: float) -> list[Part]:
    """Two curtains beside an opening of this width, on a rod; foot: height of their lower ends."""
    cloth = dice.paint(dice.pick(colours.FABRICS), (0.1, 0.1, 0.1), STRIPES, dice.between(0.06, 0.14))
    r, g, b = cloth.rgb
    cloth = cloth._replace(rgb2=(0.7 * r, 0.7 * g, 0.7 * b))
    across = dice.between(0.2, 0.5)
    parts = [box((0, -0.1, top + 0.05), (wide + 0.5, 0.03, 0.03), colours.metal(dice))]
    for s in (-1, 1):
        x = s * (wide / 2 + 0.25 - across / 2)
        parts.append(box((x, -0.1, (foot + top) / 2), (across, 0.09, top - foot + 0.08), cloth))
    return parts


def blind(dice: Dice, wide: float, top: float, foot: float) -> list[Part]:
    """Slats in front of the upper part of a window."""
    low = foot + (top - foot) * dice.between(0.2, 0.8)
    slats = dice.paint((0.7, 0.7, 0.68), (0.4, 0.4, 0.4), STRIPES, 0.05, emission=dice.between(0.0, 0.6))
    return [Part(BOX, (0, -0.05, (low + top) / 2), (wide / 2, 0.01, (top - low) / 2), slats._replace(texture=STRIPES))]


def pendant(dice: Dice) -> Piece:
    """Lamp on a cord; its foot is the ceiling, so heights are negative."""
    drop, r = dice.between(0.3, 1.1), dice.between(0.1, 0.3)
    shade = Paint((0.85, 0.78, 0.62), emission=dice.between(0.3, 3.0), seed=dice.seed())
    if dice.chance(0.4):
        shade = colours.lacquer(dice)
    parts = (
        frustum((0, 0, -drop), 0.008, drop, colours.metal(dice)),
        frustum((0, 0, -drop - r), r, r * 0.9, shade, dice.between(0.2, 0.8)),
        frustum((0, 0, -drop - r * 0.9), r * 0.5, 0.02, Paint((1.0, 0.93, 0.8), emission=4.0)),
    )
    return Piece("", "", parts, (2 * r, 2 * r, 0.1))


def downlight(dice: Dice) -> Piece:
    """Spot, smoke detector, vent or projector at the ceiling."""
    kind = dice.unit()
    if kind < 0.5:
        part = frustum((0, 0, -0.012), dice.between(0.05, 0.12), 0.012, Paint((1.0, 0.95, 0.85), emission=4.0))
    elif kind < 0.8:
        part = frustum((0, 0, -0.05), 0.06, 0.05, colours.lacquer(dice))
    else:
        part = box((0, 0, -0.3), (0.35, 0.3, 0.14), colours.lacquer(dice))
    return Piece("", "", (part,), (0.3, 0.3, 0.1))


ON_WALLS = (wall_shelf, clock, notice_board, notice_board, switches, switches, switches, coat_hooks)
