"""Records in WebDataset shards: whole or not there, continued after a kill, read back by the library."""

import json

import cv2
import numpy as np
import pytest
from support.command_line import depthlm
from support.small_data_sets import curated, picture, text

from depthlm_ros.cli import main
from depthlm_ros.data.read import read_records
from depthlm_ros.data.records import Problem
from depthlm_ros.data.webdataset import pack, read_shards, unpack
from depthlm_ros.errors import BadInput

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
    (tmp_path / "shards" / f"partial-{rest[0].name}").write_bytes(whole[:100])
    rest[0].unlink()
    list(pack(records, tmp_path / "shards", 2, []))
    assert first.stat().st_mtime_ns == kept and rest[0].read_bytes() == whole
    assert not list((tmp_path / "shards").glob("partial-*"))


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


def test_what_is_not_in_a_shard_is_counted_in_a_later_run_too(records, tmp_path):
    unreadable = tmp_path / "in" / "rgb" / "3.png"
    unreadable.unlink()
    unreadable.symlink_to("/proc/self/mem")  # a file that is there, and cannot be read
    for _ in range(2):
        problems: list[Problem] = []
        assert [count for _, count in pack(records, tmp_path / "shards", 3, problems)] == [3, 1]
        assert [problem.reason for problem in problems] == ["image unusable"] and ":4" in problems[0].where


def test_a_full_disk_leaves_whole_shards_and_is_gone_on_from(records, tmp_path):
    command = ["data", "pack", str(records), "--out", str(tmp_path / "shards"), "--images", "2"]
    full = depthlm(*command, most_bytes=4096)
    assert full.returncode == 2 and "Make room and run the same command again" in full.stderr
    assert not list((tmp_path / "shards").glob("*.tar"))
    assert main(command) == 0 and len(list((tmp_path / "shards").glob("*.tar"))) == 3


def test_damaged_files_are_not_packed_and_doubles_are_told(records, tmp_path, capsys):
    rgb = tmp_path / "in" / "rgb"
    (rgb / "0.png").write_bytes((rgb / "0.png").read_bytes()[:-12])
    picture(rgb / "1.png", 16, 12)
    np.save(tmp_path / "in" / "depth" / "2.npy", np.full((3, 3), 1.0, np.float32))
    lines = records.read_text().splitlines()
    records.write_text("\n".join([*lines, lines[-1]]) + "\n")
    for _ in range(2):  # and the same of shards that are there
        assert main(["data", "pack", str(records), "--out", str(tmp_path / "shards")]) == 0
        told = capsys.readouterr().out
        assert "folder-000000.tar: 3 records" in told  # 3, 4 and 4 again
        for reason in ("image unusable", "image of another size", "depth map of another size", "duplicate line"):
            assert f"1 x {reason}" in told


def test_pairs_are_refused_in_one_line(tmp_path, capsys):
    text(tmp_path / "a.pairs.jsonl", '{"images": ["a.png", "b.png"]}')
    assert main(["data", "pack", str(tmp_path / "a.pairs.jsonl"), "--out", str(tmp_path / "shards")]) == 2
    assert "holds pairs, which are not packed" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "options"), [("", []), ("{}\n", []), (None, ["--images", "0"])])
def test_nothing_to_pack_is_an_error(records, tmp_path, content, options):
    if content is not None:
        records.write_text(content)
    assert main(["data", "pack", str(records), "--out", str(tmp_path / "shards"), *options]) == 2


def test_unpacked_shards_are_the_records_again(records, tmp_path, capsys):
    shards = [str(shard) for shard, _ in pack(records, tmp_path / "shards", 3, [])]
    assert main(["data", "unpack", *shards, "--out", str(tmp_path / "again")]) == 0
    assert "folder-000001.jsonl: 2 records" in capsys.readouterr().out
    again = [
        one
        for shard in ("000000", "000001")
        for one in read_records(tmp_path / "again" / f"folder-{shard}.jsonl").records
    ]
    for one, other in zip(again, read_records(records).records, strict=True):
        assert one.image.read_bytes() == other.image.read_bytes() and one.intrinsics == other.intrinsics
        assert one.depth.path.read_bytes() == other.depth.path.read_bytes() and one.depth.scale == other.depth.scale
        np.testing.assert_array_equal(one.depth_m, other.depth_m)


def test_what_is_no_shard_is_named(tmp_path):
    text(tmp_path / "a.tar", "no tar file")
    with pytest.raises(BadInput, match=r"a\.tar: is no shard"):
        list(unpack([tmp_path / "a.tar"], tmp_path))
