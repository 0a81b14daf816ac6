# SPDX-License-Identifier: Apache-2.0
"""Rooms for pictures from near by: tables, counters, shelves, sinks, doors and floors with many small objects.

`build_close_scene` draws such a room. `sample.sample_scene` draws none of them.
"""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import belongings, building, clutter, equipment, furniture, household, on_walls, structure
from depthlm_ros.scenes.world.catalogue import HOME, Maker
from depthlm_ros.scenes.world.close_things import (
    HOME_THINGS,
    KITCHEN_THINGS,
    SHELF_THINGS,
    THINGS,
    book,
    bottle,
    coloured_thing,
    counter_with_sink,
    open_shelf,
    panel_door,
)
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.layout import RoomLayout
from depthlm_ros.scenes.world.primitives import FRUSTUM, Piece, PlacedPiece, Scene
from depthlm_ros.scenes.world.sample import assemble_scene, hang_on_wall, place_chairs

# No more pieces are added once a room has this many solids, so that rendering stays fast.
MOST_SOLIDS = 420
# Tries to find a free place on a table for one object.
PLACE_TRIES = 8


class _Room:
    """A room while it is drawn."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.size = (dice.between(2.4, 5.0), dice.between(2.6, 6.0), dice.between(2.35, 3.0))
        self.layout = RoomLayout(self.size)

    def is_full(self) -> bool:
        """Returns whether the room has so many solids that no more pieces should be added."""
        return sum(len(item.piece.parts) for item in self.layout.placed) > MOST_SOLIDS

    def fill(self, under: PlacedPiece, height: float, room_m: float, things: tuple[Maker, ...], count: int) -> None:
        """Places up to `count` things side by side on a surface of a piece.

        height: of the surface above the floor, metres. room_m: free height above it.
        """
        dice = self.dice
        taken: list[tuple[float, float, float, float]] = []
        w, d, _ = under.piece.size_m
        for _ in range(count):
            piece, turn = dice.pick(things)(dice), dice.between(-0.5, 0.5) + dice.pick((0.0, 0.0, 1.57, 3.14))
            c, s = abs(math.cos(turn)), abs(math.sin(turn))
            ex, ey = (c * piece.size_m[0] + s * piece.size_m[1]) / 2, (s * piece.size_m[0] + c * piece.size_m[1]) / 2
            if ex > w / 2 - 0.02 or ey > d / 2 - 0.01 or piece.size_m[2] > room_m or self.is_full():
                continue
            for _ in range(PLACE_TRIES):
                x, y = (w / 2 - ex) * dice.between(-1, 1), (d / 2 - ey) * dice.between(-1, 1)
                if any(abs(x - a) < ex + p and abs(y - b) < ey + q for a, b, p, q in taken):
                    continue
                taken.append((x, y, ex, ey))
                self.lift(piece, under, (x, y, height), turn)
                break

    def lift(self, piece: Piece, under: PlacedPiece, xyz: tuple[float, float, float], turn: float = 0.0) -> None:
        """Places a piece at a point of another piece's frame."""
        c, s = math.cos(under.yaw), math.sin(under.yaw)
        x, y = under.xyz_m[0] + c * xyz[0] - s * xyz[1], under.xyz_m[1] + s * xyz[0] + c * xyz[1]
        self.layout.placed.append(PlacedPiece(piece, (x, y, under.xyz_m[2] + xyz[2]), under.yaw + turn))

    def against_wall(self, piece: Piece) -> PlacedPiece | None:
        """Places a piece at a wall and returns it, None if there is no space."""
        return self.layout.placed[-1] if self.layout.against_wall(piece, self.dice) else None


def _add_table(room: _Room) -> None:
    """A table, desk, counter or low cabinet with things on it, at a wall or free."""
    dice = room.dice
    make = dice.pick(
        (
            *(furniture.table, furniture.table, furniture.desk, furniture.desk, furniture.coffee_table),
            *(equipment.island, furniture.conference_table, household.chest),
        )
    )
    piece = make(dice)
    placed = room.layout.against_wall(piece, dice) if dice.chance(0.6) else room.layout.free(piece, dice, 0.3)
    if not placed or not piece.top_m:
        return
    item = room.layout.placed[-1]
    if dice.chance(0.6):
        place_chairs(room.layout, item, "office" if piece.kind == "desk" else "close", dice)
    if piece.parts[0].shape == FRUSTUM:
        # Things stay inside the square in a round top.
        w, d, h = piece.size_m
        item = item._replace(piece=piece._replace(size_m=(0.7 * w, 0.7 * d, h)))
    w, d, _ = item.piece.size_m
    room.fill(item, piece.top_m, 9.0, dice.pick(THINGS), dice.integer(2, 6 + int(14 * w * d)))


def _add_shelf(room: _Room) -> None:
    piece, heights = open_shelf(room.dice)
    item = room.against_wall(piece)
    if item is not None:
        things, step = room.dice.pick((SHELF_THINGS, KITCHEN_THINGS, HOME_THINGS)), heights[1] - heights[0]
        for z in heights:
            room.fill(item, z, step - 0.03, things, room.dice.integer(3, 9))


def _add_sink(room: _Room) -> None:
    dice = room.dice
    if dice.chance(0.3):
        room.against_wall(household.sink(dice))
        return
    counter, basin = counter_with_sink(dice)
    item = room.against_wall(counter)
    if item is None:
        return
    room.lift(basin, item, (0.0, 0.0, 0.0))
    w, d, h = counter.size_m
    side = (w - basin.size_m[0]) / 2
    for s in (-1, 1):
        half = item._replace(piece=counter._replace(size_m=(side - 0.02, d - 0.06, h)))
        c, n = math.cos(item.yaw), math.sin(item.yaw)
        x = s * (w - side) / 2
        half = half._replace(xyz_m=(item.xyz_m[0] + c * x, item.xyz_m[1] + n * x, 0.0))
        room.fill(half, h, 0.5, KITCHEN_THINGS, dice.integer(0, 6))


FLOOR_THINGS = (
    *(belongings.shoes, belongings.shoes, belongings.toys, clutter.carton, clutter.bag, clutter.bin_, bottle, book),
    *(belongings.clothes, belongings.basket, belongings.stand_plain, coloured_thing),
)
BACKDROP = (
    *(furniture.cabinet, furniture.sofa, furniture.bed, equipment.fridge, equipment.radiator, furniture.shelf),
    *(household.wardrobe, household.armchair, equipment.radiator),
)


def build_close_scene(dice: Dice) -> Scene:
    """Draws a small room with many small objects on tables, shelves, counters and the floor."""
    room, (paints, day) = _Room(dice), (building.shell_paints(dice), dice.between(1.0, 4.0))
    layout, size = room.layout, room.size
    for _ in range(dice.integer(1, 2)):
        layout.against_wall(panel_door(dice), dice)
    rows = []
    if dice.chance(0.6) and layout.against_wall(building.window(dice, size[2], day), dice):
        rows.append(building.window_light(layout.placed[-1], day))
    for _ in range(dice.integer(1, 3)):
        _add_table(room)
    for add in (_add_shelf, _add_sink):
        if dice.chance(0.45):
            add(room)
    for _ in range(dice.integer(1, 5)):
        if not room.is_full():
            layout.against_wall(dice.pick(BACKDROP)(dice), dice)
    for _ in range(dice.integer(2, 9)):
        if not room.is_full():
            layout.free(dice.pick((*FLOOR_THINGS, *FLOOR_THINGS, *HOME))(dice), dice, 0.05)
    for _ in range(dice.integer(2, 8)):
        hang_on_wall(layout, dice.pick((building.picture, *on_walls.ON_WALLS, on_walls.switches))(dice), dice)
    lamps, more = building.ceiling_lights(size, dice, dice.pick((0.3, 1.0, 1.0, 1.6)))
    parts = structure.skirting(size, dice) + lamps
    if dice.chance(0.3):
        parts.append(PlacedPiece(clutter.rug(dice), (size[0] / 2, size[1] / 2, 0.0), dice.between(-0.2, 0.2), False))
    return assemble_scene(layout.placed + parts, paints, size, rows + more, dice, "close-up room")
