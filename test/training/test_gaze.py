"""Where replies have to look: at the pixels that the renderer drew, and what teaches attention to go there."""

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from depthlm_ros.errors import SetupError  # noqa: E402
from depthlm_ros.families.registry import family_named  # noqa: E402
from depthlm_ros.nets.checkpoint import SmallConfig  # noqa: E402
from depthlm_ros.nets.positions import ImageSpan, PromptLayout  # noqa: E402
from depthlm_ros.scenes.questions.generate import ask_about  # noqa: E402
from depthlm_ros.scenes.questions.view_pairs import sample_pair  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.training.synthetic.auxiliary_losses import HEAD, gaze_loss, tokens_at, tokens_of  # noqa: E402
from depthlm_ros.training.synthetic.config import DataConfig, canvas_camera  # noqa: E402
from depthlm_ros.training.synthetic.dataset import make_batch, pair_turns, sample_view  # noqa: E402
from depthlm_ros.training.synthetic.prompts import Turn, gaze_of, pack, region_turns  # noqa: E402  # noqa: E402
from depthlm_ros.training.synthetic.recipe import Recipe, affixes, make_model, make_tokenizer  # noqa: E402
from depthlm_ros.training.synthetic.step import TrainConfig  # noqa: E402
from depthlm_ros.training.synthetic.trainer import Trainer  # noqa: E402

pytestmark = pytest.mark.torch
FAMILY = family_named("tiny")
CAMERA = canvas_camera((128, 96), 96.0)


def test_tokens_are_told_row_by_row():
    mask = np.zeros((32, 48), bool)
    mask[20, 15:17] = True
    assert tokens_of(mask, 16).tolist() == [False, False, False, True, True, False]
    assert tokens_at(47.4, 3.0, (48, 32), 16).tolist() == [False, False, True, False, False, False]
    # Half a pixel beyond the last one is still in the picture.
    assert tokens_at(47.5, 31.5, (48, 32), 16).tolist() == [False] * 5 + [True]


def test_a_question_about_an_object_looks_where_it_was_drawn_and_a_comparison_at_the_nearer_last():
    seen = {"one": 0, "two": 0, "none": 0}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene, pose = sample_view(rng)
        rendered = render(scene, pose, CAMERA)
        for question in ask_about(rng, scene, rendered, CAMERA, 8):
            gaze = gaze_of(question, rendered, 16)
            if not question.object_ids:
                assert (gaze is None) == (not question.uv_px)
                seen["none"] += gaze is None
                continue
            things = [rendered.object_id == index for index in question.object_ids]
            assert [look.tolist() for look in gaze] == [tokens_of(things[n], 16).tolist() for n in (0, -1)]
            if question.kind == "closer":
                far_m, near_m = (np.median(rendered.depth_m[thing]) for thing in things)
                assert near_m < 1.2 * far_m
                seen["two"] += 1
            seen["one"] += question.kind != "closer"
    assert min(seen.values()) > 5, seen


def test_a_question_about_pixels_looks_at_the_first_and_then_at_the_last():
    rng = np.random.default_rng(3)
    scene, pose = sample_view(rng)
    rendered = render(scene, pose, CAMERA)
    two = next(q for q in ask_about(rng, scene, rendered, CAMERA, 400) if len(q.uv_px) == 2)
    first, second = gaze_of(two, rendered, 16)
    assert [np.flatnonzero(look).tolist() for look in (first, second)] == [
        [v // 16 * 8 + u // 16] for u, v in two.uv_px
    ]


def test_a_region_is_looked_at_where_its_object_is():
    config = DataConfig()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene, pose = sample_view(rng)
        rendered = render(scene, pose, CAMERA)
        for turn in region_turns(rng, config, FAMILY, rendered):
            shown = [tokens_of(rendered.object_id == index, 16) for index in np.unique(rendered.object_id)]
            assert any(np.array_equal(turn.gaze[0], look) for look in shown)
            return
    pytest.fail("no scene had a region to ask about")


def test_a_match_is_looked_for_in_the_second_picture():
    rng = np.random.default_rng(5)
    pair = sample_pair(rng, sample_view(rng)[0], CAMERA, 3)
    turns = pair_turns(pair, FAMILY, 16)
    for uv, matched, turn in zip(pair.uv_px, pair.matched_px, turns, strict=False):
        (first,), (second,) = (np.flatnonzero(look) for look in turn.gaze)
        assert first == uv[1] // 16 * 8 + uv[0] // 16
        assert second - 48 == np.rint(matched[1]) // 16 * 8 + np.rint(matched[0]) // 16
    assert all(turn.gaze is None for turn in turns[len(pair.uv_px) :]), "a pose is in no place"


SMALL = SmallConfig(512, 8, 48, 4, 2, (0, 1, 2), 48, 3, 4, 2, 64, (8, 8, 8, 8), 8)
RECIPE = Recipe(
    "test",
    "tiny",
    "Apache-2.0",
    3,
    SMALL,
    DataConfig(canvases=((64, 48),), focal_px=48.0, batch=4),
    TrainConfig(steps=60, warmup_steps=2, learning_rate=3e-3, bf16=False),
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(RECIPE)


def test_a_reply_has_somewhere_to_look_until_its_first_digit_and_from_its_box_to_its_number(tokenizer):
    look, other = np.eye(6, dtype=bool)[[1, 4]]
    ask = FAMILY.question_prompt("How far is the red box?", np.zeros((0, 2)), (), (64, 48))
    turns = [
        Turn(ask, "There is no red box in this image."),
        Turn(ask, "The red box is 1.00 meters away.", (look, other)),
        Turn(ask, "The red box at (12, 3, 45, 67) is 8.00 meters away.", (look, other)),
        Turn(ask, "(90, 12)", (look, other)),
    ]
    row = pack(turns, tokenizer, 128, 0, image_tokens=6)
    for at, place in enumerate((look, other)):
        told = row.gaze[at].any(-1)
        said = [tokenizer.decode(row.label[told & (row.segment == turn)].tolist()) for turn in range(4)]
        assert said == ["", "The red box is 1", "The red box at (1 is 8", "(9"]
        assert (row.gaze[at, told] == place).all()


def test_the_loss_is_minus_the_log_of_the_attention_that_arrives():
    layout = PromptLayout((1, 1), (ImageSpan((2, 2), 4, 2),))
    length, asked = layout.length, 3
    total = length + asked
    queries = [torch.zeros(1, 2, total, 8) for _ in range(3)]
    keys = torch.zeros(3, 1, 1, total, 8)
    mask = torch.ones(1, 1, total, total, dtype=torch.bool).tril()
    gaze = torch.zeros(1, 2, asked, 4, dtype=torch.bool)
    assert gaze_loss(queries, keys, 1.0, mask, gaze, layout).item() == 0.0
    gaze[0, 0, 1, :2] = True
    # Attention without preference: two of the eight tokens that the second token of the text may see.
    assert gaze_loss(queries, keys, 1.0, mask, gaze, layout).item() == pytest.approx(math.log(8 / 2))
    queries[0][0, HEAD, length + 1, 0] = 20.0
    keys[0, 0, 0, 2, 0] = 1.0  # the second image token
    assert gaze_loss(queries, keys, 1.0, mask, gaze, layout).item() < 1e-6
    keys[0, 0, 0, 2, 0] = -1.0
    assert gaze_loss(queries, keys, 1.0, mask, gaze, layout).item() == pytest.approx(math.log(7), rel=1e-3)
    gaze[0, 1, 2] = True  # the second look, in the next layer, wherever in the picture
    both = (math.log(7) + math.log(9 / 4)) / 2
    assert gaze_loss(queries, keys, 1.0, mask, gaze, layout).item() == pytest.approx(both, rel=1e-3)


def test_attention_learns_to_go_there_and_tokens_their_names_and_numbers(tokenizer, tmp_path):
    run = trainer(tokenizer, tmp_path)
    batch = next(batch for batch in batches(tokenizer) if not len(batch.second))
    losses = [run.train_step(batch) for _ in range(30)]
    for name in ("gaze", "naming", "placing"):
        assert float(getattr(losses[-1], name).detach()) < 0.7 * float(getattr(losses[0], name).detach()), name


def test_a_recipe_with_tokens_of_another_size_is_refused(tokenizer, tmp_path):
    with pytest.raises(SetupError, match=r"token_px is 8.*set data.token_px: 16"):
        trainer(tokenizer, tmp_path, token_px=8)


def batches(tokenizer):
    return (make_batch(RECIPE.data, FAMILY, tokenizer, 1, step) for step in range(20))


def trainer(tokenizer, folder, **changes):
    model, data = make_model(RECIPE, tokenizer), replace(RECIPE.data, **changes)
    return Trainer(model, FAMILY, tokenizer.to_str(), affixes(tokenizer), data, RECIPE.train, folder, RECIPE.seed)
