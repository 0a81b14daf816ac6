# SPDX-License-Identifier: Apache-2.0
"""Labelling of many pictures: shards that survive a killed run, damaged pictures, two runs at once, a full disk."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room, write_labels
from support.command_line import depthlm, start
from support.paths import needs_tiny

from depthlm_ros.cli import main
from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.data.curate import MOST_FAILURES
from depthlm_ros.data.labelling import LabellingJob, PictureRecord, label_pictures, label_records
from depthlm_ros.data.photo_labels import decode, reference_camera
from depthlm_ros.data.picture_source import Picture, list_pictures
from depthlm_ros.data.webdataset import ShardIndex, pack_shards
from depthlm_ros.data.worker_pool import map_in_order, worker_index
from depthlm_ros.errors import BackendFailed, BadImage, BadInput, SetupError
from depthlm_ros.model import load_model

FX_OVER_WIDTH = 0.888


def write_rooms(folder, count):
    """Writes JPEG files of rooms whose wall is 3 to 6 m away, in two folders."""
    for number in range(count):
        rgb = render_room(reference_camera((320, 240), FX_OVER_WIDTH), wall_m=3 + 3 * number / count)[0]
        path = folder / "ab"[number % 2] / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rgb[..., ::-1])
    return folder


def command(folder, out, *options):
    return ["data", "label-photos", str(folder), "--teacher", "tiny", "--out", str(out), *options]


def read_shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("photos-*.tar"))}


def wait_for(condition, timeout_s=60):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.005)


@dataclass(frozen=True)
class NameLabeller:
    """Writes the name of a picture as its label. It fails for "bad" pictures, and kills its process for "kill"."""

    def __call__(self, picture: Picture) -> dict[str, bytes]:
        if picture.key.endswith("bad"):
            raise BadImage(f"{picture.where}: a bad picture")
        if picture.key.endswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"txt": picture.name.encode()}


def make_job(tmp_path, names, per_shard=2, **settings):
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return LabellingJob(tmp_path / "in", tmp_path / "out", settings, per_shard)


def read_problems(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "photos.problems.jsonl").read_text().splitlines()]


@needs_tiny
def test_photographs_get_the_depth_of_the_teacher_under_the_assumed_camera(tmp_path, capsys):
    write_rooms(tmp_path / "in", 3)
    assert main(command(tmp_path / "in", tmp_path / "out", "--images-per-shard", "2")) == 0
    assert "3 pictures in 2 shards; this run: 3 in" in capsys.readouterr().out
    index = ShardIndex(tmp_path / "out", required=("jpg", "depth.png", "json"))
    found = [decode(sample) for sample in index]
    assert [labels.source for labels in found] == ["a/000.jpg", "a/002.jpg", "b/001.jpg"]
    assert index.keys == ["00000000", "00000001", "00000002"]
    model = load_model("tiny")
    for labels in found:
        assert labels.rgb.shape == (192, 256, 3) and labels.depth_m.shape == (48, 64)
        assert not labels.has_boxes and labels.teachers == (("tiny", "Apache-2.0"),)
        bgr = cv2.resize(cv2.imread(str(tmp_path / "in" / labels.source)), (256, 192), interpolation=cv2.INTER_AREA)
        camera = Intrinsics(0.888 * 256, 0.888 * 256, 127.5, 95.5, 256, 192)
        seen_m = model.look(Frame(np.ascontiguousarray(bgr[..., ::-1]), camera)).depth().depth_m
        assert np.isfinite(labels.depth_m).mean() > 0.9
        error_ln = np.log(labels.depth_m) - np.log(seen_m[1::4, 1::4])
        assert abs(np.nanmedian(error_ln)) < 0.01 and np.nanstd(error_ln) < 0.1
    assert main(command(tmp_path / "in", tmp_path / "tele", "--fx-over-width", "1.776", "--size", "128x96")) == 0
    tele = decode(ShardIndex(tmp_path / "tele")[0])
    assert tele.fx_over_width == 1.776 and tele.rgb.shape == (96, 128, 3) and tele.depth_m.shape == (24, 32)
    assert np.nanmedian(tele.depth_m) > 1.1 * np.nanmedian(found[0].depth_m)


@needs_tiny
def test_two_teachers_and_flip_are_written_and_part_of_the_settings(tmp_path, capsys):
    write_rooms(tmp_path / "in", 1)
    two = command(tmp_path / "in", tmp_path / "out", "--second-teacher", "tiny", "--flip")
    assert main(two) == 0
    labels = decode(ShardIndex(tmp_path / "out")[0])
    assert len(labels.teachers) == 2 and np.isfinite(labels.depth_m).mean() > 0.9
    assert main([*two, "--agree", "0.1"]) == 2
    assert "most_disagreement_ln 0.25 instead of 0.1" in capsys.readouterr().err
    assert main(command(tmp_path / "in", tmp_path / "out")) == 2


@pytest.mark.slow
@needs_tiny
def test_killed_run_continues_after_its_last_whole_shard(tmp_path):
    write_rooms(tmp_path / "in", 30)
    (tmp_path / "in" / "a" / "000.jpg").write_bytes(b"torn")
    options = ("--images-per-shard", "2")
    process = start(*command(tmp_path / "in", tmp_path / "out", *options))
    wait_for(lambda: len(list((tmp_path / "out").glob("photos-*.tar"))) > 1)
    process.kill()
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("photos-*.tar")}
    assert process.returncode == -signal.SIGKILL and 1 < len(kept) < 15
    done = depthlm(*command(tmp_path / "in", tmp_path / "out", *options))
    assert done.returncode == 0 and f"this run: {30 - 2 * len(kept)} in" in done.stdout, done.stderr
    assert "29 pictures in 15 shards, 1 left out" in done.stdout
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert main(command(tmp_path / "in", tmp_path / "whole", *options)) == 0
    assert read_shards(tmp_path / "out") == read_shards(tmp_path / "whole")
    assert [problem["file"] for problem in read_problems(tmp_path)] == ["a/000.jpg"]


@needs_tiny
def test_damaged_pictures_are_skipped_counted_and_listed(tmp_path, capsys):
    write_rooms(tmp_path / "in", 4)
    picture = tmp_path / "in" / "b" / "001.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])
    (tmp_path / "in" / "b" / "004.png").write_bytes(b"no picture")
    (tmp_path / "in" / "b" / "005.png").symlink_to("nothing")
    assert main(command(tmp_path / "in", tmp_path / "out")) == 0
    assert "3 pictures in 1 shards, 3 left out (see" in capsys.readouterr().out
    problems = read_problems(tmp_path)
    assert [(one["file"], one["reason"]) for one in problems] == [
        ("b/001.jpg", "image unusable"),
        ("b/004.png", "image unusable"),
        ("b/005.png", "file unreadable"),
    ]
    assert "cut short" in problems[0]["message"]
    assert ShardIndex(tmp_path / "out").keys == ["00000000", "00000001", "00000003"]


@needs_tiny
def test_two_runs_cannot_write_into_one_folder(tmp_path, capsys):
    write_rooms(tmp_path / "in", 6)
    lock = tmp_path / "out" / "photos.lock"
    process = start(*command(tmp_path / "in", tmp_path / "out", "--images-per-shard", "2"))
    try:
        wait_for(lambda: lock.exists() and lock.read_text())
        process.send_signal(signal.SIGSTOP)  # so that it is not over too early
        assert main(command(tmp_path / "in", tmp_path / "out", "--images-per-shard", "2")) == 2
        assert f"process {process.pid} is writing there" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()
    assert main(command(tmp_path / "in", tmp_path / "out", "--images-per-shard", "2")) == 0  # the lock is free again


@needs_tiny
def test_full_disk_leaves_whole_shards_and_a_later_run_continues(tmp_path):
    write_rooms(tmp_path / "in", 4)
    big = tmp_path / "in" / "b" / "003.jpg"
    rng = np.random.default_rng(0)
    cv2.imwrite(str(big), rng.integers(0, 255, (240, 320, 3), np.uint8))  # noise makes a large file
    options = ("--images-per-shard", "2")
    full = depthlm(*command(tmp_path / "in", tmp_path / "out", *options), max_file_bytes=50_000)
    assert full.returncode == 2 and "Make room and run the same command again" in full.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["photos-000000.tar"]
    assert main(command(tmp_path / "in", tmp_path / "out", *options)) == 0
    assert len(ShardIndex(tmp_path / "out")) == 4


@needs_tiny
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "250x192"), "multiples of 4"),
        (("--images-per-shard", "0"), "0 pictures in a shard"),
        (("--workers", "0"), "--workers is 0"),
    ],
)
def test_wrong_options_are_refused_with_one_line(tmp_path, capsys, options, message):
    write_rooms(tmp_path / "in", 1)
    assert main(command(tmp_path / "in", tmp_path / "out", *options)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_source_without_pictures_is_an_error_that_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadInput, match=r"no pictures found \(looked for .*\.jpg"):
        list_pictures(tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        list_pictures(tmp_path / "none")


@pytest.mark.parametrize("out", [".", ".."])
def test_a_source_in_the_output_folder_is_refused(tmp_path, out):
    write_rooms(tmp_path / "in", 1)
    with pytest.raises(BadInput, match=r"lies in the output folder .*: give another --out"):
        list_pictures(tmp_path / "in", without=tmp_path / "in" / out)
    assert len(list_pictures(tmp_path / "in", without=tmp_path / "in" / "out").pictures) == 1
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match="no usable record with an image"):
        list_pictures(tmp_path / "a.jsonl")
    (tmp_path / "b.png").touch()
    with pytest.raises(BadInput, match="is one picture: give its folder"):
        list_pictures(tmp_path / "b.png")


def test_images_of_records_are_a_source_too(tmp_path):
    labels = write_labels(tmp_path, images=2)
    labels.write_text(labels.read_text() * 2)
    pictures = list_pictures(labels).pictures
    assert [(one.name, one.key) for one in pictures] == [("room_0.png", "room_0"), ("room_1.png", "room_1")]
    assert all("depth" not in one.fields and len(one.fields["intrinsics"]) == 6 for one in pictures)


def test_keys_are_unique_and_stay_inside_the_output_folder(tmp_path):
    inner = tmp_path / "in"
    for name in ("a.jpg", "a.png", "a-2.jpg", "b/c.jpg"):
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).touch()
    assert [one.key for one in list_pictures(inner).pictures] == ["a-2", "a", "a-3", "b/c"]
    (tmp_path / "rec").mkdir()
    lines = [json.dumps({"image": f"../in/{name}"}) for name in ("a.jpg", "a.png", "b/c.jpg")]
    (tmp_path / "rec" / "labels.jsonl").write_text("\n".join(lines) + "\n")
    pictures = list_pictures(tmp_path / "rec" / "labels.jsonl").pictures
    assert [one.key for one in pictures] == ["in/a", "in/a-2", "in/b/c"]


def test_pictures_in_the_output_folder_are_not_taken(tmp_path):
    for name in ("a.jpg", "out/depth/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [one.name for one in list_pictures(tmp_path, tmp_path / "out").pictures] == ["a.jpg"]


def test_shards_are_a_source_for_shards(tmp_path):
    labels = write_labels(tmp_path, images=3)
    list(pack_shards(labels, tmp_path / "packed", 2, []))
    job = LabellingJob(tmp_path / "packed", tmp_path / "out", {}, per_shard=2)
    assert label_pictures(job, NameLabeller()).labelled == 3
    names = [sample["txt"].decode() for sample in ShardIndex(job.out)]
    assert names == ["labels-000000/00000000", "labels-000000/00000001", "labels-000001/00000002"]


def test_pictures_are_labelled_in_the_same_order_in_any_number_of_processes(tmp_path):
    names = [f"{folder}/{number}.{suffix}" for folder in "ba" for number in range(5) for suffix in ("jpg", "PNG")]
    for workers in (1, 3):
        job = make_job(tmp_path / str(workers), [*names, "c/bad.jpg"], per_shard=4)
        summary = label_pictures(job, NameLabeller(), workers)
        assert (summary.shards, summary.labelled, summary.failed) == (6, 20, 1)
        assert [sample["txt"].decode() for sample in ShardIndex(job.out)] == sorted(names)
    assert read_shards(tmp_path / "1" / "out") == read_shards(tmp_path / "3" / "out")


def test_a_removed_shard_is_written_again_with_its_problems(tmp_path):
    job = make_job(tmp_path, ["a/bad.jpg", "a/1.jpg", "b/bad.jpg", "b/2.jpg", "c/bad.jpg"])
    label_pictures(job, NameLabeller())
    before, problems = read_shards(job.out), read_problems(tmp_path)
    # As a run leaves it that was killed between the problems of a shard and the shard: problems without their shard.
    (job.out / "photos-000001.tar").unlink()
    summary = label_pictures(job, NameLabeller())
    assert read_shards(job.out) == before and (summary.labelled, summary.failed, summary.pictures_now) == (2, 3, 2)
    assert sorted(one["file"] for one in read_problems(tmp_path)) == sorted(one["file"] for one in problems)
    assert len(ShardIndex(job.out)) == 2


def test_picture_that_kills_its_process_is_left_out(tmp_path):
    job = make_job(tmp_path, ["a.jpg", "kill.jpg", "z.jpg"])
    summary = label_pictures(job, NameLabeller(), workers=2)
    assert (summary.labelled, summary.failed) == (2, 1)
    assert [(one["file"], one["reason"]) for one in read_problems(tmp_path)] == [("kill.jpg", "worker killed twice")]


def test_other_pictures_or_settings_are_refused_in_the_same_folder(tmp_path):
    label_pictures(make_job(tmp_path, ["a.jpg"], teacher="x"), NameLabeller())
    with pytest.raises(BadInput, match="teacher 'x' instead of 'y'"):
        label_pictures(make_job(tmp_path, ["a.jpg"], teacher="y"), NameLabeller())
    with pytest.raises(BadInput, match="pictures 1 instead of 2"):
        label_pictures(make_job(tmp_path, ["b.jpg"], teacher="x"), NameLabeller())


@dataclass(frozen=True)
class FailingModel:
    """Labels pictures as records. Its model fails where a name holds one of the words, until `mended` exists."""

    words: str
    mended: Path

    def __call__(self, picture: Picture) -> PictureRecord:
        if "bad" in picture.name:
            raise BadImage(f"{picture.where}: a bad picture")
        if any(word in picture.name for word in self.words.split()) and not self.mended.exists():
            raise BackendFailed(f"no memory for {picture.name}")
        return PictureRecord({"image": picture.name}, {f"depth/{picture.key}.txt": picture.key.encode()}, 1)


def label_with(tmp_path, words, names):
    make_job(tmp_path, names)
    return label_records(tmp_path / "in", tmp_path / "out", FailingModel(words, tmp_path / "mended"), {})


def test_a_picture_on_which_the_model_fails_is_counted_and_the_others_are_labelled(tmp_path):
    report = label_with(tmp_path, "b", ["a.jpg", "b.jpg", "c.jpg"])
    assert (report["records"], report["problems"]) == (2, {"model failed": 1})
    assert report["examples"] == {"model failed": ["b.jpg: no memory for b.jpg"]}
    assert sorted(path.name for path in (tmp_path / "out" / "depth").iterdir()) == ["a.txt", "c.txt"]


def test_a_model_that_always_fails_ends_the_run_and_its_pictures_are_tried_again(tmp_path):
    names = [f"{number:03}.jpg" for number in range(MOST_FAILURES + 30)]
    with pytest.raises(
        SetupError, match=rf"{MOST_FAILURES} of the items failed one after another, the last with: .*no memory"
    ):
        label_with(tmp_path, " ".join(names[10:]), names)
    lines = (tmp_path / "out" / "labels.jsonl.part").read_text().splitlines()
    assert len(lines) == 10, "what was finished before is kept"
    (tmp_path / "mended").touch()
    report = label_with(tmp_path, "nothing", names)
    assert report["records"] == len(names) and not report["problems"]
    found = [json.loads(line)["image"] for line in (tmp_path / "out" / "labels.jsonl").read_text().splitlines()]
    assert found == names


def test_bad_pictures_between_its_failures_do_not_hide_that_a_model_always_fails(tmp_path):
    names = [f"{number:03}{'bad' if number % 2 else ''}.jpg" for number in range(2 * MOST_FAILURES)]
    with pytest.raises(SetupError, match=rf"{MOST_FAILURES} of the items failed one after another"):
        label_with(tmp_path, "0.jpg 2.jpg 4.jpg 6.jpg 8.jpg", names)
    (tmp_path / "mended").touch()
    report = label_with(tmp_path, "nothing", names)
    assert report["records"] == MOST_FAILURES and report["problems"] == {"image unusable": MOST_FAILURES}


def test_a_model_that_fails_on_the_only_pictures_ends_the_run(tmp_path):
    with pytest.raises(SetupError, match="2 of the items failed one after another"):
        label_with(tmp_path, "jpg", ["a.jpg", "b.jpg"])
    assert not (tmp_path / "out" / "labels.jsonl").exists()


def index_slowly(item: int) -> int:
    time.sleep(0.3)
    return worker_index()


def test_local_workers_are_numbered_so_that_each_can_take_its_device():
    assert {one.result for one in map_in_order(index_slowly, range(8), 2)} == {0, 1}
    assert [one.result for one in map_in_order(index_slowly, range(2), 1)] == [0, 0]
