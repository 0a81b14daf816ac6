# SPDX-License-Identifier: Apache-2.0
"""`Hall`: a large place while it is drawn; and the pieces of lecture halls, corridors, warehouses, offices, gyms and
lobbies. Conventions: furniture.py."""

from __future__ import annotations

import math
from collections.abc import Callable

from depthlm_ros.scenes.world import building, colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.layout import RoomLayout
from depthlm_ros.scenes.world.primitives import (
    FRUSTUM,
    NOISE,
    PANES,
    PATCHES,
    SCREEN,
    STRIPES,
    Paint,
    Part,
    Piece,
    PlacedPiece,
    Xyz,
    ball,
    box,
    frustum,
)
from depthlm_ros.scenes.world.sample import hang_on_wall
from depthlm_ros.scenes.world.tabletop import SMALL

# No more pieces are added once a place has this many solids, so that rendering stays fast.
MOST_SOLIDS = 340
# Light comes from at most this many points; more lamps than that are visible.
MOST_LIGHTS = 4
MOST_LAMPS = 24
SEAT_M = 0.56


class Hall:
    """A large place while it is drawn: its layout, the parts of the building, and its lights."""

    def __init__(self, size: Xyz, dice: Dice) -> None:
        self.size, self.dice = size, dice
        self.layout = RoomLayout(size)
        self.paints = building.shell_paints(dice)
        # Outside some windows it is night.
        self.day = dice.between(1.5, 4.0) if dice.chance(0.8) else dice.between(0.02, 0.2)
        self.building: list[PlacedPiece] = []
        self.light_rows: list[tuple[float, ...]] = []
        self.roam: tuple[Xyz, Xyz] | None = None

    def is_full(self) -> bool:
        """Returns whether the place has so many solids that no more pieces should be added."""
        return sum(len(item.piece.parts) for item in self.layout.placed + self.building) > MOST_SOLIDS

    def build(self, *parts: Part) -> None:
        """Adds parts of the building, in the coordinates of the place."""
        self.building.append(PlacedPiece(Piece("", "", parts, self.size), (0.0, 0.0, 0.0), 0.0, True))

    def lift(self, piece: Piece, x: float, y: float, z: float, yaw: float = 0.0) -> None:
        """Adds a piece at a height above the floor, whatever else stands there."""
        self.layout.placed.append(PlacedPiece(piece, (x, y, z), yaw))

    def add_window(self, piece: Piece, wall: int, along: float) -> None:
        """Adds a window to a wall (see building.against_wall), and its light."""
        self.lift(piece, *building.against_wall(self.size, wall, along, 0.01)[:2], 0.0, _yaw_of_wall(wall))
        self.light_rows.append(building.window_light(self.layout.placed[-1], self.day))

    def add_lamps(self, low_x: float, high_x: float, drop: float = 0.0) -> None:
        """Adds rows of equal lamps along y below the ceiling; the light comes from at most MOST_LIGHTS points.

        drop: length of the rods on which they hang, metres; 0 for panels at the ceiling.
        """
        dice, (_, length, h) = self.dice, self.size
        rows = max(1, min(4, round((high_x - low_x) / dice.between(2.5, 4.5))))
        each = max(2, min(MOST_LAMPS // rows, round(length / dice.between(2.2, 4.5))))
        warm = dice.between(0.6, 1.0)
        glow = Paint((1.0, 0.9 + 0.1 * warm, 0.7 + 0.3 * warm), emission=3.0)
        lamp = ceiling_panel(dice.pick((0.6, 1.2, 1.5)), dice.pick((0.15, 0.3, 0.6)), glow)
        if drop:
            lamp = hanging_lamp(dice, drop, glow)
        for row in range(rows):
            x = low_x + (row + 0.5) * (high_x - low_x) / rows
            for k in range(each):
                self.building.append(PlacedPiece(lamp, (x, (k + 0.5) * length / each, h), 0.0, True))
        self._add_lights(low_x, high_x, h - drop - 0.35, warm)

    def _add_lights(self, low_x: float, high_x: float, z: float, warm: float) -> None:
        dice, length = self.dice, self.size[1]
        across = 2 if high_x - low_x > 7.0 else 1
        along = min(MOST_LIGHTS // across, max(2, round(length / 5.0)))
        reach = max(z, 0.45 * length / along, 0.35 * (high_x - low_x) / across)
        power = dice.pick((0.4, 0.8, 0.8, 1.3)) * reach * reach * dice.between(0.6, 1.1)
        rgb = (power, power * (0.8 + 0.2 * warm), power * (0.5 + 0.5 * warm))
        for a in range(across):
            for k in range(along):
                x, y = low_x + (a + 0.5) * (high_x - low_x) / across, (k + 0.5) * length / along
                self.light_rows.append((x, y, z, 0.15, *rgb, 0.0, 0.0, -1.0))

    def scatter(self, makers: tuple[Callable[[Dice], Piece], ...], count: int, gap: float = 0.15) -> None:
        """Places up to `count` pieces anywhere on the free floor."""
        for _ in range(count):
            if not self.is_full():
                self.layout.free(self.dice.pick(makers)(self.dice), self.dice, gap)

    def along_walls(self, makers: tuple[Callable[[Dice], Piece], ...], count: int) -> None:
        """Places up to `count` pieces with their backs at a wall."""
        for _ in range(count):
            if not self.is_full():
                self.layout.against_wall(self.dice.pick(makers)(self.dice), self.dice)

    def hang(self, makers: tuple[Callable[[Dice], Piece], ...], count: int) -> None:
        """Hangs up to `count` pieces on the walls."""
        for _ in range(count):
            if not self.is_full():
                hang_on_wall(self.layout, self.dice.pick(makers)(self.dice), self.dice)

    def clutter_tables(self, share: float) -> None:
        """Places small objects on a share of the tables and cabinets."""
        for item in list(self.layout.placed):
            if item.piece.top_m > 0 and self.dice.chance(share) and not self.is_full():
                for _ in range(self.dice.integer(1, 3)):
                    piece = self.dice.pick(SMALL)(self.dice)
                    if piece.size_m[0] < item.piece.size_m[0]:
                        self.layout.on_top(piece, item, self.dice)


def _yaw_of_wall(wall: int) -> float:
    return (math.pi / 2, -math.pi / 2, math.pi, 0.0)[wall]


def add_windows(hall: Hall, walls: tuple[int, ...], high: bool) -> None:
    """Adds a row of wide windows to each of these walls; high: above the furniture, as in workshops and gyms."""
    dice, (w, length, h) = hall.dice, hall.size
    foot = h * dice.between(0.5, 0.65) if high else dice.pick((0.9, 0.9, 0.4, 0.1))
    tall = min(h - 0.4 - foot, dice.between(1.4, 2.4))
    for wall in walls:
        run = length if wall < 2 else w
        count = max(1, min(5, round(run / dice.between(3.0, 5.5))))
        piece = window_band(dice, min(4.0, 0.8 * run / count), foot, tall, hall.day)
        for k in range(count):
            hall.add_window(piece, wall, (k + 0.5) / count)


def seat_row(dice: Dice, seats: int, desk: Paint | None, seat: Paint, single: bool) -> Piece:
    """One row of an auditorium, whose audience looks to -y.

    desk: paint of the desk in front of the seats, None for a row without. single: every seat has a back of its own;
    otherwise one board is the back of all seats.
    """
    wide = seats * SEAT_M
    parts = [box((0, 0.2, 0.43), (wide, 0.38, 0.05), seat, pitch=dice.pick((0.0, 0.0, 1.2)))]
    if single:
        parts += [
            box(((k + 0.5) * SEAT_M - wide / 2, 0.42, 0.68), (SEAT_M - 0.07, 0.04, 0.46), seat, pitch=-0.12)
            for k in range(seats)
        ]
    else:
        parts.append(box((0, 0.42, 0.66), (wide, 0.04, 0.42), seat, pitch=-0.12))
    if desk is not None:
        parts += [
            box((0, -0.2, 0.735), (wide, 0.34, 0.03), desk),
            box((0, -0.36, 0.45), (wide, 0.02, 0.55), desk),
        ]
    parts += [box((s * (wide / 2 - 0.03), 0.05, 0.34), (0.04, 0.7, 0.68), desk or seat) for s in (-1, 1)]
    return Piece("bench", "", tuple(parts), (wide, 0.9, 0.92))


def seat_paint(dice: Dice, board: bool) -> Paint:
    """Draws the material of seats: board, or coloured upholstery."""
    return colours.board(dice) if board else dice.paint(dice.pick(tuple(colours.NAMED_COLOURS.values())))


def lectern(dice: Dice) -> Piece:
    """Lectern for a speaker who looks to +y."""
    w, h, body = dice.between(0.5, 0.8), dice.between(1.0, 1.2), colours.board(dice)
    parts = (
        box((0, 0, h / 2), (w, 0.4, h), body),
        box((0, -0.02, h), (w + 0.06, 0.5, 0.03), body, pitch=0.2),
        frustum((0.1, 0.1, h), 0.008, 0.3, dice.paint((0.03, 0.03, 0.03))),
    )
    return Piece("", "", parts, (w + 0.06, 0.55, h + 0.3))


def projection_screen(dice: Dice, wide: float, foot: float) -> Piece:
    """Projection screen on a wall, dark or with a slide; foot: height of its lower edge, metres."""
    h, on = wide * dice.pick((0.5625, 0.75)), dice.chance(0.5)
    slide = dice.paint(
        (0.85, 0.87, 0.9) if on else (0.8, 0.8, 0.8),
        dice.pick(((0.1, 0.1, 0.15), (0.1, 0.2, 0.5), (0.5, 0.4, 0.3))),
        dice.pick((SCREEN, PATCHES)) if on else NOISE,
        wide / dice.between(12, 30) if on else 9.0,
        emission=dice.between(0.5, 1.3) if on else 0.0,
    )
    z, dark = foot + h / 2, dice.paint((0.06, 0.06, 0.06))
    parts = (
        box((0, -0.05, z), (wide, 0.02, h), dark),
        box((0, -0.055, z), (wide - 0.1, 0.02, h - 0.1), slide),
        box((0, -0.06, foot + h + 0.06), (wide + 0.1, 0.12, 0.12), colours.lacquer(dice)),
    )
    return Piece("", "", parts, (wide + 0.1, 0.12, foot + h + 0.12))


def double_door(dice: Dice, wide: float = 1.8) -> Piece:
    """Door with two leaves, sometimes with panes, and push bars."""
    h, leaf, frame = dice.between(2.05, 2.3), colours.board(dice), colours.lacquer(dice)
    glass, bar, glazed = dice.paint((0.1, 0.12, 0.13), gloss=0.12), colours.metal(dice), dice.chance(0.5)
    parts = [box((0, -0.03, h + 0.05), (wide + 0.2, 0.08, 0.1), frame)]
    for s in (-1, 1):
        x = s * wide / 4
        parts.append(box((x, -0.02, h / 2), (wide / 2 - 0.01, 0.04, h), leaf))
        parts.append(box((s * (wide / 2 + 0.05), -0.03, h / 2), (0.1, 0.08, h), frame))
        parts.append(box((x, -0.08, 1.02), (wide / 2 - 0.25, 0.04, 0.05), bar))
        if glazed:
            parts.append(box((x, -0.03, 1.5), (wide / 2 - 0.3, 0.03, 0.8), glass))
    return Piece("door", "", tuple(parts), (wide + 0.2, 0.12, h + 0.1))


def open_leaf(dice: Dice, w: float, h: float, leaf: Paint) -> Piece:
    """Door leaf that stands open, along y, with its handle."""
    parts = (
        box((0, 0, h / 2), (0.045, w, h), leaf),
        box((0, w / 2 - 0.08, 1.03), (0.12, 0.12, 0.025), colours.metal(dice)),
    )
    return Piece("door", "", parts, (0.05, w, h))


def gate(dice: Dice) -> Piece:
    """Roller gate of a workshop."""
    w, h, steel = dice.between(3.0, 4.5), dice.between(2.8, 4.2), dice.pick((0.5, 0.3, 0.65))
    slats = dice.paint((steel, steel, steel), (0.7 * steel,) * 3, STRIPES, 0.2, gloss=0.03)
    panel = box((0, 0.1, h / 2), (w, 0.06, h), slats)
    frame = dice.paint((0.55, 0.45, 0.05) if dice.chance(0.3) else (0.2, 0.2, 0.2))
    parts = (
        panel,
        *(box((s * (w / 2 + 0.08), 0.08, h / 2), (0.16, 0.12, h), frame) for s in (-1, 1)),
        box((0, 0, h + 0.15), (w + 0.3, 0.3, 0.3), frame),
    )
    return Piece("door", "", parts, (w + 0.32, 0.32, h + 0.3))


def window_band(dice: Dice, wide: float, foot: float, h: float, day: float) -> Piece:
    """Wide window with posts; day: brightness of the outside, see building.window."""
    frame, posts = dice.paint(dice.pick(((0.7, 0.7, 0.7), (0.1, 0.1, 0.1)))), max(1, round(wide / 1.4))
    sky = Paint((0.75, 0.85, 1.0), (0.7, 0.7, 0.7), PANES, emission=day, seed=dice.seed())
    z = foot + h / 2
    parts = [box((0, -0.01, z), (wide, 0.02, h), sky), box((0, -0.05, foot - 0.02), (wide + 0.1, 0.14, 0.04), frame)]
    parts += [box((wide * (k / posts - 0.5), -0.03, z), (0.07, 0.06, h), frame) for k in range(posts + 1)]
    parts.append(box((0, -0.03, foot + h * 0.6), (wide, 0.05, 0.05), frame))
    return Piece("window", "", tuple(parts), (wide + 0.1, 0.14, foot + h))


def lockers(dice: Dice) -> Piece:
    """Row of narrow metal cupboards."""
    doors, h, d = dice.integer(3, 8), dice.between(1.6, 2.1), dice.between(0.4, 0.55)
    w, body = 0.4 * doors, dice.paint(dice.pick((*colours.FABRICS[:10], (0.4, 0.4, 0.4), (0.25, 0.35, 0.45))))
    parts = [box((0, 0.01, h / 2), (w, d - 0.02, h), body)]
    for k in range(doors):
        x = -w / 2 + 0.4 * (k + 0.5)
        parts.append(box((x, -d / 2 + 0.005, h / 2 + 0.03), (0.385, 0.02, h - 0.1), body))
    return Piece("cabinet", "", tuple(parts), (w, d, h))


def extinguisher(dice: Dice) -> Piece:
    """Red fire extinguisher on a wall."""
    red, dark = dice.paint(colours.NAMED_COLOURS["red"], gloss=0.08), dice.paint((0.03, 0.03, 0.03))
    parts = (
        frustum((0, -0.09, 0.5), 0.08, 0.45, red),
        ball((0, -0.09, 0.95), (0.15, 0.15, 0.1), red),
        box((0, -0.09, 1.02), (0.04, 0.16, 0.05), dark),
    )
    return Piece("cylinder", "red", parts, (0.18, 0.18, 1.05))


def pallet_rack(dice: Dice, high: float) -> Piece:
    """Pallet rack: posts, beams, decks, and loads of cartons and drums."""
    w, d, levels = dice.between(1.8, 2.8), dice.between(0.7, 1.1), max(2, int(high / dice.between(1.2, 1.8)))
    step = high / levels
    posts = dice.paint(dice.pick(((0.05, 0.1, 0.35), (0.35, 0.35, 0.35), (0.1, 0.25, 0.12))))
    beam = dice.paint(dice.pick(((0.75, 0.25, 0.02), (0.7, 0.5, 0.02), (0.4, 0.4, 0.4))))
    parts = [
        box((a * (w / 2 - 0.05), b * (d / 2 - 0.04), high / 2), (0.09, 0.07, high), posts)
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    for k in range(levels):
        z = 0.12 + k * step
        if k:
            parts.append(box((0, 0, z - 0.06), (w - 0.1, d, 0.1), beam))
        count = dice.integer(0, 3) if k else dice.integer(1, 3)
        for m in range(count):
            parts.append(_load(dice, ((m + 0.5) / count - 0.5) * (w - 0.2), z, (w - 0.3) / count, d, step - 0.2))
    return Piece("shelf", "", tuple(parts), (w, d, high))


def _load(dice: Dice, x: float, z: float, wide: float, deep: float, tall: float) -> Part:
    """Draws a crate, a block of cartons or a drum that stands in a rack."""
    wide, tall = min(wide, 1.2) * dice.between(0.6, 0.95), tall * dice.between(0.35, 0.95)
    rgb = dice.pick((*colours.FABRICS, (0.36, 0.23, 0.12), (0.36, 0.23, 0.12), (0.45, 0.32, 0.18), (0.5, 0.5, 0.5)))
    paint = dice.paint(rgb, (0.8 * rgb[0], 0.8 * rgb[1], 0.8 * rgb[2]), dice.pick((NOISE, PATCHES)), 0.3)
    if dice.chance(0.15):
        return frustum((x, 0, z), min(wide, deep) * 0.45, tall, paint)
    return box((x, 0, z + tall / 2), (wide, deep * 0.85, tall), paint)


def pallet(dice: Dice) -> Piece:
    """Pallet with a block of cartons, sacks or a crate."""
    wood, tall = dice.paint((0.5, 0.36, 0.2), (0.4, 0.28, 0.15), NOISE, 0.1), dice.between(0.3, 1.5)
    parts = [box((0, 0, 0.13), (1.2, 0.8, 0.03), wood)]
    parts += [box((0, y, 0.06), (1.2, 0.1, 0.11), wood) for y in (-0.35, 0, 0.35)]
    parts.append(_load(dice, 0, 0.145, 1.2, 0.9, tall))
    return Piece("", "", tuple(parts), (1.2, 0.8, 0.15 + tall))


def press(dice: Dice) -> Piece:
    """Tall machine: two columns with a bridge, a bed, a cylinder and a switch cabinet."""
    w, d, h = dice.between(1.4, 2.6), dice.between(0.9, 1.6), dice.between(1.8, 3.0)
    body, steel = dice.paint(dice.pick(((0.1, 0.25, 0.2), (0.1, 0.2, 0.4), (0.5, 0.5, 0.45)))), colours.metal(dice)
    parts = (
        box((0, 0, 0.45), (w, d, 0.9), body),
        *(box((s * (w / 2 - 0.15), 0.1, h / 2), (0.3, d * 0.6, h), body) for s in (-1, 1)),
        box((0, 0.1, h - 0.25), (w, d * 0.7, 0.5), body),
        frustum((0, 0, 0.95), 0.12, h - 1.2, steel),
        box((0, -0.05, 0.93), (w * 0.6, d * 0.7, 0.06), steel),
        box((w / 2 + 0.25, -0.1, 0.8), (0.4, 0.5, 1.6), dice.paint((0.5, 0.5, 0.5), gloss=0.03)),
    )
    return Piece("", "", parts, (w + 0.9, d, h))


def plain_desk(dice: Dice) -> Piece:
    """Desk of few parts for open offices: top, two feet, a panel; a person sits at -y."""
    w, top, foot = dice.between(1.4, 1.8), colours.board(dice), colours.metal(dice)
    parts = (
        box((0, 0, 0.715), (w, 0.8, 0.03), top),
        *(box((s * (w / 2 - 0.05), 0, 0.35), (0.06, 0.7, 0.7), foot) for s in (-1, 1)),
        box((0, 0.3, 0.5), (w - 0.15, 0.02, 0.35), top),
    )
    return Piece("desk", "", parts, (w, 0.8, 0.73), 0.73)


def desk_screen(dice: Dice, wide: float) -> Piece:
    """Fabric panel on the rear edge of a desk."""
    tall = dice.between(0.35, 0.6)
    return Piece("", "", (box((0, 0, tall / 2), (wide, 0.03, tall), colours.fabric(dice)),), (wide, 0.03, tall))


def wall_bars(dice: Dice) -> Piece:
    """Wall bars of a gym."""
    wood = colours.wood(dice)
    posts = tuple(box((s * 1.2, -0.08, 1.25), (0.06, 0.14, 2.5), wood) for s in (-1, 0, 1))
    bars = tuple(box((0, -0.1, 0.25 + 0.3 * k), (2.4, 0.04, 0.05), wood) for k in range(8))
    return Piece("", "", (*posts, *bars), (2.5, 0.16, 2.5))


def basketball_hoop(dice: Dice) -> Piece:
    """Board, ring and arm on a wall, the ring at 3.05 m."""
    red, white = dice.paint((0.7, 0.15, 0.02)), dice.paint((0.75, 0.75, 0.75))
    parts = (
        box((0, -0.5, 3.3), (0.08, 1.0, 0.08), dice.paint((0.1, 0.1, 0.1))),
        box((0, -1.0, 3.45), (1.8, 0.03, 1.05), white),
        box((0, -1.02, 3.35), (0.6, 0.01, 0.45), dice.paint((0.05, 0.05, 0.05))),
        box((0, -1.025, 3.35), (0.5, 0.01, 0.35), white),
        Part(FRUSTUM, (0, -1.3, 3.05), (0.23, 0.23, 0.015), red),
        frustum((0, -1.3, 2.65), 0.14, 0.4, dice.paint((0.7, 0.7, 0.7), (0.3, 0.3, 0.3), STRIPES, 0.05), -0.6),
    )
    return Piece("", "", parts, (1.8, 1.6, 4.0))


def mats(dice: Dice) -> Piece:
    """Stack of gym mats."""
    paint, count = dice.paint(dice.pick(((0.05, 0.12, 0.4), (0.4, 0.08, 0.05), (0.1, 0.3, 0.15)))), dice.integer(1, 6)
    parts = tuple(
        box((dice.between(-0.05, 0.05), 0, 0.05 + 0.1 * k), (2.0, 1.0, 0.09), paint, yaw=dice.between(-0.05, 0.05))
        for k in range(count)
    )
    return Piece("", "", parts, (2.1, 1.1, 0.1 * count))


def flight_of_stairs(dice: Dice, wide: float, rise_m: float) -> Piece:
    """Straight stairs that climb to +y, with hand rails."""
    steps = max(6, min(16, round(rise_m / dice.between(0.165, 0.185))))
    up, tread, run = rise_m / steps, dice.paint(dice.pick((*colours.FABRICS, (0.5, 0.48, 0.45)))), 0.28
    length, steel = steps * run, colours.metal(dice)
    parts = [
        box((0, -length / 2 + (k + 0.5) * run, up * (k + 1) / 2), (wide, run, up * (k + 1)), tread)
        for k in range(steps)
    ]
    slope = math.atan2(rise_m, length)
    for s in (-1, 1):
        middle = (s * (wide / 2 - 0.04), 0, rise_m / 2 + 0.95)
        parts.append(box(middle, (0.05, math.hypot(rise_m, length), 0.05), steel, pitch=slope))
        parts += [
            box((s * (wide / 2 - 0.04), y * length / 2, (0.5 + y / 2) * rise_m + 0.5), (0.04, 0.04, 1.0), steel)
            for y in (-0.9, -0.3, 0.3, 0.9)
        ]
    return Piece("", "", tuple(parts), (wide, length, rise_m + 1.0))


def railing(dice: Dice, wide: float) -> Piece:
    """Railing of a gallery, along x."""
    steel, posts = colours.metal(dice), max(2, min(12, round(wide / 1.2)))
    parts = [box((0, 0, 1.0), (wide, 0.05, 0.05), steel), box((0, 0, 0.5), (wide, 0.02, 0.03), steel)]
    parts += [box((wide * (k / (posts - 1) - 0.5), 0, 0.5), (0.04, 0.04, 1.0), steel) for k in range(posts)]
    return Piece("", "", tuple(parts), (wide, 0.05, 1.0))


def ceiling_panel(long_m: float, wide_m: float, glow: Paint) -> Piece:
    """Lamp below a ceiling, its longer side along y; its foot is the ceiling."""
    return Piece("", "", (box((0, 0, -0.03), (wide_m, long_m, 0.06), glow),), (wide_m, long_m, 0.06))


def hanging_lamp(dice: Dice, drop: float, glow: Paint) -> Piece:
    """Industrial lamp on a rod; its foot is the ceiling."""
    r = dice.between(0.18, 0.3)
    parts = (
        frustum((0, 0, -drop), 0.012, drop, colours.metal(dice)),
        frustum((0, 0, -drop - 0.2), r, 0.22, colours.lacquer(dice), 0.6),
        frustum((0, 0, -drop - 0.22), 0.85 * r, 0.02, glow),
    )
    return Piece("", "", parts, (2 * r, 2 * r, 0.1))
