"""Attention supervision: its targets are the pixels that the renderer drew; its loss moves attention to them."""

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from depthlm_ros.errors import SetupError  # noqa: E402
from depthlm_ros.families.registry import family_named  # noqa: E402
from depthlm_ros.geometry.pinhole import centred_camera  # noqa: E402
from depthlm_ros.nets.positions import ImageSpan, PromptLayout  # noqa: E402
from depthlm_ros.nets.small_model import SmallModelConfig  # noqa: E402
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose  # noqa: E402
from depthlm_ros.scenes.questions.generate import sample_questions  # noqa: E402
from depthlm_ros.scenes.questions.view_pairs import sample_pair  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.training.synthetic.auxiliary_losses import (  # noqa: E402
    SUPERVISED_HEAD,
    attention_supervision_loss,
    token_at_pixel,
    tokens_in_mask,
)
from depthlm_ros.training.synthetic.config import SyntheticDataSettings, SyntheticTrainSettings  # noqa: E402
from depthlm_ros.training.synthetic.dataset import make_batch  # noqa: E402
from depthlm_ros.training.synthetic.prompts import (  # noqa: E402
    attention_target,
    make_turn,
    pack_supervised,
    region_turns,
    turns_about_pair,
)
from depthlm_ros.training.synthetic.recipe import (  # noqa: E402
    SyntheticRecipe,
    make_model,
    make_tokenizer,
    read_prompt_tokens,
)
from depthlm_ros.training.synthetic.trainer import SyntheticTrainer  # noqa: E402

pytestmark = pytest.mark.torch
FAMILY = family_named("tiny")
CAMERA = centred_camera((128, 96), 96.0)


def test_tokens_are_counted_row_by_row():
    mask = np.zeros((32, 48), bool)
    mask[20, 15:17] = True
    assert tokens_in_mask(mask, 16).tolist() == [False, False, False, True, True, False]
    assert token_at_pixel(47.4, 3.0, (48, 32), 16).tolist() == [False, False, True, False, False, False]
    # Half a pixel beyond the last pixel is still in the picture.
    assert token_at_pixel(47.5, 31.5, (48, 32), 16).tolist() == [False] * 5 + [True]


def test_the_target_of_an_object_is_where_it_was_drawn_and_that_of_a_comparison_ends_at_the_nearer_object():
    seen = {"one": 0, "two": 0, "none": 0}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene, pose = sample_scene_and_pose(rng)
        rendered = render(scene, pose, CAMERA)
        for question in sample_questions(rng, scene, rendered, CAMERA, 8):
            target = attention_target(question, rendered, 16)
            if not question.object_ids:
                assert (target is None) == (not question.uv_px)
                seen["none"] += target is None
                continue
            things = [rendered.object_id == index for index in question.object_ids]
            assert [look.tolist() for look in target] == [tokens_in_mask(things[n], 16).tolist() for n in (0, -1)]
            if question.kind == "closer":
                far_m, near_m = (np.median(rendered.depth_m[thing]) for thing in things)
                assert near_m < 1.2 * far_m
                seen["two"] += 1
            seen["one"] += question.kind != "closer"
    assert min(seen.values()) > 5, seen


def test_the_targets_of_a_question_about_pixels_are_its_first_and_last_pixel():
    rng = np.random.default_rng(3)
    scene, pose = sample_scene_and_pose(rng)
    rendered = render(scene, pose, CAMERA)
    two = next(q for q in sample_questions(rng, scene, rendered, CAMERA, 400) if len(q.uv_px) == 2)
    first, second = attention_target(two, rendered, 16)
    assert [np.flatnonzero(look).tolist() for look in (first, second)] == [
        [v // 16 * 8 + u // 16] for u, v in two.uv_px
    ]


def test_the_target_of_a_region_is_its_object():
    config = SyntheticDataSettings()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene, pose = sample_scene_and_pose(rng)
        rendered = render(scene, pose, CAMERA)
        for turn in region_turns(rng, config, FAMILY, rendered):
            objects = [tokens_in_mask(rendered.object_id == index, 16) for index in np.unique(rendered.object_id)]
            assert any(np.array_equal(turn.attention[0], look) for look in objects)
            return
    pytest.fail("no scene had a region to ask about")


def test_the_second_target_of_a_match_is_in_the_second_picture():
    rng = np.random.default_rng(5)
    pair = sample_pair(rng, sample_scene_and_pose(rng)[0], CAMERA, 3)
    turns = turns_about_pair(pair, FAMILY, 16)
    for uv, matched, turn in zip(pair.uv_px, pair.matched_px, turns, strict=False):
        (first,), (second,) = (np.flatnonzero(look) for look in turn.attention)
        assert first == uv[1] // 16 * 8 + uv[0] // 16
        assert second - 48 == np.rint(matched[1]) // 16 * 8 + np.rint(matched[0]) // 16
    assert all(turn.attention is None for turn in turns[len(pair.uv_px) :]), "a pose has no place"


SMALL = SmallModelConfig(512, 8, 48, 4, 2, (0, 1, 2), 48, 3, 4, 2, 64, (8, 8, 8, 8), 8)
RECIPE = SyntheticRecipe(
    "test",
    "tiny",
    "Apache-2.0",
    3,
    SMALL,
    SyntheticDataSettings(canvases=((64, 48),), focal_px=48.0, batch=4),
    SyntheticTrainSettings(steps=60, warmup_steps=2, learning_rate=3e-3, bf16=False),
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(RECIPE)


def test_a_reply_is_supervised_up_to_its_first_digit_and_from_its_box_to_its_number(tokenizer):
    look, other = np.eye(6, dtype=bool)[[1, 4]]
    prompt = FAMILY.question_prompt("How far is the red box?", np.zeros((0, 2)), (), (64, 48))
    turns = [
        make_turn(prompt, "There is no red box in this image."),
        make_turn(prompt, "The red box is 1.00 meters away.", (look, other)),
        make_turn(prompt, "The red box at (12, 3, 45, 67) is 8.00 meters away.", (look, other)),
        make_turn(prompt, "(90, 12)", (look, other)),
    ]
    row, attention = pack_supervised(turns, tokenizer, 128, 0, image_tokens=6)
    for layer, place in enumerate((look, other)):
        supervised = attention[layer].any(-1)
        words = [tokenizer.decode(row.next_id[supervised & (row.segment == turn)].tolist()) for turn in range(4)]
        assert words == ["", "The red box is 1", "The red box at (1 is 8", "(9"]
        assert (attention[layer, supervised] == place).all()


def test_the_loss_is_minus_the_log_of_the_share_of_attention_on_the_target():
    layout = PromptLayout((1, 1), (ImageSpan((2, 2), 4, 2),))
    length, asked = layout.length, 3
    total = length + asked
    queries = [torch.zeros(1, 2, total, 8) for _ in range(3)]
    keys = torch.zeros(3, 1, 1, total, 8)
    mask = torch.ones(1, 1, total, total, dtype=torch.bool).tril()
    target = torch.zeros(1, 2, asked, 4, dtype=torch.bool)
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() == 0.0
    target[0, 0, 1, :2] = True
    # Uniform attention: two of the eight tokens that the second token of the text may see.
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() == pytest.approx(math.log(8 / 2))
    queries[0][0, SUPERVISED_HEAD, length + 1, 0] = 20.0
    keys[0, 0, 0, 2, 0] = 1.0  # the second image token
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() < 1e-6
    keys[0, 0, 0, 2, 0] = -1.0
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() == pytest.approx(
        math.log(7), rel=1e-3
    )
    target[0, 1, 2] = True  # the second target, in the next layer, is the whole picture
    both = (math.log(7) + math.log(9 / 4)) / 2
    assert attention_supervision_loss(queries, keys, 1.0, mask, target, layout).item() == pytest.approx(both, rel=1e-3)


def test_the_auxiliary_losses_fall(tokenizer, tmp_path):
    run = trainer(tokenizer, tmp_path)
    batch = next(batch for batch in batches(tokenizer) if not len(batch.second))
    losses = [run.train_step(batch) for _ in range(30)]
    for name in ("attention", "words", "geometry"):
        assert float(getattr(losses[-1], name).detach()) < 0.7 * float(getattr(losses[0], name).detach()), name


def test_a_recipe_with_another_size_of_tokens_is_refused(tokenizer, tmp_path):
    with pytest.raises(SetupError, match=r"token_px is 8.*set data.token_px: 16"):
        trainer(tokenizer, tmp_path, token_px=8)


def batches(tokenizer):
    return (make_batch(RECIPE.data, FAMILY, tokenizer, 1, step) for step in range(20))


def trainer(tokenizer, folder, **changes):
    model, data = make_model(RECIPE, tokenizer), replace(RECIPE.data, **changes)
    return SyntheticTrainer(
        model, FAMILY, tokenizer.to_str(), read_prompt_tokens(tokenizer), data, RECIPE.train, folder, RECIPE.seed
    )
