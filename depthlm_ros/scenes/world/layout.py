# SPDX-License-Identifier: Apache-2.0
"""`RoomLayout`: places pieces in a room so that they do not overlap."""

from __future__ import annotations

import math

from depthlm_ros.scenes.world import building
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import Paint, Piece, PlacedPiece, Xyz, box

TRIES = 6


class RoomLayout:
    """The pieces placed so far; a new piece is refused where its footprint would overlap that of another piece."""

    def __init__(self, size: Xyz) -> None:
        self.size = size
        self.placed: list[PlacedPiece] = []
        self._taken: list[tuple[float, float, float, float]] = []
        self._hung: list[tuple[int, float, float]] = []

    def put(self, piece: Piece, x: float, y: float, yaw: float, gap: float = 0.05) -> bool:
        """Places a piece on the floor if there is space; returns whether there was."""
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
        self.placed.append(PlacedPiece(piece, (x, y, 0.0), yaw))
        return True

    def keep_free(self, item: PlacedPiece) -> None:
        """Reserves the floor under a piece that stands parallel to the axes."""
        across = abs(math.sin(item.yaw)) > 0.5
        w, d = item.piece.size_m[1::-1] if across else item.piece.size_m[:2]
        x, y, _ = item.xyz_m
        self._taken.append((x - w / 2, x + w / 2, y - d / 2, y + d / 2))

    def wall_off(self, x: float, y: float, w: float, d: float, paint: Paint) -> None:
        """Adds a block of the building from floor to ceiling: a chimney breast, a shaft, the inner corner of an L."""
        h = self.size[2]
        block = Piece("", "", (box((0, 0, h / 2), (w, d, h), paint),), (w, d, h))
        self._taken.append((x - w / 2, x + w / 2, y - d / 2, y + d / 2))
        self.placed.append(PlacedPiece(block, (x, y, 0.0), 0.0, True))

    def against_wall(self, piece: Piece, dice: Dice, wall: int | None = None) -> bool:
        """Places a piece with its back near a wall; tries a few places and returns whether one was free."""
        gap = piece.size_m[1] / 2 + dice.between(0.015, 0.06)
        for _ in range(TRIES):
            side = dice.integer(0, 3) if wall is None else wall
            if self.put(piece, *building.against_wall(self.size, side, dice.unit(), gap), 0.01):
                return True
        return False

    def hang(self, piece: Piece, wall: int, along_m: float, x: float, y: float, yaw: float) -> bool:
        """Hangs a piece on a wall, unless another piece hangs there or a tall piece stands in front of it."""
        low, high = along_m - piece.size_m[0] / 2, along_m + piece.size_m[0] / 2
        if any(w == wall and low < b and high > a for w, a, b in self._hung):
            return False
        axis = 1 if wall < 2 else 0
        for item in self.placed:
            near = abs(item.xyz_m[1 - axis] - (x, y)[1 - axis]) < 0.5
            if (
                near
                and item.piece.size_m[2] > 1.3
                and abs(item.xyz_m[axis] - along_m) < (item.piece.size_m[0] + piece.size_m[0]) / 2
            ):
                return False
        self._hung.append((wall, low, high))
        self.placed.append(PlacedPiece(piece, (x, y, 0.0), yaw))
        return True

    def free(self, piece: Piece, dice: Dice, gap: float = 0.2) -> bool:
        """Places a piece anywhere, mostly parallel to the walls, at one of a few tries; returns whether that worked."""
        for _ in range(TRIES):
            yaw = math.pi / 2 * dice.integer(0, 3) + (dice.between(-0.6, 0.6) if dice.chance(0.35) else 0.0)
            if self.put(piece, self.size[0] * dice.unit(), self.size[1] * dice.unit(), yaw, gap):
                return True
        return False

    def on_top(self, piece: Piece, under: PlacedPiece, dice: Dice) -> None:
        """Places a piece on a table or cabinet, away from its edge; pieces on it may touch each other."""
        w, d, _ = under.piece.size_m
        mx, my = max(0.0, w / 2 - piece.size_m[0] / 2), max(0.0, d / 2 - piece.size_m[1] / 2)
        a, b, c, s = mx * dice.between(-1, 1), my * dice.between(-1, 1), math.cos(under.yaw), math.sin(under.yaw)
        x, y = under.xyz_m[0] + c * a - s * b, under.xyz_m[1] + s * a + c * b
        yaw = under.yaw + dice.between(-0.3, 0.3)
        self.placed.append(PlacedPiece(piece, (x, y, under.xyz_m[2] + under.piece.top_m), yaw))
