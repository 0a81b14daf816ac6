# SPDX-License-Identifier: Apache-2.0
"""The forward pass of Pixtral equals that of transformers, including the row breaks."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.random_backbones import (  # noqa: E402
    BREAK_ID,
    END_ID,
    IMAGE_ID,
    column,
    layout_of,
    our_logits,
    pixtral_config,
    random_images,
    roughen,
)

from depthlm_ros.nets.backbone import PixelRule  # noqa: E402
from depthlm_ros.nets.pixtral import Pixtral  # noqa: E402

pytestmark = pytest.mark.torch
# DepthLM's rule: mean and deviation are those of values from 0 to 1, but bytes are not scaled (do_rescale is off).
BYTES = PixelRule(1.0, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TEXTS = [[11, 12, 13], [14, 15], [16, 17, 18, 19]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return roughen(Pixtral(pixtral_config(), BYTES, BREAK_ID, END_ID))


def image_ids(columns, rows):
    """Returns the tokens of an image as transformers' PixtralProcessor writes them."""
    ids = ([IMAGE_ID] * columns + [BREAK_ID]) * rows
    ids[-1] = END_ID
    return ids


def hf_logits(model, texts, images):
    sizes_px = [(image.shape[2], image.shape[1]) for image in images]
    ids = list(texts[0])
    for (width, height), text in zip(sizes_px, texts[1:], strict=True):
        ids += image_ids(width // 16, height // 16) + text
    wide, high = (max(size[axis] for size in sizes_px) for axis in (0, 1))
    padded = torch.zeros(len(images), 3, high, wide)
    for slot, image in zip(padded, images, strict=True):
        values = (image[0].permute(2, 0, 1).double() * BYTES.scale - column(BYTES.mean)) / column(BYTES.std)
        slot[:, : values.shape[1], : values.shape[2]] = values
    with torch.no_grad():
        return model.vlm(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            pixel_values=padded,
            image_sizes=torch.tensor([(height, width) for width, height in sizes_px]),
            use_cache=False,
        ).logits


# The last size is not a multiple of 16 px: pixels beyond the last whole patch are not seen, as in transformers.
@pytest.mark.parametrize(
    "size_px", [(64, 48), (16, 80), (96, 16), (160, 112), (70, 63)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_one_image_between_texts_gives_transformers_logits(model, size_px):
    images = random_images([size_px])
    expected = hf_logits(model, TEXTS[:2], images)
    assert expected.std() > 0.1
    torch.testing.assert_close(our_logits(model, TEXTS[:2], images), expected, rtol=1e-4, atol=1e-4)


def test_two_images_of_different_sizes_give_transformers_logits(model):
    images = random_images([(64, 48), (32, 96)])
    torch.testing.assert_close(our_logits(model, TEXTS, images), hf_logits(model, TEXTS, images), rtol=1e-4, atol=1e-4)


def test_breaks_of_an_image_are_counted(model):
    layout = layout_of(model, TEXTS, [(64, 48), (32, 96)])
    assert [image.tokens for image in layout.images] == [len(image_ids(4, 3)), len(image_ids(2, 6))]
    assert layout.next_position == layout.length


def test_batch_of_images_gives_the_tokens_of_each_image_alone(model):
    (images,) = random_images([(64, 48)], batch=3)
    with torch.no_grad():
        together = model.encode_image(images)[0]
        alone = torch.cat([model.encode_image(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_rescaled_pixels_change_the_logits(model):
    """The released model's processor does not scale bytes; a model that divided them by 255 would give other logits."""
    images = random_images([(64, 48)])
    other = Pixtral(pixtral_config(), PixelRule(1 / 255, BYTES.mean, BYTES.std), BREAK_ID, END_ID)
    other.load_state_dict(model.state_dict())
    assert (our_logits(other.eval(), TEXTS[:2], images) - hf_logits(model, TEXTS[:2], images)).abs().max() > 1e-2
