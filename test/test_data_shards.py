"""Records in WebDataset shards: whole or not there, continued after a kill, read back by the library."""

import json

import cv2
import numpy as np
import pytest
from minis import curated, picture, text

from depthlm_ros.cli import main
from depthlm_ros.data.shards import pack, read_shards

pytestmark = pytest.mark.torch  # webdataset is in the training environment


@pytest.fixture
def records(tmp_path):
    """Five records with depth maps, in DepthVLM's schema."""
    for n in range(5):
        picture(tmp_path / "in" / "rgb" / f"{n}.png", 8, 6)
        (tmp_path / "in" / "depth").mkdir(exist_ok=True)
        np.save(tmp_path / "in" / "depth" / f"{n}.npy", np.full((6, 8), 1.0 + n, np.float32))
    text(tmp_path / "in" / "intrinsics.txt", "8 0 3.5 0 8 2.5 0 0 1")
    curated("folder", tmp_path / "in", tmp_path / "out", format="depthvlm")
    return tmp_path / "out" / "folder.jsonl"


def test_a_sample_holds_the_files_themselves_and_the_line_without_paths(records, tmp_path):
    shards = [shard for shard, _ in pack(records, tmp_path / "shards", 2, [])]
    assert [shard.name for shard in shards] == [f"folder-{n:06d}.tar" for n in range(3)]
    samples = list(read_shards([str(shard) for shard in shards]))
    assert [sample["__key__"] for sample in samples] == [f"{n:08d}" for n in range(5)]
    for n, sample in enumerate(samples):
        assert sample["png"] == (tmp_path / "in" / "rgb" / f"{n}.png").read_bytes()
        assert sample["json"]["depth"][0] == 1.0 + n and not {"image", "depth_path"} & sample["json"].keys()
        assert sample["depth.npy"] == (tmp_path / "in" / "depth" / f"{n}.npy").read_bytes()
    assert cv2.imdecode(np.frombuffer(samples[0]["png"], np.uint8), 1).shape == (6, 8, 3)


def test_shards_that_are_there_stay_and_partial_ones_are_made_again(records, tmp_path):
    first, *rest = [shard for shard, _ in pack(records, tmp_path / "shards", 2, [])]
    kept = first.stat().st_mtime_ns
    whole = rest[0].read_bytes()
    rest[0].with_suffix(".partial").write_bytes(whole[:100])
    rest[0].unlink()
    list(pack(records, tmp_path / "shards", 2, []))
    assert first.stat().st_mtime_ns == kept and rest[0].read_bytes() == whole
    assert not list((tmp_path / "shards").glob("*.partial"))


def test_an_image_that_vanished_is_counted(records, tmp_path, capsys):
    (tmp_path / "in" / "rgb" / "3.png").unlink()
    assert main(["data", "pack", str(records), "--out", str(tmp_path / "shards"), "--images", "10"]) == 0
    told = capsys.readouterr().out
    assert "folder-000000.tar: 4 records" in told and "1 x image missing" in told


def test_another_size_of_shards_is_refused_in_the_same_folder(records, tmp_path, capsys):
    options = ["data", "pack", str(records), "--out", str(tmp_path / "shards"), "--images"]
    assert main([*options, "2"]) == 0
    assert main([*options, "3"]) == 2
    assert "2 records" in capsys.readouterr().err
    assert json.loads((tmp_path / "shards" / "folder.pack.json").read_text())["per_shard"] == 2
