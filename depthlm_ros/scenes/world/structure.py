# SPDX-License-Identifier: Apache-2.0
"""Parts of the building besides its shell: skirting, panels, partitions, columns, beams and pipes.

`sample_structure` draws which of them a room has, `sample_niches` the blocks that make it differ from a plain box.
"""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import FRUSTUM, Paint, Part, Piece, PlacedPiece, Xyz, box


def skirting(size: Xyz, dice: Dice) -> list[PlacedPiece]:
    """Returns a skirting board along each wall."""
    paint, h, (w, length, _) = colours.board(dice), dice.between(0.05, 0.14), size
    parts = (
        box((w / 2, 0.006, h / 2), (w, 0.012, h), paint),
        box((w / 2, length - 0.006, h / 2), (w, 0.012, h), paint),
        box((0.006, length / 2, h / 2), (0.012, length, h), paint),
        box((w - 0.006, length / 2, h / 2), (0.012, length, h), paint),
    )
    return [PlacedPiece(Piece("", "", parts, size), (0.0, 0.0, 0.0), 0.0, True)]


def partition(size: Xyz, dice: Dice, paint: Paint) -> list[PlacedPiece]:
    """Returns a wall across the room with an open doorway, through which the space behind it stays visible."""
    w, length, h = size
    y, gap, x = length * dice.between(0.5, 0.75), dice.between(0.9, min(2.5, w * 0.6)), w * dice.between(0.3, 0.7)
    left, right, lintel = max(0.1, x - gap / 2), min(w - 0.1, x + gap / 2), dice.between(2.0, 2.2)
    parts = (
        box((left / 2, y, h / 2), (left, 0.14, h), paint),
        box(((right + w) / 2, y, h / 2), (w - right, 0.14, h), paint),
        box(((left + right) / 2, y, (lintel + h) / 2), (right - left, 0.139, h - lintel), paint),
    )
    return [PlacedPiece(Piece("", "", parts, size), (0.0, 0.0, 0.0), 0.0, True)]


def sample_niches(size: Xyz, room: str, dice: Dice) -> list[tuple[float, float, float, float]]:
    """Draws blocks (x, y, width, depth) that fill corners or strips along walls, so that few rooms are plain boxes."""
    w, length, _ = size
    blocks = []
    if room != "corridor" and dice.chance(0.3):
        a, b = w * dice.between(0.2, 0.45), length * dice.between(0.2, 0.5)
        blocks.append((dice.pick((a / 2, w - a / 2)), dice.pick((b / 2, length - b / 2)), a, b))
    for _ in range(dice.pick((0, 0, 1, 2, 4))):
        a, b, side = dice.between(0.3, 1.6), dice.between(0.12, 0.5), dice.integer(0, 3)
        if side < 2:
            blocks.append(((b / 2, w - b / 2)[side], length * dice.unit(), b, a))
        else:
            blocks.append((w * dice.unit(), (b / 2, length - b / 2)[side - 2], a, b))
    return blocks


def dropped_ceiling(size: Xyz, dice: Dice) -> list[PlacedPiece]:
    """Returns a lower strip of ceiling along one wall, as over corridors and kitchens."""
    (w, length, h), deep = size, dice.between(0.15, 0.5)
    if h - deep < 2.2:
        return []
    wide = w * dice.between(0.15, 0.5)
    part = box(
        (dice.pick((wide / 2, w - wide / 2)), length / 2, h - deep / 2), (wide, length, deep), colours.ceiling(dice)
    )
    return [PlacedPiece(Piece("", "", (part,), size), (0.0, 0.0, 0.0), 0.0, True)]


def columns(size: Xyz, dice: Dice, paint: Paint) -> list[PlacedPiece]:
    """Returns two rows of square columns."""
    w, length, h = size
    thick, count = dice.between(0.3, 0.6), max(2, int(length / dice.between(4.0, 6.0)))
    half = w * dice.between(0.22, 0.36)
    column = Piece("", "", (box((0, 0, h / 2), (thick, thick, h), paint),), (thick, thick, h))
    spots = [(w / 2 + s * half, (k + 0.5) * length / count, 0.0) for k in range(count) for s in (-1, 1)]
    return [PlacedPiece(column, spot, 0.0, True) for spot in spots]


def wainscot(size: Xyz, dice: Dice) -> list[PlacedPiece]:
    """Returns another material for the lower part of all walls."""
    (w, length, _), h, paint = size, dice.between(0.9, 1.5), colours.wall(dice)
    parts = (
        box((w / 2, 0.004, h / 2), (w, 0.008, h), paint),
        box((w / 2, length - 0.004, h / 2), (w, 0.008, h), paint),
        box((0.004, length / 2, h / 2), (0.008, length, h), paint),
        box((w - 0.004, length / 2, h / 2), (0.008, length, h), paint),
    )
    return [PlacedPiece(Piece("", "", parts, size), (0.0, 0.0, 0.0), 0.0, True)]


def beams(size: Xyz, dice: Dice) -> list[PlacedPiece]:
    """Returns beams below the ceiling, across the room."""
    (w, length, h), paint = size, colours.board(dice)
    step, wide, deep = dice.between(1.2, 3.0), dice.between(0.1, 0.25), dice.between(0.12, 0.3)
    count = max(1, min(9, int(length / step)))
    parts = tuple(box((w / 2, (k + 0.5) * length / count, h - deep / 2), (w, wide, deep), paint) for k in range(count))
    return [PlacedPiece(Piece("", "", parts, size), (0.0, 0.0, 0.0), 0.0, True)]


def pipes(size: Xyz, dice: Dice) -> list[PlacedPiece]:
    """Returns pipes or ducts along the room below the ceiling, and one vertical pipe."""
    w, length, h = size
    parts = []
    for _ in range(dice.integer(1, 3)):
        r, x = dice.pick((0.03, 0.05, 0.1, 0.2)), dice.pick((0.25, w - 0.25, w * dice.between(0.2, 0.8)))
        centre = (x, length / 2, h - r - dice.between(0.05, 0.4))
        parts.append(Part(FRUSTUM, centre, (r, r, length / 2), colours.metal(dice), 0.0, 0.0, math.pi / 2))
    r, y = dice.between(0.03, 0.08), length * dice.between(0.1, 0.9)
    parts.append(Part(FRUSTUM, (0.12, y, h / 2), (r, r, h / 2), colours.metal(dice)))
    return [PlacedPiece(Piece("", "", tuple(parts), size), (0.0, 0.0, 0.0), 0.0, True)]


def sample_structure(size: Xyz, room: str, dice: Dice, paints: tuple[Paint, ...]) -> list[PlacedPiece]:
    """Draws the parts of the building that this room has. paints: those of the shell."""
    extra = skirting(size, dice)
    if (
        room in ("living room", "office", "corridor", "hall", "laboratory", "hallway")
        and size[0] > 2.2
        and dice.chance(0.3)
    ):
        extra += partition(size, dice, paints[0])
    if (room == "hall" and dice.chance(0.6)) or (room == "workshop" and dice.chance(0.3)):
        extra += columns(size, dice, paints[1])
    if dice.chance(0.15):
        extra += wainscot(size, dice)
    if dice.chance(0.5 if room == "workshop" else 0.08):
        extra += beams(size, dice)
    if dice.chance(0.12):
        extra += dropped_ceiling(size, dice)
    if dice.chance({"workshop": 0.7, "laboratory": 0.5, "corridor": 0.15}.get(room, 0.03)):
        extra += pipes(size, dice)
    return extra
