# SPDX-License-Identifier: Apache-2.0
"""A model is found wherever it is and gets the right spec; errors say how to get a model that is missing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.checkpoint_folders import COMMIT, assert_refused, checkpoint, download, write_json
from support.command_line import depthlm
from support.paths import ROOT

from depthlm_ros.cli.models import list_models
from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model_files.bundle import ModelBundle
from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint, find_model
from depthlm_ros.model_files.hf_cache import cache_folder, is_hub_id
from depthlm_ros.model_files.spec_yaml import find_spec

needs_tiny = pytest.mark.skipif(
    not (ROOT / "engines" / "tiny").is_dir(), reason="engines/tiny is not here: `make train`"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no engine folders except the installed ones."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("DEPTHLM_ENGINES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


# ---- what a name finds


@needs_tiny
def test_name_of_a_bundle_is_found_before_a_folder_in_the_working_directory(tmp_path):
    checkpoint(tmp_path / "tiny")
    found = find_model("tiny")
    assert isinstance(found, ModelBundle) and found.folder == ROOT / "engines" / "tiny"
    assert isinstance(find_model(str(ROOT / "engines" / "tiny")), ModelBundle)


@needs_tiny
def test_exported_model_is_found_before_its_download(tmp_path, cache, monkeypatch):
    download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    shutil.copytree(ROOT / "engines" / "tiny", tmp_path / "engines" / "vlm3-depth")
    assert isinstance(find_model("vlm3-depth"), ReleasedCheckpoint)
    monkeypatch.setenv("DEPTHLM_ENGINES", str(tmp_path / "engines"))
    assert isinstance(find_model("vlm3-depth"), ModelBundle)


@pytest.mark.parametrize("name", ["vlm3-depth", "facebook/VLM3-depth"])
def test_download_is_found_by_name_and_by_repository(tmp_path, cache, name):
    snapshot = download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    found = find_model(name)
    assert isinstance(found, ReleasedCheckpoint)
    assert (found.folder, same_canvas(found.spec)) == (snapshot, same_canvas(find_spec("vlm3-depth")))


def test_spec_of_an_unknown_repository_in_the_cache_follows_from_its_config(tmp_path, cache):
    download(cache, "someone/finetuned", checkpoint(tmp_path / "there", tensors=["depth_head.norm.weight"]))
    spec = find_model("someone/finetuned").spec
    assert (spec.family, spec.head, spec.name, spec.licence) == ("depthvlm", "dpt", "finetuned", "")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a/b"}, "/a/b"),
        ({"HF_HOME": "/a", "XDG_CACHE_HOME": "/x"}, "/a/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
    ],
)
def test_cache_folder_is_that_of_hugging_faces_tools(monkeypatch, variables, expected):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.torch
def test_cache_is_read_as_hugging_faces_library_reads_it(tmp_path, cache):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    download(cache, "facebook/VLM3-pose", checkpoint(tmp_path / "there"))
    download(cache, "facebook/VLM3-pose", tmp_path / "there", commit="f" * 40, ref="older")
    theirs = huggingface_hub.snapshot_download("facebook/VLM3-pose", local_files_only=True, cache_dir=cache)
    assert find_model("vlm3-pose").folder == Path(theirs)


def test_only_the_requested_revision_is_used(tmp_path, cache):
    own = {"like": "vlm3-depth", "revision": "v2"}
    (tmp_path / "pinned.yaml").write_text(yaml.safe_dump(own))
    download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    assert_refused("pinned.yaml", f"at {COMMIT[:12]}, but not at v2", "hf download facebook/VLM3-depth --revision v2")
    snapshot = download(cache, "facebook/VLM3-depth", tmp_path / "there", commit="f" * 40, ref="v2")
    assert find_model("pinned.yaml").folder == snapshot


def test_only_commit_is_used_if_no_branch_is_noted(tmp_path, cache):
    snapshot = download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"), ref="")
    assert find_model("vlm3-depth").folder == snapshot
    download(cache, "facebook/VLM3-depth", tmp_path / "there", commit="f" * 40, ref="")
    assert_refused("vlm3-depth", f"{COMMIT[:12]}, ffffffffffff, but not at main")


# ---- the spec of a folder


@pytest.mark.parametrize(
    ("architecture", "tensors", "family", "head"),
    [
        ("qwen3_vl", ["depth_head.norm.weight", "depth_head.projects.0.weight"], "depthvlm", "dpt"),
        ("qwen3_vl", ["model.depth_head.norm.weight", "module.depth_head.mlp.0.weight"], "depthvlm", "mlp"),
        ("llava", ["lm_head.weight"], "depthlm", ""),
    ],
)
def test_folder_that_only_one_system_has_is_taken_for_it_and_said_so(
    tmp_path, caplog, architecture, tensors, family, head
):
    found = find_model(str(checkpoint(tmp_path / "own", architecture, tensors)))
    assert (found.spec.family, found.spec.head, found.spec.name) == (family, head, "own")
    (said,) = caplog.messages
    assert f"own is taken for {family}-" in said and f"NAME={tmp_path / 'own'}" in said


@pytest.mark.parametrize(
    ("architecture", "first", "others"),
    [("qwen3_vl", "vlm3-depth", ["vlm3-pose", "qwen3-vl-4b"]), ("qwen2_5_vl", "depthlm-3b", ["qwen2.5-vl-3b"])],
)
def test_folder_that_several_systems_could_have_is_not_run_as_any_of_them(tmp_path, architecture, first, others):
    """Each is asked in another way: the wrong one gives wrong depth without an error."""
    folder = checkpoint(tmp_path / "w", architecture)
    assert_refused(folder, f"say which, for example {first}={folder}", *others)
    assert find_model(f"{first}={folder}").spec.name == first


def test_repository_in_the_cache_can_be_given_a_name(tmp_path, cache):
    snapshot = download(cache, "someone/finetuned", checkpoint(tmp_path / "there"))
    assert_refused("someone/finetuned", "vlm3-depth=someone/finetuned")
    assert find_model("vlm3-depth=someone/finetuned").folder == snapshot


def test_folder_whose_name_says_another_system_than_it_is_asked_as_is_told(tmp_path, caplog):
    folder = checkpoint(tmp_path / "VLM3-corr")
    assert find_model(f"vlm3-pose={folder}").spec.name == "vlm3-pose"
    assert caplog.messages == [f"{folder} is named like vlm3-corr, but it is asked as vlm3-pose"]


@pytest.mark.parametrize(
    "folder",
    ["VLM3-corr", "vlm3-corr", "models--facebook--VLM3-corr/snapshots/abc"],
    ids=["local dir", "name", "snapshot"],
)
def test_folder_named_like_a_model_or_its_repository_gets_its_spec(tmp_path, folder):
    found = find_model(str(checkpoint(tmp_path / folder)))
    assert same_canvas(found.spec) == same_canvas(find_spec("vlm3-corr"))


def same_canvas(spec):
    """The spec without what the checkpoint's own image processor says."""
    return replace(spec, canvas=CanvasRule(spec.canvas.focal_px))


def test_own_yaml_of_a_folder_takes_precedence_over_its_name(tmp_path):
    folder = checkpoint(tmp_path / "VLM3-corr")
    (folder / "depthlm.yaml").write_text("{like: vlm3-pose, canvas: {rounding: round}}")
    spec = find_model(str(folder)).spec
    assert (spec.family, spec.canvas.rounding, spec.name) == ("vlm3-pose", "round", "VLM3-corr")


def test_name_can_be_given_to_the_weights_of_a_folder(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "own=1", "qwen2_5_vl")
    found = find_model(f"depthlm-7b={folder}")
    assert (found.folder, same_canvas(found.spec)) == (folder, same_canvas(find_spec("depthlm-7b")))
    monkeypatch.chdir(folder)
    assert_refused(".", "for example depthlm-3b=.")
    assert find_model("depthlm-7b=.").spec.family == "depthlm"


def test_name_that_does_not_fit_the_weights_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "own", "qwen2_5_vl")
    assert_refused(f"vlm3-depth={folder}", "'qwen2_5_vl', but vlm3-depth is 'qwen3_vl'")
    assert_refused(f"nobody={folder}", "model 'nobody' is not one of", kind=UnknownName)
    assert_refused("vlm3-depth=nowhere", "vlm3-depth=nowhere: there is no such folder")


@needs_tiny
def test_exported_model_cannot_be_given_another_name():
    assert_refused(f"vlm3-depth={ROOT / 'engines' / 'tiny'}", "knows how it is asked")


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    """auto_map names Python files to import. It is ignored, and does not make an unknown kind known."""
    own = {"auto_map": {"AutoModel": "modeling.Bomb"}}
    folder = checkpoint(tmp_path / "own", **own)
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert find_model(f"vlm3-depth={folder}").spec.family == "vlm3-depth"
    write_json(folder / "config.json", own | {"model_type": "bomb"})
    assert_refused(folder, "'bomb' (code of a checkpoint, auto_map, is never run)", "NAME=FOLDER", "vlm3-depth")
    assert not (tmp_path / "ran").exists()


def test_llava_without_pixtral_is_not_taken_for_depthlm(tmp_path):
    assert_refused(
        checkpoint(tmp_path / "own", "llava", vision_config={"model_type": "clip"}), "'llava', which does not tell"
    )


def test_folder_of_depthlm_train_without_its_manifest_is_refused(tmp_path):
    assert_refused(
        checkpoint(tmp_path / "own", depth_first_config={}),
        "was written by `depthlm train`, but has no manifest.json",
        "--export-only",
    )


# ---- what is not on this machine


def test_error_for_a_missing_download_names_command_licence_and_place(cache):
    assert_refused(
        "vlm3-depth",
        "run `hf download facebook/VLM3-depth`",
        "about 8.9 GB",
        "CC-BY-NC",
        "https://huggingface.co/facebook/VLM3-depth",
        str(cache),
        "vlm3-depth=FOLDER",
    )
    assert_refused("someone/else", "run `hf download someone/else`", str(cache / "models--someone--else"))


@pytest.mark.parametrize("name", ["depthlm-3b", "depthlm-7b", "depthvlm-8b"])
def test_error_for_unreleased_weights_does_not_ask_for_a_download(name):
    with pytest.raises(BadBundle, match=r"announced|listed nowhere") as raised:
        find_model(name)
    assert "hf download" not in str(raised.value) and f"{name}=FOLDER" in str(raised.value)


@pytest.mark.parametrize("name", ["", "nobody", "../x/y", "a/b/c", "-x/y", "http://x/y", "vlm3-depth.yaml"])
def test_error_for_an_unknown_name_lists_the_known_models(name):
    assert_refused(name, "vlm3-depth", "NAME=FOLDER", kind=UnknownName)


@pytest.mark.parametrize(("name", "good"), [("a/b", True), ("a/..", False), ("../b", False), ("a/b.c-d_e", True)])
def test_hub_id_cannot_lead_out_of_the_cache(name, good):
    assert is_hub_id(name) is good


# ---- the list of models


def test_list_of_models_tells_what_is_here_what_is_damaged_and_how_to_get_the_rest(tmp_path, cache, monkeypatch):
    download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    broken = download(cache, "facebook/VLM3-pose", tmp_path / "there")
    (broken / "model.safetensors").unlink()
    own = tmp_path / "engines" / "mine"
    own.mkdir(parents=True)
    write_json(own / "manifest.json", {"licence": "BSD"})
    monkeypatch.setenv("DEPTHLM_ENGINES", str(own.parent))
    listed = {entry.name: entry for entry in list_models()}
    assert listed["vlm3-depth"].folder.endswith(COMMIT) and listed["vlm3-depth"].short == "here"
    assert listed["vlm3-pose"].folder == "" and "holds no weights" in listed["vlm3-pose"].get
    assert listed["vlm3-corr"].short == "hf download facebook/VLM3-corr (8.9 GB)"
    assert "announced" in listed["depthlm-3b"].get and listed["depthlm-3b"].short == "not here"
    assert (listed["mine"].licence, listed["mine"].folder) == ("BSD", str(own))


def models_verb(*args):
    done = depthlm("models", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_verb_shows_licences_and_commands():
    lines = models_verb().splitlines()
    (pose,) = (line for line in lines if line.startswith("vlm3-pose"))
    assert "hf download facebook/VLM3-pose" in pose and "non-commercial" in pose
    listed = json.loads(models_verb("--json"))
    assert {"name", "licence", "folder", "get"} <= set(listed[0])
    assert any(entry["name"] == "depthvlm-4b" and entry["licence"] == "Apache-2.0" for entry in listed)


def test_relative_folder_without_a_model_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "pics").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadBundle, match="pics is not a model: it has neither"):
        find_model("tiny=pics")
