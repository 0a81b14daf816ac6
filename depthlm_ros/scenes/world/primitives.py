# SPDX-License-Identifier: Apache-2.0
"""The parts of a scene: convex solids, paints, pieces of furniture, and the arrays that the kernels read.

A `Piece` consists of `Part`s; a `PlacedPiece` is a piece in the room. `pack_pieces` turns placed pieces into the arrays
of a `Scene`, and a `Pose` is a camera in it. `box`, `ball` and `frustum` make parts.

Each solid is the image of a unit shape under p -> centre + axes @ p:
    BOX      [-1, 1]^3
    BALL     the unit ball (an ellipsoid after scaling)
    FRUSTUM  |z| <= 1 with radius 1 at z = -1 and 1 - taper at z = +1 (0 cylinder, 1 cone)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BOX, BALL, FRUSTUM = 0, 1, 2

# Textures, see renderer/texture.py.
PLAIN, CHECKER, TILES, STRIPES, WOOD, NOISE, BOOKS, PATCHES = range(8)
BRICKS, SCREEN, SPECKLE, PANES, MARBLE, SKY, LEAVES, FACADE = range(8, 16)

# Simple objects have their colour in their name; for furniture a colour only distinguishes two objects of one kind.
SIMPLE_KINDS = ("box", "ball", "cylinder", "cone")

Rgb = tuple[float, float, float]
Xyz = tuple[float, float, float]


class Paint(NamedTuple):
    """Surface of a solid: two albedos (linear, 0 to 1) that a texture with the period scale_m mixes."""

    rgb: Rgb
    rgb2: Rgb = (0.5, 0.5, 0.5)
    texture: int = PLAIN
    scale_m: float = 0.1
    gloss: float = 0.0
    emission: float = 0.0
    seed: int = 0


class Part(NamedTuple):
    """One solid of a piece, in the piece's frame (z up, origin at its foot).

    half: half extents, metres. It is turned by yaw about z, then by pitch about its own x, radians.
    """

    shape: int
    centre: Xyz
    half: Xyz
    paint: Paint
    taper: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0


class Piece(NamedTuple):
    """An object or a piece of furniture for a room; its back is at +y.

    kind and colour make its name ("red box", "table"). No question is asked about an empty kind; an empty colour means
    that it does not have one plain named colour. size_m: the space that it needs along its own x, y and z. top_m:
    height of a surface on which other pieces can stand, 0 for none.
    """

    kind: str
    colour: str
    parts: tuple[Part, ...]
    size_m: Xyz
    top_m: float = 0.0


class PlacedPiece(NamedTuple):
    """A piece in the room: the position of its foot and its yaw, radians.

    background: it belongs to the building, with object id -1.
    """

    piece: Piece
    xyz_m: Xyz
    yaw: float
    background: bool = False


@dataclass(frozen=True)
class SceneObject:
    """An object that questions can ask about.

    name: its kind; for simple objects the colour comes first. colour: empty unless it has one plain named colour.
    wide_m: the larger of its extents along its own two horizontal axes. tall_m: its vertical extent.
    """

    object_id: int
    name: str
    kind: str
    colour: str
    centre_m: Xyz
    wide_m: float
    tall_m: float


@dataclass(frozen=True)
class Scene:
    """A room as arrays for the kernels.

    solids: float32 (N, 14): centre 3, axes as three rows (unit axis times half extent) 9, shape, taper.
    object_of: int16 (N,), object id of each solid, -1 for the building.
    paints: float32 (6 + N, 12): rgb, rgb2, texture, scale_m, gloss, emission, seed, unused. The first six rows are the
    faces of the shell (x-, x+, y-, y+, floor, ceiling).
    shell_m: float32 (2, 3), two corners of the room; a face with the texture SKY has no depth.
    roam_m: float32 (2, 3), two corners of the space in which cameras stay.
    lights: float32 (L, 16): position, radius_m, rgb power, facing direction (zero: all directions), and the opening
    that it shines through (axis of its wall, -1 for none; position along that axis; from and to across it; from and to
    in height).
    ambient: float32 (4, 3): light from above, light from below, and how the light grows per metre along x, y and z,
    and with the direction that a surface faces.
    near_list: int16, the solids near each cell of the floor, for occlusion. shadow_list: int16, the solids in each
    direction from each light. -1 ends a list.
    objects: the objects with a kind. room: the kind of room.
    """

    solids: np.ndarray
    object_of: np.ndarray
    paints: np.ndarray
    shell_m: np.ndarray
    roam_m: np.ndarray
    lights: np.ndarray
    ambient: np.ndarray
    near_list: np.ndarray
    shadow_list: np.ndarray
    objects: tuple[SceneObject, ...]
    room: str


@dataclass(frozen=True)
class Pose:
    """Pose of a camera, world_from_camera.

    R: float64 (3, 3), the camera's right, down and forward axes as columns. t: float64 (3,), metres.
    """

    R: np.ndarray
    t: np.ndarray


def box(centre: Xyz, size: Xyz, paint: Paint, yaw: float = 0.0, pitch: float = 0.0) -> Part:
    """Returns a box of this full size, metres."""
    return Part(BOX, centre, (size[0] / 2, size[1] / 2, size[2] / 2), paint, 0.0, yaw, pitch)


def ball(centre: Xyz, size: Xyz, paint: Paint) -> Part:
    """Returns an ellipsoid of this full size, metres."""
    return Part(BALL, centre, (size[0] / 2, size[1] / 2, size[2] / 2), paint)


def frustum(foot: Xyz, radius: float, height: float, paint: Paint, taper: float = 0.0) -> Part:
    """Returns an upright cylinder (taper 0) to cone (taper 1); with a negative taper it widens upwards.

    foot: centre of its lower end.
    """
    centre = (foot[0], foot[1], foot[2] + height / 2)
    if taper < 0:
        # Upside down, so that the unit shape still has its largest radius, 1, at its foot.
        top = radius * (1 - taper)
        return Part(FRUSTUM, centre, (top, top, -height / 2), paint, 1 - 1 / (1 - taper))
    return Part(FRUSTUM, centre, (radius, radius, height / 2), paint, taper)


def _solid_row(part: Part, xyz: Xyz, yaw: float) -> tuple[float, ...]:
    c, s = math.cos(yaw), math.sin(yaw)
    x, y, z = part.centre
    cy, sy = math.cos(yaw + part.yaw), math.sin(yaw + part.yaw)
    cp, sp = math.cos(part.pitch), math.sin(part.pitch)
    hx, hy, hz = part.half
    return (
        *(xyz[0] + c * x - s * y, xyz[1] + s * x + c * y, xyz[2] + z),
        *(cy * hx, sy * hx, 0.0),
        *(-sy * cp * hy, cy * cp * hy, sp * hy),
        *(sy * sp * hz, -cy * sp * hz, cp * hz),
        part.shape,
        part.taper,
    )


def _paint_row(paint: Paint) -> tuple[float, ...]:
    p = paint
    return (*p.rgb, *p.rgb2, p.texture, p.scale_m, p.gloss, p.emission, p.seed, 0.0)


def pack_pieces(
    placed: list[PlacedPiece], shell_paints: tuple[Paint, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[SceneObject, ...]]:
    """Returns solids, object_of and paints (see Scene), and the SceneObjects of the placed pieces that have a kind."""
    rows: list[tuple[float, ...]] = []
    object_of, paints, objects = [], [_paint_row(p) for p in shell_paints], []
    next_id = 0
    for item in placed:
        object_id = -1 if item.background else next_id
        first = len(rows)
        for part in item.piece.parts:
            rows.append(_solid_row(part, item.xyz_m, item.yaw))
            paints.append(_paint_row(part.paint))
            object_of.append(object_id)
        if not item.background:
            next_id += 1
            if item.piece.kind:
                objects.append((object_id, item, first, len(rows)))
    solids = np.array(rows, np.float32).reshape(-1, 14)
    reach, middle = _reach(solids, np.array([item.yaw for item in placed for _ in item.piece.parts]))
    things = tuple(_scene_object(k, item, middle[a:b], reach[a:b]) for k, item, a, b in objects)
    return solids, np.array(object_of, np.int16), np.array(paints, np.float32), things


def _reach(solids: np.ndarray, yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns half extents and centres (N, 3) of solids along the axes of a frame turned by yaw (N,) about z."""
    c, s, zero = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)
    turn = np.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1], -1).reshape(-1, 3, 3)
    axes = solids[:, 3:12].reshape(-1, 3, 3) @ turn
    across, up = np.sqrt((axes[:, :2] ** 2).sum(1)), np.abs(axes[:, 2])
    by_shape = np.stack([np.abs(axes).sum(1), np.sqrt((axes**2).sum(1)), across + up])
    reach = by_shape[solids[:, 12].astype(int), np.arange(len(solids))]
    return reach, np.einsum("ni,nij->nj", solids[:, :3], turn)


def _scene_object(object_id: int, item: PlacedPiece, middle: np.ndarray, reach: np.ndarray) -> SceneObject:
    size = (middle + reach).max(0) - (middle - reach).min(0)
    x, y, z = item.xyz_m
    kind, colour = item.piece.kind, item.piece.colour
    name = f"{colour} {kind}" if kind in SIMPLE_KINDS else kind
    centre = (x, y, z + item.piece.size_m[2] / 2)
    return SceneObject(object_id, name, kind, colour, centre, float(size[:2].max()), float(size[2]))


def distance_to_solids_m(solids: np.ndarray, point_m: np.ndarray) -> float:
    """Returns the distance from a point to the nearest bounding box of solids (N, 14), metres.

    It is 0 inside a box, and infinite if there are no solids.
    """
    axes = solids[:, 3:12].reshape(-1, 3, 3)
    half = np.sqrt((axes**2).sum(2))
    local = np.abs(np.einsum("nij,nj->ni", axes, point_m.astype(np.float32) - solids[:, :3])) / half
    return float(np.sqrt((np.maximum(local - half, 0) ** 2).sum(1)).min(initial=math.inf))
