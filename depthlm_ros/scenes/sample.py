"""Random scenes: a room, its furniture, small things, and two to six coloured objects with names."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes import building, clutter, colours, structure
from depthlm_ros.scenes.catalogue import ROOMS
from depthlm_ros.scenes.dice import Dice
from depthlm_ros.scenes.furniture import chair, office_chair
from depthlm_ros.scenes.lookup import near_lists, shadow_lists
from depthlm_ros.scenes.primitives import Piece, Placed, Scene, Xyz, gap_m, pack
from depthlm_ros.scenes.raycast import geometry

TRIES = 4


class Layout:
    """Pieces placed so far; nothing is put where its footprint would overlap another's."""

    def __init__(self, size: Xyz) -> None:
        self.size = size
        self.placed: list[Placed] = []
        self._taken: list[tuple[float, float, float, float]] = []

    def put(self, piece: Piece, x: float, y: float, yaw: float, gap: float = 0.05) -> bool:
        """Place on the floor if there is room."""
        c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
        ex = (c * piece.size_m[0] + s * piece.size_m[1]) / 2
        ey = (s * piece.size_m[0] + c * piece.size_m[1]) / 2
        if x - ex < 0 or y - ey < 0 or x + ex > self.size[0] or y + ey > self.size[1] or piece.size_m[2] > self.size[2]:
            return False
        x0, x1, y0, y1 = x - ex - gap, x + ex + gap, y - ey - gap, y + ey + gap
        for a0, a1, b0, b1 in self._taken:
            if x0 < a1 and x1 > a0 and y0 < b1 and y1 > b0:
                return False
        self._taken.append((x0 + gap, x1 - gap, y0 + gap, y1 - gap))
        self.placed.append(Placed(piece, (x, y, 0.0), yaw))
        return True

    def against_wall(self, piece: Piece, dice: Dice, wall: int | None = None) -> bool:
        """Its back near a wall; a few places are tried."""
        gap = piece.size_m[1] / 2 + dice.between(0.015, 0.06)
        for _ in range(TRIES):
            side = dice.whole(0, 3) if wall is None else wall
            if self.put(piece, *building.against_wall(self.size, side, dice.unit(), gap), 0.01):
                return True
        return False

    def free(self, piece: Piece, dice: Dice, gap: float = 0.2) -> bool:
        """Anywhere; mostly parallel to the walls; a few places are tried."""
        for _ in range(TRIES):
            yaw = math.pi / 2 * dice.whole(0, 3) + (dice.between(-0.6, 0.6) if dice.chance(0.35) else 0.0)
            if self.put(piece, self.size[0] * dice.unit(), self.size[1] * dice.unit(), yaw, gap):
                return True
        return False

    def on_top(self, piece: Piece, under: Placed, dice: Dice) -> None:
        """On a table or cabinet, away from its edge; things may touch each other."""
        w, d, _ = under.piece.size_m
        mx, my = max(0.0, w / 2 - piece.size_m[0] / 2), max(0.0, d / 2 - piece.size_m[1] / 2)
        a, b, c, s = mx * dice.between(-1, 1), my * dice.between(-1, 1), math.cos(under.yaw), math.sin(under.yaw)
        x, y = under.xyz_m[0] + c * a - s * b, under.xyz_m[1] + s * a + c * b
        yaw = under.yaw + dice.between(-0.3, 0.3)
        self.placed.append(Placed(piece, (x, y, under.xyz_m[2] + under.piece.top_m), yaw))


def _furnish(layout: Layout, name: str, dice: Dice) -> None:
    room, (w, length, _), filled = ROOMS[name], layout.size, dice.between(0.5, 1.4)
    for _ in range(min(14, round(filled * room.crowd[0] * (w + length)) + 1)):
        layout.against_wall(dice.pick(room.at_wall)(dice), dice)
    if room.free:
        for _ in range(min(8, round(filled * room.crowd[1] * w * length) + 1)):
            layout.free(dice.pick(room.free)(dice), dice)
    if name == "lecture hall":
        _rows(layout, dice)
    for item in [p for p in layout.placed if p.piece.kind == "table"]:
        _seats(layout, item, name, dice)


def _rows(layout: Layout, dice: Dice) -> None:
    """Rows of long desks and benches that face the y- wall."""
    w, length, _ = layout.size
    wide, pitch, top, seat = (
        w * dice.between(0.55, 0.85),
        dice.between(0.85, 1.1),
        colours.board(dice),
        colours.board(dice),
    )
    row = clutter.bench_row(dice, wide, top, seat)
    y = dice.between(2.5, 4.0)
    for _ in range(9):
        if y > length - 1.5:
            break
        layout.put(row, w / 2, y, 0.0, 0.0)
        y += pitch


def _seats(layout: Layout, item: Placed, room: str, dice: Dice) -> None:
    """Chairs that face a table."""
    if item.piece.top_m < 0.6 or dice.chance(0.3):
        return
    make = office_chair if room in ("office", "laboratory") or dice.chance(0.1) else chair
    seat = make(dice)
    w, d, _ = item.piece.size_m
    for side in (-1, 1):
        for k in range(max(1, int(w / 0.7))):
            if dice.chance(0.35):
                continue
            a, b = -w / 2 + (k + 0.5) * w / max(1, int(w / 0.7)), side * (d / 2 + dice.between(0.12, 0.4))
            c, s = math.cos(item.yaw), math.sin(item.yaw)
            yaw = item.yaw + (math.pi if side < 0 else 0.0) + dice.between(-0.25, 0.25)
            layout.put(seat, item.xyz_m[0] + c * a - s * b, item.xyz_m[1] + s * a + c * b, yaw, -0.06)


def _small_things(layout: Layout, room: str, dice: Dice) -> None:
    for item in list(layout.placed):
        if item.piece.top_m > 0:
            for _ in range(dice.whole(0, 2 + int(2 * item.piece.size_m[0]))):
                piece = dice.pick(clutter.SMALL)(dice)
                if piece.size_m[0] < item.piece.size_m[0]:
                    layout.on_top(piece, item, dice)
    for _ in range(dice.whole(1, 5) if room != "corridor" else dice.whole(0, 3)):
        layout.free(dice.pick(ROOMS[room].loose)(dice), dice, 0.1)


def _named(layout: Layout, dice: Dice, names: set[tuple[str, str]]) -> None:
    """Two to six simple coloured objects, each (colour, kind) once; names are taken already."""
    tops = [p for p in layout.placed if p.piece.top_m > 0]
    for _ in range(dice.whole(2, 6)):
        kind, colour = dice.pick(clutter.SIMPLE_KINDS), dice.pick(tuple(colours.NAMED))
        if (colour, kind) in names:
            continue
        names.add((colour, kind))
        if tops and dice.chance(0.45):
            layout.on_top(clutter.coloured(dice, kind, colour, dice.between(0.1, 0.35)), dice.pick(tops), dice)
            continue
        piece = clutter.coloured(dice, kind, colour, dice.between(0.2, 0.8))
        layout.free(piece, dice, 0.05)


def _openings(layout: Layout, room: str, dice: Dice, day: float) -> list[tuple[float, ...]]:
    """Doors, windows and pictures; returns the light that comes in."""
    lights = []
    doors = dice.whole(1, 2) if room != "corridor" else dice.whole(2, 7)
    for _ in range(doors):
        layout.against_wall(building.door(dice), dice, dice.whole(0, 1) if room == "corridor" else None)
    wall = dice.whole(0, 3)
    for _ in range(dice.whole(0, 3)):
        piece = building.window(dice, layout.size[2], day)
        if layout.against_wall(piece, dice, wall):
            lights.append(building.window_light(layout.placed[-1], day))
    for _ in range(dice.whole(0, 4)):
        piece = building.picture(dice)
        x, y, yaw = building.against_wall(layout.size, dice.whole(0, 3), dice.between(0.15, 0.85), 0.0)
        layout.placed.append(Placed(piece, (x, y, 0.0), yaw, True))
    return lights


def _rug(layout: Layout, dice: Dice) -> Placed:
    x, y = layout.size[0] * dice.between(0.3, 0.7), layout.size[1] * dice.between(0.3, 0.7)
    return Placed(clutter.rug(dice), (x, y, 0.0), dice.between(-0.2, 0.2), True)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A furnished room as arrays; the same generator state gives the same scene."""
    dice = Dice(rng)
    return furnished(dice, *building.sample_room(dice), ())


def furnished(dice: Dice, room: str, size: Xyz, wanted: tuple[tuple[str, str, float], ...]) -> Scene:
    """A room of this kind and size; wanted: colour, kind and size_m of objects that get their place first."""
    layout = Layout(size)
    for colour, kind, size_m in wanted:
        piece = clutter.coloured(dice, kind, colour, size_m)
        while not layout.put(
            piece, size[0] * dice.between(0.3, 0.7), size[1] * dice.between(0.3, 0.7), dice.between(-1, 1), 0.3
        ):
            continue
    paints = building.shell_paints(dice)
    day = dice.between(1.5, 5.0)
    rows = _openings(layout, room, dice, day)
    _furnish(layout, room, dice)
    _small_things(layout, room, dice)
    _named(layout, dice, {(colour, kind) for colour, kind, _ in wanted})
    lamps, more = building.ceiling_lights(size, dice, dice.pick((0.3, 1.0, 1.0, 1.6)))
    building_parts = structure.sample_structure(size, room, dice, paints) + lamps
    if room in ("living room", "bedroom") and dice.chance(0.5):
        building_parts.append(_rug(layout, dice))
    return assemble(layout.placed + building_parts, paints, size, rows + more, dice, room)


def _free_lights(solids: np.ndarray, emits: np.ndarray, lights: np.ndarray) -> np.ndarray:
    """Lights that are not inside a solid, made small enough that no part of them is."""
    dark = solids[emits == 0]
    room = np.array([gap_m(dark, light[:3]) for light in lights], np.float32)
    lights[:, 3] = np.minimum(lights[:, 3], 0.9 * room)
    return lights[room > 0.02]


def assemble(
    placed: list[Placed], paints: tuple, size: Xyz, light_rows: list[tuple[float, ...]], dice: Dice, room: str
) -> Scene:
    """Arrays and look-up lists of a scene from its pieces; the room's corner is the origin."""
    solids, object_of, paint_rows, objects = pack(placed, paints)
    shell = np.array([(0, 0, 0), size], np.float32)
    lights = _free_lights(solids, paint_rows[6:, 9], building.as_lights(light_rows))
    sky, ground = dice.between(0.25, 0.6), dice.between(0.15, 0.4)
    ambient = np.array([(sky, sky, sky * dice.between(0.85, 1.1)), (ground, ground * 0.95, ground * 0.85)], np.float32)
    shadow = shadow_lists(geometry(solids), paint_rows[6:, 9], lights)
    near = near_lists(solids, shell)
    return Scene(solids, object_of, paint_rows, shell, lights, ambient, near, shadow, objects, room)
