# SPDX-License-Identifier: Apache-2.0
"""Furniture of bathrooms, bedrooms and hallways. Conventions: furniture.py."""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import FRUSTUM, NOISE, STRIPES, Paint, Part, Piece, ball, box, frustum


def _enamel(dice: Dice) -> Paint:
    tone = dice.between(0.72, 0.85)
    return Paint((tone, tone, tone * dice.between(0.94, 1.0)), gloss=0.08, seed=dice.seed())


def armchair(dice: Dice) -> Piece:
    """Upholstered chair for one."""
    w, d, h, seat = (
        dice.between(0.7, 0.95),
        dice.between(0.75, 0.95),
        dice.between(0.75, 1.05),
        dice.between(0.38, 0.45),
    )
    (colour, cover), arm = colours.named_colour_or_fabric(dice), dice.between(0.1, 0.18)
    parts = [
        box((0, -0.04, seat - 0.1), (w - 2 * arm, d - 0.12, 0.2), cover),
        box((0, d / 2 - 0.1, (0.2 + h) / 2), (w - arm, 0.18, h - 0.2), cover, pitch=-0.15),
        *(box((s * (w - arm) / 2, -0.02, 0.36), (arm, d - 0.1, 0.5), cover) for s in (-1, 1)),
    ]
    leg = colours.board(dice)
    parts += [frustum((a * (w / 2 - 0.08), b * (d / 2 - 0.1), 0), 0.02, 0.2, leg) for a in (-1, 1) for b in (-1, 1)]
    if dice.chance(0.4):
        parts.append(ball((0, 0.1, seat + 0.18), (0.42, 0.2, 0.38), colours.fabric(dice)))
    return Piece("armchair", colour, tuple(parts), (w, d, h))


def wardrobe(dice: Dice) -> Piece:
    """Tall cupboard with two to four doors."""
    doors, h, d = dice.integer(2, 4), dice.between(1.9, 2.3), dice.between(0.55, 0.65)
    w, body, handle = doors * dice.between(0.45, 0.55), colours.board(dice), colours.metal(dice)
    front = body if dice.chance(0.6) else colours.board(dice)
    parts = [box((0, 0.01, h / 2), (w, d - 0.02, h), body)]
    for k in range(doors):
        x = -w / 2 + (k + 0.5) * w / doors
        parts.append(box((x, -d / 2 + 0.005, h / 2 + 0.03), (w / doors - 0.012, 0.02, h - 0.1), front))
        parts.append(box((x + (0.38 - 0.76 * (k % 2)) * w / doors, -d / 2 - 0.015, 1.05), (0.02, 0.03, 0.2), handle))
    return Piece("wardrobe", "", tuple(parts), (w, d, h))


def chest(dice: Dice) -> Piece:
    """Chest of drawers or bedside table."""
    rows, w = dice.integer(2, 5), dice.between(0.4, 1.2)
    h, d, body, handle = (
        0.1 + rows * dice.between(0.17, 0.22),
        dice.between(0.35, 0.5),
        colours.board(dice),
        colours.metal(dice),
    )
    parts = [box((0, 0.01, h / 2 + 0.03), (w, d - 0.02, h - 0.06), body)]
    for k in range(rows):
        z = 0.1 + (k + 0.5) * (h - 0.13) / rows
        parts.append(box((0, -d / 2 + 0.01, z), (w - 0.03, 0.02, (h - 0.13) / rows - 0.015), body))
        parts += [box((s * w * 0.22, -d / 2 - 0.01, z), (0.1, 0.02, 0.015), handle) for s in (-1, 1)]
    parts += [box((s * (w / 2 - 0.03), 0.01, 0.03), (0.04, d - 0.08, 0.06), body) for s in (-1, 1)]
    return Piece("cabinet", "", tuple(parts), (w, d, h), h)


def toilet(dice: Dice) -> Piece:
    """Bowl, seat and cistern."""
    white = _enamel(dice)
    parts = (
        frustum((0, -0.08, 0), 0.13, 0.36, white, -0.35),
        ball((0, -0.1, 0.38), (0.37, 0.5, 0.1), white),
        box((0, 0.24, 0.6), (0.38, 0.17, 0.36), white),
        box((0, 0.12, 0.2), (0.22, 0.3, 0.4), white),
    )
    return Piece("toilet", "", parts, (0.4, 0.7, 0.78))


def sink(dice: Dice) -> Piece:
    """Wash basin with tap and mirror or cabinet above it."""
    white, steel, w = _enamel(dice), colours.metal(dice), dice.between(0.45, 0.7)
    mirror = dice.paint((0.45, 0.48, 0.5), (0.25, 0.26, 0.27), NOISE, 0.8, gloss=0.1)
    parts = [
        box((0, 0.0, 0.8), (w, 0.45, 0.12), white),
        box((0, -0.02, 0.861), (w - 0.1, 0.33, 0.004), dice.paint((0.55, 0.55, 0.55))),
        frustum((0, 0.15, 0.86), 0.015, 0.14, steel),
        box((0, 0.08, 0.99), (0.025, 0.14, 0.02), steel),
        box((0, 0.215, 1.5), (w, 0.02, dice.between(0.5, 0.9)), mirror),
    ]
    if dice.chance(0.5):
        parts.append(box((0, 0.02, 0.42), (w - 0.06, 0.4, 0.6), colours.lacquer(dice)))
    else:
        parts.append(frustum((0, 0.05, 0), 0.09, 0.75, white))
    return Piece("sink", "", tuple(parts), (w, 0.45, 1.9))


def bathtub(dice: Dice) -> Piece:
    """Tub along a wall."""
    white, w, h = _enamel(dice), dice.between(1.5, 1.8), dice.between(0.52, 0.6)
    parts = [
        box((0, -0.36, h / 2), (w, 0.04, h), colours.wall(dice) if dice.chance(0.5) else white),
        box((0, 0.35, h / 2), (w, 0.06, h), white),
        *(box((s * (w / 2 - 0.04), 0, h / 2), (0.08, 0.7, h), white) for s in (-1, 1)),
        box((0, 0, 0.1), (w - 0.1, 0.68, 0.2), white),
        *(box((s * (w / 2 - 0.03), 0, h - 0.01), (0.1, 0.76, 0.03), white) for s in (-1, 1)),
        *(box((0, s * 0.35, h - 0.01), (w, 0.08, 0.03), white) for s in (-1, 1)),
    ]
    if dice.chance(0.4):
        parts.append(box((dice.pick((-1, 1)) * w / 4, -0.33, 1.25), (w / 2, 0.03, 1.4), colours.fabric(dice)))
    return Piece("bathtub", "", tuple(parts), (w, 0.78, h))


def washing_machine(dice: Dice) -> Piece:
    """Washing machine or dryer with its round window."""
    white, dark = _enamel(dice), dice.paint((0.03, 0.03, 0.035), gloss=0.1)
    turned = math.pi / 2
    parts = (
        box((0, 0.01, 0.425), (0.6, 0.58, 0.85), white),
        Part(FRUSTUM, (0, -0.29, 0.42), (0.21, 0.21, 0.02), colours.metal(dice), 0.0, 0.0, turned),
        Part(FRUSTUM, (0, -0.3, 0.42), (0.16, 0.16, 0.022), dark, 0.0, 0.0, turned),
        box((0.05, -0.285, 0.78), (0.45, 0.01, 0.09), dice.paint((0.4, 0.4, 0.4), (0.1, 0.1, 0.1), STRIPES, 0.06)),
    )
    return Piece("washing machine", "", parts, (0.6, 0.62, 0.85), 0.85)


def piano(dice: Dice) -> Piece:
    """Upright piano with its stool in front."""
    body = dice.pick((dice.paint((0.02, 0.02, 0.02), gloss=0.1), colours.wood(dice)))
    white = dice.paint((0.8, 0.8, 0.76), (0.05, 0.05, 0.05), STRIPES, 0.05)
    parts = (
        box((0, 0.1, 0.6), (1.48, 0.36, 1.2), body),
        box((0, -0.18, 0.68), (1.48, 0.3, 0.12), body),
        box((0, -0.2, 0.745), (1.3, 0.15, 0.02), white),
        *(box((s * 0.7, -0.25, 0.31), (0.07, 0.1, 0.62), body) for s in (-1, 1)),
    )
    return Piece("piano", "", parts, (1.5, 0.66, 1.2), 1.2)
