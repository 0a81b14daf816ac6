# SPDX-License-Identifier: Apache-2.0
"""The room itself: its kind and size, the paints of its shell, doors, windows, pictures, and its lights."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.world import colours, on_walls
from depthlm_ros.scenes.world.catalogue import ROOMS
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import PANES, PATCHES, Paint, Piece, PlacedPiece, Xyz, box


def sample_room(dice: Dice) -> tuple[str, Xyz]:
    """Draws the name of a kind of room and a size (x, y, z), metres."""
    left, name = dice.unit(), ""
    for name in ROOMS:
        left -= ROOMS[name].share
        if left < 0:
            break
    room = ROOMS[name]
    return name, (dice.between(*room.width_m), dice.between(*room.length_m), dice.between(*room.height_m))


def against_wall(size: Xyz, wall: int, along: float, gap: float) -> tuple[float, float, float]:
    """Returns x, y and yaw of a piece at a wall (0 x-, 1 x+, 2 y-, 3 y+).

    gap: distance of its origin from the wall, metres. along: position along the wall, 0 to 1.
    """
    w, length = size[0], size[1]
    if wall == 0:
        return gap, along * length, math.pi / 2
    if wall == 1:
        return w - gap, along * length, -math.pi / 2
    if wall == 2:
        return along * w, gap, math.pi
    return along * w, length - gap, 0.0


def shell_paints(dice: Dice) -> tuple[Paint, ...]:
    """Draws the paints of four walls (often equal), the floor and the ceiling."""
    wall = colours.wall(dice)
    other = colours.wall(dice) if dice.chance(0.3) else wall
    walls = (wall, wall, other, wall) if dice.chance(0.5) else (wall, other, wall, wall)
    return (*walls, colours.floor(dice), colours.ceiling(dice))


def door(dice: Dice) -> Piece:
    """2 m door leaf with frame and handle."""
    w, h = dice.between(0.8, 1.0), dice.between(1.97, 2.12)
    colour, leaf, frame = "", colours.board(dice), colours.lacquer(dice)
    if dice.chance(0.25):
        colour, leaf = colours.named_colour_or_fabric(dice, 1.0)
    parts = [
        box((0, -0.02, h / 2), (w, 0.04, h), leaf),
        box((dice.pick((-1, 1)) * (w / 2 - 0.07), -0.07, 1.03), (0.12, 0.04, 0.03), colours.metal(dice)),
        box((0, -0.03, h + 0.04), (w + 0.16, 0.06, 0.08), frame),
    ]
    parts += [box((s * (w / 2 + 0.04), -0.03, h / 2), (0.08, 0.06, h), frame) for s in (-1, 1)]
    return Piece("door", colour, tuple(parts), (w + 0.16, 0.08, h + 0.08))


def window(dice: Dice, room_height: float, day: float) -> Piece:
    """Bright panes with frame and sill. day: brightness of the outside relative to white paper."""
    w, foot = dice.between(0.8, 2.6), dice.pick((0.9, 0.9, 0.4, 0.1))
    h = min(room_height - 0.3, dice.between(1.9, 2.5)) - foot
    frame = dice.paint((0.75, 0.75, 0.73))
    sky = Paint((0.75, 0.85, 1.0), (0.7, 0.7, 0.7), PANES, emission=day, seed=dice.seed())
    parts = [
        box((0, -0.01, foot + h / 2), (w, 0.02, h), sky),
        box((0, -0.05, foot - 0.02), (w + 0.1, 0.16, 0.03), frame),
    ]
    parts += [box((s * (w / 2 + 0.03), -0.03, foot + h / 2), (0.06, 0.06, h), frame) for s in (-1, 1)]
    dress = dice.unit()
    if dress < 0.4:
        parts += on_walls.curtain(dice, w, foot + h, dice.pick((0.05, foot - 0.1)))
    elif dress < 0.55:
        parts += on_walls.blind(dice, w, foot + h, foot)
    return Piece("window", "", tuple(parts), (w + 0.12, 0.12, foot + h))


def picture(dice: Dice) -> Piece:
    """Framed print, poster or white board, hung at eye level."""
    w, h = dice.between(0.3, 1.4), dice.between(0.3, 1.0)
    z = dice.between(1.35, 1.65)
    tones = (*colours.NAMED_COLOURS.values(), *colours.FABRICS, (0.8, 0.8, 0.78), (0.7, 0.7, 0.68))
    art = dice.paint(dice.pick(tones), dice.pick(tones), PATCHES, dice.between(0.08, 0.5))
    if dice.chance(0.25):
        art, w = dice.paint((0.8, 0.8, 0.8), gloss=0.05), w * 2
    parts = (
        box((0, -0.012, z), (w, 0.024, h), colours.board(dice)),
        box((0, -0.014, z), (w - 0.06, 0.026, h - 0.06), art),
    )
    return Piece("picture", "", parts, (w, 0.05, z + h / 2))


def ceiling_lights(size: Xyz, dice: Dice, brightness: float) -> tuple[list[PlacedPiece], list[tuple[float, ...]]]:
    """Draws up to four lamps below the ceiling; returns them and their rows for Scene.lights."""
    w, length, h = size
    count = min(4, max(1, round(length / dice.between(2.5, 5.0))))
    warm = dice.between(0.6, 1.0)
    long = dice.chance(0.5)
    lx, ly, thick = (dice.between(0.9, 1.3), 0.25, 0.05) if long else (0.35, 0.35, 0.08)
    glow = Paint((1.0, 0.9 + 0.1 * warm, 0.7 + 0.3 * warm), emission=3.0)
    panel = Piece("", "", (box((0, 0, -thick / 2), (lx, ly, thick), glow),), (lx, ly, thick))
    power = brightness * h * h * dice.between(0.5, 1.3)
    placed: list[PlacedPiece] = []
    rows: list[tuple[float, ...]] = []
    for k in range(count):
        x, y = w * dice.between(0.4, 0.6), (k + dice.between(0.35, 0.65)) * length / count
        placed.append(PlacedPiece(panel, (x, y, h), 0.0, True))
        rows.append(
            (
                x,
                y,
                h - thick - 0.15,
                0.12,
                power,
                power * (0.8 + 0.2 * warm),
                power * (0.5 + 0.5 * warm),
                0.0,
                0.0,
                -1.0,
            )
        )
    return placed, rows


def window_light(placed: PlacedPiece, day: float) -> tuple[float, ...]:
    """Returns the row for Scene.lights of a window."""
    piece, (x, y, _), yaw = placed.piece, placed.xyz_m, placed.yaw
    inward = (math.sin(yaw), -math.cos(yaw))
    power = 0.8 * day * piece.size_m[0]
    return (x + 0.3 * inward[0], y + 0.3 * inward[1], 1.5, 0.3, 0.9 * power, 0.96 * power, power, *inward, 0.0)


def sunlight(placed: PlacedPiece, size: Xyz, dice: Dice, day: float) -> tuple[float, ...]:
    """Returns the row for Scene.lights of a low sun behind a window, which lights a patch of the floor or a wall."""
    piece, (x, y, _), yaw = placed.piece, placed.xyz_m, placed.yaw
    inward, pane = (math.sin(yaw), -math.cos(yaw)), piece.parts[0]
    axis = 0 if abs(inward[0]) > 0.5 else 1
    turn, rise, far = dice.between(-0.9, 0.9), dice.between(0.25, 1.0), 14.0
    c, s = math.cos(turn), math.sin(turn)
    away = (-(c * inward[0] - s * inward[1]), -(s * inward[0] + c * inward[1]))
    low, high = pane.centre[2] - pane.half[2], pane.centre[2] + pane.half[2]
    across, wall = (y, x) if axis == 0 else (x, y)
    power = far * far * dice.between(0.6, 1.6) * day
    sun = (x + far * away[0] * math.cos(rise), y + far * away[1] * math.cos(rise), high + far * math.sin(rise))
    gate = (float(axis), wall, across - pane.half[0], across + pane.half[0], low, high)
    return (*sun, 0.12, power, 0.9 * power, 0.72 * power, 0.0, 0.0, 0.0, *gate)


def as_lights(rows: list[tuple[float, ...]], most: int = 4) -> np.ndarray:
    """Returns the strongest lights, as they appear from a few metres, as float32 (L, 16) for Scene.lights."""
    rows = sorted(rows, key=lambda row: -row[5] / (1.0 if len(row) == 10 else 100.0))[:most]
    nowhere = (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return np.array([(*row, *nowhere)[:16] for row in rows], np.float32).reshape(-1, 16)
