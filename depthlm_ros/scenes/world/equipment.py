# SPDX-License-Identifier: Apache-2.0
"""Equipment of kitchens, laboratories, workshops and waiting areas. Conventions: furniture.py."""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import (
    FRUSTUM,
    NOISE,
    PANES,
    PLAIN,
    SCREEN,
    STRIPES,
    Part,
    Piece,
    ball,
    box,
    frustum,
)


def kitchen_counter(dice: Dice) -> Piece:
    """Floor units with a worktop, sink or hob, and wall units above."""
    units, h, d = dice.integer(2, 5), dice.between(0.86, 0.93), 0.6
    w, front, top = 0.6 * units, colours.board(dice), colours.board(dice)
    body, handle = colours.lacquer(dice), colours.metal(dice)
    parts = [
        box((0, 0.02, h / 2), (w, d - 0.06, h - 0.06), body),
        box((0, 0, h - 0.02), (w + 0.02, d + 0.02, 0.04), top),
        box((0, d / 2 - 0.01, h + 0.25), (w, 0.015, 0.5), colours.wall(dice)),
    ]
    for k in range(units):
        x = -w / 2 + 0.3 + 0.6 * k
        parts.append(box((x, -d / 2 + 0.01, h / 2 + 0.03), (0.585, 0.02, h - 0.14), front))
        parts.append(box((x, -d / 2 - 0.01, h - 0.13), (0.25, 0.02, 0.015), handle))
    x = dice.between(-0.3, 0.3) * w
    parts.append(
        box((x, 0, h + 0.001), (0.55, 0.48, 0.006), dice.pick((handle, dice.paint((0.02, 0.02, 0.02), gloss=0.1))))
    )
    if dice.chance(0.7):
        foot, tall = dice.between(1.4, 1.5), dice.between(0.5, 0.75)
        parts += [
            box((-w / 2 + 0.3 + 0.6 * k, d / 2 - 0.17, foot + tall / 2), (0.585, 0.34, tall), front)
            for k in range(units)
        ]
    return Piece("counter", "", tuple(parts), (w, d, h), h)


def island(dice: Dice) -> Piece:
    """Kitchen island or reception desk: a block with an overhanging top."""
    w, d, h = dice.between(1.2, 2.2), dice.between(0.65, 0.95), dice.between(0.88, 1.1)
    body = colours.board(dice)
    parts = (
        box((0, 0.05, h / 2 - 0.02), (w - 0.1, d - 0.2, h - 0.04), body),
        box((0, 0, h - 0.02), (w, d, 0.04), colours.board(dice)),
    )
    return Piece("counter", "", parts, (w, d, h), h)


def fridge(dice: Dice) -> Piece:
    """Fridge or tall oven unit."""
    w, d, h = dice.between(0.55, 0.75), dice.between(0.6, 0.7), dice.between(1.4, 2.0)
    body, split = colours.lacquer(dice), dice.between(0.5, 0.7)
    parts = (
        box((0, 0.03, h / 2), (w, d - 0.06, h), body),
        box((0, -d / 2 + 0.03, h * split / 2 + 0.02), (w - 0.01, 0.06, h * split - 0.04), body),
        box((0, -d / 2 + 0.03, h * (1 + split) / 2), (w - 0.01, 0.06, h * (1 - split) - 0.02), body),
        box((w * 0.4, -d / 2 - 0.02, h * split - 0.2), (0.03, 0.04, 0.25), colours.metal(dice)),
    )
    return Piece("fridge", "", parts, (w, d, h))


def television(dice: Dice) -> Piece:
    """Flat screen on a low board."""
    w, h, dark = dice.between(1.2, 2.0), dice.between(0.35, 0.55), dice.paint((0.012, 0.012, 0.014), gloss=0.12)
    board, screen = colours.board(dice), min(1.4, w * 0.7)
    parts = (
        box((0, 0, h / 2 + 0.03), (w, 0.42, h - 0.06), board),
        box((0, -0.212, h / 2 + 0.03), (w * 0.48, 0.005, h - 0.12), colours.board(dice)),
        box((0, 0.05, h + 0.06 + screen * 0.28), (screen, 0.05, screen * 0.56), dark),
        box((0, 0.05, h + 0.03), (0.3, 0.2, 0.06), dark),
    )
    return Piece("television", "", parts, (w, 0.45, h + 0.06 + screen * 0.56))


def radiator(dice: Dice) -> Piece:
    """Ribbed heater below a window."""
    w, h = dice.between(0.6, 1.8), dice.between(0.45, 0.7)
    rib = dice.paint((0.75, 0.75, 0.72), (0.45, 0.45, 0.43), STRIPES, 0.06)
    return Piece("radiator", "", (box((0, 0, 0.12 + h / 2), (w, 0.09, h), rib),), (w, 0.12, h + 0.12))


def stool(dice: Dice) -> Piece:
    """Round seat on four legs or a foot."""
    h, r, leg = dice.between(0.43, 0.78), dice.between(0.15, 0.2), colours.metal(dice)
    parts: list[Part] = [frustum((0, 0, h - 0.05), r, 0.05, colours.fabric(dice))]
    if dice.chance(0.5):
        parts += [frustum((0.7 * r * a, 0.7 * r * b, 0), 0.014, h - 0.05, leg) for a in (-1, 1) for b in (-1, 1)]
    else:
        parts += [frustum((0, 0, 0.02), 0.025, h - 0.06, leg), frustum((0, 0, 0), r * 1.1, 0.02, leg)]
    return Piece("stool", "", tuple(parts), (2 * r, 2 * r, h))


def bench(dice: Dice) -> Piece:
    """Seat for several, with or without a back."""
    w, d, seat, leg = dice.between(1.0, 2.2), dice.between(0.35, 0.5), dice.between(0.42, 0.48), colours.metal(dice)
    top, back = colours.board(dice), dice.chance(0.5)
    parts = [box((0, 0, seat - 0.02), (w, d, 0.04), top)]
    parts += [box((s * (w / 2 - 0.15), 0, seat / 2 - 0.02), (0.05, d - 0.04, seat - 0.04), leg) for s in (-1, 1)]
    if back:
        parts.append(box((0, d / 2, seat + 0.25), (w, 0.03, 0.3), top, pitch=-0.15))
    return Piece("bench", "", tuple(parts), (w, d, seat + 0.4 if back else seat))


def lab_bench(dice: Dice) -> Piece:
    """Long work bench with drawers, a rack above it and instruments."""
    w, d, h = dice.between(1.5, 3.2), dice.between(0.7, 0.85), dice.between(0.75, 0.92)
    top, body, leg = colours.lacquer(dice), colours.lacquer(dice), colours.metal(dice)
    parts = [box((0, 0, h - 0.02), (w, d, 0.04), top)]
    parts += [box((s * (w / 2 - 0.25), 0.02, h / 2 - 0.03), (0.45, d - 0.1, h - 0.06), body) for s in (-1, 1)]
    if dice.chance(0.7):
        high = dice.between(1.5, 1.9)
        parts += [box((s * (w / 2 - 0.03), d / 2 - 0.05, (h + high) / 2), (0.04, 0.06, high - h), leg) for s in (-1, 1)]
        parts += [box((0, d / 2 - 0.15, z), (w, 0.3, 0.025), top) for z in (high - 0.4, high)]
    for k in range(dice.integer(1, 4)):
        x = (k / 3 - 0.5) * (w - 0.6) + dice.between(-0.05, 0.05)
        parts += _instrument(dice, x, h)
    return Piece("table", "", tuple(parts), (w, d, h), 0.0)


def _instrument(dice: Dice, x: float, z: float) -> list[Part]:
    w, d, h = dice.between(0.2, 0.5), dice.between(0.25, 0.45), dice.between(0.12, 0.4)
    body = colours.lacquer(dice)
    face = dice.paint((0.1, 0.15, 0.2), (0.5, 0.6, 0.6), SCREEN, 0.03, emission=dice.pick((0.0, 0.8)))
    return [
        box((x, 0, z + h / 2), (w, d, h), body),
        box((x - w * 0.15, -d / 2 - 0.002, z + h * 0.6), (w * 0.5, 0.004, h * 0.5), face),
    ]


def machine(dice: Dice) -> Piece:
    """Workshop machine: a heavy body, a column, a drum or pipe, a control panel."""
    w, d, h = dice.between(0.8, 2.2), dice.between(0.7, 1.3), dice.between(0.8, 1.4)
    paint = dice.paint(
        dice.pick(((0.1, 0.22, 0.16), (0.08, 0.16, 0.3), (0.4, 0.4, 0.38), (0.5, 0.32, 0.05), (0.15, 0.15, 0.15)))
    )
    steel, high = colours.metal(dice), dice.between(0.3, 0.9)
    parts = [
        box((0, 0, h / 2), (w, d, h), paint),
        box((dice.between(-0.3, 0.3) * w, 0.2 * d, h + high / 2), (0.3 * w, 0.5 * d, high), paint),
        Part(FRUSTUM, (0.1 * w, -0.2 * d, h + 0.12), (0.12, 0.12, 0.35 * w), steel, 0.0, math.pi / 2, math.pi / 2),
        box(
            (0.35 * w, -d / 2 - 0.03, h * 0.8),
            (0.3, 0.06, 0.35),
            dice.paint((0.3, 0.3, 0.3), (0.7, 0.1, 0.1), SCREEN, 0.05),
        ),
        frustum((-0.35 * w, -0.3 * d, h), 0.08, dice.between(0.2, 0.5), steel),
        box((0, 0, 0.05), (w + 0.1, d + 0.1, 0.1), dice.paint((0.06, 0.06, 0.06))),
    ]
    return Piece("", "", tuple(parts), (w + 0.1, d + 0.1, h + high))


def rack(dice: Dice) -> Piece:
    """Open metal rack with boxes and canisters on it."""
    w, d, h, levels = dice.between(0.9, 2.4), dice.between(0.4, 0.9), dice.between(1.7, 2.8), dice.integer(3, 5)
    steel, step = colours.metal(dice), (h - 0.15) / max(1, levels - 1)
    parts = [
        box((a * (w / 2 - 0.02), b * (d / 2 - 0.02), h / 2), (0.04, 0.04, h), steel) for a in (-1, 1) for b in (-1, 1)
    ]
    for k in range(levels):
        z = 0.1 + k * step
        parts.append(box((0, 0, z), (w, d, 0.03), steel))
        for m in range(dice.integer(1, 3)):
            size, x = dice.between(0.25, 0.5), (m / 3 - 0.33) * w
            tall = min(step - 0.1, size * dice.between(0.5, 1.0))
            rgb = dice.pick((*colours.FABRICS, (0.33, 0.2, 0.1), (0.4, 0.3, 0.18), (0.5, 0.5, 0.5)))
            if dice.chance(0.7):
                parts.append(box((x, 0, z + 0.015 + tall / 2), (min(size, w / 3), d * 0.75, tall), dice.paint(rgb)))
            else:
                parts.append(frustum((x, 0, z + 0.015), min(size / 2, w / 6, d * 0.4), tall, dice.paint(rgb)))
    return Piece("shelf", "", tuple(parts), (w, d, h))


def pile(dice: Dice) -> Piece:
    """Stack of cartons."""
    parts, z, w = [], 0.0, dice.between(0.35, 0.7)
    for _ in range(dice.integer(2, 4)):
        h, wide = dice.between(0.2, 0.4), w * dice.between(0.75, 1.0)
        paint = dice.paint((0.36, 0.23, 0.12), (0.3, 0.19, 0.1), dice.pick((PLAIN, NOISE)))
        parts.append(
            box((dice.between(-0.04, 0.04), 0, z + h / 2), (wide, wide * 0.75, h), paint, yaw=dice.between(-0.3, 0.3))
        )
        z += h
    return Piece("box", "brown", tuple(parts), (w * 1.1, w, z))


def screen_wall(dice: Dice) -> Piece:
    """Free-standing partition between desks."""
    w, h = dice.between(1.0, 1.8), dice.between(1.1, 1.7)
    leg = colours.metal(dice)
    parts = (
        box((0, 0, h / 2 + 0.05), (w, 0.05, h - 0.1), colours.fabric(dice)),
        *(box((s * (w / 2 - 0.1), 0, 0.02), (0.06, 0.4, 0.04), leg) for s in (-1, 1)),
        *(box((s * w / 2, 0, h / 2), (0.03, 0.055, h), leg) for s in (-1, 1)),
    )
    return Piece("", "", parts, (w, 0.4, h))


def copier(dice: Dice) -> Piece:
    """Photocopier or vending machine."""
    body, dark = dice.paint((0.55, 0.55, 0.54)), dice.paint((0.06, 0.06, 0.07))
    if dice.chance(0.35):
        glass = dice.paint((0.2, 0.25, 0.3), (0.6, 0.5, 0.3), PANES, 0.2, emission=1.0)
        parts = [box((0, 0, 0.92), (0.95, 0.8, 1.84), dark), box((-0.1, -0.402, 1.1), (0.6, 0.004, 1.2), glass)]
        return Piece("", "", tuple(parts), (0.95, 0.82, 1.84))
    h = dice.between(0.9, 1.15)
    parts = [
        box((0, 0, (h - 0.2) / 2), (0.6, 0.62, h - 0.2), body),
        box((0, 0, h - 0.17), (0.62, 0.64, 0.06), dark),
        box((0, 0.02, h - 0.07), (0.58, 0.55, 0.14), body),
        box((0.2, -0.34, h - 0.1), (0.22, 0.1, 0.03), dark, pitch=0.4),
        *(box((0, -0.312, 0.12 + 0.16 * k), (0.54, 0.01, 0.14), dice.paint((0.5, 0.5, 0.5))) for k in range(3)),
    ]
    return Piece("", "", tuple(parts), (0.62, 0.72, h))


def coat_stand(dice: Dice) -> Piece:
    """Pole with hooks and a coat or two."""
    h, pole = dice.between(1.6, 1.85), colours.metal(dice)
    parts = [frustum((0, 0, 0), 0.2, 0.03, pole), frustum((0, 0, 0), 0.02, h, pole)]
    for k in range(dice.integer(1, 3)):
        a = 2.1 * k
        centre = (0.13 * math.cos(a), 0.13 * math.sin(a), h - 0.55)
        parts.append(ball(centre, (0.25, 0.25, dice.between(0.7, 1.0)), colours.fabric(dice)))
    return Piece("", "", tuple(parts), (0.45, 0.45, h))
