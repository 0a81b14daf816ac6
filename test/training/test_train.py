"""The training on rendered scenes learns, continues where it stopped, and asks as the model is asked at run time."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.paths import ROOT  # noqa: E402
from support.random_backbones import SMALL_MODEL as SMALL  # noqa: E402

from depthlm_ros.errors import SetupError  # noqa: E402
from depthlm_ros.families.registry import family_named  # noqa: E402
from depthlm_ros.geometry.pinhole import centred_camera  # noqa: E402
from depthlm_ros.model import read_tokenizer  # noqa: E402
from depthlm_ros.nets.positions import PromptLayout  # noqa: E402
from depthlm_ros.nets.text_decoder import DeepStackTokens, causal_mask, prefill  # noqa: E402
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose  # noqa: E402
from depthlm_ros.scenes.questions.generate import sample_questions  # noqa: E402
from depthlm_ros.scenes.questions.view_pairs import sample_pair  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.training.losses import depth_gradient_loss, silog_loss  # noqa: E402
from depthlm_ros.training.muon import Muon  # noqa: E402
from depthlm_ros.training.packing import PREFIX, block_mask, tokenize_turn  # noqa: E402
from depthlm_ros.training.synthetic.config import (  # noqa: E402
    RENAMED_SETTINGS,
    SyntheticDataSettings,
    SyntheticTrainSettings,
)
from depthlm_ros.training.synthetic.dataset import make_batch, sample_texts  # noqa: E402
from depthlm_ros.training.synthetic.prompts import (  # noqa: E402
    CHAT,
    make_turn,
    pack_supervised,
    turns_about_pair,
    turns_about_picture,
)
from depthlm_ros.training.synthetic.recipe import (  # noqa: E402
    SyntheticRecipe,
    load_or_make_tokenizer,
    make_model,
    make_tokenizer,
    read_prompt_tokens,
    read_synthetic_recipe,
)
from depthlm_ros.training.synthetic.tokenizer import train_tokenizer  # noqa: E402
from depthlm_ros.training.synthetic.trainer import ReplayBuffer, SyntheticTrainer, learning_rate  # noqa: E402
from depthlm_ros.training.synthetic.warm_start import copy_earlier_weights  # noqa: E402

pytestmark = pytest.mark.torch
FAMILY = family_named("tiny")
RECIPE = SyntheticRecipe(
    "test",
    "tiny",
    "Apache-2.0",
    3,
    SMALL,
    SyntheticDataSettings(canvases=((64, 48), (96, 64)), focal_px=48.0, batch=4),
    SyntheticTrainSettings(steps=10, warmup_steps=2, learning_rate=3e-3, bf16=False, save_every=1000),
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(RECIPE)


@pytest.fixture(scope="module")
def batch(tokenizer):
    return make_batch(RECIPE.data, FAMILY, tokenizer, 3, 0)


def trainer(tokenizer, folder, seed=RECIPE.seed, device="cpu", **changes):
    config = replace(RECIPE.train, **changes)
    return SyntheticTrainer(
        make_model(RECIPE, tokenizer),
        FAMILY,
        tokenizer.to_str(),
        read_prompt_tokens(tokenizer),
        RECIPE.data,
        config,
        folder,
        seed,
        device,
    )


def test_loss_falls_on_a_fixed_batch(tokenizer, batch, tmp_path):
    run = trainer(tokenizer, tmp_path, steps=1000)
    losses = [run.train_step(batch) for _ in range(30)]
    assert float(losses[-1].silog.detach()) < 0.8 * float(losses[0].silog.detach())
    assert float(losses[-1].text.detach()) < 0.8 * float(losses[0].text.detach())


def test_a_resumed_run_equals_one_that_never_stopped(tokenizer, tmp_path):
    whole = trainer(tokenizer, tmp_path / "whole", steps=4)
    whole.run(workers=0, report=lambda _: None)
    first = trainer(tokenizer, tmp_path / "parts", steps=4)
    first.train_step(make_batch(RECIPE.data, FAMILY, tokenizer, RECIPE.seed, 0))
    first.train_step(make_batch(RECIPE.data, FAMILY, tokenizer, RECIPE.seed, 1))
    first.save()
    second = trainer(tokenizer, tmp_path / "parts", steps=4)
    assert second.step == 2
    second.run(workers=0, report=lambda _: None)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_a_run_resumed_with_other_settings_has_a_new_phase(tokenizer, tmp_path):
    trainer(tokenizer, tmp_path, steps=1).run(workers=0, report=lambda _: None)
    not_run = trainer(tokenizer, tmp_path, steps=9, learning_rate=1e-4)
    assert [phase["from_step"] for phase in not_run.phases] == [0]
    other = trainer(tokenizer, tmp_path, steps=2, learning_rate=1e-4)
    other.run(workers=0, report=lambda _: None)
    assert [(phase["from_step"], phase["train"]["learning_rate"]) for phase in other.phases] == [(0, 3e-3), (1, 1e-4)]
    seeded = trainer(tokenizer, tmp_path, seed=9, steps=3, learning_rate=1e-4)
    seeded.run(workers=0, report=lambda _: None)
    assert [phase["seed"] for phase in seeded.phases] == [RECIPE.seed, RECIPE.seed, 9]


def test_rows_of_the_recipe_of_the_embedded_model_have_room_for_their_turns():
    """A row that is too short would leave out the longest replies first, and teach the model to deny."""
    tokenizer = read_tokenizer(ROOT / "engines" / "tiny" / "tokenizer.json")
    data = read_synthetic_recipe(ROOT / "config" / "train" / "tiny.yaml").data
    rng = np.random.default_rng(8)
    camera = centred_camera(data.canvases[0], data.focal_px)
    turns, kept = 0, 0
    for _ in range(60):
        scene, pose = sample_scene_and_pose(rng)
        rendered = render(scene, pose, camera)
        given = turns_about_picture(
            rng, data, FAMILY, sample_questions(rng, scene, rendered, camera, data.questions), rendered
        )
        row, _ = pack_supervised(given, tokenizer, data.row_tokens, 0)
        turns, kept = turns + len(given), kept + len(set(row.segment[row.segment >= 0]))
    assert kept >= 0.99 * turns


def test_families_read_the_replies_about_pairs_of_pictures_back(tokenizer):
    data = replace(RECIPE.data, pair_share=1.0)
    made = make_batch(data, FAMILY, tokenizer, 4, 0)
    assert made.second.shape == made.image.shape
    scene_rng = np.random.default_rng(3)
    camera = centred_camera(data.canvases[0], data.focal_px)
    pair = sample_pair(scene_rng, sample_scene_and_pose(scene_rng)[0], camera, 3)
    size_px = (camera.width_px, camera.height_px)
    turns = turns_about_pair(pair, FAMILY, 16)
    for turn, matched_px in zip(turns, pair.matched_px, strict=False):
        read_px = FAMILY.read_match(turn.reply, size_px)
        np.testing.assert_allclose(read_px, matched_px, atol=1.0 + 0.001 * max(size_px))
    asked = {turn.question: turn.reply for turn in turns}
    pose = FAMILY.read_pose({name: asked.get(prompt.text, "") for name, prompt in FAMILY.pose_prompts().items()})
    np.testing.assert_allclose(pose.rotation, pair.rotation, atol=0.003)
    np.testing.assert_allclose(pose.distance_m, np.linalg.norm(pair.translation_m), atol=0.006)
    if np.isfinite(pose.direction).all():
        np.testing.assert_allclose(pose.translation_m, pair.translation_m, atol=0.03)


def test_a_warm_start_copies_weights_and_the_embeddings_of_common_tokens(tokenizer):
    other_words = train_tokenizer(["Where is the sofa? The sofa is here."] * 3, RECIPE.model.vocab)
    earlier, model = make_model(RECIPE, tokenizer), make_model(replace(RECIPE, seed=99), other_words)
    assert copy_earlier_weights(model, other_words, earlier, tokenizer) > 50
    assert torch.equal(model.depth_head.norm.weight, earlier.depth_head.norm.weight)
    token = "<|im_end|>"
    ours, theirs = (torch.tensor([words.token_to_id(token)]) for words in (other_words, tokenizer))
    assert torch.equal(model.embed(ours), earlier.embed(theirs))


def test_a_run_takes_the_tokenizer_of_the_model_it_starts_from_if_there_is_room(tokenizer, tmp_path):
    kept = load_or_make_tokenizer(replace(RECIPE, seed=99), tmp_path / "kept", tokenizer)
    assert kept.get_vocab() == tokenizer.get_vocab()
    small = replace(RECIPE, model=replace(RECIPE.model, vocab=tokenizer.get_vocab_size() - 1))
    learnt = load_or_make_tokenizer(small, tmp_path / "learnt", tokenizer)
    assert learnt.get_vocab_size() <= small.model.vocab
    again = load_or_make_tokenizer(RECIPE, tmp_path / "learnt", tokenizer)
    assert again.get_vocab() == learnt.get_vocab(), "a resumed run keeps its tokenizer"


def test_a_batch_depends_on_seed_and_step_only(tokenizer, batch):
    again = make_batch(RECIPE.data, FAMILY, tokenizer, 3, 0)
    other = make_batch(RECIPE.data, FAMILY, tokenizer, 3, 1)
    assert torch.equal(batch.image, again.image)
    assert torch.equal(batch.ids, again.ids)
    assert batch.image.shape != other.image.shape or not torch.equal(batch.image, other.image)


def test_packed_questions_do_not_see_each_other(tokenizer, batch):
    """The states of a packed question equal those of the same question alone after the same image."""
    torch.manual_seed(0)
    model = make_model(RECIPE, tokenizer).eval()
    image = batch.image[:1]
    fixed = read_prompt_tokens(tokenizer)
    layout = PromptLayout((len(fixed.before), len(fixed.after)), (model.image_span((image.shape[2], image.shape[1])),))
    turns = [
        make_turn(FAMILY.question_prompt(text, np.zeros((0, 2)), (), (64, 48)), "There is no red box in this image.")
        for text in ("How far is the red box?", "Where is the blue ball?")
    ]
    row, _ = pack_supervised(turns, tokenizer, 96, 0)
    with torch.no_grad():
        tokens, deep = model.encode_image(image)
        prefix = torch.cat(
            [model.embed(torch.tensor([fixed.before])), tokens, model.embed(torch.tensor([fixed.after]))], 1
        )

        def states(ids, offsets, mask):
            x = torch.cat([prefix, model.embed(ids)], 1)
            cos, sin = model.prefix_rope(layout)
            text_cos, text_sin = model.text_rope(offsets + layout.next_position)
            rope = (torch.cat([cos, text_cos], 1), torch.cat([sin, text_sin], 1))
            return prefill(model.language, x, *rope, mask, DeepStackTokens(deep, layout.spans))[0][0, layout.length :]

        segment = torch.from_numpy(np.concatenate([np.full(layout.length, PREFIX), row.segment]))[None]
        packed = states(torch.from_numpy(row.ids)[None], torch.from_numpy(row.offset)[None], block_mask(segment))
        tokens_alone = tokenize_turn(turns[1], tokenizer, CHAT)
        ids = [*tokens_alone.given, *tokens_alone.predicted]
        alone = states(torch.tensor([ids]), torch.arange(len(ids))[None], causal_mask(layout.length + len(ids)))
    torch.testing.assert_close(packed[row.segment == 1], alone, rtol=1e-4, atol=1e-5)


def test_only_replies_are_learnt(tokenizer):
    turn = make_turn(
        FAMILY.point_prompt(3, 4, (64, 48)),
        "<think> The point is around 2.31 meters away from the camera. </think>\n\n<answer> 2.31 </answer>",
    )
    row, _ = pack_supervised([turn], tokenizer, 64, 0)
    learnt = tokenizer.decode(row.next_id[row.next_id >= 0].tolist(), skip_special_tokens=False)
    assert learnt == "2.31 meters away from the camera. </think>\n\n<answer> 2.31 </answer><|im_end|>"


def test_a_point_question_is_at_most_13_tokens_and_is_decoded_unchanged(tokenizer):
    prompt = FAMILY.point_prompt(63, 47, (64, 48))
    text = prompt.text + CHAT.header + prompt.forced
    ids = tokenizer.encode(text).ids
    assert len(ids) <= 13
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["How far is the red box?", "déjà vu 距離", "1234.5 (6, 7)", "tabs\tand\nlines", "  "])
def test_any_text_is_decoded_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_family_reads_every_reply_about_rendered_scenes_back(tokenizer):
    rng = np.random.default_rng(5)
    texts = list(sample_texts(rng, SyntheticDataSettings(), FAMILY, scenes=30))
    for text in texts[1::2]:
        if text.startswith("<think>"):
            assert FAMILY.read_point(text.removeprefix("<think> The point is around ")) > 0
        else:
            reply = FAMILY.read_reply(text, (128, 96))
            assert (reply.value > 0) == (reply.status.value == "ok"), text


def test_silog_loss_follows_its_formula():
    predicted, truth = torch.tensor([[[1.0, 2.0, 9.0]]]), torch.tensor([[[2.0, 2.0, float("nan")]]])
    d = np.log([0.5, 1.0])
    expected = np.sqrt((d**2).mean() - 0.5 * d.mean() ** 2 + 1e-8)
    assert float(silog_loss(predicted, truth)) == pytest.approx(expected, rel=1e-5)


def test_losses_without_labels_are_zero_and_finite():
    predicted = torch.ones(2, 4, 4, requires_grad=True)
    loss = silog_loss(predicted, torch.full((2, 4, 4), float("nan"))) + depth_gradient_loss(
        predicted, torch.full((2, 4, 4), float("nan"))
    )
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.isfinite(predicted.grad).all()


def test_learning_rate_rises_and_decays():
    config = SyntheticTrainSettings(learning_rate=1.0, warmup_steps=10)
    assert learning_rate(0, 0.0, config) == pytest.approx(0.1)
    assert learning_rate(10, 0.0, config) == pytest.approx(1.0)
    assert learning_rate(99, 1.0, config) == pytest.approx(0.02)


def test_a_checkpoint_with_older_names_of_settings_is_continued_as_the_same_run(tokenizer, tmp_path):
    trainer(tokenizer, tmp_path, steps=1).run(workers=0, report=lambda _: None)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    older = {new: old for old, new in RENAMED_SETTINGS.items()}
    for phase in state["phases"]:
        for group in ("data", "train"):
            phase[group] = {older.get(name, name): value for name, value in phase[group].items()}
    torch.save(state, tmp_path / "checkpoint.pt")
    continued = trainer(tokenizer, tmp_path, steps=1)
    continued.run(workers=0, report=lambda _: None)
    assert len(continued.phases) == 1


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_an_unusable_device_is_named(tokenizer, tmp_path, device):
    with pytest.raises(SetupError, match=f"device '{device}' cannot be used for training"):
        trainer(tokenizer, tmp_path, device=device)


def test_a_deeper_model_begins_as_the_earlier_one(tokenizer, batch):
    # DeepStack adds to the first three layers of the language model: new layers come after them.
    shallow, deeper = replace(SMALL, depth=5), replace(SMALL, depth=7, vision_depth=6, deepstack=(0, 1, 4))
    earlier, model = (make_model(replace(RECIPE, model=each), tokenizer).eval() for each in (shallow, deeper))
    copy_earlier_weights(model, tokenizer, earlier, tokenizer)
    layout = PromptLayout((0, 0), (model.image_span((batch.image.shape[2], batch.image.shape[1])),))
    depths_m = []
    with torch.no_grad():
        for each in (earlier, model):
            tokens, deep = each.encode_image(batch.image)
            cos, sin = each.prefix_rope(layout)
            states, _, _ = prefill(
                each.language, tokens, cos, sin, causal_mask(tokens.shape[1]), DeepStackTokens(deep, layout.spans)
            )
            depths_m.append(each.depth(states, deep, layout))
    assert torch.equal(*depths_m)


def test_replayed_batches_keep_their_labels_and_change_their_colours(batch):
    buffer = ReplayBuffer(size=2)
    for _ in range(5):
        buffer.add(batch)
    again = buffer.sample(np.random.default_rng(0))
    for name in ("depth_m", "ids", "next_id", "attention", "token_geometry"):
        assert getattr(again, name) is getattr(batch, name)
    assert again.image.dtype == torch.uint8 and not torch.equal(again.image, batch.image)
    # The order of a picture's grey values stays: only brightness, contrast and tint change.
    before, after = batch.image[0, :, :, 1].flatten().long(), again.image[0, :, :, 1].flatten().long()
    order = before.argsort(stable=True)
    assert (after[order].diff() >= 0).all()


def test_a_run_with_replays_uses_every_new_batch_once(tokenizer, tmp_path):
    data = replace(RECIPE.data, batch=2, pair_share=0.5)
    config = replace(RECIPE.train, steps=6, replays=2, replay_buffer_size=2)
    texts = (tokenizer.to_str(), read_prompt_tokens(tokenizer))
    run = SyntheticTrainer(make_model(RECIPE, tokenizer), FAMILY, *texts, data, config, tmp_path, 3)
    made = [make_batch(data, FAMILY, tokenizer, 3, step) for step in range(2)]
    trained = []
    step = run.train_step
    run.train_step = lambda batch: trained.append(batch) or step(batch)
    run.run(workers=0, report=lambda _: None)
    assert len(trained) == 6
    for new, given in zip(trained[::3], made, strict=True):
        assert torch.equal(new.image, given.image)
    assert all(any(torch.equal(one.ids, given.ids) for given in made) for one in trained)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_has_the_losses_and_gradients_of_a_plain_step(tokenizer, batch, tmp_path):
    texts = (tokenizer.to_str(), read_prompt_tokens(tokenizer))
    run = SyntheticTrainer(
        make_model(RECIPE, tokenizer), FAMILY, *texts, RECIPE.data, RECIPE.train, tmp_path, 3, "cuda"
    )
    on_gpu = batch.to("cuda")
    for parameter in run.parameters:
        parameter.grad = None
    plain = run._losses(on_gpu)
    plain.total.backward()
    gradients = [parameter.grad.clone() for parameter in run.parameters]
    recorded = run.graphed(on_gpu)
    torch.testing.assert_close(recorded.total, plain.total, rtol=1e-4, atol=1e-5)
    for parameter, expected in zip(run.parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-2, atol=1e-4)
