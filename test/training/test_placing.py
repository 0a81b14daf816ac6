"""Image tokens learn numbers of what they show: which these are, and the loss that says so."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from depthlm_ros.geometry.pinhole import rays  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.training.synthetic.auxiliary_losses import WEIGHTS, Placing, numbers_shown, placing_loss  # noqa: E402
from depthlm_ros.training.synthetic.config import canvas_camera  # noqa: E402
from depthlm_ros.training.synthetic.dataset import mask_outside, sample_view  # noqa: E402

pytestmark = pytest.mark.torch
CAMERA = canvas_camera((128, 96), 96.0)


def test_a_token_is_told_its_depth_and_where_and_how_far_the_object_is_that_it_shows_most_of():
    objects = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rendered, _ = mask_outside(rng, render(*sample_view(rng), CAMERA))
        ranges_m = rendered.depth_m * np.linalg.norm(rays(CAMERA), axis=2)
        for token, numbers in enumerate(numbers_shown(rendered, CAMERA, 16)):
            cell = np.s_[token // 8 * 16 : token // 8 * 16 + 16, token % 8 * 16 : token % 8 * 16 + 16]
            z_m = rendered.depth_m[cell][np.isfinite(rendered.depth_m[cell])]
            if len(z_m):
                # The lower of two middle ones, so that it is a depth of the picture.
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


def test_a_picture_of_nothing_has_no_numbers():
    rng = np.random.default_rng(0)
    rendered = render(*sample_view(rng), CAMERA)
    rendered.depth_m[:], rendered.object_id[:] = np.nan, -1
    assert np.isnan(numbers_shown(rendered, CAMERA, 16)).all()


def test_the_loss_is_the_weighted_error_of_what_is_known():
    told = torch.zeros(1, 2, 6)
    numbers = torch.full((1, 2, 6), torch.nan)
    assert placing_loss(told, numbers).item() == 0.0
    numbers[0, 0, 0], numbers[0, 1, 2] = 0.5, -0.25
    assert placing_loss(told, numbers).item() == pytest.approx((0.5 * WEIGHTS[0] + 0.25 * WEIGHTS[2]) / 2)
    told.requires_grad_()
    placing_loss(told, numbers).backward()
    assert torch.isfinite(told.grad).all() and (told.grad != 0).sum() == 2


def test_it_begins_the_same_whatever_was_drawn_before():
    tokens = torch.randn(1, 3, 8)
    assert torch.equal(Placing(8)(tokens), Placing(8)(tokens))
