"""Word alignment: the words for what each image token shows, and the loss that aligns tokens with them."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from depthlm_ros.geometry.pinhole import centred_camera  # noqa: E402
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose  # noqa: E402
from depthlm_ros.scenes.questions.visibility import find_sightings  # noqa: E402
from depthlm_ros.scenes.questions.wording import unambiguous_names  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.scenes.world.colours import NAMED_COLOURS  # noqa: E402
from depthlm_ros.training.synthetic.auxiliary_losses import SHARPNESS, WORDS, word_alignment_loss, words_of_tokens  # noqa: E402

pytestmark = pytest.mark.torch
CAMERA = centred_camera((128, 96), 96.0)


def pictures(count):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield render(*sample_scene_and_pose(rng), CAMERA)


def test_a_token_shows_what_fills_a_tenth_of_it_and_what_it_holds_a_quarter_of():
    checked = 0
    for rendered in pictures(4):
        token_words = words_of_tokens(rendered, 16)
        assert token_words.shape == (48, len(WORDS))
        things = {thing.object_id: thing for thing in rendered.scene.objects}
        for token in range(48):
            row, column = divmod(token, 8)
            cell = rendered.object_id[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            expected = set()
            for index in set(np.unique(cell)) - {-1}:
                pixels, whole = (cell == index).sum(), (rendered.object_id == index).sum()
                if index in things and (pixels >= 25.6 or pixels >= whole / 4):
                    expected |= {*things[index].name.split(), things[index].colour} & set(WORDS)
            assert {word for word, is_shown in zip(WORDS, token_words[token], strict=True) if is_shown} == expected
            checked += bool(expected)
    assert checked > 40


def test_colours_can_be_left_out():
    fewer = 0
    for rendered in pictures(8):
        all_words, others = words_of_tokens(rendered, 16), words_of_tokens(rendered, 16, colours=False)
        of_colour = np.isin(WORDS, tuple(NAMED_COLOURS))
        assert not others[:, of_colour].any() and np.array_equal(others[:, ~of_colour], all_words[:, ~of_colour])
        fewer += all_words[:, of_colour].any()
    assert fewer


def test_every_name_in_a_question_consists_of_known_words():
    asked = 0
    for rendered in pictures(20):
        seen = [one.thing for one in find_sightings(rendered.scene, rendered, CAMERA)]
        for thing in seen:
            for name in unambiguous_names(thing, [other for other in seen if other is not thing]):
                assert set(name.split()) <= set(WORDS), name
                asked += 1
    assert asked > 50


def test_the_loss_is_the_cross_entropy_of_cosines_with_the_shown_words():
    words, nothing = torch.eye(4)[:2], torch.eye(4)[2]
    tokens = torch.stack([7 * words[0], nothing, words[0] + words[1]])[None]
    token_words = torch.tensor([[[True, False], [False, False], [True, True]]])
    sure = -math.log(math.exp(SHARPNESS) / (math.exp(SHARPNESS) + 2))
    cosine = SHARPNESS / math.sqrt(2)
    both = -math.log(math.exp(cosine) / (2 * math.exp(cosine) + 1))
    assert word_alignment_loss(tokens, words, nothing, token_words).item() == pytest.approx(
        (2 * sure + both) / 3, rel=1e-4
    )
    assert word_alignment_loss(tokens, words, nothing, ~token_words).item() > 1.0
