"""Many pictures of many scenes as one set of arrays, for a device that renders them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.lens import Lens
from depthlm_ros.scenes.renderer.raycast import geometry
from depthlm_ros.scenes.renderer.render import camera_vector
from depthlm_ros.scenes.world.primitives import Pose, Scene

# Numbers that a device keeps per solid and picture: screen rectangle 4, raycast.ray_planes' A, B, C and o.
PLAN = 16


class Shot(NamedTuple):
    """One picture that is to be rendered."""

    scene: Scene
    pose: Pose
    lens: Lens | None = None


class World(NamedTuple):
    """S scenes, their solids and lights one after the other; the rest as in Scene.

    geo: float64 (N, 17), see raycast.geometry; scene s has rows first_solid[s] to first_solid[s + 1], and in paints
    (N + 6 S, 12) six more per scene before. near: int16 (S, ny, nx, NEAR_MAX), of which each scene's near_size (ny,
    nx) is its own. shadow and lights: scene s has rows first_light[s] to first_light[s + 1].
    """

    geo: np.ndarray
    first_solid: np.ndarray
    object_of: np.ndarray
    paints: np.ndarray
    shell: np.ndarray
    near: np.ndarray
    near_size: np.ndarray
    shadow: np.ndarray
    lights: np.ndarray
    first_light: np.ndarray
    ambient: np.ndarray


class Views(NamedTuple):
    """V cameras: scene_of int32 (V,), R float64 (V, 3, 3), t (V, 3), cam (V, 4), lens (V, 6)."""

    scene_of: np.ndarray
    R: np.ndarray
    t: np.ndarray
    cam: np.ndarray
    lens: np.ndarray


def _first(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def pack_scenes(scenes: Sequence[Scene]) -> World:
    """The arrays of all scenes."""
    near_size = np.array([scene.near_list.shape[:2] for scene in scenes], np.int32)
    near = np.full((len(scenes), *near_size.max(0), scenes[0].near_list.shape[2]), -1, np.int16)
    for room, scene, (ny, nx) in zip(near, scenes, near_size, strict=True):
        room[:ny, :nx] = scene.near_list
    return World(
        np.concatenate([geometry(scene.solids) for scene in scenes]),
        _first([len(scene.solids) for scene in scenes]),
        np.concatenate([scene.object_of for scene in scenes]),
        np.concatenate([scene.paints for scene in scenes]),
        np.stack([scene.shell_m for scene in scenes]),
        near,
        near_size,
        np.concatenate([scene.shadow_list for scene in scenes]),
        np.concatenate([scene.lights for scene in scenes]),
        _first([len(scene.lights) for scene in scenes]),
        np.stack([scene.ambient for scene in scenes]),
    )


def pack_shots(shots: Sequence[Shot], intrinsics: Intrinsics) -> tuple[World, Views]:
    """Every scene once, however many pictures are taken of it."""
    scenes = {id(shot.scene): shot.scene for shot in shots}
    row = {key: n for n, key in enumerate(scenes)}
    views = Views(
        np.array([row[id(shot.scene)] for shot in shots], np.int32),
        np.stack([shot.pose.R for shot in shots]).astype(np.float64),
        np.stack([shot.pose.t for shot in shots]).astype(np.float64),
        np.tile(camera_vector(intrinsics), (len(shots), 1)),
        np.stack([(shot.lens or Lens()).vector() for shot in shots]),
    )
    return pack_scenes(list(scenes.values())), views
