"""Packs many scenes and cameras into one set of arrays, for a device that renders all pictures together.

`pack_shots` makes `PackedScenes` and `PackedCameras` from a list of `CameraShot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.lens import LensDistortion
from depthlm_ros.scenes.renderer.raycast import geometry
from depthlm_ros.scenes.renderer.render import camera_vector
from depthlm_ros.scenes.world.primitives import Pose, Scene

# Numbers per solid and picture that a device computes first: screen rectangle (4 numbers), then A, B, C and o of
# raycast.ray_planes.
PROJECTION_SIZE = 16


class CameraShot(NamedTuple):
    """A picture to render: a scene, a camera pose and the distortion of its lens, if any."""

    scene: Scene
    pose: Pose
    lens: LensDistortion | None = None


class PackedScenes(NamedTuple):
    """S scenes with their solids and lights one after the other; the other fields are as in Scene.

    geo: float64 (N, 17), see raycast.geometry; scene s has the rows first_solid[s] to first_solid[s + 1]. paints:
    (N + 6 S, 12); each scene has six rows for its shell before those of its solids. near: int16 (S, ny, nx, NEAR_MAX);
    near_size (ny, nx) is the part that each scene uses. shadow, lights: scene s has the rows first_light[s] to
    first_light[s + 1].
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


class PackedCameras(NamedTuple):
    """V cameras: scene_of int32 (V,), R float64 (V, 3, 3), t (V, 3) metres, cam (V, 4) as render.camera_vector, lens
    (V, 6) as LensDistortion.vector."""

    scene_of: np.ndarray
    R: np.ndarray
    t: np.ndarray
    cam: np.ndarray
    lens: np.ndarray


def _first_rows(lengths: list[int]) -> np.ndarray:
    """Returns int32 (n + 1,): the first row of each of n consecutive blocks, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def pack_scenes(scenes: Sequence[Scene]) -> PackedScenes:
    """Packs the arrays of all scenes."""
    near_size = np.array([scene.near_list.shape[:2] for scene in scenes], np.int32)
    near = np.full((len(scenes), *near_size.max(0), scenes[0].near_list.shape[2]), -1, np.int16)
    for room, scene, (ny, nx) in zip(near, scenes, near_size, strict=True):
        room[:ny, :nx] = scene.near_list
    return PackedScenes(
        np.concatenate([geometry(scene.solids) for scene in scenes]),
        _first_rows([len(scene.solids) for scene in scenes]),
        np.concatenate([scene.object_of for scene in scenes]),
        np.concatenate([scene.paints for scene in scenes]),
        np.stack([scene.shell_m for scene in scenes]),
        near,
        near_size,
        np.concatenate([scene.shadow_list for scene in scenes]),
        np.concatenate([scene.lights for scene in scenes]),
        _first_rows([len(scene.lights) for scene in scenes]),
        np.stack([scene.ambient for scene in scenes]),
    )


def pack_shots(shots: Sequence[CameraShot], intrinsics: Intrinsics) -> tuple[PackedScenes, PackedCameras]:
    """Packs the cameras of all shots and their scenes; a scene of several shots is packed once."""
    scenes = {id(shot.scene): shot.scene for shot in shots}
    row = {key: n for n, key in enumerate(scenes)}
    views = PackedCameras(
        np.array([row[id(shot.scene)] for shot in shots], np.int32),
        np.stack([shot.pose.R for shot in shots]).astype(np.float64),
        np.stack([shot.pose.t for shot in shots]).astype(np.float64),
        np.tile(camera_vector(intrinsics), (len(shots), 1)),
        np.stack([(shot.lens or LensDistortion()).vector() for shot in shots]),
    )
    return pack_scenes(list(scenes.values())), views
