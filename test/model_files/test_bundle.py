# SPDX-License-Identifier: Apache-2.0
"""A bundle is loaded only if every file is what the manifest says, and every file is hashed once."""

import json
import shutil

import pytest
from support.paths import TINY

from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.model import load_model
from depthlm_ros.model_files import bundle as bundle_module
from depthlm_ros.model_files.bundle import (
    MANIFEST,
    bundle_from_manifest,
    find_bundle,
    load_bundle,
    manifest_text,
)
from depthlm_ros.model_files.checkpoint import find_model


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    return tmp_path / "tiny"


def change(folder, **values):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(manifest_text(manifest | values))


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed, in their order."""
    names, digest = [], bundle_module.file_digest
    monkeypatch.setattr(bundle_module, "file_digest", lambda path: names.append(path.name) or digest(path))
    return names


def test_the_embedded_model_is_found_by_name_and_by_folder():
    assert load_bundle(find_bundle("tiny")) == load_bundle(find_bundle(str(TINY)))


def test_folder_of_the_same_name_does_not_hide_the_installed_model(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_bundle("tiny") == TINY


def test_error_for_an_unknown_model_lists_the_installed_models():
    with pytest.raises(UnknownName, match=r"'gigantic'.*tiny"):
        find_bundle("gigantic")


def test_engines_are_also_found_in_folders_of_the_environment_variable(copy, monkeypatch):
    renamed = copy.rename(copy.parent / "mine")
    monkeypatch.setenv("DEPTHLM_ENGINES", str(copy.parent))
    assert find_bundle("mine") == renamed


@pytest.mark.parametrize(
    "file", ["model.safetensors", "step.onnx", "tokenizer.json", "look_256x192.onnx", "read_384x288.onnx"]
)
def test_changed_file_is_refused_by_name(copy, file):
    raw = bytearray((copy / file).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / file).write_bytes(raw)
    with pytest.raises(BadBundle, match=f"{file} is damaged"):
        load_bundle(copy)


def test_truncated_file_is_refused_by_name(copy):
    raw = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadBundle, match=r"model\.safetensors is damaged"):
        load_bundle(copy)


def test_missing_file_is_refused_by_name(copy):
    (copy / "step.onnx").unlink()
    with pytest.raises(BadBundle, match=r"step.onnx is missing"):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}'])
def test_damaged_manifest_is_refused(copy, text):
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BadBundle, match=r"manifest\.json"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "values",
    [
        {"format": 99},
        {"canvases_px": "big"},
        {"canvases_px": []},
        {"prefix": {}},
        {"focal_px": None},
        {"focal_px": 0},
        {"focal_px": float("nan")},
        {"files": {"../../etc/passwd": "0"}},
        {"files": {"/etc/passwd": "0"}},
        {"files": {}},
        {"files": {"step.onnx": None}},
        {"calibration": {"dense_relative": -1}},
        {"calibration": {"words_spread": float("nan")}},
        {"calibration": {"dense_relativ": 0.2}},
        {"calibration": {"map_std_factor": -0.1}},
        {"calibration": {"map_std_centre_m": 0.0}},
        {"calibration": {"map_std_growth": 900.0}},
        {"calibration": {"map_std_upper": 900.0}},
        {"calibration": {"confidence_offset": -101}},
        {"calibration": 0.2},
    ],
)
def test_manifest_with_impossible_values_is_refused(copy, values):
    change(copy, **values)
    with pytest.raises(BadBundle):
        load_bundle(copy)


def test_a_bundle_of_an_older_format_is_refused_with_both_formats_and_the_repair(copy):
    change(copy, format=2)
    with pytest.raises(BadBundle, match=r"has format 2, this version reads 3: restore .*depthlm engine build"):
        load_bundle(copy)
    change(copy, rebuild="depthlm engine build --model tiny --size 640x480 --focal 500")
    with pytest.raises(BadBundle, match=r"format 2, .* reads 3: build it again: depthlm engine build .*--focal 500"):
        load_bundle(copy)


def test_a_depth_first_bundle_has_a_look_and_a_read_graph_for_each_canvas(copy):
    fields = json.loads((copy / MANIFEST).read_text())
    first = bundle_from_manifest(copy, fields | {"depth_first": True})
    sizes = ["256x192", "288x224", "384x288"]
    assert [path.name for path in first.look_paths] == [f"look_{size}.onnx" for size in sizes]
    reads = [f"read_{size}.onnx" for size in sizes]
    assert [path.name for path in first.prefix_paths] == reads
    assert [path.name for path in first.graphs] == [f"look_{size}.onnx" for size in sizes] + reads + ["step.onnx"]
    only_depth = bundle_from_manifest(copy, fields | {"depth_first": True, "only_depth": True, "pairs": False})
    assert only_depth.graphs == first.look_paths and only_depth.prefix_paths == ()
    with pytest.raises(BadBundle, match="one image at a time"):
        first.look_path((256, 192), 2)
    with pytest.raises(BadBundle, match="no graph for 64x64, only 256x192, 288x224, 384x288"):
        first.read_path((64, 64))


def test_other_bundles_have_no_read_graphs(copy):
    bundle = bundle_from_manifest(copy, json.loads((copy / MANIFEST).read_text()) | {"depth_first": False})
    assert bundle.prefix_paths == bundle.look_paths
    assert sorted(path.name for path in bundle.look_paths) == [
        f"{kind}_{size}.onnx" for kind in ("look", "pair") for size in ("256x192", "288x224", "384x288")
    ]
    with pytest.raises(BadBundle, match="no read graphs"):
        bundle.read_path((256, 192))


def test_manifest_of_an_unknown_family_is_refused(copy):
    change(copy, family="gpt")
    with pytest.raises(UnknownName, match="gpt"):
        load_model(str(copy))


def test_error_for_an_empty_folder_says_how_to_get_the_model(tmp_path):
    with pytest.raises(BadBundle, match="build the engine again"):
        load_bundle(tmp_path)


def test_error_for_an_unknown_backend_lists_the_known_backends():
    with pytest.raises(UnknownName, match=r"'openvino'.*onnxruntime"):
        load_model("tiny", backend="openvino")


def test_every_file_is_hashed_once_for_one_model_source(copy, hashed):
    source = find_model(str(copy))
    manifest = json.loads((copy / MANIFEST).read_text())
    assert sorted(hashed) == sorted(manifest["files"])
    assert source.digests == manifest["files"]
    assert find_model(source) is source
    load_model(source, backend="onnxruntime")
    assert source.fingerprint == source.fingerprint
    assert len(hashed) == len(manifest["files"])


def test_fingerprint_changes_with_the_files_and_is_computed_once(copy, monkeypatch):
    source = load_bundle(copy)
    first = source.fingerprint
    (copy / "notes.json").write_text("{}")
    assert source.fingerprint == first
    assert load_bundle(copy).fingerprint != first
