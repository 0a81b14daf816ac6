# SPDX-License-Identifier: Apache-2.0
"""Objects for pictures from near by, at true size and hollow where the real ones are. Conventions: furniture.py.

`THINGS` are groups of makers of objects that belong together: on a desk, a kitchen counter, a table, a work bench or a
shelf.
"""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import clutter, colours, tabletop
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import (
    BALL,
    FRUSTUM,
    PATCHES,
    PLAIN,
    SCREEN,
    SIMPLE_KINDS,
    TILES,
    Paint,
    Part,
    Piece,
    box,
    frustum,
)

# Width, depth and height of packets that stand, metres, and of flat devices.
PACKET_SIZES_M = ((0.19, 0.06, 0.28), (0.07, 0.05, 0.15), (0.12, 0.09, 0.12), (0.15, 0.05, 0.08), (0.2, 0.14, 0.07))
SLAB_SIZES_M = ((0.07, 0.15, 0.009), (0.045, 0.18, 0.02), (0.17, 0.24, 0.008), (0.08, 0.14, 0.015), (0.09, 0.11, 0.02))


def _glaze(dice: Dice) -> Paint:
    """Draws china, enamel or plastic."""
    rgb = dice.pick(((0.8, 0.8, 0.77), (0.8, 0.8, 0.77), *colours.FABRICS, *colours.NAMED_COLOURS.values()))
    return dice.paint(rgb, gloss=dice.pick((0.02, 0.06, 0.1)))


def _ring(r: float, foot: float, h: float, paint: Paint, sides: int, lean: float = 0.0) -> list[Part]:
    """Returns the wall of a hollow vessel: boxes around its axis, leaning outwards by `lean`, radians.

    r: radius at half its height.
    """
    wide, thick = 2 * (r + 0.5 * h * math.sin(lean)) * math.tan(math.pi / sides), 0.004 + 0.03 * r
    angles = [2 * math.pi * k / sides for k in range(sides)]
    return [
        box((r * math.cos(a), r * math.sin(a), foot + h / 2), (wide, thick, h), paint, yaw=a - math.pi / 2, pitch=-lean)
        for a in angles
    ]


def mug(dice: Dice) -> Piece:
    """Hollow mug with a handle, empty or with a drink."""
    r, h, paint = dice.between(0.036, 0.046), dice.between(0.08, 0.11), _glaze(dice)
    drink = dice.pick((paint, dice.paint((0.06, 0.03, 0.015), gloss=0.1), dice.paint((0.3, 0.12, 0.02), gloss=0.1)))
    parts = [
        *_ring(r, 0.0, h, paint, 10),
        frustum((0, 0, 0), 0.95 * r, h * dice.between(0.1, 0.8), drink),
        box((r + 0.03, 0, h / 2), (0.01, 0.014, 0.5 * h), paint),
        *(box((r + 0.016, 0, h / 2 + s * 0.23 * h), (0.032, 0.014, 0.01), paint) for s in (-1, 1)),
    ]
    return Piece("cup", "", tuple(parts), (2 * r + 0.05, 2 * r + 0.01, h))


def hollow_bowl(dice: Dice) -> Piece:
    """Hollow bowl, sometimes with fruit."""
    r, paint = dice.between(0.055, 0.13), _glaze(dice)
    h, lean = r * dice.between(0.6, 0.9), dice.between(0.3, 0.7)
    inner = r - 0.5 * h * math.sin(lean)
    parts = [*_ring(r, 0.0, h, paint, 12, lean), frustum((0, 0, 0), inner, 0.012, paint)]
    if dice.chance(0.4):
        fruit = dice.paint(dice.pick(((0.6, 0.2, 0.03), (0.3, 0.45, 0.05), (0.5, 0.04, 0.03))))
        for k in range(3):
            at = (0.42 * r * math.cos(2.1 * k), 0.42 * r * math.sin(2.1 * k), 0.45 * r)
            parts.append(Part(BALL, at, (0.38 * r,) * 3, fruit))
    wide = 2 * (r + 0.5 * h * math.sin(lean))
    return Piece("", "", tuple(parts), (wide, wide, h))


def plate(dice: Dice) -> Piece:
    """Plate, sometimes with food or cutlery."""
    r, paint = dice.between(0.08, 0.14), _glaze(dice)
    parts = [frustum((0, 0, 0), 0.65 * r, 0.018, paint, -0.5), frustum((0, 0, 0.017), 0.68 * r, 0.003, paint)]
    for _ in range(dice.pick((0, 0, 1, 3))):
        size, rgb = dice.between(0.03, 0.08), dice.pick(((0.4, 0.22, 0.08), (0.55, 0.4, 0.1), (0.1, 0.3, 0.05)))
        at = (dice.between(-0.4, 0.4) * r, dice.between(-0.4, 0.4) * r, 0.02)
        parts.append(Part(BALL, at, (size / 2, size / 2.5, size / 4), dice.paint(rgb)))
    if dice.chance(0.5):
        steel = dice.paint((0.5, 0.5, 0.5), gloss=0.1)
        parts += [box((s * (r + 0.03), 0, 0.003), (0.018, 0.2, 0.004), steel) for s in (-1, 1)]
    return Piece("", "", tuple(parts), (2 * r + 0.08, 2 * r, 0.03))


def bottle(dice: Dice) -> Piece:
    """Bottle with shoulder, neck, cap and label."""
    r, tall = dice.between(0.028, 0.045), dice.between(0.1, 0.2)
    body, cap = _glaze(dice), _glaze(dice)
    label = dice.paint((0.8, 0.8, 0.78), dice.pick(tuple(colours.NAMED_COLOURS.values())), PATCHES, 0.03)
    parts = (
        frustum((0, 0, 0), r, tall, body),
        frustum((0, 0, tall), r, 0.045, body, 0.62),
        frustum((0, 0, tall + 0.045), 0.4 * r, 0.025, body),
        frustum((0, 0, tall + 0.065), 0.48 * r, 0.022, cap),
        frustum((0, 0, tall * 0.25), r + 0.001, tall * 0.5, label),
    )
    return Piece("bottle", "", parts, (2 * r, 2 * r, tall + 0.087))


def can(dice: Dice) -> Piece:
    """Can or jar of one named colour with a metal lid."""
    colour, rgb = dice.pick(tuple(colours.NAMED_COLOURS.items()))
    r, h = dice.between(0.026, 0.05), dice.between(0.07, 0.15)
    paint = Paint(dice.similar_colour(rgb, 0.05), gloss=0.08, seed=dice.seed())
    lid = dice.paint((0.5, 0.5, 0.5), gloss=0.1)
    parts = (frustum((0, 0, 0), r, h, paint), frustum((0, 0, h - 0.002), 0.92 * r, 0.005, lid))
    return Piece("cylinder", colour, parts, (2 * r, 2 * r, h + 0.003))


def packet(dice: Dice) -> Piece:
    """Packet of food or goods of one named colour with printed labels, upright or lying."""
    colour, rgb = dice.pick(tuple(colours.NAMED_COLOURS.items()))
    paint = Paint(dice.similar_colour(rgb, 0.05), gloss=dice.pick((0.0, 0.04)), seed=dice.seed())
    w, d, h = dice.pick(PACKET_SIZES_M)
    gain = dice.between(0.8, 1.2)
    w, d, h = w * gain, d * gain, h * gain
    if dice.chance(0.4):
        d, h = h, d
    tone = dice.pick(((0.8, 0.8, 0.78), (0.7, 0.6, 0.1), (0.1, 0.1, 0.12)))
    label = dice.paint(tone, dice.pick(tuple(colours.NAMED_COLOURS.values())), dice.pick((PATCHES, SCREEN)), 0.02)
    parts = (
        box((0, 0, h / 2), (w, d, h), paint),
        box((0, 0, h * dice.between(0.4, 0.7)), (w * 0.7, d + 0.001, h * 0.35), label),
        box((0, 0, h / 2), (w * 0.5, d * 0.5, h + 0.001), label),
    )
    return Piece("box", colour, parts, (w, d, h))


def book(dice: Dice) -> Piece:
    """One book that lies, its pages between covers."""
    w, d, h = dice.between(0.11, 0.22), dice.between(0.17, 0.3), dice.between(0.012, 0.05)
    rgb = dice.pick((*colours.FABRICS, *colours.NAMED_COLOURS.values()))
    cover = dice.paint(rgb, (0.8, 0.8, 0.78), dice.pick((PLAIN, PATCHES)), 0.06)
    parts = (
        *(box((0, 0, z), (w, d, 0.003), cover) for z in (0.0015, h - 0.0015)),
        box((0.003, 0, h / 2), (w - 0.01, d - 0.008, h - 0.006), dice.paint((0.75, 0.73, 0.66))),
        box((-w / 2 + 0.002, 0, h / 2), (0.004, d, h), cover),
    )
    return Piece("", "", parts, (w, d, h))


def open_book(dice: Dice) -> Piece:
    """Open book or magazine."""
    page = dice.paint((0.78, 0.76, 0.7), (0.15, 0.15, 0.15), dice.pick((SCREEN, SCREEN, PATCHES)), 0.008)
    w, d = dice.between(0.13, 0.2), dice.between(0.19, 0.29)
    parts = tuple(box((s * w / 2, 0, 0.008), (w, d, 0.014), page._replace(seed=dice.seed())) for s in (-1, 1))
    return Piece("", "", parts, (2 * w, d, 0.015))


def keyboard(dice: Dice) -> Piece:
    """Keyboard with a mouse."""
    dark = dice.pick(((0.03, 0.03, 0.03), (0.7, 0.7, 0.68), (0.35, 0.35, 0.36)))
    body = dice.paint(dark)
    keys = dice.paint(dark, (0.5 * dark[0], 0.5 * dark[1], 0.5 * dark[2]), TILES, 0.019)
    parts = (
        box((-0.05, 0, 0.009), (0.43, 0.14, 0.018), body, pitch=0.04),
        box((-0.05, 0.005, 0.013), (0.41, 0.12, 0.018), keys, pitch=0.04),
        Part(BALL, (0.24, -0.01, 0.012), (0.032, 0.055, 0.02), body),
    )
    return Piece("", "", parts, (0.56, 0.16, 0.032))


def slab(dice: Dice) -> Piece:
    """Phone, remote control, tablet, calculator or wallet."""
    w, d, h = dice.pick(SLAB_SIZES_M)
    face = dice.paint((0.02, 0.02, 0.025), (0.3, 0.3, 0.35), dice.pick((PLAIN, SCREEN)), 0.012, gloss=0.1)
    parts = (
        box((0, 0, h / 2), (w, d, h), colours.lacquer(dice)),
        box((0, 0, h / 2 + 0.0005), (0.9 * w, 0.9 * d, h), face),
    )
    return Piece("", "", parts, (w, d, h + 0.001))


def pens(dice: Dice) -> Piece:
    """One to four pens or tools with thin handles."""
    parts = []
    for k in range(dice.integer(1, 4)):
        r, turn = dice.pick((0.004, 0.005, 0.012)), dice.between(-0.6, 0.6)
        at = (0.03 * (k - 1.5), dice.between(-0.01, 0.01), r)
        parts.append(Part(FRUSTUM, at, (r, r, dice.between(0.06, 0.09)), _glaze(dice), 0.0, turn, math.pi / 2))
    return Piece("", "", tuple(parts), (0.16, 0.19, 0.024))


def hand_tool(dice: Dice) -> Piece:
    """Drill or hair dryer that lies on its side, or a hammer."""
    dark, body = dice.paint((0.03, 0.03, 0.035)), _glaze(dice)
    if dice.chance(0.4):
        handle = box((0, 0, 0.015), (0.03, 0.28, 0.025), colours.wood(dice))
        return Piece("", "", (handle, box((0, 0.14, 0.018), (0.11, 0.03, 0.035), dark)), (0.12, 0.31, 0.036))
    parts = (
        Part(FRUSTUM, (0, 0.05, 0.035), (0.033, 0.033, 0.08), body, 0.0, math.pi / 2, math.pi / 2),
        Part(FRUSTUM, (0.1, 0.05, 0.035), (0.018, 0.018, 0.03), dark, 0.0, math.pi / 2, math.pi / 2),
        box((-0.02, -0.04, 0.03), (0.04, 0.13, 0.04), dark, yaw=-0.2),
        box((-0.03, -0.11, 0.035), (0.11, 0.05, 0.06), body),
    )
    return Piece("", "", parts, (0.26, 0.28, 0.07))


def pan(dice: Dice) -> Piece:
    """Hollow pan or pot with a handle."""
    r, h, metal = dice.between(0.08, 0.14), dice.pick((0.045, 0.1, 0.13)), colours.metal(dice)
    parts = [*_ring(r, 0.0, h, metal, 12, 0.12), frustum((0, 0, 0), r - 0.004, 0.012, metal)]
    parts.append(box((0, -r - 0.08, 0.8 * h), (0.022, 0.17, 0.015), dice.paint((0.02, 0.02, 0.02))))
    return Piece("", "", tuple(parts), (2 * r + 0.02, 2 * r + 0.34, h))


def tray(dice: Dice) -> Piece:
    """Tray, chopping board or table mat."""
    w, d = dice.between(0.25, 0.45), dice.between(0.18, 0.3)
    paint = colours.wood(dice) if dice.chance(0.5) else colours.fabric(dice)
    parts = [box((0, 0, 0.006), (w, d, 0.012), paint)]
    if dice.chance(0.4):
        parts += [box((s * (w / 2 - 0.006), 0, 0.02), (0.012, d, 0.03), paint) for s in (-1, 1)]
    return Piece("", "", tuple(parts), (w, d, 0.035))


def coloured_thing(dice: Dice) -> Piece:
    """Box, ball, cylinder or cone of a named colour, of the size of a toy."""
    return clutter.coloured_object(
        dice, dice.pick(SIMPLE_KINDS), dice.pick(tuple(colours.NAMED_COLOURS)), dice.between(0.04, 0.2)
    )


ROUND_THINGS = (mug, mug, hollow_bowl, bottle, bottle, can)
OFFICE_THINGS = (
    *(*ROUND_THINGS, book, book, open_book, keyboard, slab, slab, pens, packet, coloured_thing, coloured_thing),
    *(tabletop.laptop, tabletop.monitor, tabletop.paper, tabletop.stack, tabletop.table_lamp),
)
KITCHEN_THINGS = (
    *(*ROUND_THINGS, plate, plate, pan, tray, packet, packet, bottle, can, coloured_thing),
    tabletop.appliance,
)
HOME_THINGS = (*ROUND_THINGS, plate, book, slab, packet, tray, tabletop.vase, coloured_thing, coloured_thing, hand_tool)
BENCH_THINGS = (hand_tool, hand_tool, packet, can, bottle, pens, slab, coloured_thing, coloured_thing, clutter.carton)
SHELF_THINGS = (*ROUND_THINGS, packet, packet, packet, book, tabletop.row_of_books, coloured_thing, hand_tool, can)
THINGS = (OFFICE_THINGS, KITCHEN_THINGS, HOME_THINGS, BENCH_THINGS, SHELF_THINGS)


def panel_door(dice: Dice) -> Piece:
    """Door with panels, a lever handle on a plate, a keyhole and hinges."""
    w, h, leaf, frame = dice.between(0.8, 0.95), dice.between(1.97, 2.12), colours.board(dice), colours.lacquer(dice)
    steel = dice.paint(dice.pick(((0.5, 0.5, 0.5), (0.45, 0.33, 0.12), (0.05, 0.05, 0.05))), gloss=0.1)
    side = dice.pick((-1, 1))
    x = side * (w / 2 - 0.07)
    parts = [
        box((0, -0.02, h / 2), (w, 0.04, h), leaf),
        box((0, -0.03, h + 0.04), (w + 0.16, 0.06, 0.08), frame),
        *(box((s * (w / 2 + 0.04), -0.03, h / 2), (0.08, 0.06, h), frame) for s in (-1, 1)),
        box((x, -0.043, 1.0), (0.04, 0.006, 0.22), steel),
        Part(FRUSTUM, (x, -0.065, 1.04), (0.011, 0.011, 0.025), steel, 0.0, 0.0, math.pi / 2),
        box((x - side * 0.05, -0.09, 1.04), (0.13, 0.018, 0.02), steel),
        box((x, -0.047, 0.94), (0.008, 0.004, 0.02), dice.paint((0.01, 0.01, 0.01))),
        *(box((-side * (w / 2 - 0.005), -0.05, z), (0.02, 0.02, 0.09), steel) for z in (0.25, 1.7)),
    ]
    for k in range(dice.pick((0, 0, 2, 3))):
        parts.append(box((0, -0.043, 0.35 + 0.62 * k), (w - 0.26, 0.012, 0.5), leaf))
    return Piece("door", "", tuple(parts), (w + 0.16, 0.11, h + 0.08))


def counter_with_sink(dice: Dice) -> tuple[Piece, Piece]:
    """Kitchen counter with a hole, and the sink with its tap that belongs in the hole."""
    w, d, h = dice.between(1.3, 2.2), 0.6, dice.between(0.86, 0.92)
    top, front, steel = colours.board(dice), colours.board(dice), dice.paint((0.5, 0.5, 0.5), gloss=0.1)
    sw, sd, deep = dice.between(0.4, 0.6), 0.4, dice.between(0.14, 0.2)
    a, b = (w - sw) / 2, (d - sd) / 2
    parts = [
        box((0, 0.02, (h - 0.25) / 2), (w, d - 0.04, h - 0.25), front),
        *(box((s * (sw + a) / 2, 0, h - 0.02), (a, d, 0.04), top) for s in (-1, 1)),
        *(box((0, s * (sd + b) / 2, h - 0.02), (sw, b, 0.04), top) for s in (-1, 1)),
        *(box((s * w / 2, 0, h - 0.14), (0.03, d - 0.04, 0.24), front) for s in (-1, 1)),
        box((0, -d / 2 + 0.02, h - 0.14), (w, 0.02, 0.24), front),
        box((0, d / 2 - 0.01, h + 0.25), (w, 0.015, 0.5), colours.wall(dice)),
    ]
    basin = [
        *(box((s * sw / 2, 0, h - deep / 2), (0.012, sd, deep + 0.01), steel) for s in (-1, 1)),
        *(box((0, s * sd / 2, h - deep / 2), (sw, 0.012, deep + 0.01), steel) for s in (-1, 1)),
        box((0, 0, h - deep), (sw, sd, 0.01), steel),
        frustum((0, 0, h - deep + 0.004), 0.04, 0.004, dice.paint((0.1, 0.1, 0.1))),
        frustum((0, sd / 2 + 0.05, h), 0.018, 0.25, steel),
        box((0, sd / 2 - 0.03, h + 0.25), (0.025, 0.2, 0.02), steel),
        box((0.05, sd / 2 + 0.05, h + 0.1), (0.09, 0.02, 0.015), steel),
    ]
    return Piece("counter", "", tuple(parts), (w, d, h)), Piece("sink", "", tuple(basin), (sw, d, h + 0.27))


def open_shelf(dice: Dice) -> tuple[Piece, list[float]]:
    """Shelf without contents, and the heights of its boards, metres."""
    w, d, step, levels = dice.between(0.7, 1.6), dice.between(0.28, 0.5), dice.between(0.28, 0.45), dice.integer(3, 6)
    wood, h = colours.board(dice), 0.08 + levels * step
    heights = [0.08 + k * step for k in range(levels)]
    parts = [box((s * (w / 2 - 0.01), 0, h / 2), (0.02, d, h), wood) for s in (-1, 1)]
    parts += [box((0, 0, z - 0.01), (w - 0.04, d - 0.01, 0.02), wood) for z in (*heights, h)]
    if dice.chance(0.7):
        parts.append(box((0, d / 2 - 0.005, h / 2), (w - 0.02, 0.01, h), wood))
    return Piece("shelf", "", tuple(parts), (w, d, h)), heights
