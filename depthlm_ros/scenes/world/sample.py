# SPDX-License-Identifier: Apache-2.0
"""Random scenes: `sample_scene` draws a furnished room, or sometimes a place outdoors.

`build_room_scene` and `build_outdoor_scene` draw a scene of a given kind, and `assemble_scene` makes a `Scene` from
placed pieces. The random draws and their order decide what every seed looks like, so they must not change.
"""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.scenes.renderer.lookup import near_lists, shadow_lists
from depthlm_ros.scenes.renderer.raycast import geometry
from depthlm_ros.scenes.world import belongings, building, clutter, colours, on_walls, outdoors, structure, tabletop
from depthlm_ros.scenes.world.catalogue import ROOMS
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.furniture import chair, office_chair
from depthlm_ros.scenes.world.layout import TRIES, RoomLayout
from depthlm_ros.scenes.world.primitives import (
    SIMPLE_KINDS,
    Paint,
    Piece,
    PlacedPiece,
    Scene,
    Xyz,
    distance_to_solids_m,
    pack_pieces,
)

OUTDOOR_SHARE = 0.07


def _place_furniture(layout: RoomLayout, name: str, dice: Dice) -> None:
    room, (w, length, _), filled = ROOMS[name], layout.size, dice.between(0.5, 1.5)
    for _ in range(min(16, round(filled * 1.25 * room.density[0] * (w + length)) + 1)):
        layout.against_wall(dice.pick(room.at_wall)(dice), dice)
    if room.free:
        for _ in range(min(8, round(filled * room.density[1] * w * length) + 1)):
            layout.free(dice.pick(room.free)(dice), dice)
    if name == "lecture hall":
        _place_lecture_rows(layout, dice)
    for item in [p for p in layout.placed if p.piece.kind in ("table", "desk")]:
        place_chairs(layout, item, name, dice)


def _place_lecture_rows(layout: RoomLayout, dice: Dice) -> None:
    """Places rows of long desks and benches that face the y- wall."""
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


def place_chairs(layout: RoomLayout, item: PlacedPiece, room: str, dice: Dice) -> None:
    """Places chairs that face a table."""
    if item.piece.top_m < 0.6 or dice.chance(0.3):
        return
    make = office_chair if item.piece.kind == "desk" or room in ("office", "laboratory") or dice.chance(0.1) else chair
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


def _place_small_things(layout: RoomLayout, room: str, dice: Dice) -> None:
    """Places small objects on tables and cabinets, clothes on beds and sofas, and loose pieces on the floor."""
    for item in list(layout.placed):
        if item.piece.top_m > 0:
            for _ in range(dice.integer(0, 3 + int(3.5 * item.piece.size_m[0]))):
                piece = dice.pick(tabletop.SMALL)(dice)
                if piece.size_m[0] < item.piece.size_m[0]:
                    layout.on_top(piece, item, dice)
        elif item.piece.kind in ("bed", "sofa") and dice.chance(0.4):
            layout.on_top(belongings.clothes(dice), item._replace(piece=item.piece._replace(top_m=0.5)), dice)
    for _ in range(dice.integer(1, 7) if room != "corridor" else dice.integer(0, 3)):
        layout.free(dice.pick(ROOMS[room].loose)(dice), dice, 0.1)


def place_coloured_objects(layout: RoomLayout, dice: Dice, names: set[tuple[str, str]]) -> None:
    """Places up to five simple coloured objects, each (colour, kind) once; `names` are already in use."""
    tops = [p for p in layout.placed if p.piece.top_m > 0]
    for _ in range(dice.pick((0, 1, 2, 3, 5))):
        kind, colour = dice.pick(SIMPLE_KINDS), dice.pick(tuple(colours.NAMED_COLOURS))
        if (colour, kind) in names:
            continue
        names.add((colour, kind))
        if tops and dice.chance(0.45):
            layout.on_top(clutter.coloured_object(dice, kind, colour, dice.between(0.1, 0.35)), dice.pick(tops), dice)
            continue
        piece = clutter.coloured_object(dice, kind, colour, dice.between(0.2, 0.8))
        layout.free(piece, dice, 0.05)


def _place_doors_and_windows(layout: RoomLayout, room: str, dice: Dice, day: float) -> list[tuple[float, ...]]:
    """Places doors, windows and pictures; returns the rows of Scene.lights for the light from outside."""
    lights = []
    doors = dice.integer(1, 2) if room != "corridor" else dice.integer(2, 7)
    for _ in range(doors):
        layout.against_wall(building.door(dice), dice, dice.integer(0, 1) if room == "corridor" else None)
    wall = dice.integer(0, 3)
    for _ in range(dice.integer(0, 3)):
        piece = building.window(dice, layout.size[2], day)
        if layout.against_wall(piece, dice, wall):
            lights.append(building.window_light(layout.placed[-1], day))
            if day > 1.0 and dice.chance(0.25):
                lights.append(building.sunlight(layout.placed[-1], layout.size, dice, day))
    for _ in range(dice.integer(1, 8)):
        maker = dice.pick((building.picture, building.picture, *on_walls.ON_WALLS))
        if room in ("lecture hall", "meeting room", "classroom") and dice.chance(0.4):
            maker = on_walls.blackboard
        hang_on_wall(layout, maker(dice), dice)
    return lights


def hang_on_wall(layout: RoomLayout, piece: Piece, dice: Dice) -> None:
    """Hangs a piece on a wall, where no other piece hangs and no tall piece stands."""
    for _ in range(TRIES):
        side, along = dice.integer(0, 3), dice.between(0.05, 0.95)
        wide, run = piece.size_m[0] / 2, layout.size[1] if side < 2 else layout.size[0]
        if wide < along * run < run - wide and piece.size_m[2] < layout.size[2]:
            x, y, yaw = building.against_wall(layout.size, side, along, 0.0)
            if layout.hang(piece, side, along * run, x, y, yaw):
                return


def _sample_rug(layout: RoomLayout, dice: Dice) -> PlacedPiece:
    x, y = layout.size[0] * dice.between(0.3, 0.7), layout.size[1] * dice.between(0.3, 0.7)
    return PlacedPiece(clutter.rug(dice), (x, y, 0.0), dice.between(-0.2, 0.2))


def _sample_ceiling_pieces(size: Xyz, dice: Dice) -> list[PlacedPiece]:
    """Draws pendants, spots and smoke detectors; their foot is at the ceiling."""
    placed = []
    for _ in range(dice.pick((0, 0, 1, 2, 4, 6))):
        make = on_walls.pendant if size[2] > 2.4 and dice.chance(0.3) else on_walls.downlight
        spot = (size[0] * dice.between(0.15, 0.85), size[1] * dice.between(0.1, 0.9), size[2])
        placed.append(PlacedPiece(make(dice), spot, 0.0, True))
    return placed


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws a furnished room, or sometimes a place outdoors; the same state of the generator gives the same scene."""
    dice = Dice(rng)
    if dice.chance(OUTDOOR_SHARE):
        return build_outdoor_scene(dice)
    return build_room_scene(dice, *building.sample_room(dice), ())


def build_outdoor_scene(dice: Dice) -> Scene:
    """Draws open ground under a sky: a street, a yard or a garden."""
    layout, middle = RoomLayout(outdoors.SIZE_M), outdoors.SIZE_M[0] / 2
    street = outdoors.street(dice)
    for item in street:
        if item.piece.size_m != outdoors.SIZE_M:
            layout.keep_free(item)
    for _ in range(dice.integer(8, 28)):
        piece, spread = dice.pick(outdoors.LOOSE)(dice), dice.pick((6.0, 14.0, 26.0))
        for _ in range(TRIES):
            x, y = middle + spread * dice.between(-1, 1), middle + spread * dice.between(-1, 1)
            turn = math.pi / 2 * dice.integer(0, 3) + (dice.between(-0.5, 0.5) if dice.chance(0.3) else 0.0)
            if layout.put(piece, x, y, turn, 0.3):
                break
    place_coloured_objects(layout, dice, set())
    sky, (light_rows, ambient) = outdoors.sky(dice), outdoors.daylight(dice)
    paints = (*(sky,) * 4, outdoors.ground(dice), sky)
    return assemble_scene(
        layout.placed + street, paints, outdoors.SIZE_M, light_rows, dice, "street", ambient, outdoors.roam()
    )


def build_room_scene(dice: Dice, room: str, size: Xyz, required: tuple[tuple[str, str, float], ...]) -> Scene:
    """Draws a room of this kind and size.

    required: colour, kind and size_m of objects that the room must contain; they are placed first.
    """
    layout = RoomLayout(size)
    for colour, kind, size_m in required:
        piece = clutter.coloured_object(dice, kind, colour, size_m)
        while not layout.put(
            piece, size[0] * dice.between(0.3, 0.7), size[1] * dice.between(0.3, 0.7), dice.between(-1, 1), 0.3
        ):
            continue
    paints = building.shell_paints(dice)
    # Outside some windows it is night.
    day = dice.between(1.5, 5.0) if dice.chance(0.85) else dice.between(0.02, 0.2)
    for x, y, w, d in structure.sample_niches(size, room, dice):
        layout.wall_off(x, y, w, d, paints[dice.integer(0, 3)])
    rows = _place_doors_and_windows(layout, room, dice, day)
    _place_furniture(layout, room, dice)
    _place_small_things(layout, room, dice)
    place_coloured_objects(layout, dice, {(colour, kind) for colour, kind, _ in required})
    lamps, more = building.ceiling_lights(size, dice, dice.pick((0.3, 1.0, 1.0, 1.6)))
    building_parts = structure.sample_structure(size, room, dice, paints) + lamps + _sample_ceiling_pieces(size, dice)
    if room in ("living room", "bedroom", "hallway", "office", "bathroom") and dice.chance(0.45):
        building_parts.append(_sample_rug(layout, dice))
    return assemble_scene(layout.placed + building_parts, paints, size, rows + more, dice, room)


def _lights_outside_solids(solids: np.ndarray, emits: np.ndarray, lights: np.ndarray) -> np.ndarray:
    """Returns the lights that are not inside a solid, with radii so small that they do not touch one."""
    dark = solids[emits == 0]
    room = np.array([distance_to_solids_m(dark, light[:3]) for light in lights], np.float32)
    lights[:, 3] = np.minimum(lights[:, 3], 0.9 * room)
    return lights[room > 0.02]


def _sample_ambient_light(dice: Dice, paints: tuple[Paint, ...], size: Xyz) -> np.ndarray:
    """Draws the ambient light, tinted by walls, ceiling and floor and a little uneven; see Scene."""
    level, ground = dice.between(0.2, 0.75), dice.between(0.35, 0.8)
    above, below = np.array([paints[5].rgb, paints[0].rgb]).mean(0), np.array(paints[4].rgb)
    above, below = (0.5 + 0.5 * tint / tint.mean() for tint in (above, below))
    slopes = [dice.between(-0.7, 0.7) / extent for extent in size]
    facing = [dice.between(-1, 1) for _ in range(3)]
    return np.array([level * above, level * ground * below, slopes, facing], np.float32)


def assemble_scene(
    placed: list[PlacedPiece],
    paints: tuple[Paint, ...],
    size: Xyz,
    light_rows: list[tuple[float, ...]],
    dice: Dice,
    room: str,
    ambient: np.ndarray | None = None,
    roam: tuple[Xyz, Xyz] | None = None,
    most_lights: int = 4,
) -> Scene:
    """Makes the arrays and look-up lists of a scene from its placed pieces; a corner of the room is the origin.

    ambient: see Scene; None draws it for a room. roam: corners of the space for cameras; None is the whole room.
    most_lights: the strongest of light_rows are kept, at most this many.
    """
    solids, object_of, paint_rows, objects = pack_pieces(placed, paints)
    shell = np.array([(0, 0, 0), size], np.float32)
    lights = _lights_outside_solids(solids, paint_rows[6:, 9], building.as_lights(light_rows, most_lights))
    ambient = _sample_ambient_light(dice, paints, size) if ambient is None else ambient
    roam_m = shell if roam is None else np.array(roam, np.float32)
    shadow = shadow_lists(geometry(solids), paint_rows[6:, 9], lights)
    near = near_lists(solids, shell)
    return Scene(solids, object_of, paint_rows, shell, roam_m, lights, ambient, near, shadow, objects, room)
