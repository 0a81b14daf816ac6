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

# Textures, see shading.py.
PLAIN, CHECKER, TILES, STRIPES, WOOD, NOISE, BOOKS, PATCHES, BRICKS, SCREEN, SPECKLE, PANES = range(12)

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

    kind and colour are its name ("red box", "table"); an empty kind is never asked about.
    size_m: extent along its own x, y and z. Its back is at +y. top_m: height of a free surface, 0 for none.
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
    """An object that may be asked about. wide_m is the larger horizontal extent, tall_m the vertical one."""

    object_id: int
    name: str
    kind: str
    centre_m: Xyz
    wide_m: float
    tall_m: float


@dataclass(frozen=True)
class Scene:
    """A room as arrays for the kernels.

    solids: float32 (N, 14): centre 3, axes as three rows (unit axis times half extent) 9, shape, taper.
    object_of: int16 (N,), -1 = building. paints: float32 (6 + N, 12), the first six are the shell's faces
    (x-, x+, y-, y+, floor, ceiling): rgb, rgb2, texture, scale_m, gloss, emission, seed, unused.
    shell_m: float32 (2, 3), two corners of the room. lights: float32 (L, 10): position, radius_m, rgb power,
    facing direction (zero: all around). ambient: float32 (2, 3), light from above and from below.
    near_*: which solids are near a cell of the floor (for occlusion); shadow_list: which solids lie in each
    direction seen from each light (int16, -1 ends a list).
    """

    solids: np.ndarray
    object_of: np.ndarray
    paints: np.ndarray
    shell_m: np.ndarray
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
    """An upright cylinder (taper 0) to cone (taper 1) by the centre of its foot."""
    centre = (foot[0], foot[1], foot[2] + height / 2)
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
    """Arrays solids, object_of, paints (see Scene) and the SceneObjects of the placed pieces."""
    solids, object_of, paints, objects = [], [], [_paint_row(p) for p in shell_paints], []
    next_id = 0
    for item in placed:
        object_id = -1 if item.background else next_id
        if not item.background:
            next_id += 1
            objects.append(_scene_object(object_id, item))
        for part in item.piece.parts:
            solids.append(_solid_row(part, item.xyz_m, item.yaw))
            paints.append(_paint_row(part.paint))
            object_of.append(object_id)
    return (
        np.array(solids, np.float32).reshape(-1, 14),
        np.array(object_of, np.int16),
        np.array(paints, np.float32),
        tuple(o for o in objects if o.kind),
    )


def _scene_object(object_id: int, item: Placed) -> SceneObject:
    piece = item.piece
    name = f"{piece.colour} {piece.kind}".strip()
    x, y, z = item.xyz_m
    centre = (x, y, z + piece.size_m[2] / 2)
    return SceneObject(object_id, name, piece.kind, centre, max(piece.size_m[:2]), piece.size_m[2])


def gap_m(solids: np.ndarray, point_m: np.ndarray) -> float:
    """Distance from a point to the nearest bounding box of solids (N, 14); 0 inside one, inf if there are none."""
    axes = solids[:, 3:12].reshape(-1, 3, 3)
    half = np.sqrt((axes**2).sum(2))
    local = np.abs(np.einsum("nij,nj->ni", axes, point_m.astype(np.float32) - solids[:, :3])) / half
    return float(np.sqrt((np.maximum(local - half, 0) ** 2).sum(1)).min(initial=math.inf))
