"""A model is found wherever it is, asked as its makers ask it, and refused with a remedy where it is not whole."""

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
import yaml
from support.command_line import depthlm
from support.paths import ROOT

from depthlm_ros.cli.models import entries
from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.model_files.bundle import Bundle
from depthlm_ros.model_files.checkpoint import Checkpoint, find_model
from depthlm_ros.model_files.hf_cache import cache_folder, is_hub_id
from depthlm_ros.model_files.image_processor import SizeRule, read_size_rule, settled
from depthlm_ros.model_files.safetensors_files import header_names, read_shards
from depthlm_ros.model_files.spec import CanvasRule
from depthlm_ros.model_files.spec_yaml import spec_named

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QWEN3 = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "patch_size": 16,
    "merge_size": 2,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}
QWEN25 = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 12845056,
}
PIXTRAL = {
    "image_processor_type": "PixtralImageProcessor",
    "patch_size": {"height": 16, "width": 16},
    "size": {"longest_edge": 1024},
}
CONFIGS = {
    "qwen3_vl": {"model_type": "qwen3_vl"},
    "qwen2_5_vl": {"model_type": "qwen2_5_vl"},
    "llava": {"model_type": "llava", "vision_config": {"model_type": "pixtral"}},
}
PROCESSORS = {"qwen3_vl": QWEN3, "qwen2_5_vl": QWEN25, "llava": PIXTRAL | {"do_resize": False, "do_rescale": False}}
needs_tiny = pytest.mark.skipif(
    not (ROOT / "engines" / "tiny").is_dir(), reason="engines/tiny is not here: `make train`"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of Hugging Face, and no engine folders but the installed ones."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("DEPTHLM_ENGINES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def write_tensors(path, names, cut=0):
    """A safetensors file, each tensor two float32, by the format's documentation."""
    entries = {n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(names)}
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(8 * len(names))
    path.write_bytes(whole[: len(whole) - cut])


def checkpoint(folder, architecture="qwen3_vl", tensors=("model.a", "lm_head.weight"), **config):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIGS[architecture] | config)
    write_json(folder / "preprocessor_config.json", PROCESSORS[architecture])
    write_json(folder / "tokenizer.json", {"added_tokens": []})
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def shard(folder, files):
    """Spreads tensors over files: name -> tensors, with an index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    for name, tensors in files.items():
        write_tensors(folder / name, tensors)
    places = {tensor: name for name, tensors in files.items() for tensor in tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    return folder


def download(cache, hub_id, source, commit=COMMIT, ref="main"):
    """What `hf download` leaves: files by content in blobs/, links to them in snapshots/."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for path in source.iterdir():
        shutil.copy(path, repository / "blobs" / f"{commit[:4]}{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/{commit[:4]}{path.name}")
    if ref:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    return snapshot


def refused(name, *said, kind=BadBundle):
    with pytest.raises(kind) as raised:
        find_model(str(name))
    for text in said:
        assert text in str(raised.value), str(raised.value)


# ---- where a name leads


@needs_tiny
def test_a_name_with_a_bundle_is_that_bundle_whatever_lies_in_the_working_directory(tmp_path):
    checkpoint(tmp_path / "tiny")
    found = find_model("tiny")
    assert isinstance(found, Bundle) and found.folder == ROOT / "engines" / "tiny"
    assert isinstance(find_model(str(ROOT / "engines" / "tiny")), Bundle)


@needs_tiny
def test_an_exported_model_comes_before_its_download(tmp_path, cache, monkeypatch):
    download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    shutil.copytree(ROOT / "engines" / "tiny", tmp_path / "engines" / "vlm3-depth")
    assert isinstance(find_model("vlm3-depth"), Checkpoint)
    monkeypatch.setenv("DEPTHLM_ENGINES", str(tmp_path / "engines"))
    assert isinstance(find_model("vlm3-depth"), Bundle)


@pytest.mark.parametrize("name", ["vlm3-depth", "facebook/VLM3-depth"])
def test_a_download_is_found_by_name_and_by_repository(tmp_path, cache, name):
    snapshot = download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    assert find_model(name) == Checkpoint(snapshot, spec_named("vlm3-depth"))


def test_an_unknown_repository_in_the_cache_is_asked_as_its_config_tells(tmp_path, cache):
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
def test_the_cache_is_where_hugging_face_s_tools_keep_it(monkeypatch, variables, expected):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.torch
def test_the_cache_is_read_as_hugging_face_s_own_library_reads_it(tmp_path, cache):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    download(cache, "facebook/VLM3-pose", checkpoint(tmp_path / "there"))
    download(cache, "facebook/VLM3-pose", tmp_path / "there", commit="f" * 40, ref="older")
    theirs = huggingface_hub.snapshot_download("facebook/VLM3-pose", local_files_only=True, cache_dir=cache)
    assert find_model("vlm3-pose").folder == Path(theirs)


def test_a_revision_is_kept_to(tmp_path, cache):
    own = {"like": "vlm3-depth", "revision": "v2"}
    (tmp_path / "pinned.yaml").write_text(yaml.safe_dump(own))
    download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    refused("pinned.yaml", f"at {COMMIT[:12]}, but not at v2", "hf download facebook/VLM3-depth --revision v2")
    snapshot = download(cache, "facebook/VLM3-depth", tmp_path / "there", commit="f" * 40, ref="v2")
    assert find_model("pinned.yaml").folder == snapshot


def test_the_only_commit_is_taken_where_no_branch_is_noted(tmp_path, cache):
    snapshot = download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"), ref="")
    assert find_model("vlm3-depth").folder == snapshot
    download(cache, "facebook/VLM3-depth", tmp_path / "there", commit="f" * 40, ref="")
    refused("vlm3-depth", f"{COMMIT[:12]}, ffffffffffff, but not at main")


# ---- what a folder tells


@pytest.mark.parametrize(
    ("architecture", "tensors", "family", "head"),
    [
        ("qwen3_vl", ["depth_head.norm.weight", "depth_head.projects.0.weight"], "depthvlm", "dpt"),
        ("qwen3_vl", ["depth_head.norm.weight", "depth_head.mlp.0.weight"], "depthvlm", "mlp"),
        ("qwen3_vl", ["lm_head.weight"], "qwen3-vl", ""),
        ("qwen2_5_vl", ["lm_head.weight"], "qwen2.5-vl", ""),
        ("llava", ["lm_head.weight"], "depthlm", ""),
    ],
)
def test_a_folder_s_config_tells_how_it_is_asked_where_nothing_else_does(tmp_path, architecture, tensors, family, head):
    found = find_model(str(checkpoint(tmp_path / "own", architecture, tensors)))
    assert (found.spec.family, found.spec.head, found.spec.name) == (family, head, "own")


@pytest.mark.parametrize(
    "folder", ["VLM3-corr", "models--facebook--VLM3-corr/snapshots/abc"], ids=["local dir", "snapshot"]
)
def test_a_folder_called_like_a_repository_is_asked_like_it(tmp_path, folder):
    assert find_model(str(checkpoint(tmp_path / folder))).spec == spec_named("vlm3-corr")


def test_a_folder_s_own_file_comes_before_its_name(tmp_path):
    folder = checkpoint(tmp_path / "VLM3-corr")
    (folder / "depthlm.yaml").write_text("{like: vlm3-pose, canvas: {rounding: round}}")
    spec = find_model(str(folder)).spec
    assert (spec.family, spec.canvas.rounding, spec.name) == ("vlm3-pose", "round", "VLM3-corr")


def test_a_name_may_be_given_to_the_weights_of_a_folder(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "own=1", "qwen2_5_vl")
    found = find_model(f"depthlm-7b={folder}")
    assert (found.folder, found.spec) == (folder, spec_named("depthlm-7b"))
    monkeypatch.chdir(folder)
    assert find_model(".").spec.family == "qwen2.5-vl" and find_model("depthlm-7b=.").spec.family == "depthlm"


def test_a_name_that_does_not_fit_the_weights_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "own", "qwen2_5_vl")
    refused(f"vlm3-depth={folder}", "'qwen2_5_vl', but vlm3-depth is 'qwen3_vl'")
    refused(f"nobody={folder}", "model 'nobody' is not one of", kind=UnknownName)
    refused("vlm3-depth=nowhere", "vlm3-depth=nowhere: there is no such folder")


@needs_tiny
def test_an_exported_model_takes_no_other_name():
    refused(f"vlm3-depth={ROOT / 'engines' / 'tiny'}", "knows how it is asked")


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    """auto_map names files of Python to be imported: it is left alone, and does not make an unknown kind known."""
    own = {"auto_map": {"AutoModel": "modeling.Bomb"}}
    folder = checkpoint(tmp_path / "own", **own)
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert find_model(str(folder)).spec.family == "qwen3-vl"
    write_json(folder / "config.json", own | {"model_type": "bomb"})
    refused(folder, "'bomb' (code of a checkpoint, auto_map, is never run)", "NAME=FOLDER", "vlm3-depth")
    assert not (tmp_path / "ran").exists()


def test_a_llava_without_pixtral_is_no_depthlm(tmp_path):
    refused(checkpoint(tmp_path / "own", "llava", vision_config={"model_type": "clip"}), "'llava', which does not tell")


def test_what_training_writes_needs_its_manifest(tmp_path):
    refused(checkpoint(tmp_path / "own", depth_head_config={}), "without its manifest.json", "--export-only")


# ---- what is not here


def test_a_missing_download_says_how_to_get_it_under_which_licence_and_where_it_is_then_found(cache):
    refused(
        "vlm3-depth",
        "run `hf download facebook/VLM3-depth`",
        "about 8.9 GB",
        "CC-BY-NC",
        "https://huggingface.co/facebook/VLM3-depth",
        str(cache),
        "vlm3-depth=FOLDER",
    )
    refused("someone/else", "run `hf download someone/else`", str(cache / "models--someone--else"))


@pytest.mark.parametrize("name", ["depthlm-3b", "depthlm-7b", "depthvlm-8b"])
def test_weights_that_were_never_released_are_not_asked_to_be_downloaded(name):
    with pytest.raises(BadBundle, match=r"announced|listed nowhere") as raised:
        find_model(name)
    assert "hf download" not in str(raised.value) and f"{name}=FOLDER" in str(raised.value)


@pytest.mark.parametrize("name", ["", "nobody", "../x/y", "a/b/c", "-x/y", "http://x/y", "vlm3-depth.yaml"])
def test_a_name_that_leads_nowhere_lists_what_there_is(name):
    refused(name, "vlm3-depth", "NAME=FOLDER", kind=UnknownName)


@pytest.mark.parametrize(("name", "good"), [("a/b", True), ("a/..", False), ("../b", False), ("a/b.c-d_e", True)])
def test_a_repository_s_name_never_leaves_the_cache(name, good):
    assert is_hub_id(name) is good


# ---- what is not whole


def test_weights_in_several_files_are_whole_with_all_of_them(tmp_path):
    folder = shard(checkpoint(tmp_path / "own"), {"model-00001-of-00002.safetensors": ["a"], "b.safetensors": ["b"]})
    assert isinstance(find_model(str(folder)), Checkpoint)
    assert read_shards(folder).names == {"a", "b"} and len(read_shards(folder).paths) == 2
    (folder / "b.safetensors").unlink()
    refused(folder, "names b.safetensors, which is missing (2 files in all)", "download the checkpoint again")


def test_a_file_that_lacks_what_the_index_promises_is_named(tmp_path):
    folder = shard(checkpoint(tmp_path / "own"), {"b.safetensors": ["b", "c"]})
    write_tensors(folder / "b.safetensors", ["b"])
    refused(folder, "b.safetensors lacks the tensor c")


@pytest.mark.parametrize("cut", [1, 16, 60, 500])
def test_a_download_that_was_broken_off_is_named(tmp_path, cut):
    folder = checkpoint(tmp_path / "own")
    write_tensors(folder / "model.safetensors", ["a", "b"], cut)
    refused(folder, str(folder / "model.safetensors"), "download the checkpoint again")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", b"\xff" * 8, b"version https://git-lfs.github.com/spec/v1\n", struct.pack("<Q", 4) + b"null"],
    ids=["empty", "one byte", "endless", "LFS pointer", "null"],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    folder = checkpoint(tmp_path / "own")
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors is no whole safetensors file")


@pytest.mark.parametrize(
    "entry", [{}, {"data_offsets": [0]}, {"data_offsets": "ab"}, {"data_offsets": [0, 1e999]}, [0, 8], None]
)
def test_a_header_without_places_is_refused(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BadBundle, match=r"x\.safetensors is no whole safetensors file"):
        header_names(tmp_path / "x.safetensors")


@pytest.mark.torch
def test_files_of_the_safetensors_library_are_read(tmp_path):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.ones(3, 4, dtype=torch.bfloat16), "b": torch.ones(()), "empty": torch.ones(0)}
    library.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert header_names(tmp_path / "x.safetensors") == set(tensors)
    library.save_file({}, tmp_path / "none.safetensors")
    assert header_names(tmp_path / "none.safetensors") == set()


def test_a_link_to_a_blob_that_is_gone_is_named_and_so_is_the_download(tmp_path, cache):
    snapshot = download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    blobs = snapshot.parents[1] / "blobs"
    (blobs / "0123model.safetensors").rename(blobs / "0123model.safetensors.incomplete")
    refused(
        "vlm3-depth",
        f"{snapshot / 'model.safetensors'} is a link to ../../blobs/0123model.safetensors, which is not there",
        "`hf download facebook/VLM3-depth` goes on where it stopped",
    )


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth", "x.ckpt"])
def test_weights_that_can_hide_code_are_refused(tmp_path, file):
    folder = checkpoint(tmp_path / "own")
    (folder / "model.safetensors").rename(folder / file)
    refused(folder, f"as {file}", "can run any code", "only safetensors are read")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(tmp_path, file):
    folder = checkpoint(tmp_path / "own")
    (folder / file).unlink()
    refused(folder, file, str(folder))


def test_parts_without_their_index_are_told(tmp_path):
    folder = checkpoint(tmp_path / "own")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    refused(folder, "model-00001-of-00002.safetensors, but not model.safetensors.index.json")


@pytest.mark.parametrize("place", ["../b.safetensors", "/etc/passwd", "b.bin", 3, ""])
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, place):
    folder = checkpoint(tmp_path / "own")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": place}})
    refused(folder, f"names {place!r}, which is no safetensors file beside it")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', "\x00"])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors.index.json"])
def test_damaged_files_are_refused(tmp_path, file, content):
    folder = checkpoint(tmp_path / "own")
    (folder / file).write_text(content)
    refused(folder, str(folder))


# ---- sizes of a checkpoint's own image processor


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        (QWEN3, SizeRule(True, 32, 65536, 16777216)),
        (QWEN25, SizeRule(True, 28, 3136, 12845056)),
        (QWEN25 | {"size": {"shortest_edge": 1, "longest_edge": 2}}, SizeRule(True, 28, 3136, 12845056)),
        ({"image_processor_type": "Qwen2VLImageProcessor"}, SizeRule(True, 28, 3136, 1003520)),
        (
            {"image_processor_type": "Qwen2VLImageProcessor", "size": {"min_pixels": 5000, "max_pixels": 9000}},
            SizeRule(True, 28, 5000, 9000),
        ),
        (QWEN3 | {"do_resize": False}, SizeRule(False, 32)),
        (PIXTRAL, SizeRule(True, 16, most_px=1024)),
        (PIXTRAL | {"patch_size": 14, "size": 1540}, SizeRule(True, 14, most_px=1540)),
        (PIXTRAL | {"do_resize": False, "do_rescale": False}, SizeRule(False, 16)),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_sizes_are_read_in_every_form_that_transformers_writes(tmp_path, facts, rule, nested):
    if nested:
        write_json(tmp_path / "processor_config.json", {"processor_class": "X", "image_processor": facts})
        write_json(tmp_path / "preprocessor_config.json", QWEN3 | {"patch_size": 99})
    else:
        write_json(tmp_path / "processor_config.json", {"processor_class": "X", "patch_size": 99})
        write_json(tmp_path / "preprocessor_config.json", facts)
    assert read_size_rule(tmp_path) == rule


@pytest.mark.parametrize(
    "change",
    [
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": None},
        {"patch_size": 0},
        {"patch_size": "a"},
        {"patch_size": float("inf")},
        {"patch_size": {"height": 16, "width": 14}},
        {"patch_size": {}},
        {"merge_size": None},
        {"size": None},
        {"size": {"shortest_edge": 65536}},
        {"size": {"shortest_edge": 2000, "longest_edge": 1000}},
        {"size": {"shortest_edge": -5, "longest_edge": 1000}},
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_refused(tmp_path, change):
    write_json(tmp_path / "preprocessor_config.json", QWEN3 | change)
    with pytest.raises(BadBundle, match=re.escape(str(tmp_path / "preprocessor_config.json"))):
        read_size_rule(tmp_path)


def test_the_checkpoint_s_sizes_count_and_a_model_file_may_only_limit_them_further(tmp_path):
    folder = checkpoint(tmp_path / "VLM3-depth")
    write_json(folder / "preprocessor_config.json", QWEN3 | {"size": {"shortest_edge": 1024, "longest_edge": 99999}})
    canvas = find_model(str(folder)).spec.canvas
    assert (canvas.least_pixels, canvas.most_pixels, canvas.focal_px) == (1024, 99999, 1000.0)
    (folder / "depthlm.yaml").write_text("{like: vlm3-depth, canvas: {most_pixels: 50000}}")
    assert find_model(str(folder)).spec.canvas.most_pixels == 50000


def test_a_pixtral_is_cropped_only_where_its_processor_does_not_resize():
    rule = CanvasRule(750.0, multiple_px=16, multiple_by="crop")
    assert settled(rule, SizeRule(False, 16)).multiple_by == "crop"
    resized = settled(rule, SizeRule(True, 16, most_px=1024))
    assert (resized.multiple_by, resized.most_px) == ("up", 1024)


# ---- the list of models


def test_the_list_tells_what_is_here_what_is_damaged_and_how_to_get_the_rest(tmp_path, cache, monkeypatch):
    download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    broken = download(cache, "facebook/VLM3-pose", tmp_path / "there")
    (broken / "model.safetensors").unlink()
    own = tmp_path / "engines" / "mine"
    own.mkdir(parents=True)
    write_json(own / "manifest.json", {"licence": "BSD"})
    monkeypatch.setenv("DEPTHLM_ENGINES", str(own.parent))
    listed = {entry.name: entry for entry in entries()}
    assert listed["vlm3-depth"].folder.endswith(COMMIT) and listed["vlm3-depth"].short == "here"
    assert listed["vlm3-pose"].folder == "" and "holds no weights" in listed["vlm3-pose"].get
    assert listed["vlm3-corr"].short == "hf download facebook/VLM3-corr (8.9 GB)"
    assert "announced" in listed["depthlm-3b"].get and listed["depthlm-3b"].short == "not here"
    assert (listed["mine"].licence, listed["mine"].folder) == ("BSD", str(own))


def models_verb(*args):
    done = depthlm("models", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_verb_models_shows_licences_and_commands():
    lines = models_verb().splitlines()
    (pose,) = (line for line in lines if line.startswith("vlm3-pose"))
    assert "hf download facebook/VLM3-pose" in pose and "non-commercial" in pose
    listed = json.loads(models_verb("--json"))
    assert {"name", "licence", "folder", "get"} <= set(listed[0])
    assert any(entry["name"] == "depthvlm-4b" and entry["licence"] == "Apache-2.0" for entry in listed)


def test_a_folder_at_the_top_of_a_path_is_told_to_be_no_model(tmp_path, monkeypatch):
    (tmp_path / "pics").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadBundle, match="pics is no model: it has neither"):
        find_model("tiny=pics")
