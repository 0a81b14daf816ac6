# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: written completely or not at all, continued after a kill, read in place and by the library."""

import io
import json
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import numpy as np
import pytest
from support.command_line import depthlm
from support.small_data_sets import curate_and_read, write_file, write_image

from depthlm_ros.cli import main
from depthlm_ros.data.read import read_records
from depthlm_ros.data.records import RecordProblem
from depthlm_ros.data.webdataset import ShardIndex, pack_shards, unpack_shards, write_shard
from depthlm_ros.errors import BadInput


@pytest.fixture
def records(tmp_path):
    """Writes five records with depth maps in DepthVLM's schema, and returns the file."""
    for n in range(5):
        write_image(tmp_path / "in" / "rgb" / f"{n}.png", 8, 6)
        (tmp_path / "in" / "depth").mkdir(exist_ok=True)
        np.save(tmp_path / "in" / "depth" / f"{n}.npy", np.full((6, 8), 1.0 + n, np.float32))
    write_file(tmp_path / "in" / "intrinsics.txt", "8 0 3.5 0 8 2.5 0 0 1")
    curate_and_read("folder", tmp_path / "in", tmp_path / "out", format="depthvlm")
    return tmp_path / "out" / "folder.jsonl"


def test_sample_holds_the_files_and_the_line_without_paths(records, tmp_path):
    shards = [shard for shard, _ in pack_shards(records, tmp_path / "shards", 2, [])]
    assert [shard.name for shard in shards] == [f"folder-{n:06d}.tar" for n in range(3)]
    samples = list(ShardIndex(shards))
    assert [sample["__key__"] for sample in samples] == [f"{n:08d}" for n in range(5)]
    for n, sample in enumerate(samples):
        assert sample["png"] == (tmp_path / "in" / "rgb" / f"{n}.png").read_bytes()
        assert sample["json"]["depth"][0] == 1.0 + n and not {"image", "depth_path"} & sample["json"].keys()
        assert sample["depth.npy"] == (tmp_path / "in" / "depth" / f"{n}.npy").read_bytes()
    assert cv2.imdecode(np.frombuffer(samples[0]["png"], np.uint8), 1).shape == (6, 8, 3)


def test_existing_shards_stay_and_partial_ones_are_rewritten(records, tmp_path):
    first, *rest = [shard for shard, _ in pack_shards(records, tmp_path / "shards", 2, [])]
    kept = first.stat().st_mtime_ns
    whole = rest[0].read_bytes()
    (tmp_path / "shards" / f"partial-{rest[0].name}").write_bytes(whole[:100])
    rest[0].unlink()
    list(pack_shards(records, tmp_path / "shards", 2, []))
    assert first.stat().st_mtime_ns == kept and rest[0].read_bytes() == whole
    assert not list((tmp_path / "shards").glob("partial-*"))


def test_missing_image_is_counted(records, tmp_path, capsys):
    (tmp_path / "in" / "rgb" / "3.png").unlink()
    assert main(["data", "pack", str(records), "--out", str(tmp_path / "shards"), "--images", "10"]) == 0
    output = capsys.readouterr().out
    assert "folder-000000.tar: 4 records" in output and "1 x image missing" in output


def test_another_size_of_shards_is_refused_in_the_same_folder(records, tmp_path, capsys):
    options = ["data", "pack", str(records), "--out", str(tmp_path / "shards"), "--images"]
    assert main([*options, "2"]) == 0
    assert main([*options, "3"]) == 2
    assert "per_shard 2 instead of 3" in capsys.readouterr().err
    assert json.loads((tmp_path / "shards" / "folder.pack.json").read_text())["per_shard"] == 2


def test_what_is_not_in_a_shard_is_counted_in_a_later_run_too(records, tmp_path):
    unreadable = tmp_path / "in" / "rgb" / "3.png"
    unreadable.unlink()
    unreadable.symlink_to("/proc/self/mem")  # a file that is there, and cannot be read
    for _ in range(2):
        problems: list[RecordProblem] = []
        assert [count for _, count in pack_shards(records, tmp_path / "shards", 3, problems)] == [3, 1]
        assert [problem.reason for problem in problems] == ["image unusable"] and ":4" in problems[0].where


def test_full_disk_leaves_complete_shards_and_a_later_run_continues(records, tmp_path):
    command = ["data", "pack", str(records), "--out", str(tmp_path / "shards"), "--images", "2"]
    full = depthlm(*command, max_file_bytes=4096)
    assert full.returncode == 2 and "Make room and run the same command again" in full.stderr
    assert not list((tmp_path / "shards").glob("*.tar"))
    assert main(command) == 0 and len(list((tmp_path / "shards").glob("*.tar"))) == 3


def test_damaged_files_are_not_packed_and_duplicates_are_reported(records, tmp_path, capsys):
    rgb = tmp_path / "in" / "rgb"
    (rgb / "0.png").write_bytes((rgb / "0.png").read_bytes()[:-12])
    write_image(rgb / "1.png", 16, 12)
    np.save(tmp_path / "in" / "depth" / "2.npy", np.full((3, 3), 1.0, np.float32))
    lines = records.read_text().splitlines()
    records.write_text("\n".join([*lines, lines[-1]]) + "\n")
    for _ in range(2):  # the second time the shards exist
        assert main(["data", "pack", str(records), "--out", str(tmp_path / "shards")]) == 0
        output = capsys.readouterr().out
        assert "folder-000000.tar: 3 records" in output  # 3, 4 and 4 again
        for reason in ("image unusable", "image of another size", "depth map of another size", "duplicate line"):
            assert f"1 x {reason}" in output


def test_pairs_are_rejected_with_one_line(tmp_path, capsys):
    write_file(tmp_path / "a.pairs.jsonl", '{"images": ["a.png", "b.png"]}')
    assert main(["data", "pack", str(tmp_path / "a.pairs.jsonl"), "--out", str(tmp_path / "shards")]) == 2
    assert "holds pairs, which are not packed" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "options"), [("", []), ("{}\n", []), (None, ["--images", "0"])])
def test_file_without_records_is_an_error(records, tmp_path, content, options):
    if content is not None:
        records.write_text(content)
    assert main(["data", "pack", str(records), "--out", str(tmp_path / "shards"), *options]) == 2


def test_unpacked_shards_equal_the_records(records, tmp_path, capsys):
    shards = [str(shard) for shard, _ in pack_shards(records, tmp_path / "shards", 3, [])]
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


def test_file_that_is_not_a_shard_is_named(tmp_path):
    write_file(tmp_path / "a.tar", "no tar file")
    with pytest.raises(BadInput, match=r"a\.tar: not a shard"):
        list(unpack_shards([tmp_path / "a.tar"], tmp_path))


def write_samples(shard, keys, **members):
    """Writes samples whose .txt is their key, whose json holds it, and that have these files too."""
    samples = [(key, {"txt": key.encode(), "json": json.dumps({"name": key}).encode(), **members}) for key in keys]
    assert write_shard(shard, samples) == len(keys)
    return shard


def test_index_reads_any_sample_in_the_order_of_names_and_places(tmp_path):
    write_samples(tmp_path / "b.tar", ["3", "1"])
    write_samples(tmp_path / "a.tar", ["7"], jpg=b"picture")
    (tmp_path / "partial-c.tar").write_bytes(b"what a killed run left")
    index = ShardIndex(tmp_path)
    assert len(index) == 3 and index.keys == ["7", "3", "1"] and not index.problems
    assert index[0]["jpg"] == b"picture" and "jpg" not in index[1]
    assert index[-1] == {"__key__": "1", "__url__": str(tmp_path / "b.tar"), "txt": b"1", "json": {"name": "1"}}
    assert [sample["txt"] for sample in index[1:]] == [b"3", b"1"] and len(list(index)) == 3
    with pytest.raises(IndexError):
        index[3]
    assert list(ShardIndex([tmp_path / "b.tar", tmp_path / "a.tar"])) == list(index)


def read_text(index, number):
    return index[number]["txt"]


def test_index_reads_in_other_processes(tmp_path):
    index = ShardIndex([write_samples(tmp_path / "a.tar", [str(n) for n in range(8)])])
    assert len(pickle.dumps(index)) < 3000  # no content of the shards
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            assert list(pool.map(read_text, [index] * 8, range(8))) == [b"%d" % n for n in range(8)]


@pytest.mark.torch
def test_the_library_reads_the_same_samples(tmp_path):
    webdataset = pytest.importorskip(
        "webdataset", reason="the package webdataset, which reads the same files, is not installed"
    )
    shard = write_samples(tmp_path / "a.tar", ["folder.x/b", "c"], **{"depth.png": b"depth"})
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    index = ShardIndex([shard])
    assert [sample["__key__"] for sample in samples] == index.keys == ["folder.x/b", "c"]
    for sample, other in zip(index, samples, strict=True):
        assert {**sample, "json": json.dumps(sample["json"]).encode()} == {key: other[key] for key in sample}


def test_shard_that_was_cut_short_gives_its_complete_samples_and_is_reported(tmp_path):
    write_samples(tmp_path / "a.tar", ["0", "1"])
    whole = write_samples(tmp_path / "b.tar", ["2", "3", "4"]).read_bytes()
    # A sample has four blocks: header and content of two files. Without the end, the last sample may lack files.
    for blocks, keys in ((4.5, []), (5, ["2"]), (7, ["2"]), (9.5, ["2", "3"]), (10, ["2", "3"]), (12, ["2", "3"])):
        (tmp_path / "b.tar").write_bytes(whole[: int(512 * blocks)])
        index = ShardIndex(tmp_path)
        assert index.keys == ["0", "1", *keys] and [sample["txt"].decode() for sample in index] == index.keys
        assert [problem.reason for problem in index.problems] == ["shard cut short"]
        assert f"b.tar: cut short after {len(keys)} whole samples" in str(index.problems[0])


def test_samples_without_required_files_are_skipped_and_counted(tmp_path):
    write_shard(
        tmp_path / "a.tar", [("0", {"jpg": b"0"}), ("1", {"jpg": b"1", "depth.png": b"2"}), ("2", {"json": b"{}"})]
    )
    index = ShardIndex(tmp_path, required=("jpg", "depth.png"))
    assert index.keys == ["1"] and index.skipped == 2
    assert "2 samples do not have depth.png and jpg" in str(index.problems[0])
    with pytest.raises(BadInput, match=r"a\.tar: 3 samples do not have seg\.png"):
        ShardIndex(tmp_path, required=("seg.png",))


def test_damaged_shards_cost_only_themselves(tmp_path):
    write_samples(tmp_path / "a.tar", ["0"])
    write_file(tmp_path / "b.tar", "no tar file")
    index = ShardIndex(tmp_path)
    assert index.keys == ["0"] and "b.tar: not a shard" in str(index.problems[0])
    write_shard(tmp_path / "a.tar", [("0", {"json": b"{torn"})])
    with pytest.raises(BadInput, match=r"a\.tar: sample 0: its json is damaged"):
        ShardIndex(tmp_path)[0]
    index = ShardIndex([write_samples(tmp_path / "c.tar", ["0"])])
    (tmp_path / "c.tar").write_bytes(b"")
    with pytest.raises(BadInput, match=r"c\.tar: sample 0: the shard became shorter"):
        index[0]
    (tmp_path / "c.tar").unlink()
    with pytest.raises(BadInput, match=r"c\.tar: sample 0 cannot be read"):
        index[0]


def test_folder_without_shards_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(BadInput, match=r"holds no shards \(\*\.tar\)"):
        ShardIndex(tmp_path)
    with pytest.raises(BadInput, match="none is not a folder"):
        ShardIndex(tmp_path / "none")
    assert len(ShardIndex([write_samples(tmp_path / "empty.tar", [])])) == 0


def test_shards_of_other_programs_are_read(tmp_path):
    """Folders, long names (which take extra headers) and files without a suffix occur in such shards."""
    name = "x" * 120
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("photos")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for member in (f"photos/{name}.JPG", f"photos/{name}.txt", "README", ".hidden"):
            header = tarfile.TarInfo(member)
            header.size = 3
            tar.addfile(header, io.BytesIO(b"abc"))
    (sample,) = ShardIndex(tmp_path)
    assert sample["__key__"] == f"photos/{name}" and sample["jpg"] == sample["txt"] == b"abc"
