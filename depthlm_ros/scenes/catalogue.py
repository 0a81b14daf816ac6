"""Which furniture stands in which kind of room, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from depthlm_ros.scenes import clutter as c
from depthlm_ros.scenes import equipment as e
from depthlm_ros.scenes import furniture as f
from depthlm_ros.scenes.dice import Dice
from depthlm_ros.scenes.primitives import Piece

Maker = Callable[[Dice], Piece]


class Room(NamedTuple):
    """Range of width, length and height in metres, share of all scenes, what stands at walls, free and on the floor.

    crowd: pieces per metre of wall and per square metre of floor.
    """

    width_m: tuple[float, float]
    length_m: tuple[float, float]
    height_m: tuple[float, float]
    share: float
    at_wall: tuple[Maker, ...]
    free: tuple[Maker, ...]
    loose: tuple[Maker, ...]
    crowd: tuple[float, float]


LOOSE = (c.plant, c.bin_, c.carton, c.plant, e.stool, c.bin_, c.carton, c.person, e.pile, c.bag, c.pouf)

ROOMS: dict[str, Room] = {
    "living room": Room(
        *((3.0, 6.5), (3.5, 8.0), (2.4, 3.0), 0.17),
        (f.shelf, f.cabinet, f.sofa, f.cabinet, f.lamp, f.shelf, e.television, f.sofa, e.radiator, f.table, f.desk),
        (f.table, f.sofa, f.coffee_table, f.coffee_table, f.chair, e.stool),
        LOOSE,
        (0.5, 0.13),
    ),
    "bedroom": Room(
        *((2.6, 4.5), (3.0, 5.5), (2.3, 2.8), 0.08),
        (f.bed, f.bed, f.cabinet, f.shelf, f.lamp, f.cabinet, f.chair, e.radiator, f.desk),
        (f.chair, f.bed, f.coffee_table),
        LOOSE,
        (0.5, 0.1),
    ),
    "office": Room(
        *((2.5, 8.0), (3.0, 10.0), (2.4, 3.2), 0.15),
        (f.desk, f.shelf, f.cabinet, f.desk, f.cabinet, f.chair, e.radiator, e.copier, e.coat_stand, f.shelf),
        (f.desk, f.desk, f.table, f.office_chair, f.cabinet, e.screen_wall),
        LOOSE,
        (0.5, 0.12),
    ),
    "kitchen": Room(
        *((2.2, 4.5), (2.8, 6.0), (2.3, 2.9), 0.08),
        (e.kitchen_counter, e.kitchen_counter, e.fridge, f.shelf, f.cabinet, e.radiator),
        (f.table, f.table, e.stool),
        LOOSE,
        (0.6, 0.12),
    ),
    "corridor": Room(
        *((1.4, 3.5), (6.0, 30.0), (2.3, 3.5), 0.13),
        (f.cabinet, f.shelf, f.chair, e.bench, e.radiator, e.copier, f.table, e.coat_stand),
        (),
        LOOSE,
        (0.12, 0.0),
    ),
    "hall": Room(
        *((6.0, 12.0), (9.0, 30.0), (3.0, 6.0), 0.10),
        (f.cabinet, f.shelf, f.sofa, f.table, f.chair, e.bench, e.copier, e.radiator),
        (f.table, f.table, f.chair, f.sofa, e.bench, e.screen_wall, f.shelf),
        LOOSE,
        (0.3, 0.05),
    ),
    "lecture hall": Room(
        *((6.0, 12.0), (8.0, 18.0), (2.9, 5.5), 0.09),
        (f.cabinet, f.table, f.chair, e.radiator, e.bench),
        (f.chair, f.table),
        LOOSE,
        (0.15, 0.01),
    ),
    "meeting room": Room(
        *((3.0, 6.5), (4.0, 9.0), (2.4, 3.2), 0.06),
        (f.cabinet, f.shelf, f.cabinet, e.television, e.radiator, e.coat_stand),
        (f.conference_table, f.conference_table, f.chair),
        LOOSE,
        (0.3, 0.07),
    ),
    "laboratory": Room(
        *((3.5, 8.0), (5.0, 12.0), (2.6, 3.6), 0.06),
        (e.lab_bench, e.lab_bench, f.cabinet, e.rack, f.shelf, f.desk, e.fridge),
        (e.lab_bench, f.table, f.office_chair, e.stool, e.machine),
        LOOSE,
        (0.5, 0.12),
    ),
    "workshop": Room(
        *((5.0, 12.0), (8.0, 28.0), (3.2, 6.0), 0.08),
        (e.rack, e.rack, e.machine, e.lab_bench, f.cabinet, e.pile),
        (e.machine, e.machine, f.table, e.pile, e.rack),
        (*LOOSE, e.pile, c.carton),
        (0.45, 0.08),
    ),
}
