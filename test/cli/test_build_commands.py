"""`depthlm train` as a user runs it: its bundle loads and works, and an engine can be built from it."""

import json

import numpy as np
import pytest
import yaml
from support.command_line import depthlm

pytest.importorskip("torch")
pytest.importorskip("transformers")

from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.model import load_model

pytestmark = [pytest.mark.torch, pytest.mark.slow]
RECIPE = {
    "name": "mini",
    "family": "tiny",
    "licence": "Apache-2.0",
    "seed": 5,
    "model": {
        "vocab": 512,
        "vision_width": 48,
        "vision_depth": 4,
        "vision_heads": 2,
        "deepstack": [0, 1, 2],
        "width": 48,
        "depth": 3,
        "heads": 4,
        "heads_kv": 2,
        "feed_forward": 64,
        "head_projected": [8, 8, 8, 8],
        "head_features": 8,
    },
    "data": {"canvases": [[64, 48]], "focal_px": 48.0, "batch": 4},
    "train": {"steps": 3, "warmup_steps": 1, "bf16": False, "save_every": 2},
}


def depth_of_sample_image_m(folder, size_px):
    camera = Intrinsics(50.0, 50.0, 31.5, 23.5, 64, 48)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    model = load_model(str(folder))
    assert model.spec.canvas.canvases_px == (size_px,)
    return model.look(Frame(image, camera)).depth().depth_m


def test_train_writes_a_bundle_from_which_an_engine_can_be_built(tmp_path):
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    done = depthlm("train", "--recipe", recipe, "--run", tmp_path / "run", "--validation-images", 3, "--workers", 0)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "run" / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["provenance"]["steps_done"] == 3
    assert manifest["provenance"]["seed"] == 5
    assert json.loads((bundle / "scores_rendered.json").read_text())["images"] == 3
    depth_m = depth_of_sample_image_m(bundle, (64, 48))

    wide = ("--size", "96x64", "--backend", "onnxruntime", "--out", tmp_path / "wide")
    done = depthlm("engine", "build", "--model", bundle, *wide)
    assert done.returncode == 0, done.stderr
    wide_m = depth_of_sample_image_m(tmp_path / "wide", (96, 64))
    assert np.isfinite(depth_m).all()
    assert np.isfinite(wide_m).all()
    assert not np.array_equal(depth_m, wide_m)


def test_training_can_start_from_a_model_with_another_seed(tmp_path):
    recipe, images = tmp_path / "mini.yaml", ("--validation-images", 2, "--workers", 0)
    recipe.write_text(yaml.safe_dump(RECIPE))
    first = depthlm("train", "--recipe", recipe, "--run", tmp_path / "first", *images)
    assert first.returncode == 0, first.stderr
    bundle = tmp_path / "first" / "bundle"
    more = ("--run", tmp_path / "then", "--from", bundle, "--seed", 6, "--steps", 1)
    second = depthlm("train", "--recipe", recipe, *more, *images)
    assert second.returncode == 0, second.stderr
    assert f"started from {bundle}" in second.stdout
    provenance = json.loads((tmp_path / "then" / "bundle" / "manifest.json").read_text())["provenance"]
    assert (provenance["seed"], provenance["steps_done"]) == (6, 1)
    assert (tmp_path / "then" / "tokenizer.json").read_text() == (bundle / "tokenizer.json").read_text()

    wrong = depthlm("train", "--recipe", recipe, "--run", tmp_path / "wrong", "--seed", -1)
    assert wrong.returncode == 1, wrong.stderr
    assert "seed -1" in wrong.stderr
