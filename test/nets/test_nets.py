# SPDX-License-Identifier: Apache-2.0
"""The forward pass of Qwen3-VL equals that of transformers, and the depth head is DepthVLM's."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.random_backbones import IMAGE_ID, qwen3_config, roughen  # noqa: E402

from depthlm_ros.nets.depth_heads import DptConfig, DptHead, FusionBlock, ResidualConvUnit  # noqa: E402
from depthlm_ros.nets.graphs import LookGraph, StepGraph  # noqa: E402
from depthlm_ros.nets.positions import PromptLayout, prefix_positions  # noqa: E402
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth  # noqa: E402
from depthlm_ros.nets.text_decoder import DeepStackTokens, attend, causal_mask, prefill  # noqa: E402

pytestmark = pytest.mark.torch
BEFORE, AFTER, QUESTION = [7, 8, 9], [10, 11], [20, 21, 22, 23]
SIZE = (128, 96)
# The mask over one slot of earlier text, which is empty.
EMPTY_MASK = torch.full((1, 1), float("-inf"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    # The weights are larger than the usual ones, so that a wrong position or a missing norm changes the result.
    return roughen(Qwen3VLDepth(qwen3_config(), DptConfig(48, (8, 8, 8, 8), 8)))


@pytest.fixture(scope="module")
def image():
    return torch.randint(
        0, 256, (1, SIZE[1], SIZE[0], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )


def hf_patches(image, config):
    """Returns pixels in the form in which transformers' image processor passes them on: (patches, 3 * 2 * p * p)."""
    p, m = config.patch_size, config.spatial_merge_size
    pixels = (image[0].permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    rows, columns = pixels.shape[1] // p, pixels.shape[2] // p
    x = pixels[None].repeat(2, 1, 1, 1).reshape(1, 2, 3, rows // m, m, p, columns // m, m, p)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(rows * columns, -1), torch.tensor([[1, rows, columns]])


def hf_logits(model, image, text):
    """Returns transformers' own logits over [before, image, after, text]."""
    patches, grid = hf_patches(image, model.vlm.config.vision_config)
    layout = PromptLayout((len(BEFORE), len(AFTER)), (model.image_span(SIZE),))
    ids = torch.tensor([BEFORE + [IMAGE_ID] * layout.images[0].tokens + AFTER + text])
    positions = torch.cat(
        [prefix_positions(layout), (torch.arange(len(text)) + layout.next_position).expand(3, -1)], dim=1
    )
    with torch.no_grad():
        output = model.vlm(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions[:, None],
            pixel_values=patches,
            image_grid_thw=grid,
            mm_token_type_ids=(ids == IMAGE_ID).int(),
            use_cache=False,
        )
    return output.logits[0], layout


def test_look_then_step_gives_transformers_logits(model, image):
    expected, _ = hf_logits(model, image, QUESTION)
    with torch.no_grad():
        _, keys, values = LookGraph(model, (BEFORE, AFTER), (SIZE,))(image)
        layout = PromptLayout((len(BEFORE), len(AFTER)), (model.image_span(SIZE),))
        positions = torch.arange(len(QUESTION))[None] + layout.next_position
        nothing = torch.zeros_like(keys[:, :, :, :1])
        logits, _, _ = StepGraph(model)(
            torch.tensor([QUESTION]), positions, torch.tensor([3]), keys, values, nothing, nothing, EMPTY_MASK
        )
    torch.testing.assert_close(logits[0], expected[-1], rtol=1e-4, atol=1e-4)


def test_positions_are_those_of_transformers(model, image):
    _, grid = hf_patches(image, model.vlm.config.vision_config)
    layout = PromptLayout((len(BEFORE), len(AFTER)), (model.image_span(SIZE),))
    ids = torch.tensor([BEFORE + [IMAGE_ID] * layout.images[0].tokens + AFTER])
    expected, _ = model.vlm.model.get_rope_index(
        ids, mm_token_type_ids=(ids == IMAGE_ID).int(), image_grid_thw=grid, attention_mask=torch.ones_like(ids)
    )
    torch.testing.assert_close(prefix_positions(layout), expected[:, 0])


def test_text_does_not_change_the_prefix(model, image):
    """Causality: the prefix's keys are the same for every question behind it."""
    with torch.no_grad():
        tokens, deep = model.encode_image(image)
        layout = PromptLayout((len(BEFORE), len(AFTER)), (model.image_span(SIZE),))
        keys = []
        for question in ([1, 2, 3], [60, 61, 62]):
            ids = [model.embed(torch.tensor([part])) for part in (BEFORE, AFTER + question)]
            x = torch.cat([ids[0], tokens, ids[1]], dim=1)
            cos, sin = model.text_rope(torch.arange(x.shape[1])[None])
            keys.append(
                prefill(model.language, x, cos, sin, causal_mask(x.shape[1]), DeepStackTokens(deep, layout.spans))[1]
            )
    torch.testing.assert_close(keys[0][..., : layout.length, :], keys[1][..., : layout.length, :], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
def test_attention_in_training_equals_that_at_run_time(kind):
    torch.manual_seed(3)
    query, key, value = torch.randn(3, 2, 4, 7, 16).unbind(0)
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()
    mask = {"none": None, "boolean": allowed, "additive": torch.zeros(7, 7).masked_fill(~allowed, -torch.inf)}[kind]
    wanted = attend(query, key, value, 0.3, mask)
    trained = attend(query.requires_grad_(), key, value, 0.3, mask)
    assert torch.allclose(trained, wanted, atol=1e-6)


def test_residual_is_relu_of_the_input():
    unit = ResidualConvUnit(2)
    for parameter in unit.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.tensor([-1.0, 2.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3)
    torch.testing.assert_close(unit(x), x.clamp(min=0))


def test_mixing_channels_before_resizing_is_exact():
    torch.manual_seed(0)
    block = FusionBlock(4, with_skip=False)
    x = torch.randn(1, 4, 5, 6)
    after = block.out_conv(
        torch.nn.functional.interpolate(block.unit(x), size=(10, 12), mode="bilinear", align_corners=True)
    )
    torch.testing.assert_close(block(x, None, (10, 12)), after)


@pytest.mark.parametrize("pixels", [16, 32])
def test_head_gives_positive_depth_at_the_size_of_the_image(pixels):
    head = DptHead(DptConfig(12, (8, 8, 8, 8), 8, pixels_per_token=pixels))
    depth_m = head([torch.randn(2, 6, 12) for _ in range(4)], (2, 3))
    assert depth_m.shape == (2, 2 * pixels, 3 * pixels)
    assert (depth_m > 0).all()
