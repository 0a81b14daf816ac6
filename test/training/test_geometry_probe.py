"""Geometry probe: the numbers that have to be read from each image token, and the loss of the probe."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from depthlm_ros.geometry.pinhole import centred_camera, rays  # noqa: E402
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.training.synthetic.auxiliary_losses import (  # noqa: E402
    GEOMETRY_WEIGHTS,
    GeometryProbe,
    geometry_of_tokens,
    geometry_probe_loss,
)
from depthlm_ros.training.synthetic.dataset import mask_outside  # noqa: E402

pytestmark = pytest.mark.torch
CAMERA = centred_camera((128, 96), 96.0)


def test_the_geometry_of_a_token_is_its_depth_and_the_box_and_range_of_its_largest_object():
    objects = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rendered, _ = mask_outside(rng, render(*sample_scene_and_pose(rng), CAMERA))
        ranges_m = rendered.depth_m * np.linalg.norm(rays(CAMERA), axis=2)
        for token, numbers in enumerate(geometry_of_tokens(rendered, CAMERA, 16)):
            cell = np.s_[token // 8 * 16 : token // 8 * 16 + 16, token % 8 * 16 : token % 8 * 16 + 16]
            z_m = rendered.depth_m[cell][np.isfinite(rendered.depth_m[cell])]
            if len(z_m):
                # The lower of the two middle values, so that it is a depth of the picture.
                assert math.exp(numbers[0]) == pytest.approx(np.sort(z_m)[(len(z_m) - 1) // 2], rel=1e-5)
            else:
                assert math.isnan(numbers[0])
            index, pixels = np.unique(rendered.object_id[cell], return_counts=True)
            seen = {i: n for i, n in zip(index, pixels, strict=True) if i >= 0}
            most = max(seen, key=seen.get, default=None)
            if most is None or seen[most] < 26:
                continue
            v, u = np.nonzero(rendered.object_id == most)
            box = u.min() / 128, v.min() / 96, (u.max() + 1) / 128, (v.max() + 1) / 96
            if list(seen.values()).count(seen[most]) == 1:
                assert numbers[1:5] == pytest.approx(box, abs=1e-6)
                assert math.exp(numbers[5]) == pytest.approx(np.median(ranges_m[v, u]), rel=1e-4)
                objects += 1
    assert objects > 50


def test_a_picture_without_depth_has_no_geometry():
    rng = np.random.default_rng(0)
    rendered = render(*sample_scene_and_pose(rng), CAMERA)
    rendered.depth_m[:], rendered.object_id[:] = np.nan, -1
    assert np.isnan(geometry_of_tokens(rendered, CAMERA, 16)).all()


def test_the_loss_is_the_weighted_error_of_known_numbers():
    predicted = torch.zeros(1, 2, 6)
    numbers = torch.full((1, 2, 6), torch.nan)
    assert geometry_probe_loss(predicted, numbers).item() == 0.0
    numbers[0, 0, 0], numbers[0, 1, 2] = 0.5, -0.25
    assert geometry_probe_loss(predicted, numbers).item() == pytest.approx(
        (0.5 * GEOMETRY_WEIGHTS[0] + 0.25 * GEOMETRY_WEIGHTS[2]) / 2
    )
    predicted.requires_grad_()
    geometry_probe_loss(predicted, numbers).backward()
    assert torch.isfinite(predicted.grad).all() and (predicted.grad != 0).sum() == 2


def test_a_new_probe_does_not_depend_on_the_random_state():
    tokens = torch.randn(1, 3, 8)
    assert torch.equal(GeometryProbe(8)(tokens), GeometryProbe(8)(tokens))
