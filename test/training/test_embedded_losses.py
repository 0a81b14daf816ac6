# SPDX-License-Identifier: Apache-2.0
"""The losses and the optimisers of the embedded training follow their formulas."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from depthlm_ros.nets.depth_pyramid import bin_centres  # noqa: E402
from depthlm_ros.nets.positions import ImageSpan, PromptLayout  # noqa: E402
from depthlm_ros.training.embedded.losses import (  # noqa: E402
    SUPERVISED_HEAD,
    attention_supervision_loss,
    bin_loss,
    mean_per_picture,
    names_loss,
    read_mask,
)
from depthlm_ros.training.embedded.names import ABSENT, PRESENT, UNKNOWN  # noqa: E402
from depthlm_ros.training.embedded.optimisers import Muon  # noqa: E402
from depthlm_ros.training.losses import depth_gradient_loss, silog_loss  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("depth_m", [0.2, 1.0, 7.3, 60.0])
def test_the_loss_of_the_bins_is_least_where_their_mean_is_the_truth(depth_m):
    centres = bin_centres(48)
    true_ln = torch.full((1, 1, 1), math.log(depth_m))
    shifts = torch.linspace(-0.5, 0.5, 41)
    losses = []
    for shift in shifts:
        logits = -(((centres - true_ln.item() - shift) / 0.12) ** 2) / 2
        losses.append(bin_loss(logits[None, :, None, None], true_ln, centres).item())
    assert abs(shifts[int(np.argmin(losses))]) < 0.06
    even = bin_loss(torch.zeros(1, 48, 1, 1), true_ln, centres).item()
    assert even == pytest.approx(math.log(48), rel=1e-3) and min(losses) < even


def test_the_loss_of_the_bins_has_a_gradient_towards_the_truth():
    logits = torch.zeros(1, 48, 1, 1, requires_grad=True)
    bin_loss(logits, torch.full((1, 1, 1), math.log(2.0)), bin_centres(48)).sum().backward()
    nearest = int((bin_centres(48) - math.log(2.0)).abs().argmin())
    assert int(logits.grad.flatten().argmin()) == nearest


def test_pictures_count_alike_however_much_of_them_is_known():
    values = torch.tensor([[[1.0, 1.0, 1.0, 1.0]], [[3.0, 9.0, 9.0, 9.0]], [[5.0, 5.0, 5.0, 5.0]]])
    known = torch.tensor([[[True] * 4], [[True, False, False, False]], [[False] * 4]])
    assert mean_per_picture(values, known).item() == pytest.approx((1.0 + 3.0) / 2)
    assert mean_per_picture(values, torch.zeros_like(known)).item() == 0.0


def test_the_loss_of_the_names_knows_present_and_absent_ones_and_no_others():
    names = torch.full((1, 2, 3), UNKNOWN, dtype=torch.int8)
    names[0, 0, 0], names[0, 1, 1] = PRESENT, ABSENT
    logits = torch.zeros(1, 2, 3)
    assert names_loss(logits, names).item() == pytest.approx(math.log(2) + 10 * math.log(2))
    right = logits.clone()
    right[0, 0, 0], right[0, 1, 1] = 20.0, -20.0
    assert names_loss(right, names).item() < 1e-6
    unknown = right.clone()
    unknown[0, :, 2] = 99.0
    assert names_loss(unknown, names).item() < 1e-6
    assert names_loss(logits, torch.full_like(names, UNKNOWN)).item() == 0.0


def test_the_attention_loss_is_minus_the_log_of_the_share_of_attention_on_the_target():
    layout = PromptLayout((1, 1), (ImageSpan((2, 2), 4, 2),))
    length, asked = layout.length, 3
    total = length + asked
    queries = [torch.zeros(1, 2, asked, 8) for _ in range(3)]
    keys = torch.zeros(3, 1, 1, total, 8)
    mask = torch.ones(1, 1, total, total, dtype=torch.bool).tril()[:, :, length:]
    target = torch.zeros(1, 2, asked, 4, dtype=torch.bool)
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() == 0.0
    target[0, 0, 1, :2] = True
    # Uniform attention: two of the eight tokens that the second token of the text may see.
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() == pytest.approx(math.log(8 / 2))
    queries[0][0, SUPERVISED_HEAD, 1, 0] = 20.0
    keys[0, 0, 0, 2, 0] = 1.0  # the second image token
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() < 1e-6
    keys[0, 0, 0, 2, 0] = -1.0
    loss = attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item()
    assert loss == pytest.approx(math.log(7), rel=1e-3)
    target[0, 1, 2] = True  # the second target, in the next layer, is the whole picture
    both = (math.log(7) + math.log(9 / 4)) / 2
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() == pytest.approx(both, rel=1e-3)


def test_questions_see_the_prefix_and_themselves_only():
    mask = read_mask(torch.tensor([[0, 0, 1, 1, -2]]), 3)[0, 0].int()
    assert mask.tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 0, 0, 0, 0, 1],
    ]


def test_silog_loss_follows_its_formula():
    predicted, truth = torch.tensor([[[1.0, 2.0, 9.0]]]), torch.tensor([[[2.0, 2.0, float("nan")]]])
    d = np.log([0.5, 1.0])
    expected = np.sqrt((d**2).mean() - 0.5 * d.mean() ** 2 + 1e-8)
    assert float(silog_loss(predicted, truth)) == pytest.approx(expected, rel=1e-5)


def test_losses_without_labels_are_zero_and_finite():
    predicted, unknown = torch.ones(2, 4, 4, requires_grad=True), torch.full((2, 4, 4), float("nan"))
    loss = silog_loss(predicted, unknown) + depth_gradient_loss(predicted, unknown)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_muon_makes_the_steps_of_torch(shape):
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [torch.nn.Parameter(each.detach().clone()) for each in ours]
    one = Muon(ours, lr=0.01, weight_decay=0.1)
    two = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        one.step()
        two.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
