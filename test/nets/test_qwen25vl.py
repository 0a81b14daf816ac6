# SPDX-License-Identifier: Apache-2.0
"""The forward pass of Qwen2.5-VL equals that of transformers, for every layout of windows and images."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.random_backbones import (  # noqa: E402
    IMAGE_ID,
    layout_of,
    our_logits,
    qwen25_config,
    qwen_patches,
    random_images,
    roughen,
)

from depthlm_ros.nets.backbone import PixelRule  # noqa: E402
from depthlm_ros.nets.positions import prefix_positions  # noqa: E402
from depthlm_ros.nets.qwen25vl import Qwen25VLBackbone, from_windows, to_windows, window_groups  # noqa: E402

pytestmark = pytest.mark.torch
# Qwen2.5-VL's own rule: CLIP's mean and deviation.
CLIP = PixelRule(1 / 255, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TEXTS = [[11, 12, 13], [14, 15], [16, 17, 18, 19]]
# Only full windows (4 x 4 tokens of 28 px), partial windows on two sides, less than one window, long thin images.
SIZES = [(224, 112), (252, 140), (56, 84), (28, 336), (112, 28)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return roughen(Qwen25VLBackbone(qwen25_config(), CLIP))


def hf_inputs(model, texts, images):
    patches, grids = qwen_patches(images, CLIP, model.vlm.config.vision_config)
    ids = list(texts[0])
    for grid, text in zip(grids.tolist(), texts[1:], strict=True):
        ids += [IMAGE_ID] * (grid[1] * grid[2] // 4) + text
    ids = torch.tensor([ids])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": patches,
        "image_grid_thw": grids,
        "mm_token_type_ids": (ids == IMAGE_ID).int(),
    }


def hf_logits(model, texts, images):
    with torch.no_grad():
        return model.vlm(**hf_inputs(model, texts, images), use_cache=False).logits


@pytest.mark.parametrize("size_px", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_one_image_between_texts_gives_transformers_logits(model, size_px):
    images = random_images([size_px])
    expected = hf_logits(model, TEXTS[:2], images)
    assert expected.std() > 0.1
    torch.testing.assert_close(our_logits(model, TEXTS[:2], images), expected, rtol=1e-4, atol=1e-4)


def test_two_images_of_different_sizes_give_transformers_logits(model):
    images = random_images([(252, 140), (84, 168)])
    torch.testing.assert_close(our_logits(model, TEXTS, images), hf_logits(model, TEXTS, images), rtol=1e-4, atol=1e-4)


def test_positions_of_two_images_are_those_of_transformers(model):
    sizes_px = [(252, 140), (84, 168)]
    inputs = hf_inputs(model, TEXTS, random_images(sizes_px))
    del inputs["pixel_values"]
    expected, deltas = model.vlm.model.get_rope_index(**inputs)
    layout = layout_of(model, TEXTS, sizes_px)
    torch.testing.assert_close(prefix_positions(layout), expected[:, 0])
    assert layout.next_position == layout.length + deltas.item()


def test_batch_of_images_gives_the_tokens_of_each_image_alone(model):
    (images,) = random_images([(252, 140)], batch=3)
    with torch.no_grad():
        together = model.encode_image(images)[0]
        alone = torch.cat([model.encode_image(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(4, 8), (5, 9), (3, 2), (1, 12), (4, 1)])
def test_windows_are_slices_and_can_be_undone(grid):
    """Every window holds the tokens of one 4 x 4 cell, and no token is lost."""
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij"), dim=-1)
    flat = to_windows(places[None, :, :, None], 4)
    at = 0
    for number, size in window_groups(grid, 4, 1):
        for _ in range(number):
            assert len({(row // 4, column // 4) for row, column in flat[0, at : at + size].tolist()}) == 1
            at += size
    assert at == grid[0] * grid[1]
    torch.testing.assert_close(from_windows(flat, grid, 4)[0], places.reshape(-1, 2))
