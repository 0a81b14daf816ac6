# SPDX-License-Identifier: Apache-2.0
"""Furniture of realistic size. The origin of a piece is the middle of its footprint on the floor; its back is at +y.

Every function draws one piece.
"""

from __future__ import annotations

from depthlm_ros.scenes.world import colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import BOOKS, PLAIN, Paint, Part, Piece, ball, box, frustum


def _legs(w: float, d: float, h: float, thick: float, paint: Paint, round_: bool) -> list[Part]:
    x, y = w / 2 - thick, d / 2 - thick
    corners = ((x, y), (-x, y), (x, -y), (-x, -y))
    if round_:
        return [frustum((a, b, 0), thick / 2, h, paint) for a, b in corners]
    return [box((a, b, h / 2), (thick, thick, h), paint) for a, b in corners]


def table(dice: Dice) -> Piece:
    """Dining, work or side table: rectangular or round."""
    h = dice.between(0.72, 0.77)
    if dice.chance(0.2):
        return _round_table(dice, dice.between(0.7, 1.3), h)
    return _table(dice, dice.between(0.9, 2.2), dice.between(0.6, 1.0), h)


def coffee_table(dice: Dice) -> Piece:
    """Low table before a sofa."""
    h = dice.between(0.35, 0.5)
    if dice.chance(0.3):
        return _round_table(dice, dice.between(0.5, 0.95), h)
    return _table(dice, dice.between(0.8, 1.3), dice.between(0.45, 0.7), h)


def conference_table(dice: Dice) -> Piece:
    """Long table for six to fourteen."""
    return _table(dice, dice.between(2.0, 4.0), dice.between(0.9, 1.4), dice.between(0.72, 0.76))


def _table(dice: Dice, w: float, d: float, h: float) -> Piece:
    top, leg, thick = colours.board(dice), colours.metal(dice), dice.between(0.02, 0.05)
    if dice.chance(0.5):
        leg = top
    parts = [box((0, 0, h - thick / 2), (w, d, thick), top)]
    if dice.chance(0.75):
        parts += _legs(w, d, h - thick, dice.between(0.03, 0.08), leg, dice.chance(0.4))
        if dice.chance(0.5):
            parts.append(box((0, 0, h - thick - 0.05), (w - 0.12, d - 0.12, 0.09), leg))
    else:
        parts += [box((s * (w / 2 - 0.03), 0, (h - thick) / 2), (0.04, d * 0.95, h - thick), leg) for s in (-1, 1)]
    return Piece("table", "", tuple(parts), (w, d, h), h)


def _round_table(dice: Dice, w: float, h: float) -> Piece:
    top, leg, r = colours.board(dice), colours.metal(dice), w / 2
    parts = (
        frustum((0, 0, h - 0.03), r, 0.03, top),
        frustum((0, 0, 0.02), 0.04, h - 0.05, leg),
        frustum((0, 0, 0), r * 0.6, 0.025, leg),
    )
    return Piece("table", "", parts, (w, w, h), h)


def desk(dice: Dice) -> Piece:
    """Office desk with a drawer block; a person sits at -y."""
    w, d, h = dice.between(1.2, 1.8), dice.between(0.65, 0.85), dice.between(0.71, 0.76)
    top, leg = colours.board(dice), colours.lacquer(dice)
    side = dice.pick((-1, 1))
    parts = [
        box((0, 0, h - 0.015), (w, d, 0.03), top),
        box((side * (w / 2 - 0.22), 0, 0.31), (0.4, d - 0.12, 0.6), leg),
        box((-side * (w / 2 - 0.03), 0, h / 2 - 0.02), (0.04, d - 0.1, h - 0.04), leg),
        box((0, d / 2 - 0.03, h - 0.25), (w - 0.1, 0.02, 0.4), top),
    ]
    parts += [
        box((side * (w / 2 - 0.22), -d / 2 + 0.055, 0.1 + 0.19 * k), (0.12, 0.02, 0.02), colours.metal(dice))
        for k in range(3)
    ]
    return Piece("desk", "", tuple(parts), (w, d, h), h)


def chair(dice: Dice) -> Piece:
    """Four legs, seat at 0.45 m, back at +y."""
    w, d, seat, h = dice.between(0.4, 0.5), dice.between(0.42, 0.5), dice.between(0.43, 0.48), dice.between(0.78, 1.0)
    wood, cover = colours.board(dice), colours.fabric(dice)
    parts = [box((0, 0, seat - 0.025), (w, d, 0.05), cover if dice.chance(0.6) else wood)]
    parts += _legs(w, d, seat - 0.05, 0.035, wood, dice.chance(0.5))
    if dice.chance(0.5):
        parts.append(
            box((0, d / 2 - 0.02, (seat + h) / 2 + 0.05), (w, 0.03, h - seat - 0.1), parts[0].paint, pitch=-0.1)
        )
    else:
        parts += [
            box((s * (w / 2 - 0.02), d / 2 - 0.02, (seat + h) / 2), (0.03, 0.03, h - seat), wood) for s in (-1, 1)
        ]
        parts += [box((0, d / 2 - 0.02, h - 0.05 - 0.13 * k), (w, 0.02, 0.07), wood) for k in range(2)]
    return Piece("chair", "", tuple(parts), (w, d, h))


def office_chair(dice: Dice) -> Piece:
    """Swivel chair on a star foot."""
    seat, h, cover = dice.between(0.42, 0.52), dice.between(0.85, 1.15), colours.fabric(dice)
    dark = dice.paint((0.04, 0.04, 0.04))
    parts = [
        box((0, 0, seat - 0.04), (0.48, 0.47, 0.08), cover),
        box((0, 0.23, (seat + h) / 2 + 0.06), (0.44, 0.05, h - seat - 0.12), cover, pitch=-0.08),
        frustum((0, 0, 0.08), 0.03, seat - 0.12, dark),
        box((0, 0, 0.07), (0.6, 0.05, 0.05), dark, yaw=0.5),
        box((0, 0, 0.07), (0.6, 0.05, 0.05), dark, yaw=2.1),
        box((0.26, 0.02, seat + 0.2), (0.05, 0.25, 0.03), dark),
        box((-0.26, 0.02, seat + 0.2), (0.05, 0.25, 0.03), dark),
    ]
    return Piece("chair", "", tuple(parts), (0.6, 0.55, h))


def shelf(dice: Dice) -> Piece:
    """Open bookcase with boards, rows of books and a few boxes."""
    w, d, h = dice.between(0.6, 1.6), dice.between(0.25, 0.4), dice.between(0.9, 2.3)
    wood, rows = colours.board(dice), max(2, round(h / dice.between(0.3, 0.4)))
    step = (h - 0.08) / rows
    parts = [box((s * (w / 2 - 0.012), 0, h / 2), (0.024, d, h), wood) for s in (-1, 1)]
    parts += [box((0, 0, 0.06 + k * step), (w - 0.04, d, 0.024), wood) for k in range(rows)]
    parts += [
        box((0, 0, h - 0.012), (w, d, 0.024), wood),
        box((0, d / 2 - 0.008, h / 2), (w - 0.03, 0.012, h - 0.05), wood),
    ]
    for k in range(rows):
        if dice.chance(0.85):
            parts.append(_books(dice, w, d, 0.072 + k * step, step - 0.024))
    return Piece("shelf", "", tuple(parts), (w, d, h))


def _books(dice: Dice, w: float, d: float, foot: float, room: float) -> Part:
    tall, wide = room * dice.between(0.6, 0.92), (w - 0.07) * dice.between(0.4, 1.0)
    x = (w - 0.07 - wide) / 2 * dice.pick((-1, 1))
    paint = dice.paint((0.25, 0.2, 0.18), texture=BOOKS, scale_m=dice.between(0.025, 0.05))
    if dice.chance(0.25):
        paint = colours.lacquer(dice)
    return box((x, dice.between(-0.02, 0.03), foot + tall / 2), (wide, d * 0.65, tall), paint)


def cabinet(dice: Dice) -> Piece:
    """Sideboard, cupboard or wardrobe with doors and handles."""
    w, d = dice.between(0.5, 1.8), dice.between(0.35, 0.6)
    h = dice.pick((dice.between(0.6, 1.1), dice.between(1.2, 2.1)))
    body, front = colours.board(dice), colours.board(dice)
    if dice.chance(0.6):
        front = body
    parts = [
        box((0, 0.01, h / 2 + 0.02), (w, d - 0.02, h - 0.04), body),
        box((0, 0.03, 0.03), (w - 0.06, d - 0.1, 0.06), body),
    ]
    doors, handle = max(1, round(w / dice.between(0.4, 0.6))), colours.metal(dice)
    wide = w / doors
    for k in range(doors):
        x = -w / 2 + (k + 0.5) * wide
        parts.append(box((x, -d / 2 + 0.01, h / 2 + 0.03), (wide - 0.012, 0.02, h - 0.09), front))
        parts.append(box((x + wide * 0.36, -d / 2, h * 0.55), (0.02, 0.03, 0.12), handle))
    return Piece("cabinet", "", tuple(parts), (w, d, h), h if h < 1.3 else 0.0)


def sofa(dice: Dice) -> Piece:
    """One to three seats with arms and cushions."""
    seats = dice.integer(1, 3)
    w, d, h, seat = (
        0.35 + seats * dice.between(0.55, 0.72),
        dice.between(0.8, 1.0),
        dice.between(0.7, 0.95),
        dice.between(0.38, 0.45),
    )
    (colour, cover), arm = colours.named_colour_or_fabric(dice), dice.between(0.12, 0.2)
    parts = [
        box((0, 0, seat / 2 - 0.02), (w, d, seat - 0.12), cover),
        box((0, d / 2 - 0.1, (0.1 + h) / 2), (w, 0.2, h - 0.1), cover, pitch=-0.06),
    ]
    parts += [box((s * (w - arm) / 2, 0, 0.33), (arm, d, 0.56), cover) for s in (-1, 1)]
    wide = (w - 2 * arm) / seats
    for k in range(seats):
        x = -(w - 2 * arm) / 2 + (k + 0.5) * wide
        parts.append(box((x, -0.08, seat - 0.03), (wide - 0.015, d - 0.2, 0.14), cover))
        if dice.chance(0.35):
            parts.append(ball((x, d / 2 - 0.28, seat + 0.2), (0.42, 0.2, 0.4), colours.fabric(dice)))
    return Piece("sofa", colour, tuple(parts), (w, d, h))


def bed(dice: Dice) -> Piece:
    """Frame, mattress, blanket, pillows; the head is at +y."""
    w, d, h = dice.pick((0.9, 1.0, 1.4, 1.6, 1.8)), dice.between(1.95, 2.15), dice.between(0.7, 1.1)
    wood, sheet = colours.board(dice), dice.paint((0.75, 0.74, 0.70))
    parts = [
        box((0, 0, 0.17), (w, d, 0.22), wood),
        box((0, -0.02, 0.38), (w - 0.06, d - 0.1, 0.2), sheet),
        box((0, -0.25, 0.42), (w + 0.02, d * 0.68, 0.16), colours.fabric(dice)),
        box((0, d / 2 - 0.02, h / 2), (w + 0.04, 0.05, h), wood),
    ]
    for k in range(1 if w < 1.2 else 2):
        x = 0.0 if w < 1.2 else (k - 0.5) * w / 2
        parts.append(ball((x, d / 2 - 0.3, 0.52), (0.62, 0.42, 0.2), sheet))
    return Piece("bed", "", tuple(parts), (w + 0.04, d, h))


def lamp(dice: Dice) -> Piece:
    """Floor lamp with a glowing shade."""
    h, r, dark = dice.between(1.3, 1.8), dice.between(0.13, 0.25), colours.metal(dice)
    shade = Paint((0.9, 0.8, 0.6), texture=PLAIN, emission=dice.between(0.2, 2.5))
    parts = (
        frustum((0, 0, 0), 0.15, 0.025, dark),
        frustum((0, 0, 0.02), 0.014, h - 0.25, dark),
        frustum((0, 0, h - 0.3), r, 0.3, shade, dice.between(0.0, 0.5)),
    )
    return Piece("lamp", "", parts, (2 * r, 2 * r, h))
