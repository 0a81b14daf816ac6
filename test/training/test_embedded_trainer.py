# SPDX-License-Identifier: Apache-2.0
"""A run of the embedded training: it continues to the bit, keeps what it has, and says what it left out."""

import csv
import multiprocessing
from dataclasses import replace
from itertools import islice

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support import embedded_training  # noqa: E402
from support.embedded_training import RECIPE, make_plan, make_trainer, write_frames, write_photos  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from depthlm_ros.errors import BadInput, SetupError  # noqa: E402
from depthlm_ros.nets.depth_first import load_checkpoint, save_checkpoint  # noqa: E402
from depthlm_ros.training.embedded import trainer as trainer_module  # noqa: E402
from depthlm_ros.training.embedded.dataset import (  # noqa: E402
    DEPTH_PHASE,
    WORDS_PHASE,
    TrainingBatches,
    make_batch,
    use_one_opencv_thread,
)
from depthlm_ros.training.embedded.optimisers import learning_rate  # noqa: E402
from depthlm_ros.training.embedded.pictures import PictureSources  # noqa: E402
from depthlm_ros.training.embedded.recipe import PhaseSettings, SourceShares  # noqa: E402
from depthlm_ros.training.embedded.run_log import CurveFile, draw_curves  # noqa: E402

pytestmark = pytest.mark.torch
SHORT = replace(RECIPE, depth=replace(RECIPE.depth, steps=3, batch=2), words=replace(RECIPE.words, steps=3, batch=2))
RENDERED = SourceShares()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {"photos": write_photos(folder / "photos"), "frames": write_frames(folder / "frames")}


@pytest.fixture(scope="module")
def tokenizer():
    return embedded_training.make_tokenizer()


@pytest.fixture(scope="module")
def whole(tokenizer, data, tmp_path_factory):
    """A run of both phases that nothing interrupted."""
    run = make_trainer(RECIPE, tokenizer, tmp_path_factory.mktemp("whole"), **data)
    run.run(report=lambda _: None)
    return run


def train_until(run, phase, step):
    """Trains until a run has done `step` steps of a phase, and saves it."""
    use_one_opencv_thread()
    run._note_recipe()
    while (run.state.phase, run.state.step) != (phase, step):
        if run.state.step == run._phase_settings().steps:
            run._next_phase()
            continue
        run.train_step(next(iter(run._loader())))
    run.save()


def assert_equal_runs(one, other):
    for name in ("model", "average"):
        expected = getattr(other, name).state_dict()
        for key, tensor in getattr(one, name).state_dict().items():
            assert torch.equal(tensor, expected[key]), f"{name}.{key}"
    for ours, theirs in zip(one.optimisers, other.optimisers, strict=True):
        expected = theirs.state_dict()["state"]
        for index, values in ours.state_dict()["state"].items():
            for key, value in values.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected[index][key])), (index, key)
    for name in ("phase", "step", "pictures", "bad_steps", "left_out"):
        assert getattr(one.state, name) == getattr(other.state, name), name


@pytest.mark.parametrize(("phase", "step"), [(DEPTH_PHASE, 3), (WORDS_PHASE, 3)])
def test_a_resumed_phase_equals_one_that_never_stopped(tokenizer, data, tmp_path, phase, step):
    straight = make_trainer(RECIPE, tokenizer, tmp_path / "straight", **data)
    train_until(straight, phase, 6)
    train_until(make_trainer(RECIPE, tokenizer, tmp_path / "parts", **data), phase, step)
    again = make_trainer(RECIPE, tokenizer, tmp_path / "parts", **data)
    assert (again.state.phase, again.state.step) == (phase, step)
    train_until(again, phase, 6)
    assert_equal_runs(again, straight)


def run_in_new_process(tokenizer_json, folder, data):
    from tokenizers import Tokenizer

    torch.set_num_threads(1)
    make_trainer(RECIPE, Tokenizer.from_str(tokenizer_json), folder, workers=1, **data).run(report=lambda _: None)


def test_a_run_goes_on_in_a_new_process_across_the_end_of_a_phase(tokenizer, data, tmp_path, whole):
    train_until(make_trainer(RECIPE, tokenizer, tmp_path, **data), DEPTH_PHASE, 4)
    process = multiprocessing.get_context("spawn").Process(
        target=run_in_new_process, args=(tokenizer.to_str(), tmp_path, data)
    )
    process.start()
    process.join(300)
    assert process.exitcode == 0
    finished = make_trainer(RECIPE, tokenizer, tmp_path, **data)
    assert finished.finished
    assert_equal_runs(finished, whole)


@pytest.mark.parametrize("phase", [DEPTH_PHASE, WORDS_PHASE])
def test_a_batch_depends_on_seed_phase_and_step_but_not_on_the_process(tokenizer, data, phase):
    plan, sources = make_plan(RECIPE, phase, tokenizer, **data), PictureSources(**data)
    use_one_opencv_thread()
    loader = DataLoader(TrainingBatches(plan, 1), batch_size=None, num_workers=2, worker_init_fn=use_one_opencv_thread)
    # Of an order other than that of the processes.
    here = {step: make_batch(plan, sources, tokenizer, step) for step in (3, 1, 2)}
    for step, batch in zip((1, 2, 3), islice(loader, 3), strict=True):
        assert_equal_batches(batch, here[step])
    other_seed = make_batch(replace(plan, seed=4), sources, tokenizer, 1)
    assert other_seed.image.shape != here[1].image.shape or not torch.equal(other_seed.image, here[1].image)


def assert_equal_batches(one, other):
    for name in one.__dataclass_fields__:
        if name != "problems":
            a, b = getattr(one, name), getattr(other, name)
            assert torch.equal(a.nan_to_num(), b.nan_to_num()) if a.is_floating_point() else torch.equal(a, b), name


def test_the_phases_of_a_run_have_other_batches(tokenizer, data):
    shares = SourceShares(photos=1.0, rendered=0.0)
    recipe = replace(RECIPE, depth=replace(RECIPE.depth, shares=shares), words=replace(RECIPE.words, shares=shares))
    depth, words = (
        make_batch(make_plan(recipe, phase, tokenizer, **data), PictureSources(**data), tokenizer, 0)
        for phase in (0, 1)
    )
    # Later pictures differ in any case, because questions are drawn between them.
    assert depth.image.shape != words.image.shape or not torch.equal(depth.image[0], words.image[0])


def test_words_are_learnt_without_a_change_of_depth(tokenizer, data, tmp_path):
    run = make_trainer(SHORT, tokenizer, tmp_path, **data)
    train_until(run, DEPTH_PHASE, 3)
    run._next_phase()
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = [model.look(image) for model in (run.model, run.average)]
    text = run.model.vlm.model.layers[0].self_attn.q_proj.weight.clone()
    train_until(run, WORDS_PHASE, 3)
    assert not torch.equal(run.model.vlm.model.layers[0].self_attn.q_proj.weight, text)
    with torch.no_grad():
        for model, expected in zip((run.model, run.average), before, strict=True):
            assert all(map(torch.equal, model.look(image), expected))


def test_the_words_begin_from_the_average_of_the_depth_phase(tokenizer, data, tmp_path):
    run = make_trainer(SHORT, tokenizer, tmp_path, **data)
    train_until(run, DEPTH_PHASE, 3)
    weight = run.model.decoder.to_bins.weight.clone()
    assert not torch.equal(weight, run.average.decoder.to_bins.weight)
    run._next_phase()
    assert torch.equal(run.model.decoder.to_bins.weight, run.average.decoder.to_bins.weight)


def test_the_average_follows_the_weights_quickly_at_first_and_then_with_the_recipe_s_decay(tokenizer, tmp_path):
    steps = PhaseSettings(40, 1, 2, 3e-3, ema=0.3, shares=RENDERED)
    run = make_trainer(replace(RECIPE, depth=steps), tokenizer, tmp_path)
    batch = next(iter(run._loader()))
    average = run.average.decoder.to_bins.weight.clone()
    for step in range(12):
        run.train_step(batch)
        decay = min(0.3, (step + 1) / (step + 20))
        average = decay * average + (1 - decay) * run.model.decoder.to_bins.weight.detach()
        torch.testing.assert_close(run.average.decoder.to_bins.weight, average, rtol=1e-5, atol=1e-7)


def test_losses_fall_on_a_fixed_batch(tokenizer, data, tmp_path):
    steps = PhaseSettings(40, 4, 2, 3e-3, 1.0, shares=RENDERED)
    run = make_trainer(replace(RECIPE, depth=steps, words=steps), tokenizer, tmp_path)
    batch = next(iter(run._loader()))
    losses = [run.train_step(batch) for _ in range(25)]
    for name in ("error", "bins", "names"):
        assert losses[-1][name] < 0.8 * losses[0][name], name
    run._next_phase()
    batch = next(iter(run._loader()))
    losses = [run.train_step(batch) for _ in range(25)]
    for name in ("text", "attention"):
        assert losses[-1][name] < 0.8 * losses[0][name], name


def test_a_step_whose_loss_is_not_finite_changes_nothing_and_is_counted(tokenizer, data, tmp_path):
    run = make_trainer(SHORT, tokenizer, tmp_path, **data)
    batch = next(iter(run._loader()))
    run.train_step(batch)
    before = [{key: tensor.clone() for key, tensor in model.state_dict().items()} for model in (run.model, run.average)]
    broken = replace(batch, depth_m=torch.full_like(batch.depth_m, torch.inf))
    run.train_step(broken)
    for model, expected in zip((run.model, run.average), before, strict=True):
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    assert (run.state.bad_steps, run.state.step) == (1, 2)
    run.train_step(batch)
    assert run.state.bad_steps == 1
    assert not torch.equal(run.model.decoder.to_bins.weight, before[0]["decoder.to_bins.weight"])


def test_many_steps_that_are_not_finite_end_the_training(tokenizer, data, tmp_path):
    recipe = replace(SHORT, depth=replace(SHORT.depth, steps=100))
    run = make_trainer(recipe, tokenizer, tmp_path, **data)
    batch = next(iter(run._loader()))
    broken = replace(batch, depth_m=torch.full_like(batch.depth_m, torch.inf))
    for _ in range(19):
        run.train_step(broken)
    with pytest.raises(BadInput, match=r"20 steps in a row are not finite \(step 19 of phase depth\).*learning_rate"):
        run.train_step(broken)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_training_goes_on(tokenizer, data, tmp_path):
    run = make_trainer(SHORT, tokenizer, tmp_path, save_minutes=0.0, **data)
    train_until(run, DEPTH_PHASE, 1)
    good, lines = run.checkpoint.read_bytes(), []
    (tmp_path / f"partial-{run.checkpoint.name}").symlink_to("/dev/full")
    run.save_or_report(lines.append)
    assert len(lines) == 1 and "make room. The training goes on" in lines[0] and str(run.checkpoint) in lines[0]
    assert run.checkpoint.read_bytes() == good
    (tmp_path / f"partial-{run.checkpoint.name}").symlink_to("/dev/full")
    run.run(report=lines.append)
    assert run.finished and len(lines) == 2
    assert make_trainer(SHORT, tokenizer, tmp_path, **data).finished


def test_two_trainings_do_not_share_a_folder(tokenizer, data, tmp_path):
    first, second = (make_trainer(SHORT, tokenizer, tmp_path, **data) for _ in range(2))
    with first._locked(), pytest.raises(BadInput, match=f"another process trains in {tmp_path}"):
        second.run()


def test_a_damaged_checkpoint_and_one_of_other_sizes_are_named(tokenizer, data, tmp_path):
    train_until(make_trainer(SHORT, tokenizer, tmp_path, **data), DEPTH_PHASE, 1)
    wider = replace(SHORT, model=replace(SHORT.model, width=64))
    with pytest.raises(BadInput, match=r"checkpoint.pt is not a checkpoint of this recipe"):
        make_trainer(wider, tokenizer, tmp_path, **data)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"checkpoint.pt is not a checkpoint"):
        make_trainer(SHORT, tokenizer, tmp_path, **data)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_an_unusable_device_is_named(tokenizer, tmp_path, device):
    with pytest.raises(SetupError, match=f"device '{device}' cannot be used for training"):
        make_trainer(SHORT, tokenizer, tmp_path, device=device)


def test_a_model_with_another_number_of_names_is_refused(tokenizer, tmp_path):
    with pytest.raises(SetupError, match=r"model.names is 7: there are \d+ names"):
        make_trainer(replace(SHORT, model=replace(SHORT.model, names=7)), tokenizer, tmp_path)


def steps_of(path):
    with path.open(newline="") as file:
        return [int(float(row["step"])) for row in csv.DictReader(file)]


def test_curves_hold_every_step_once_after_a_kill(tokenizer, data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "LOG_EVERY_STEPS", 1)
    run = make_trainer(SHORT, tokenizer, tmp_path, validate_minutes=0.0, **data)
    train_until(run, DEPTH_PHASE, 1)
    shown, killed = [], []

    def validate(model, phase):
        shown.append((phase, model.training))
        if len(shown) == 4:
            killed.append(run.state.step)
            raise KeyboardInterrupt
        return {"delta1": 0.1 * len(shown)}

    with pytest.raises(KeyboardInterrupt):
        run.run(validate, lambda _: None)
    assert steps_of(tmp_path / "losses.csv") == [2, 3, 4, 5]
    again = make_trainer(SHORT, tokenizer, tmp_path, validate_minutes=0.0, **data)
    assert again.state.phase == WORDS_PHASE and again.state.step == 0
    again.run(validate, lambda _: None)
    assert steps_of(tmp_path / "losses.csv") == [2, 3, 4, 5, 6]
    assert steps_of(tmp_path / "scores.csv") == [2, 3, 4, 5, 6]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert {phase for phase, _ in shown} == {"depth", "words"} and not any(training for _, training in shown)
    make_trainer(SHORT, tokenizer, tmp_path, **data).run(validate)
    assert steps_of(tmp_path / "losses.csv") == [2, 3, 4, 5, 6], "a finished run keeps its curves"


def test_a_curve_file_keeps_its_numbers_when_columns_are_added(tmp_path):
    file = CurveFile(tmp_path / "a.csv", 0)
    for row in ({"step": 1, "a": 0.5}, {"step": 2, "b": 2.0}, {"step": 3, "a": 0.25}):
        file.append(row)
    with (tmp_path / "a.csv").open("a") as out:
        out.write("4,0.")
        out.write("\n5,half,")
    read = CurveFile(tmp_path / "a.csv", 9)
    assert read.rows == [
        {"step": 1.0, "a": 0.5},
        {"step": 2.0, "b": 2.0},
        {"step": 3.0, "a": 0.25},
        {"step": 4.0, "a": 0.0},
    ]
    draw_curves(tmp_path / "a.png", [read, CurveFile(tmp_path / "none.csv", 0)])
    assert (tmp_path / "a.png").exists()


def test_curves_that_cannot_be_written_do_not_end_a_training(tokenizer, data, tmp_path):
    run, lines = make_trainer(SHORT, tokenizer, tmp_path, **data), []

    def validate(model, phase):
        (tmp_path / "scores.csv").mkdir(exist_ok=True)
        return {"delta1": 0.5}

    run.run(validate, lines.append)
    assert run.finished
    assert any("scores.csv could not be written" in line for line in lines)


def test_pictures_that_cannot_be_used_are_named_once_and_counted(tokenizer, data, tmp_path):
    photos = tmp_path / "photos"
    outside = embedded_training.make_photo(boxes=(embedded_training.PhotoBox("chair", 0.9, 1.2, 0.1, 1.4, 0.3),))
    write_photos(photos, *[outside] * 2)
    recipe = replace(SHORT, depth=replace(SHORT.depth, shares=SourceShares(0.0, photos=1.0)))
    run, lines = make_trainer(recipe, tokenizer, tmp_path / "run", workers=1, photos=photos, frames=data["frames"]), []
    run.run(report=lines.append)
    named = [line for line in lines if "1 boxes lie outside of the photograph" in line]
    assert sorted(line.partition(": ")[2].partition(": 1 boxes")[0] for line in named) == [
        f"{photos / 'photos-00.tar'}: sample p{index}" for index in (0, 1)
    ]
    assert run.state.left_out["box outside of its photograph"] >= 6
    assert make_trainer(recipe, tokenizer, tmp_path / "run", **data).state.left_out == run.state.left_out


def test_an_error_of_a_loading_process_is_one_line(tokenizer, data, tmp_path):
    photos = write_photos(tmp_path / "photos")
    shard = photos / "photos-00.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\xff\xd8\xff", b"\x00\x00\x00"))
    run = make_trainer(SHORT, tokenizer, tmp_path / "run", workers=1, photos=photos, frames=data["frames"])
    with pytest.raises(BadInput, match=r"^50 photographs in a row cannot be read; the last one: .*sample p\d"):
        run.run(report=lambda _: None)


def test_what_is_exported_is_the_average(tokenizer, data, tmp_path):
    run = make_trainer(SHORT, tokenizer, tmp_path / "run", **data)
    train_until(run, DEPTH_PHASE, 3)
    expected = {key: tensor.half().float() for key, tensor in run.average.state_dict().items()}
    save_checkpoint(run.average, tmp_path / "out")
    saved = load_checkpoint(tmp_path / "out").state_dict()
    assert all(torch.equal(saved[key], tensor) for key, tensor in expected.items())


def test_the_learning_rate_rises_and_decays():
    settings = PhaseSettings(steps=100, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(0, settings) == pytest.approx(0.1)
    assert learning_rate(9, settings) == pytest.approx(1.0, abs=0.03)
    assert learning_rate(100, settings) == pytest.approx(0.02)


def test_a_run_remembers_the_recipes_it_had(tokenizer, data, tmp_path):
    train_until(make_trainer(SHORT, tokenizer, tmp_path, **data), DEPTH_PHASE, 1)
    train_until(make_trainer(SHORT, tokenizer, tmp_path, **data), DEPTH_PHASE, 2)
    longer = replace(SHORT, depth=replace(SHORT.depth, learning_rate=1e-4))
    run = make_trainer(longer, tokenizer, tmp_path, **data)
    run.run(report=lambda _: None)
    assert [(one["from_step"], one["depth"]["learning_rate"]) for one in run.state.recipes] == [(0, 1e-3), (2, 1e-4)]
