# SPDX-License-Identifier: Apache-2.0
"""Options of `depthlm eval` that change the model: quantised weights, VLM3's checkpoints, as released."""

import json

import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room, write_labels
from support.paths import needs_tiny

from depthlm_ros import cli
from depthlm_ros.core import Frame
from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.checkpoint import find_source


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with a small random checkpoint for depth, named like VLM3's."""
    pytest.importorskip("torch")
    from support.released_checkpoints import publish

    folder = tmp_path_factory.mktemp("vlm3")
    publish(folder / "vlm3-depth", "qwen3_vl", with_head=False)
    return folder


def evaluate(labels, *words):
    out = labels.parent / "scores.json"
    code = cli.main(["eval", str(labels), "--json", str(out), *map(str, words)])
    return code, json.loads(out.read_text()) if out.exists() else {}


@needs_tiny
def test_exported_model_is_not_quantised_on_loading(tmp_path, capsys):
    assert evaluate(write_labels(tmp_path), "--quantise", "int8") == (2, {})
    assert "engine build --precision int8" in capsys.readouterr().err


@pytest.mark.torch
def test_missing_library_is_named_before_weights_are_loaded(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    model = f"vlm3-depth={weights / 'vlm3-depth'}"
    assert evaluate(write_labels(tmp_path), "--model", model, "--quantise", "nf4")[0] == 1
    assert "pip install bitsandbytes accelerate" in capsys.readouterr().err


@pytest.mark.torch
def test_weights_that_are_quantised_already_are_not_quantised_again(weights, monkeypatch):
    source = find_source(f"vlm3-depth={weights / 'vlm3-depth'}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: name)
    once = source.quantised("nf4")
    assert once.quantisation.on_load["load_in_4bit"] and source.quantisation is None
    with pytest.raises(BadBundle, match="quantised already"):
        once.quantised("int8")


@pytest.mark.torch
@pytest.mark.parametrize(("precision", "kind"), [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")])
def test_quantised_weights_are_smaller_and_nearly_the_same(weights, tmp_path, precision, kind):
    pytest.importorskip("bitsandbytes")
    from depthlm_ros.model import load_model

    source = find_source(f"vlm3-depth={weights / 'vlm3-depth'}")
    plain, small = (load_model(each, device="cpu") for each in (source, source.quantised(precision)))
    kinds = [type(module).__name__ for module in small.backend._model.vlm.model.language_model.modules()]
    assert kinds.count(kind) >= 7 and "Linear" not in kinds
    canvas = np.ascontiguousarray(render_room()[0][:96, :128])[None]
    one, other = (model.backend.look([canvas]).prefix[0].float().numpy() for model in (plain, small))
    error = np.abs(one - other).mean() / np.abs(one).mean()
    assert 1e-5 < error < 0.2
    assert len(small.look(Frame(render_room()[0], CAMERA)).depth_at([[9, 9]]).depth_m) == 1
    code, scores = evaluate(
        write_labels(tmp_path, images=1, points=2),
        *("--model", f"vlm3-depth={weights / 'vlm3-depth'}", "--device", "cpu", "--quantise", precision),
    )
    assert code == 0 and scores["quantise"] == precision and scores["n"] == 2


@pytest.mark.torch
def test_vlm3_is_scored_by_the_checkpoint_for_the_task(weights, tmp_path, capsys):
    options = ["--model", f"vlm3={weights}", "--device", "cpu"]
    code, scores = evaluate(write_labels(tmp_path, images=1, points=2), *options)
    assert code == 0 and scores["model"] == "vlm3-depth" and scores["n"] == 2
    assert evaluate(write_labels(tmp_path), "--task", "pose", *options)[0] == 1
    assert "holds no folder vlm3-pose" in capsys.readouterr().err
