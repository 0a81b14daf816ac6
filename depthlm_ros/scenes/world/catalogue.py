# SPDX-License-Identifier: Apache-2.0
"""The kinds of rooms (ROOMS): their sizes, their furniture, and how much of it they contain."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from depthlm_ros.scenes.world import belongings as b
from depthlm_ros.scenes.world import clutter as c
from depthlm_ros.scenes.world import equipment as e
from depthlm_ros.scenes.world import furniture as f
from depthlm_ros.scenes.world import household as h
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import Piece

Maker = Callable[[Dice], Piece]


class RoomKind(NamedTuple):
    """One kind of room.

    width_m, length_m, height_m: ranges. share: of all rooms. at_wall, free, loose: makers of pieces that stand at
    walls, free in the room, and lie about on the floor. density: pieces per metre of wall and per square metre of
    floor.
    """

    width_m: tuple[float, float]
    length_m: tuple[float, float]
    height_m: tuple[float, float]
    share: float
    at_wall: tuple[Maker, ...]
    free: tuple[Maker, ...]
    loose: tuple[Maker, ...]
    density: tuple[float, float]


LOOSE = (
    *(c.plant, c.bin_, c.carton, c.plant, e.stool, c.bin_, c.carton, c.person, e.pile, c.bag, c.pouf, c.bag),
    *(b.stand_plain, b.stand_plain, b.shoes, b.basket, b.ladder, b.trolley, b.floor_fan, c.person),
)
HOME = (*LOOSE, b.toys, b.clothes, b.shoes, b.shoes, b.basket, c.plant, b.clothes_rack, b.bicycle)

ROOMS: dict[str, RoomKind] = {
    "living room": RoomKind(
        *((3.0, 6.5), (3.5, 8.0), (2.4, 3.0), 0.16),
        (
            *(
                f.shelf,
                f.cabinet,
                f.sofa,
                f.cabinet,
                f.lamp,
                f.shelf,
                e.television,
                f.sofa,
                e.radiator,
                f.table,
                f.desk,
            ),
            *(h.armchair, h.chest, h.piano, h.chest, f.shelf, e.television),
        ),
        (f.table, f.sofa, f.coffee_table, f.coffee_table, f.chair, e.stool, h.armchair, h.armchair, f.table),
        HOME,
        (0.6, 0.14),
    ),
    "bedroom": RoomKind(
        *((2.6, 4.5), (3.0, 5.5), (2.3, 2.8), 0.09),
        (
            *(f.bed, f.bed, f.cabinet, f.shelf, f.lamp, f.chair, e.radiator, f.desk, h.wardrobe, h.wardrobe),
            *(h.chest, h.chest, h.armchair, b.clothes_rack),
        ),
        (f.chair, f.bed, f.bed, b.basket, h.armchair),
        HOME,
        (0.6, 0.11),
    ),
    "office": RoomKind(
        *((2.5, 8.0), (3.0, 10.0), (2.4, 3.2), 0.14),
        (
            *(f.desk, f.shelf, f.cabinet, f.desk, f.cabinet, f.chair, e.radiator, e.copier, e.coat_stand, f.shelf),
            *(h.chest, f.desk, h.wardrobe),
        ),
        (f.desk, f.desk, f.table, f.office_chair, f.cabinet, e.screen_wall),
        LOOSE,
        (0.55, 0.13),
    ),
    "kitchen": RoomKind(
        *((2.2, 4.5), (2.8, 6.0), (2.3, 2.9), 0.08),
        (e.kitchen_counter, e.kitchen_counter, e.fridge, f.shelf, f.cabinet, e.radiator, h.washing_machine),
        (f.table, f.table, e.stool, e.island),
        HOME,
        (0.65, 0.12),
    ),
    "bathroom": RoomKind(
        *((1.8, 3.5), (2.2, 4.5), (2.3, 2.8), 0.04),
        (h.toilet, h.sink, h.bathtub, h.sink, h.washing_machine, f.cabinet, e.radiator, h.chest),
        (e.stool, b.basket),
        (b.basket, c.bin_, b.shoes, b.stand_plain, b.clothes),
        (0.7, 0.08),
    ),
    "hallway": RoomKind(
        *((1.6, 3.2), (2.5, 6.5), (2.3, 2.9), 0.05),
        (h.chest, h.wardrobe, f.chair, e.coat_stand, e.bench, f.shelf, e.radiator, b.clothes_rack),
        (e.stool,),
        HOME,
        (0.45, 0.03),
    ),
    "corridor": RoomKind(
        *((1.4, 3.5), (6.0, 30.0), (2.3, 3.5), 0.09),
        (f.cabinet, f.shelf, f.chair, e.bench, e.radiator, e.copier, f.table, e.coat_stand, e.rack, h.wardrobe),
        (),
        LOOSE,
        (0.12, 0.0),
    ),
    "hall": RoomKind(
        *((6.0, 12.0), (9.0, 30.0), (3.0, 6.0), 0.06),
        (f.cabinet, f.shelf, f.sofa, f.table, f.chair, e.bench, e.copier, e.radiator, h.piano),
        (f.table, f.table, f.chair, f.sofa, e.bench, e.screen_wall, f.shelf, h.armchair),
        LOOSE,
        (0.3, 0.05),
    ),
    "cafe": RoomKind(
        *((4.5, 9.0), (5.0, 14.0), (2.6, 4.0), 0.05),
        (f.cabinet, f.shelf, f.sofa, e.bench, e.kitchen_counter, f.table, e.fridge),
        (f.table, f.table, f.table, f.table, e.stool, f.coffee_table, h.armchair),
        LOOSE,
        (0.3, 0.16),
    ),
    "lecture hall": RoomKind(
        *((6.0, 12.0), (8.0, 18.0), (2.9, 5.5), 0.04),
        (f.cabinet, f.table, f.chair, e.radiator, e.bench),
        (f.chair, f.table),
        LOOSE,
        (0.15, 0.01),
    ),
    "classroom": RoomKind(
        *((5.0, 9.0), (6.0, 11.0), (2.7, 3.6), 0.04),
        (f.cabinet, f.shelf, e.radiator, f.cabinet, e.copier, f.desk),
        (f.table, f.table, f.table, f.desk),
        LOOSE,
        (0.25, 0.14),
    ),
    "meeting room": RoomKind(
        *((3.0, 6.5), (4.0, 9.0), (2.4, 3.2), 0.06),
        (f.cabinet, f.shelf, f.cabinet, e.television, e.radiator, e.coat_stand),
        (f.conference_table, f.conference_table, f.chair),
        LOOSE,
        (0.35, 0.07),
    ),
    "laboratory": RoomKind(
        *((3.5, 8.0), (5.0, 12.0), (2.6, 3.6), 0.05),
        (e.lab_bench, e.lab_bench, f.cabinet, e.rack, f.shelf, f.desk, e.fridge),
        (e.lab_bench, f.table, f.office_chair, e.stool, e.machine),
        LOOSE,
        (0.5, 0.12),
    ),
    "workshop": RoomKind(
        *((4.0, 12.0), (6.0, 28.0), (2.8, 6.0), 0.05),
        (e.rack, e.rack, e.machine, e.lab_bench, f.cabinet, e.pile),
        (e.machine, e.machine, f.table, e.pile, e.rack),
        (*LOOSE, e.pile, c.carton, b.bicycle, b.ladder),
        (0.45, 0.08),
    ),
}
