# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on small random checkpoints: every recipe runs, learns, continues where it stopped, and writes a model
that the runtime loads."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402
from support.command_line import ROOT, depthlm  # noqa: E402
from support.random_backbones import our_states  # noqa: E402
from support.training_files import (  # noqa: E402
    CAMERA,
    depth_line,
    finetune,
    point_line,
    write_data,
    write_image,
    write_lines,
)
from torch.nn import functional  # noqa: E402

from depthlm_ros.cli import main  # noqa: E402
from depthlm_ros.cli.finetune import recipe_file, recipe_names  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.image_io import read_rgb  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.checkpoint import open_checkpoint  # noqa: E402
from depthlm_ros.nets.graphs import LookGraph  # noqa: E402
from depthlm_ros.nets.loading import load_released_model  # noqa: E402
from depthlm_ros.training.finetune.collator import EncodedSample  # noqa: E402
from depthlm_ros.training.finetune.model import find_base, load_finetune_model, make_chat_encoder, make_collator  # noqa: E402
from depthlm_ros.training.finetune.recipe import read_finetune_recipe  # noqa: E402
from depthlm_ros.training.finetune.run import FinetuneRun  # noqa: E402
from depthlm_ros.training.losses import silog_loss_of_maps  # noqa: E402

pytestmark = pytest.mark.torch
# Recipe: kind of data, base.
RUNS = {
    "depthlm-3b": ("points", "qwen2_5_vl"),
    "depthlm-7b": ("points", "qwen2_5_vl"),
    "depthlm-12b": ("points", "llava"),
    "depthvlm-stage1": ("dense", "depthvlm"),
    "depthvlm-stage2": ("dense", "depthvlm"),
    "vlm3-depth": ("points", "qwen3_vl"),
    "vlm3-object": ("objects", "qwen3_vl"),
    "vlm3-corr": ("pairs", "qwen3_vl"),
    "vlm3-pose": ("pairs", "qwen3_vl"),
}
# Questions about an image, where the recipe has ten: a step takes a third of the time.
FEW = {"data__questions": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def make_batch(recipe_name, data, base_folder, *changes, count=2):
    """Returns the model in float32, the recipe's first samples as a batch, their data set and the base."""
    recipe = read_finetune_recipe(recipe_file(recipe_name), ("train.gradient_checkpointing=false", *changes))
    base = find_base(recipe, str(base_folder))
    dataset = FinetuneRun(recipe, base, (str(data),), base_folder).dataset(count)
    batch = make_collator(base, dataset.encoder)([dataset[position] for position in range(count)])
    batch.pop("left_out")
    return load_finetune_model(base, recipe), batch, dataset, base


def test_every_recipe_is_tested():
    assert {*RUNS, "depthlm-grpo"} == set(recipe_names())


@pytest.mark.parametrize("recipe", RUNS)
def test_ten_steps_of_every_recipe_make_a_model_that_runs(bases, data, tmp_path, recipe):
    kind, base = RUNS[recipe]
    assert finetune(recipe, data[kind], bases[base], tmp_path, train__learning_rate=1e-3, **FEW) == 0
    history = json.loads((tmp_path / "training.json").read_text())
    losses = [entry["loss"] for entry in history["log"] if "loss" in entry]
    assert len(losses) == 10 and np.isfinite(losses).all()
    rgb = read_rgb(data[kind].parent / "0.png")
    model = load_model(str(tmp_path), backend="torch", device="cpu")
    frame = Frame(rgb, Intrinsics(*CAMERA))
    if model.family.abilities & {"match", "pose"}:
        assert model.look_pair(frame, frame) is not None
    else:
        view = model.look(frame)
        assert view.depth().depth_m.shape == rgb.shape[:2] if model.spec.head else view is not None


@pytest.mark.parametrize(
    ("recipe", "base", "changes"),
    [
        ("depthlm-3b", "qwen2_5_vl", ()),
        ("depthlm-3b", "llava", ("model=depthlm-12b",)),
        ("depthvlm-stage1", "depthvlm", ()),
        ("depthvlm-stage2", "depthvlm", ()),
        ("vlm3-depth", "qwen3_vl", ()),
        ("vlm3-object", "qwen3_vl", ("text.layout=turns",)),
        ("vlm3-corr", "qwen3_vl", ()),
        ("vlm3-pose", "qwen3_vl", ()),
    ],
)
def test_loss_falls_on_a_fixed_batch(bases, data, recipe, base, changes):
    kind = RUNS[recipe][0]
    model, batch, _, _ = make_batch(recipe, data[kind], bases[base], "data.questions=3", *changes)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(**batch).loss
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_stage_changes_only_the_parts_that_it_trains(bases, data, tmp_path):
    for recipe, frozen in (("depthvlm-stage1", ("model.",)), ("depthvlm-stage2", ("model.visual.",))):
        out = tmp_path / recipe
        finetune(recipe, data["dense"], bases["depthvlm"], out, steps=2, train__learning_rate=1e-2)
        before, after = (load_file(folder / "model.safetensors") for folder in (bases["depthvlm"], out))
        same = {name for name in after if torch.equal(after[name].float(), before[name].to(after[name].dtype).float())}
        assert {name for name in after if name.startswith(frozen)} <= same
        assert any(name.startswith("depth_head.") for name in after.keys() - same)
        assert any("language_model" in name for name in after.keys() - same) == (recipe == "depthvlm-stage2")


@pytest.mark.parametrize("recipe", RUNS)
def test_a_resumed_run_equals_one_that_never_stopped(bases, data, tmp_path, recipe):
    (kind, base), settings = RUNS[recipe], {"train__save_every": 3, "train__learning_rate": 1e-3, "train__keep": 9}
    settings |= FEW
    file = data[kind]
    finetune(recipe, file, bases[base], tmp_path / "whole", steps=6, **settings)
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-3", tmp_path / "parts/checkpoints/checkpoint-3")
    shutil.copy(tmp_path / "whole" / "run.json", tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "checkpoint-5").mkdir()  # the process ended while it was written
    finetune(recipe, file, bases[base], tmp_path / "parts", "--resume", steps=6, **settings)
    for name in ("checkpoints/checkpoint-6/model.safetensors", "model.safetensors"):
        first, second = ((tmp_path / part / name).read_bytes() for part in ("whole", "parts"))
        assert first == second
    started = json.loads((tmp_path / "parts" / "training.json").read_text())["started_from"]
    assert started.endswith("checkpoint-3")


@pytest.mark.slow
def test_two_processes_that_share_the_weights_learn_the_same_as_one(bases, data, tmp_path):
    """Sharded (FSDP), by torchrun, on the CPU."""
    settings = {"train__learning_rate": 1e-3, "train__bf16": "false"}
    finetune("depthvlm-stage2", data["dense"], bases["depthvlm"], tmp_path / "one", steps=3, **settings)
    small = ("train.batch=2", "train.batch_per_device=1", "train.workers=0", "train.log_every=1")
    given = [f"--set={each}" for each in (*small, "train.learning_rate=1e-3", "train.bf16=false")]
    words = [
        "finetune",
        "depthvlm-stage2",
        "--data",
        data["dense"],
        "--model",
        bases["depthvlm"],
        "--steps",
        "3",
        *given,
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["depthlm_ros.cli", *map(str, words), "--out", str(tmp_path / "two")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(bases["depthvlm"] / "model.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name].float(), one[name].float(), rtol=1e-2, atol=1e-4)
    assert any(not torch.equal(two[name].float(), start[name].to(two[name].dtype).float()) for name in two)


def test_a_full_disk_keeps_complete_checkpoints_and_is_reported_in_one_line(bases, data, tmp_path):
    out, small = tmp_path / "out", ["--set=train.batch=2", "--set=train.batch_per_device=1", "--set=train.workers=0"]
    command = ["finetune", "depthlm-3b", "--data", str(data["points"]), "--model", str(bases["qwen2_5_vl"]), *small]
    command += ["--out", str(out), "--steps", "3", "--set=train.save_every=2"]
    full = depthlm(*command, max_file_bytes=200_000)
    error = full.stderr.splitlines()[-1]
    assert full.returncode == 1 and error.startswith("depthlm: ") and "Make room and continue with --resume" in error
    assert main([*command, "--resume"]) == 0 and (out / "model.safetensors").is_file()


def test_a_folder_holds_one_run(bases, data, tmp_path, capsys):
    run = ("depthlm-3b", data["points"], bases["qwen2_5_vl"], tmp_path)
    finetune(*run, steps=1)
    assert finetune(*run, steps=1) == 1
    assert "--resume" in capsys.readouterr().err
    assert finetune(*run, "--resume", steps=1, train__learning_rate=1e-2) == 1
    assert "train.learning_rate was 1e-05, is 0.01" in capsys.readouterr().err
    assert finetune(*run, "--resume", steps=1, train__log_every=7) == 0


def test_skipped_records_are_counted_and_a_resumed_run_keeps_the_counts(bases, tmp_path, capsys):
    for index in range(2):
        write_image(tmp_path / f"{index}.png", index)
    lines = [point_line("0.png"), point_line("gone.png"), point_line("1.png", pixel_coords=[[1, 1]], depth=[2.0])]
    lines[0]["pixel_coords"][3], lines[0]["depth"][4:6] = [5000, 5], [-1.0, float("nan")]
    file = write_lines(tmp_path / "points.jsonl", lines)
    settings = {"train__save_every": 2, "train__keep": 9}
    finetune("depthlm-3b", file, bases["qwen2_5_vl"], tmp_path / "out", steps=4, **settings)
    left_out = json.loads((tmp_path / "out" / "training.json").read_text())["left_out"]
    reasons = {"image missing", "no room for the arrow", "point outside the image", "point without a depth"}
    assert left_out["counts"].keys() == reasons and min(left_out["counts"].values()) > 0
    assert left_out["counts"]["point without a depth"] == 2 * left_out["counts"]["point outside the image"]
    assert f"times: image missing; the first: {file}:2: image {tmp_path / 'gone.png'}" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-4")
    finetune("depthlm-3b", file, bases["qwen2_5_vl"], tmp_path / "out", "--resume", steps=4, **settings)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["left_out"] == left_out


def test_repeated_lines_are_reported(bases, tmp_path, capsys):
    write_image(tmp_path / "0.png")
    file = write_lines(
        tmp_path / "points.jsonl", [point_line("0.png"), point_line("0.png", seed=1), point_line("0.png")]
    )
    finetune("depthlm-3b", file, bases["qwen2_5_vl"], tmp_path / "out", steps=1)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["repeated_lines"] == {str(file): 1}
    assert f"{file}: 1 lines are equal to an earlier one" in capsys.readouterr().err


def test_unusable_data_are_reported_before_the_training(bases, data, tmp_path, capsys):
    file = write_lines(tmp_path / "points.jsonl", [point_line("gone.png")])
    assert finetune("depthlm-3b", file, bases["qwen2_5_vl"], tmp_path / "out") == 2
    assert "image missing" in capsys.readouterr().err
    assert finetune("depthvlm-stage1", data["pairs"], bases["depthvlm"], tmp_path / "out") == 2
    assert "key missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["depthlm-3b", "depthlm-12b", "vlm3-corr"])
def test_the_loss_is_that_of_the_runtime_networks(bases, data, name):
    """The same pixels and tokens, and the cross-entropy of the learnt tokens."""
    kind = {"depthlm-3b": "qwen2_5_vl", "depthlm-12b": "llava", "vlm3-corr": "qwen3_vl"}[name]
    recipe, file = ("vlm3-corr", "pairs") if name == "vlm3-corr" else ("depthlm-3b", "points")
    changes = (f"model={name}", "data.questions=1")
    model, batch, dataset, base = make_batch(recipe, data[file], bases[kind], *changes, count=1)
    sample, encoded = dataset.sample_at(0)
    encoder, row = dataset.encoder, encoded.row
    ids, image = row.ids.tolist(), [torch.from_numpy(picture)[None] for picture in sample.images]
    backbone = load_released_model(open_checkpoint(base.folder, base.spec), torch.float32)
    with torch.no_grad():
        texts = pieces_between(ids, encoder, dataset.image_tokens, sample.images)
        states, _, _ = our_states(backbone, texts, image)
        logits = backbone.logits(states)[0]
        expected = functional.cross_entropy(logits, torch.from_numpy(row.next_id), ignore_index=-100)
        loss = model(**batch).loss
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def pieces_between(ids, encoder, tokens, images):
    """Returns the texts before, between and after the images of a row, as tokens."""
    pieces, at = [], 0
    for picture in images:
        image = list(encoder.image_ids(tokens.span(picture)))
        start = next(i for i in range(at, len(ids)) if ids[i : i + len(image)] == image)
        pieces.append(ids[at:start])
        at = start + len(image)
    return [*pieces, ids[at:]]


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "llava"])
def test_the_loss_is_that_of_transformers(bases, data, kind):
    """transformers makes positions and shifted labels itself."""
    model = {"qwen2_5_vl": "depthlm-3b", "qwen3_vl": "vlm3-depth", "llava": "depthlm-12b"}[kind]
    recipe = "vlm3-depth" if kind == "qwen3_vl" else "depthlm-3b"
    changes = (f"model={model}", "data.questions=1")
    model, batch, _, _ = make_batch(recipe, data["points"], bases[kind], *changes, count=2)
    labels = torch.full_like(batch["next_id"], -100)
    labels[:, 1:] = batch["next_id"][:, :-1]
    given = {key: value for key, value in batch.items() if key not in ("next_id", "position_ids")}
    with torch.no_grad():
        expected, loss = model.vlm(**given, labels=labels).loss, model(**batch).loss
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_packed_questions_have_the_loss_of_single_questions(bases, data):
    model, batch, dataset, base = make_batch("vlm3-depth", data["points"], bases["qwen3_vl"], count=1)
    sample, _ = dataset.sample_at(0)
    assert len(sample.turns) == 10 and batch["attention_mask"].ndim == 4
    spans = [dataset.image_tokens.span(picture) for picture in sample.images]
    collate, total, count = make_collator(base, dataset.encoder), 0.0, 0
    with torch.no_grad():
        for turn in sample.turns:
            alone = collate([EncodedSample(dataset.encoder.encode(spans, [turn], dataset.text), sample.images)])
            alone.pop("left_out")
            learnt = int((alone["next_id"] >= 0).sum())
            total, count = total + learnt * float(model(**alone).loss), count + learnt
        assert float(model(**batch).loss) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("recipe", "base", "changes"),
    [
        ("depthlm-3b", "qwen2_5_vl", ()),
        ("depthlm-3b", "llava", ("model=depthlm-12b",)),
        ("depthvlm-stage2", "depthvlm", ("train.depth_weight=2.0",)),
    ],
)
def test_images_and_rows_of_different_sizes_have_the_loss_of_single_samples(bases, tmp_path, recipe, base, changes):
    lines = []
    for index, (width, height) in enumerate(((96, 64), (70, 90))):
        write_image(tmp_path / f"{index}.png", index, (width, height))
        camera = [1000.0, 1000.0, (width - 1) / 2, (height - 1) / 2, width, height]
        dense = depth_line(tmp_path, f"{index}.png", index) | {"original_rgb_size": [width, height]}
        points = point_line(f"{index}.png", intrinsics=camera, pixel_coords=[[40, 40]], depth=[10.0**index])
        lines.append(dense if base == "depthvlm" else points)
    file = write_lines(tmp_path / "both.jsonl", lines)
    model, batch, dataset, start = make_batch(recipe, file, bases[base], "data.mixture=concatenate", *changes)
    collate, alone = make_collator(start, dataset.encoder), []
    with torch.no_grad():
        for position in range(2):
            one = collate([dataset[position]])
            one.pop("left_out")
            alone.append((model(**one), int((one["next_id"] >= 0).sum())))
        together = model(**batch)
    text = sum(float(result.text) * count for result, count in alone) / sum(count for _, count in alone)
    assert float(together.text) == pytest.approx(text, rel=1e-5)
    if base == "depthvlm":
        depth = sum(float(result.depth) for result, _ in alone) / 2
        assert float(together.depth) == pytest.approx(depth, rel=1e-5)
        assert float(together.loss) == pytest.approx(text + 2 * depth, rel=1e-5)


def test_the_depth_in_training_is_the_depth_at_run_time(bases, data):
    model, batch, dataset, base = make_batch("depthvlm-stage2", data["dense"], bases["depthvlm"], count=2)
    inputs = {key: value for key, value in batch.items() if key not in ("next_id", "depth_m", "input_ids")}
    with torch.no_grad():
        _, maps = model.run_vlm(batch["input_ids"], inputs)
        backbone = load_released_model(open_checkpoint(base.folder, base.spec), torch.float32)
        encoder = make_chat_encoder(base)
        for position, depth_m in enumerate(maps):
            picture = torch.from_numpy(dataset[position].images[0])[None]
            texts = [encoder.text_ids(text) for text in (encoder.chat.before, encoder.chat.after)]
            look = LookGraph(backbone, texts, [(picture.shape[2], picture.shape[1])])
            torch.testing.assert_close(depth_m, look(picture)[0][0], rtol=1e-4, atol=1e-4)


def test_silog_follows_its_formula_over_known_pixels():
    predicted = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
    truth = torch.tensor([[2.0, 2.0], [float("nan"), 3.0]])  # one pixel without a label, one without a prediction
    d = np.log([0.5, 1.0])
    expected = np.sqrt((d**2).mean() - 0.5 * d.mean() ** 2 + 1e-8)
    assert float(silog_loss_of_maps([predicted], [truth])) == pytest.approx(expected, rel=1e-6)
    assert float(silog_loss_of_maps([predicted], [torch.zeros(2, 2)])) == 0.0
    both = silog_loss_of_maps([predicted, predicted], [truth, torch.zeros(2, 2)])
    assert float(both) == pytest.approx(expected, rel=1e-6)


def test_silog_resizes_the_prediction_to_the_size_of_the_label():
    predicted = torch.tensor([[1.0, 3.0]])
    truth = torch.tensor([[1.0, 2.0, 3.0]])  # bilinear with aligned corners puts 2.0 into the middle
    assert float(silog_loss_of_maps([predicted], [truth])) == pytest.approx(1e-4, rel=1e-3)


def test_a_batch_without_any_depth_still_has_a_gradient():
    predicted = torch.ones(2, 2, requires_grad=True)
    silog_loss_of_maps([predicted], [torch.zeros(2, 2)]).backward()
    assert torch.equal(predicted.grad, torch.zeros(2, 2))


def test_the_released_weights_are_the_learnt_ones(bases, data, tmp_path):
    finetune("depthvlm-stage2", data["dense"], bases["depthvlm"], tmp_path, steps=1, train__learning_rate=1e-2)
    base = find_base(read_finetune_recipe(recipe_file("depthvlm-stage2")), str(tmp_path))
    backbone = load_released_model(open_checkpoint(tmp_path, base.spec), torch.bfloat16)
    learnt = load_file(tmp_path / "checkpoints" / "checkpoint-1" / "model.safetensors")
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, learnt[name].to(tensor.dtype)), name
    assert next(backbone.depth_head.parameters()).dtype == torch.float32
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"] and config["dtype"] == "bfloat16"


def test_a_new_mlp_head_can_be_trained_and_runs(bases, data, tmp_path):
    settings = {"train__head": "mlp", "train__learning_rate": 1e-3}
    finetune("depthvlm-stage1", data["dense"], bases["qwen3_vl"], tmp_path, steps=1, **settings)
    rgb = read_rgb(data["dense"].parent / "0.png")
    model = load_model(str(tmp_path), backend="torch", device="cpu")
    assert np.isfinite(model.look(Frame(rgb, Intrinsics(*CAMERA))).depth().depth_m).all()


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed (requirements/grpo.txt)")
@pytest.mark.slow
def test_ten_steps_of_reinforcement_learn_and_resume(bases, data, tmp_path):
    """The base has learnt to answer, so that rewards differ."""
    answers = {"train__learning_rate": 5e-3, "train__clip": 1.0, "text__loss_on": "reply", "train__batch": 4}
    finetune("depthlm-3b", data["points"], bases["qwen2_5_vl"], tmp_path / "start", steps=60, **answers)
    settings = {"grpo__generations": 4, "grpo__reply_tokens": 50, "train__save_every": 5, "train__keep": 9}
    settings |= {"train__batch": 8, "train__batch_per_device": 4, "train__learning_rate": 1e-3}
    run = ("depthlm-grpo", data["points"], tmp_path / "start", tmp_path / "out")
    finetune(*run, steps=10, **settings)
    log = json.loads((tmp_path / "out" / "training.json").read_text())["log"]
    assert any(entry.get("grad_norm", 0) > 0 for entry in log)
    whole = (tmp_path / "out" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-10")
    finetune(*run, "--resume", steps=10, **settings)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole
