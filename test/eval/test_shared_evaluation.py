# SPDX-License-Identifier: Apache-2.0
"""An evaluation that several processes or commands share gives the same numbers as one process, to the last digit."""

import json
import math
import os

import numpy as np
import pytest
from support.checkered_room import write_labels
from support.command_line import depthlm
from support.paths import needs_tiny

from depthlm_ros.cli import main
from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadInput
from depthlm_ros.eval.result_file import ResultStore, Shard

IMAGES = 7


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    path = write_labels(folder, images=IMAGES, points=40)
    (folder / "room_4.png").write_bytes(b"torn")
    return path


def scores_of(folder, labels, *options):
    """Returns what --json holds, without the time."""
    file = folder / "scores.json"
    assert main(["eval", str(labels), "--model", "tiny", "--json", str(file), *map(str, options)]) == 0
    scores = json.loads(file.read_text())
    assert scores.pop("seconds_per_image") > 0
    return scores


@pytest.fixture(scope="module")
def whole(labels, tmp_path_factory):
    return scores_of(tmp_path_factory.mktemp("whole"), labels, "--baselines")


@needs_tiny
def test_workers_give_the_same_numbers_as_one_process(labels, whole, tmp_path):
    shared = scores_of(tmp_path, labels, "--baselines", "--workers", 2)
    assert shared == whole
    assert shared["left_out"] == {"image unusable": 1} and shared["images"] == IMAGES - 1


@pytest.mark.torch
@pytest.mark.slow
def test_workers_that_run_torch_give_the_same_numbers_as_one_process(tmp_path):
    from support.released_checkpoints import publish

    publish(tmp_path / "model", "qwen3_vl", with_head=True)
    # At the model's own focal length, so that its image is small.
    camera = Intrinsics(1000.0, 1000.0, 160.0, 120.0, 320, 240)
    labels, file = write_labels(tmp_path, images=3, points=6, camera=camera), tmp_path / "scores.json"
    command = ("eval", labels, "--model", f"depthvlm-4b={tmp_path / 'model'}", "--device", "cpu", "--json", file)
    found = []
    for options in ((), ("--workers", 2)):
        # More than one thread, on which the last digits of torch depend.
        done = depthlm(*command, *options, env=os.environ | {"OMP_NUM_THREADS": "2"})
        assert done.returncode == 0, done.stderr
        found.append(json.loads(file.read_text()))
        assert found[-1].pop("seconds_per_image") > 0
    assert found[0] == found[1]


@needs_tiny
def test_merged_shards_give_the_same_numbers_as_one_process(labels, whole, tmp_path):
    files = [tmp_path / f"{number}.jsonl" for number in (1, 2, 3)]
    counts = []
    for number, file in enumerate(files, start=1):
        part = scores_of(tmp_path, labels, "--baselines", "--shard", f"{number}/3", "--results", file)
        counts.append(part["images"])
        assert part["shard"] == f"{number}/3"
    assert counts == [3, 1, 2]  # of 3, 2 and 2 records, of which one cannot be read
    before = [file.read_bytes() for file in files]
    merged = scores_of(
        tmp_path, labels, "--baselines", "--merge", *reversed(files), "--results", tmp_path / "all.jsonl"
    )
    assert merged == whole
    assert [file.read_bytes() for file in files] == before
    assert scores_of(tmp_path, labels, "--baselines", "--merge", tmp_path / "all.jsonl") == whole


@needs_tiny
def test_a_merge_without_a_shard_says_how_many_records_are_missing(labels, tmp_path, capsys):
    file = tmp_path / "1.jsonl"
    scores_of(tmp_path, labels, "--shard", "1/2", "--results", file)
    assert main(["eval", str(labels), "--model", "tiny", "--merge", str(file)]) == 2
    assert "labels.jsonl:2 has no result (4 of 7 records have none): evaluate every shard" in capsys.readouterr().err


@needs_tiny
def test_a_merge_of_another_run_is_refused(labels, tmp_path, capsys):
    file = tmp_path / "1.jsonl"
    scores_of(tmp_path, labels, "--shard", "1/2", "--results", file, "--points", "words")
    assert main(["eval", str(labels), "--model", "tiny", "--merge", str(file)]) == 2
    assert "1.jsonl holds results of another run (points 'words' instead of 'dense')" in capsys.readouterr().err


@needs_tiny
def test_a_killed_shard_continues_and_does_nothing_twice(labels, whole, tmp_path):
    file = tmp_path / "1.jsonl"
    scores_of(tmp_path, labels, "--shard", "1/1", "--results", file, "--limit", 3)
    kept = file.read_bytes()
    with file.open("ab") as torn:
        torn.write(b'{"key": "4:')
    assert scores_of(tmp_path, labels, "--baselines", "--results", file) == whole
    assert file.read_bytes().startswith(kept) and len(file.read_text().splitlines()) == 1 + IMAGES - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shard", "1/2"), "--shard 1/2 needs --results"),
        (("--merge", "a.jsonl", "--workers", "2"), "--merge runs no model"),
        (("--workers", "2", "--pictures", "x"), "--pictures is drawn by one process"),
        (("--workers", "0"), "--workers is 0"),
        (("--merge", "none.jsonl"), "none.jsonl cannot be read"),
    ],
)
@needs_tiny
def test_options_that_contradict_each_other_are_one_line(labels, tmp_path, capsys, options, message):
    assert main(["eval", str(labels), "--model", "tiny", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "1/0", "a/b"])
def test_a_share_that_does_not_exist_is_refused(labels, capsys, share):
    with pytest.raises(SystemExit):
        main(["eval", str(labels), "--shard", share])
    assert "is not a share K/N of the records" in capsys.readouterr().err


def test_shards_hold_every_record_once():
    records = list(range(11))
    parts = [Shard(number, 4).take(records) for number in range(1, 5)]
    assert sorted(record for part in parts for record in part) == records
    assert {len(part) for part in parts} == {2, 3}


def test_results_of_two_files_that_differ_are_counted_and_the_first_counts(tmp_path):
    for name, value, seconds in (("a", 1.0, 1.0), ("b", 2.0, 1.0), ("c", 1.0, 9.0)):
        with ResultStore(tmp_path / name, {"model": "x"}, backend=name) as store:
            store.add("1:key", {"predicted_m": value, "seconds": seconds})
    merged = ResultStore(None, {"model": "x"})
    assert merged.merge([tmp_path / "a", tmp_path / "b", tmp_path / "c"]) == 1
    assert merged.results == {"1:key": {"predicted_m": 1.0, "seconds": 1.0}} and merged.backend == "a+b+c"


def test_a_file_that_is_still_written_is_merged_up_to_its_last_whole_line(tmp_path):
    with ResultStore(tmp_path / "a", {}) as store:
        store.add("1:key", {"value": math.nan})
    with (tmp_path / "a").open("a") as file:
        file.write('{"key": "2:ke')
    merged = ResultStore(None, {})
    assert merged.merge([tmp_path / "a"]) == 0 and set(merged.results) == {"1:key"}
    (tmp_path / "other").write_text("{}\n")
    with pytest.raises(BadInput, match="is not a file of results"):
        merged.merge([tmp_path / "other"])


@pytest.mark.slow
@needs_tiny
def test_a_language_task_is_shared_too(tmp_path):
    write_labels(tmp_path, images=4)
    camera = json.loads((tmp_path / "labels.jsonl").read_text().splitlines()[0])["intrinsics"]
    rng = np.random.default_rng(0)
    lines = [
        json.dumps(
            {
                "image": f"room_{number}.png",
                "intrinsics": camera,
                "question": "How far is this point?",
                "answer": 4.0 + number,
                "unit": "m",
                "pixel_coords": rng.integers(20, 200, (1, 2)).tolist(),
            }
        )
        for number in range(4)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n")

    def scores(*options):
        file = tmp_path / "scores.json"
        assert main(["eval", str(path), "--model", "tiny", "--json", str(file), *map(str, options)]) == 0
        return json.loads(file.read_text())

    whole = scores()
    assert whole["task"] == "objects" and whole["records"] == 4
    assert scores("--workers", 2) == whole
    for number in (1, 2):
        scores("--shard", f"{number}/2", "--results", tmp_path / f"{number}.jsonl")
    assert scores("--merge", tmp_path / "1.jsonl", tmp_path / "2.jsonl") == whole
