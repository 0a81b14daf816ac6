# SPDX-License-Identifier: Apache-2.0
"""Large places, so that pictures reach far: `build_far_scene` draws one of FAR_PLACES.

They are lecture halls, corridors, warehouses, open offices, canteens, gyms, lobbies and suites of rooms with open
doorways. `sample.sample_scene` draws none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from depthlm_ros.scenes.world import building, clutter, colours, equipment, furniture, hall_pieces, on_walls, structure
from depthlm_ros.scenes.world.catalogue import LOOSE, ROOMS
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.hall_pieces import MOST_LIGHTS, Hall, add_windows
from depthlm_ros.scenes.world.primitives import Piece, PlacedPiece, Scene, box
from depthlm_ros.scenes.world.sample import assemble_scene, place_chairs, place_coloured_objects
from depthlm_ros.scenes.world.tabletop import laptop, monitor


def _lecture_hall(hall: Hall) -> None:
    """Rows of seats, flat or on steps, that face the boards and the screen on the y- wall."""
    dice, (w, length, h) = hall.dice, hall.size
    rise = 0.0 if h < 3.6 else dice.pick((0.0, 0.12, 0.2, 0.3))
    front, pitch = dice.between(2.8, 4.5), dice.between(0.9, 1.15)
    _furnish_stage(hall)
    blocks = dice.pick((1, 2, 2, 3)) if w > 9 else dice.pick((1, 2))
    aisle, rows = dice.between(0.9, 1.4), int((length - front - 1.0) / pitch)
    rise = min(rise, max(0.0, h - 2.6) / max(1, rows))
    seats = max(3, int((w - (blocks + 1) * aisle) / blocks / hall_pieces.SEAT_M))
    single = rows * blocks * seats < 230
    seat = hall_pieces.seat_paint(dice, dice.chance(0.6))
    desk = colours.board(dice) if dice.chance(0.6) else None
    row = hall_pieces.seat_row(dice, seats, desk, seat, single)
    for k in range(rows):
        y, depth = front + k * pitch, rise * k
        if depth > 0:
            back = y - pitch / 2
            hall.build(box((w / 2, (back + length) / 2, depth - rise / 2), (w, length - back, rise), hall.paints[4]))
        for b in range(blocks):
            if not hall.is_full():
                hall.lift(row, w * (b + 0.5) / blocks, y, depth)
    # Nothing else stands among the rows.
    seats_m = Piece("", "", (), (w, length - front + 0.7, h))
    hall.layout.keep_free(PlacedPiece(seats_m, (w / 2, (front - 0.7 + length) / 2, 0.0), 0.0))
    add_windows(hall, dice.pick(((0,), (1,), (), (0, 1))), rise > 0)
    hall.along_walls((equipment.radiator, furniture.chair, furniture.cabinet, clutter.bin_), dice.integer(1, 5))
    hall.hang((building.picture, on_walls.notice_board, on_walls.clock, on_walls.switches), dice.integer(3, 9))
    hall.scatter((clutter.person, clutter.bag, clutter.plant, clutter.bin_), dice.integer(0, 5))
    hall.add_lamps(0.1 * w, 0.9 * w)


def _furnish_stage(hall: Hall) -> None:
    """Boards, screen, table, lectern and door at the y- wall."""
    dice, (w, _, h) = hall.dice, hall.size
    wide = min(0.55 * w, 1.5 * (h - 2.2), dice.between(2.4, 5.0))
    if dice.chance(0.7):
        x = w * dice.between(0.35, 0.65)
        hall.lift(hall_pieces.projection_screen(dice, wide, h - 0.25 - 0.75 * wide), x, 0.05, 0.0, math.pi)
    for k in range(dice.integer(1, 2)):
        hall.lift(on_walls.blackboard(dice), w * (0.3 + 0.4 * k), 0.02, 0.0, math.pi)
    hall.layout.put(hall_pieces.double_door(dice), dice.pick((1.1, w - 1.1)), 0.08, math.pi, 0.0)
    hall.layout.put(hall_pieces.lectern(dice), w * dice.between(0.15, 0.85), 1.6, 0.0)
    hall.layout.put(furniture.table(dice), w * dice.between(0.3, 0.7), 1.6, dice.pick((0.0, math.pi)))
    hall.clutter_tables(0.8)


def _corridor(hall: Hall) -> None:
    """Corridor with doors along both walls, sometimes with side corridors, fire doors and a window at its end."""
    dice, (w, length, h) = hall.dice, hall.size
    low, high = 0.0, w
    if w > 4.2 and dice.chance(0.85):
        # The place is wider than the corridor; blocks leave side corridors free.
        high = dice.between(2.0, 3.2)
        if dice.chance(0.5):
            low, high = w - high, w
        for y, long in _between_openings(dice, length):
            middle = (high + w) / 2 if low == 0.0 else low / 2
            hall.layout.wall_off(middle, y, w - high + low, long, hall.paints[1])
    hall.roam = (low, 0.0, 0.0), (high, length, h)
    for wall, x, yaw in ((0, low, math.pi / 2), (1, high, -math.pi / 2)):
        _furnish_corridor_wall(hall, wall, x, yaw)
    for _ in range(dice.pick((0, 0, 1, 2))):
        _fire_doors(hall, low, high, length * dice.between(0.2, 0.85))
    _corridor_ends(hall, low, high)
    hall.scatter(LOOSE, dice.integer(0, 3), 0.1)
    if dice.chance(0.35):
        hall.building += structure.pipes(hall.size, dice)
    hall.add_lamps(low, high)


def _between_openings(dice: Dice, length: float) -> list[tuple[float, float]]:
    """Draws the solid parts (middle, length) of a wall that openings of 1.4 to 2.6 m interrupt."""
    parts, y = [], 0.0
    while y < length - 2.0:
        end = min(length, y + dice.between(5.0, 16.0))
        parts.append(((y + end) / 2, end - y))
        y = end + dice.between(1.4, 2.6)
    return parts


def _furnish_corridor_wall(hall: Hall, wall: int, x: float, yaw: float) -> None:
    """Doors at equal distances along one wall of a corridor, and things between them."""
    dice, length, inward = hall.dice, hall.size[1], 1.0 if wall == 0 else -1.0
    door, pitch, y = building.door(dice), dice.between(2.6, 5.5), dice.between(0.8, 3.0)
    while y < length - 0.8 and not hall.is_full():
        if dice.chance(0.85):
            hall.layout.put(door, x + inward * 0.055, y, yaw, 0.0)
        maker = dice.pick(_CORRIDOR_THINGS)
        piece, between = maker(dice), y + pitch * dice.between(0.4, 0.6)
        if maker in _HANGING:
            spot = _touches_block(hall, x, between)
            if between < length - 1.0 and spot and piece.size_m[0] < pitch - 1.2:
                hall.lift(piece, x, between, 0.0, yaw)
        elif dice.chance(0.6):
            hall.layout.put(piece, x + inward * (piece.size_m[1] / 2 + 0.02), between, yaw, 0.02)
        y += pitch


def _touches_block(hall: Hall, x: float, y: float) -> bool:
    """Returns whether a wall is at x over a metre around y: the shell or a block."""
    if x < 0.01 or x > hall.size[0] - 0.01:
        return True
    for item in hall.layout.placed:
        cx, cy, _ = item.xyz_m
        w, d, _ = item.piece.size_m
        if item.background and abs(abs(x - cx) - w / 2) < 0.01 and abs(y - cy) < d / 2 - 0.8:
            return True
    return False


_HANGING = (building.picture, on_walls.notice_board, on_walls.switches, on_walls.clock)
_CORRIDOR_THINGS = (
    *(*_HANGING, building.picture, on_walls.notice_board, hall_pieces.lockers, hall_pieces.lockers),
    *(equipment.bench, equipment.radiator, furniture.cabinet, furniture.chair, clutter.plant),
    *(hall_pieces.extinguisher, hall_pieces.extinguisher, clutter.bin_, equipment.copier),
)


def _fire_doors(hall: Hall, low: float, high: float, y: float) -> None:
    """A wall across the corridor with an open double door."""
    dice, h = hall.dice, hall.size[2]
    paint = dice.pick(hall.paints[:4])
    gap, top = min(high - low - 0.5, dice.between(1.5, 2.1)), dice.between(2.05, 2.2)
    middle = (low + high) / 2
    side = (high - low - gap) / 2
    hall.build(
        box((low + side / 2, y, h / 2), (side, 0.12, h), paint),
        box((high - side / 2, y, h / 2), (side, 0.12, h), paint),
        box((middle, y, (top + h) / 2), (gap, 0.11, h - top), paint),
    )
    leaf, frame = colours.board(dice), colours.lacquer(dice)
    for s in (-1, 1):
        hall.build(box((middle + s * gap / 2, y, top / 2), (0.07, 0.16, top), frame))
        # The leaves stand open along the walls.
        hall.lift(
            hall_pieces.open_leaf(dice, gap / 2, top, leaf), middle + s * (gap / 2 + 0.03), y + gap / 4 + 0.1, 0.0
        )


def _corridor_ends(hall: Hall, low: float, high: float) -> None:
    """A window, a double door or a plain wall at each end of a corridor."""
    dice, (w, _, h) = hall.dice, hall.size
    for wall in (2, 3):
        kind, middle = dice.unit(), (low + high) / 2 / w
        wide = min(1.8, high - low - 0.4)
        if kind < 0.5:
            piece = hall_pieces.window_band(dice, wide, dice.pick((0.1, 0.9)), min(1.4, h - 1.3), hall.day)
            hall.add_window(piece, wall, middle)
        elif kind < 0.85:
            x, y, yaw = building.against_wall(hall.size, wall, middle, 0.08)
            hall.layout.put(hall_pieces.double_door(dice, wide - 0.2), x, y, yaw, 0.0)


def _warehouse(hall: Hall) -> None:
    """Rows of pallet racks, or machines, with columns, pallets, pipes and gates."""
    dice, (w, _, h) = hall.dice, hall.size
    hall.along_walls((hall_pieces.gate, hall_pieces.gate, hall_pieces.double_door), dice.integer(1, 3))
    if dice.chance(0.6):
        _racks(hall)
    if dice.chance(0.6):
        hall.building += structure.columns(hall.size, dice, hall.paints[1])
    machines = (equipment.machine, equipment.machine, hall_pieces.press, equipment.lab_bench, equipment.rack)
    hall.along_walls((*machines, equipment.pile, hall_pieces.lockers, equipment.rack), dice.integer(6, 14))
    hall.scatter((*machines, hall_pieces.pallet, hall_pieces.pallet), dice.integer(5, 16))
    hall.scatter((*LOOSE, hall_pieces.pallet, equipment.pile, clutter.person), dice.integer(4, 12))
    add_windows(hall, dice.pick(((0,), (1,), (0, 1), (3,), ())), True)
    hall.hang((on_walls.notice_board, building.picture, on_walls.switches, on_walls.clock), dice.integer(3, 8))
    hall.building += structure.pipes(hall.size, dice)
    if dice.chance(0.6):
        hall.building += structure.beams(hall.size, dice)
    hall.add_lamps(0.1 * w, 0.9 * w, dice.pick((0.0, 0.5, 1.2)) if h > 4.5 else 0.0)


def _racks(hall: Hall) -> None:
    """Pallet racks in lines along y, with aisles between them."""
    dice, (w, length, h) = hall.dice, hall.size
    kinds = [hall_pieces.pallet_rack(dice, min(h - 0.8, dice.between(2.2, 6.0))) for _ in range(5)]
    x, aisle = dice.between(0.7, 2.0), dice.between(2.4, 4.0)
    start = dice.between(0.5, 0.35 * length)
    while x < w - 0.6:
        y = start
        while y < length - 3.0 and not hall.is_full():
            rack = dice.pick(kinds)
            y += rack.size_m[0] / 2
            hall.layout.put(rack, x, y, dice.pick((math.pi / 2, -math.pi / 2)), 0.0)
            y += rack.size_m[0] / 2 + (dice.between(1.5, 3.0) if dice.chance(0.15) else 0.06)
        x += aisle


def _open_office(hall: Hall) -> None:
    """Groups of desks with screens, chairs and columns."""
    dice, (w, length, _) = hall.dice, hall.size
    if dice.chance(0.6):
        hall.building += structure.columns(hall.size, dice, hall.paints[0])
    hall.along_walls((hall_pieces.double_door, building.door), 2)
    desk, seat, screen = hall_pieces.plain_desk(dice), furniture.office_chair(dice), monitor(dice)
    panel = hall_pieces.desk_screen(dice, desk.size_m[0] * 0.95) if dice.chance(0.5) else None
    group, across = dice.integer(2, 4), dice.between(3.2, 4.2)
    y = dice.between(1.5, 3.5)
    while y < length - 1.5:
        x = dice.between(1.2, 3.0)
        while x < w - 1.0 and not hall.is_full():
            for side in (0, 1):
                _workplace(hall, x, y + (0.42 if side else -0.42), math.pi * side, (desk, seat, screen), panel)
            x += desk.size_m[0] + 0.04
            group -= 1
            if group <= 0:
                group, x = dice.integer(2, 4), x + dice.between(1.2, 2.4)
        y += across
    hall.along_walls((furniture.cabinet, furniture.shelf, equipment.copier, equipment.radiator), dice.integer(2, 7))
    hall.scatter((clutter.plant, clutter.bin_, clutter.person, equipment.screen_wall, clutter.bag), dice.integer(4, 12))
    hall.hang((building.picture, on_walls.notice_board, on_walls.clock, on_walls.switches), dice.integer(3, 8))
    add_windows(hall, dice.pick(((0,), (1,), (0, 1), (3,), (0, 3))), False)
    hall.add_lamps(0.05 * w, 0.95 * w)


def _workplace(hall: Hall, x: float, y: float, yaw: float, pieces: tuple[Piece, ...], panel: Piece | None) -> None:
    """A desk, mostly with a monitor or laptop and a chair; yaw pi turns it to face the desk at its back."""
    dice, (desk, seat, screen) = hall.dice, pieces
    if not hall.layout.put(desk, x, y, yaw, 0.0):
        return
    s = -1.0 if yaw == 0.0 else 1.0
    if dice.chance(0.8):
        on_desk = screen if dice.chance(0.75) else laptop(dice)
        hall.lift(on_desk, x + dice.between(-0.3, 0.3), y - s * 0.1, 0.73, yaw + dice.between(-0.2, 0.2))
    if panel and s < 0:
        hall.lift(panel, x, y + 0.41, 0.73)
    if dice.chance(0.85):
        turn = yaw + math.pi + dice.between(-0.6, 0.6)
        hall.layout.put(seat, x + dice.between(-0.2, 0.2), y + s * dice.between(0.75, 0.95), turn, -0.12)


def _canteen(hall: Hall) -> None:
    """Many equal tables with chairs or benches."""
    dice, (w, length, h) = hall.dice, hall.size
    if dice.chance(0.5):
        hall.building += structure.columns(hall.size, dice, hall.paints[1])
    hall.along_walls((hall_pieces.double_door, equipment.kitchen_counter, equipment.island), dice.integer(2, 4))
    table = furniture.conference_table(dice) if dice.chance(0.5) else furniture.table(dice)
    seat = equipment.bench(dice) if dice.chance(0.3) else furniture.chair(dice)
    step_x, step_y = table.size_m[0] + dice.between(0.8, 1.8), table.size_m[1] + dice.between(1.6, 2.6)
    for k in range(int((w - 1.5) / step_x)):
        for n in range(int((length - 2.5) / step_y)):
            x, y = 1.0 + (k + 0.5) * step_x, 1.5 + (n + 0.5) * step_y
            if not hall.is_full() and hall.layout.put(table, x, y, dice.between(-0.06, 0.06), 0.1):
                if seat.kind == "bench":
                    for s in (-1, 1):
                        hall.layout.put(seat, x, y + s * (table.size_m[1] / 2 + 0.3), 0.0 if s > 0 else math.pi, -0.1)
                else:
                    place_chairs(hall.layout, hall.layout.placed[-1], "canteen", dice)
    hall.clutter_tables(0.15)
    hall.scatter((clutter.plant, clutter.bin_, clutter.person, clutter.person, clutter.bag), dice.integer(2, 6))
    hall.hang((building.picture, on_walls.notice_board, on_walls.clock), dice.integer(2, 6))
    add_windows(hall, dice.pick(((0,), (1,), (0, 3), (3,), ())), False)
    hall.add_lamps(0.1 * w, 0.9 * w, dice.pick((0.0, 0.0, 0.8)) if h > 3.2 else 0.0)


def _gym(hall: Hall) -> None:
    """Empty floor with lines, wall bars, hoops, mats, benches and balls."""
    dice, (w, length, _) = hall.dice, hall.size
    white = dice.paint(dice.pick(((0.8, 0.8, 0.8), (0.1, 0.2, 0.5), (0.7, 0.1, 0.05))))
    lines = [box((w / 2, length * y, 0.003), (w - 2.0, 0.06, 0.006), white) for y in (0.05, 0.5, 0.95)]
    hall.build(*lines, *(box((x, length / 2, 0.003), (0.06, 0.9 * length, 0.006), white) for x in (1.0, w - 1.0)))
    for y, yaw in ((0.02, math.pi), (length - 0.02, 0.0)):
        if dice.chance(0.7):
            hall.lift(hall_pieces.basketball_hoop(dice), w / 2, y, 0.0, yaw)
    bars = hall_pieces.wall_bars(dice)
    for _ in range(dice.integer(0, 5)):
        hall.layout.against_wall(bars, dice, dice.integer(0, 1))
    hall.along_walls((hall_pieces.double_door, hall_pieces.mats, equipment.bench, hall_pieces.gate), dice.integer(3, 8))
    hall.scatter((hall_pieces.mats, equipment.bench, clutter.person, clutter.person, clutter.bag), dice.integer(2, 8))
    for _ in range(dice.integer(0, 4)):
        hall.layout.free(clutter.coloured_object(dice, "ball", "orange", 0.24), dice, 0.1)
    hall.hang((building.picture, on_walls.notice_board, on_walls.clock), dice.integer(2, 6))
    add_windows(hall, dice.pick(((0,), (0, 1), (1,), (2,))), True)
    hall.add_lamps(0.1 * w, 0.9 * w)


def _lobby(hall: Hall) -> None:
    """Entrance hall with a reception desk, seats, columns and sometimes stairs to a gallery."""
    dice, (w, _, h) = hall.dice, hall.size
    if dice.chance(0.7):
        hall.building += structure.columns(hall.size, dice, hall.paints[1])
    if h > 4.6 and w > 7.0 and dice.chance(0.75):
        _gallery(hall, dice.between(2.6, h - 1.9))
    hall.along_walls((hall_pieces.double_door, hall_pieces.double_door, equipment.island), dice.integer(3, 5))
    seats = (furniture.sofa, furniture.sofa, equipment.bench, furniture.coffee_table, clutter.plant, clutter.plant)
    hall.scatter((*seats, furniture.chair, furniture.table, equipment.island), dice.integer(6, 16))
    hall.along_walls((*seats, equipment.copier, furniture.cabinet, hall_pieces.lockers), dice.integer(3, 8))
    hall.scatter((clutter.person, clutter.person, clutter.bag, clutter.bin_), dice.integer(2, 7))
    hall.hang((building.picture, on_walls.notice_board, on_walls.clock), dice.integer(2, 7))
    hall.clutter_tables(0.4)
    add_windows(hall, dice.pick(((0,), (1,), (2,), (3,))), False)
    hall.add_lamps(0.1 * w, 0.9 * w, dice.pick((0.0, 0.8)) if h > 4.0 else 0.0)


def _gallery(hall: Hall, high: float) -> None:
    """A gallery along the y+ wall, and stairs up to it."""
    dice, (w, length, _) = hall.dice, hall.size
    deep, wide = dice.between(2.0, 3.5), dice.between(1.2, 2.2)
    edge, x = length - deep, dice.between(1.2, 3.0)
    stairs = hall_pieces.flight_of_stairs(dice, wide, high)
    hall.layout.put(stairs, x, edge - stairs.size_m[1] / 2, 0.0, 0.3)
    hall.build(box((w / 2, length - deep / 2, high - 0.12), (w, deep, 0.24), hall.paints[5]))
    right = w - (x + wide / 2)
    hall.lift(hall_pieces.railing(dice, right), w - right / 2, edge + 0.05, high)


def _suite(hall: Hall) -> None:
    """Living rooms behind one another: walls across a large room with wide openings."""
    dice, (w, length, h) = hall.dice, hall.size
    walls = max(1, min(2, int(length / dice.between(5.5, 8.0))))
    for k in range(walls):
        _wall_with_opening(hall, (k + 1) * length / (walls + 1) + dice.between(-0.5, 0.5))
    add_windows(hall, (dice.pick((0, 1, 3)),), False)
    hall.along_walls((building.door,), 3)
    room = dice.pick(("living room", "living room", "living room", "office", "cafe"))
    hall.along_walls(ROOMS[room].at_wall, dice.integer(8, 18))
    hall.scatter(ROOMS[room].free, dice.integer(4, 10), 0.2)
    for item in [p for p in hall.layout.placed if p.piece.kind in ("table", "desk")]:
        if not hall.is_full():
            place_chairs(hall.layout, item, room, dice)
    hall.clutter_tables(0.6)
    hall.scatter(ROOMS[room].loose, dice.integer(2, 7), 0.1)
    hall.hang((building.picture, building.picture, on_walls.wall_shelf, on_walls.clock), dice.integer(3, 8))
    hall.building += structure.skirting(hall.size, dice)
    hall.add_lamps(0.3 * w, 0.7 * w, dice.pick((0.0, 0.5)) if h > 2.7 else 0.0)


def _wall_with_opening(hall: Hall, y: float) -> None:
    """A wall across the place with an opening, framed as a doorway or not."""
    dice, (w, _, h) = hall.dice, hall.size
    gap = dice.pick((0.9, dice.between(1.4, 2.0), dice.between(2.0, 0.6 * w), dice.between(2.0, 0.6 * w)))
    x, top, paint = w * dice.between(0.35, 0.65), dice.between(2.0, min(2.3, h - 0.1)), dice.pick(hall.paints[:4])
    left, right = x - gap / 2, x + gap / 2
    hall.layout.wall_off(left / 2, y, left, 0.14, paint)
    hall.layout.wall_off((right + w) / 2, y, w - right, 0.14, paint)
    hall.build(box((x, y, (top + h) / 2), (gap, 0.138, h - top), paint))
    way = Piece("", "", (), (gap + 0.3, 2.2, top))
    hall.layout.keep_free(PlacedPiece(way, (x, y, 0.0), 0.0))
    if gap < 1.5 and dice.chance(0.7):
        frame = colours.lacquer(dice)
        hall.build(
            *(box((x + s * gap / 2, y, top / 2), (0.09, 0.18, top), frame) for s in (-1, 1)),
            box((x, y, top + 0.03), (gap + 0.17, 0.18, 0.08), frame),
        )


class FarPlace(NamedTuple):
    """One kind of large place: its share of all, the ranges of its size, metres, and how it is furnished."""

    share: float
    width_m: tuple[float, float]
    length_m: tuple[float, float]
    height_m: tuple[float, float]
    furnish: Callable[[Hall], None]


FAR_PLACES: dict[str, FarPlace] = {
    "lecture hall": FarPlace(0.16, (9.0, 20.0), (12.0, 28.0), (3.2, 8.0), _lecture_hall),
    "corridor": FarPlace(0.15, (2.0, 7.0), (10.0, 40.0), (2.4, 3.6), _corridor),
    "warehouse": FarPlace(0.19, (10.0, 25.0), (16.0, 40.0), (4.5, 9.0), _warehouse),
    "open office": FarPlace(0.12, (10.0, 22.0), (15.0, 32.0), (2.6, 3.6), _open_office),
    "canteen": FarPlace(0.1, (8.0, 20.0), (12.0, 30.0), (2.8, 5.0), _canteen),
    "gym": FarPlace(0.08, (12.0, 24.0), (18.0, 40.0), (5.0, 8.5), _gym),
    "lobby": FarPlace(0.12, (8.0, 20.0), (12.0, 34.0), (3.0, 8.0), _lobby),
    "suite": FarPlace(0.08, (6.0, 11.0), (11.0, 20.0), (2.5, 3.6), _suite),
}


def build_far_scene(dice: Dice, name: str | None = None) -> Scene:
    """Draws a large place; name: one of FAR_PLACES, None draws it too."""
    if name is None:
        left = dice.unit()
        for name in FAR_PLACES:
            left -= FAR_PLACES[name].share
            if left < 0:
                break
    assert name is not None
    place = FAR_PLACES[name]
    hall = Hall((dice.between(*place.width_m), dice.between(*place.length_m), dice.between(*place.height_m)), dice)
    place.furnish(hall)
    place_coloured_objects(hall.layout, dice, set())
    return assemble_scene(
        hall.layout.placed + hall.building,
        hall.paints,
        hall.size,
        hall.light_rows,
        dice,
        name,
        roam=hall.roam,
        most_lights=MOST_LIGHTS + 1,
    )
