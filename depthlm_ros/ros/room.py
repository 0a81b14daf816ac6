"""The replay camera's rendered room: a camera that glides through it, with the exact depth of every pixel.

The only module of this room that needs numba (extra [scenes]); the node never imports it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadInput
from depthlm_ros.ros.sources import Shot, Source

# The same random numbers for every picture: one camera keeps its white balance and its blur.
PHOTO_SEED = 1


def rendered_room(camera: Intrinsics, steps: int, seed: int | None = None) -> Source:
    """A flight of so many pictures through a room and back, all rendered here (about 0.2 s of a core each).

    seed: which room; None is the demo's, which holds a red box and a blue ball. Raises BadInput without numba.
    """
    try:
        from depthlm_ros.scenes.camera.camera_path import camera_path, demo_scene
        from depthlm_ros.scenes.camera.photo import photograph
        from depthlm_ros.scenes.renderer.render import render
        from depthlm_ros.scenes.world.sample import sample_scene
    except ImportError as error:
        raise BadInput(f"the rendered room needs numba ({error}): pip install numba, or show --images.") from error
    scene = demo_scene() if seed is None else sample_scene(np.random.default_rng(seed))
    poses = camera_path(scene, steps)

    def shot(step: int) -> Shot:
        rendered = render(scene, poses[step], camera)
        rgb = photograph(np.random.default_rng(PHOTO_SEED), rendered)
        return Shot(f"step {step}", rgb, camera, rendered.depth_m)

    # Rendered beforehand: while the pictures are shown, the processor belongs to those who look at them.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        shots = list(workers.map(shot, range(steps)))
    return lambda: iter(shots + shots[-2:0:-1])
