"""What a scene is made of: three convex solids, paints, and the frozen arrays that the kernels read.

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

# Textures, see texture.py.
PLAIN, CHECKER, TILES, STRIPES, WOOD, NOISE, BOOKS, PATCHES = range(8)
BRICKS, SCREEN, SPECKLE, PANES, MARBLE, SKY, LEAVES, FACADE = range(8, 16)

# Simple objects go by their colour; the colour of furniture only helps to tell two of a kind apart.
SIMPLE_KINDS = ("box", "ball", "cylinder", "cone")

Rgb = tuple[float, float, float]
Xyz = tuple[float, float, float]


class Paint(NamedTuple):
    """Surface of a solid: two albedos mixed by a texture whose period is scale_m."""

    rgb: Rgb
    rgb2: Rgb = (0.5, 0.5, 0.5)
    texture: int = PLAIN
    scale_m: float = 0.1
    gloss: float = 0.0
    emission: float = 0.0
    seed: int = 0


class Part(NamedTuple):
    """One solid of a piece, in the piece's frame: z up from its foot, yaw about z, then pitch about its own x."""

    shape: int
    centre: Xyz
    half: Xyz
    paint: Paint
    taper: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0


class Piece(NamedTuple):
    """Something that stands in a room.

    kind and colour are its name ("red box", "table"); an empty kind is never asked about, an empty colour is no one
    named colour. size_m: the space it
    takes along its own x, y and z when it is placed. Its back is at +y. top_m: height of a free surface, 0 for none.
    """

    kind: str
    colour: str
    parts: tuple[Part, ...]
    size_m: Xyz
    top_m: float = 0.0


class Placed(NamedTuple):
    """A piece in the room: the position of its foot and its yaw. background: part of the building, id -1."""

    piece: Piece
    xyz_m: Xyz
    yaw: float
    background: bool = False


@dataclass(frozen=True)
class SceneObject:
    """An object that may be asked about.

    name: its kind, for simple objects with the colour before it. colour: empty unless it has one plain named colour.
    wide_m: the larger of its extents along its own two horizontal axes; tall_m: the vertical one.
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
    object_of: int16 (N,), -1 = building. paints: float32 (6 + N, 12), the first six are the shell's faces
    (x-, x+, y-, y+, floor, ceiling): rgb, rgb2, texture, scale_m, gloss, emission, seed, unused.
    shell_m: float32 (2, 3), two corners of the room; a face of it painted SKY has no depth. roam_m: float32 (2, 3),
    two corners of the space that cameras stay in. lights: float32 (L, 16): position, radius_m, rgb power,
    facing direction (zero: all around), the opening it shines through (axis of its wall, -1 for none; where along
    that axis; from and to across it; from and to in height). ambient: float32 (4, 3), light from above, from below,
    how its share grows per metre along x, y, z, and with the direction a surface faces.
    near_*: which solids are near a cell of the floor (for occlusion); shadow_list: which solids lie in each
    direction seen from each light (int16, -1 ends a list).
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
    """world_from_camera: R float64 (3, 3) with the camera's right, down, forward as columns; t float64 (3,) metres."""

    R: np.ndarray
    t: np.ndarray


def box(centre: Xyz, size: Xyz, paint: Paint, yaw: float = 0.0, pitch: float = 0.0) -> Part:
    """A box by its full size."""
    return Part(BOX, centre, (size[0] / 2, size[1] / 2, size[2] / 2), paint, 0.0, yaw, pitch)


def ball(centre: Xyz, size: Xyz, paint: Paint) -> Part:
    """An ellipsoid by its full size."""
    return Part(BALL, centre, (size[0] / 2, size[1] / 2, size[2] / 2), paint)


def frustum(foot: Xyz, radius: float, height: float, paint: Paint, taper: float = 0.0) -> Part:
    """An upright cylinder (taper 0) to cone (taper 1) by the centre of its foot; below 0 it widens upwards."""
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


def pack(placed: list[Placed], shell_paints: tuple[Paint, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple]:
    """Arrays solids, object_of, paints (see Scene) and the SceneObjects of the placed pieces that have a kind."""
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
    """Half extents and centres (N, 3) of solids along the axes of a frame turned by yaw (N,) about z."""
    c, s, zero = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)
    turn = np.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1], -1).reshape(-1, 3, 3)
    axes = solids[:, 3:12].reshape(-1, 3, 3) @ turn
    across, up = np.sqrt((axes[:, :2] ** 2).sum(1)), np.abs(axes[:, 2])
    by_shape = np.stack([np.abs(axes).sum(1), np.sqrt((axes**2).sum(1)), across + up])
    reach = by_shape[solids[:, 12].astype(int), np.arange(len(solids))]
    return reach, np.einsum("ni,nij->nj", solids[:, :3], turn)


def _scene_object(object_id: int, item: Placed, middle: np.ndarray, reach: np.ndarray) -> SceneObject:
    size = (middle + reach).max(0) - (middle - reach).min(0)
    x, y, z = item.xyz_m
    kind, colour = item.piece.kind, item.piece.colour
    name = f"{colour} {kind}" if kind in SIMPLE_KINDS else kind
    centre = (x, y, z + item.piece.size_m[2] / 2)
    return SceneObject(object_id, name, kind, colour, centre, float(size[:2].max()), float(size[2]))


def gap_m(solids: np.ndarray, point_m: np.ndarray) -> float:
    """Distance from a point to the nearest bounding box of solids (N, 14); 0 inside one, inf if there are none."""
    axes = solids[:, 3:12].reshape(-1, 3, 3)
    half = np.sqrt((axes**2).sum(2))
    local = np.abs(np.einsum("nij,nj->ni", axes, point_m.astype(np.float32) - solids[:, :3])) / half
    return float(np.sqrt((np.maximum(local - half, 0) ** 2).sum(1)).min(initial=math.inf))
