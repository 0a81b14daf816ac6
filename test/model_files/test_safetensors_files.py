# SPDX-License-Identifier: Apache-2.0
"""Incomplete, damaged or unsafe files of a checkpoint are refused by name."""

import json
import struct

import pytest
from support.checkpoint_folders import assert_refused, checkpoint, download, shard, write_json, write_tensors

from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint, find_model
from depthlm_ros.model_files.safetensors_files import TensorEntry, read_tensor_header, read_weight_files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_weights_in_several_files_need_all_of_them(tmp_path):
    folder = shard(
        checkpoint(tmp_path / "VLM3-depth"), {"model-00001-of-00002.safetensors": ["a"], "b.safetensors": ["b"]}
    )
    assert isinstance(find_model(str(folder)), ReleasedCheckpoint)
    weights = read_weight_files(folder)
    assert set(weights.tensors) == {"a", "b"} and len(weights.paths) == 2
    (folder / "b.safetensors").unlink()
    assert_refused(folder, "names b.safetensors, which is missing (2 files in all)", "download the checkpoint again")


def test_file_that_lacks_a_tensor_of_the_index_is_named(tmp_path):
    folder = shard(checkpoint(tmp_path / "VLM3-depth"), {"b.safetensors": ["b", "c"]})
    write_tensors(folder / "b.safetensors", ["b"])
    assert_refused(folder, "b.safetensors lacks the tensor c")


@pytest.mark.parametrize("cut", [1, 16, 60, 500])
def test_interrupted_download_is_named(tmp_path, cut):
    folder = checkpoint(tmp_path / "VLM3-depth")
    write_tensors(folder / "model.safetensors", ["a", "b"], cut)
    assert_refused(folder, str(folder / "model.safetensors"), "download the checkpoint again")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", b"\xff" * 8, struct.pack("<Q", 4) + b"null"],
    ids=["empty", "one byte", "endless", "null"],
)
def test_file_that_is_not_safetensors_is_refused(tmp_path, content):
    folder = checkpoint(tmp_path / "VLM3-depth")
    (folder / "model.safetensors").write_bytes(content)
    assert_refused(folder, "model.safetensors is not a complete safetensors file")


def test_pointer_of_git_lfs_in_place_of_a_file_is_named_with_the_command(tmp_path):
    folder = checkpoint(tmp_path / "VLM3-depth")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 8880000000\n"
    (folder / "model.safetensors").write_text(pointer)
    assert_refused(folder, "model.safetensors is a pointer of Git LFS", f"`git lfs pull` in {folder}")


def test_one_file_comes_before_an_index_that_was_left_there(tmp_path):
    """transformers reads a folder in this order."""
    folder = shard(checkpoint(tmp_path / "VLM3-depth"), {"model-00001-of-00001.safetensors": ["old"]})
    write_tensors(folder / "model.safetensors", ["new"])
    assert set(read_weight_files(folder).tensors) == {"new"}


@pytest.mark.parametrize(
    "entry", [{}, {"data_offsets": [0]}, {"data_offsets": "ab"}, {"data_offsets": [0, 1e999]}, [0, 8], None]
)
def test_header_without_data_offsets_is_refused(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BadBundle, match=r"x\.safetensors is not a complete safetensors file"):
        read_tensor_header(tmp_path / "x.safetensors")


@pytest.mark.torch
def test_files_of_the_safetensors_library_are_read(tmp_path):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.ones(3, 4, dtype=torch.bfloat16), "b": torch.ones(()), "empty": torch.ones(0)}
    library.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    path = tmp_path / "x.safetensors"
    found = read_tensor_header(path)
    assert found.keys() == tensors.keys()
    assert found["a"] == TensorEntry(path, "a", (3, 4), "BF16", found["a"].begin, found["a"].begin + 24)
    assert path.read_bytes()[found["a"].begin : found["a"].end] == tensors["a"].view(torch.uint8).numpy().tobytes()
    library.save_file({}, tmp_path / "none.safetensors")
    assert read_tensor_header(tmp_path / "none.safetensors") == {}


def test_error_for_a_broken_link_names_the_link_and_the_download_command(tmp_path, cache):
    snapshot = download(cache, "facebook/VLM3-depth", checkpoint(tmp_path / "there"))
    blobs = snapshot.parents[1] / "blobs"
    (blobs / "0123model.safetensors").rename(blobs / "0123model.safetensors.incomplete")
    assert_refused(
        "vlm3-depth",
        f"{snapshot / 'model.safetensors'} is a link to ../../blobs/0123model.safetensors, which does not exist",
        "`hf download facebook/VLM3-depth` continues it",
    )


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth", "x.ckpt"])
def test_weights_that_can_run_code_are_refused(tmp_path, file):
    folder = checkpoint(tmp_path / "VLM3-depth")
    (folder / "model.safetensors").rename(folder / file)
    assert_refused(folder, f"as {file}", "can run any code", "only safetensors are read")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_missing_file_is_named(tmp_path, file):
    folder = checkpoint(tmp_path / "VLM3-depth")
    (folder / file).unlink()
    assert_refused(folder, file, str(folder))


def test_parts_without_their_index_are_refused(tmp_path):
    folder = checkpoint(tmp_path / "VLM3-depth")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert_refused(folder, "model-00001-of-00002.safetensors, but not model.safetensors.index.json")


@pytest.mark.parametrize("place", ["../b.safetensors", "/etc/passwd", "b.bin", 3, ""])
def test_index_that_leads_out_of_its_folder_is_refused(tmp_path, place):
    folder = checkpoint(tmp_path / "VLM3-depth")
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": place}})
    assert_refused(folder, f"names {place!r}, which is not a safetensors file beside it")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', "\x00"])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors.index.json"])
def test_damaged_files_are_refused(tmp_path, file, content):
    folder = checkpoint(tmp_path / "VLM3-depth")
    if file.endswith(".index.json"):
        (folder / "model.safetensors").unlink()
    (folder / file).write_text(content)
    assert_refused(folder, str(folder))
