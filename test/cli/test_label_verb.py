# SPDX-License-Identifier: Apache-2.0
"""`depthlm label`: depth maps, records and answers for folders, records and shards; killed runs, bad pictures."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room, write_labels
from support.command_line import depthlm, start
from support.exif import TURNED_RIGHT, jpeg_bytes
from support.paths import needs_tiny

from depthlm_ros.cli import main
from depthlm_ros.core import Frame
from depthlm_ros.data.depthfile import read_z
from depthlm_ros.data.read import parse_object_conversation, read_records
from depthlm_ros.data.webdataset import pack_shards
from depthlm_ros.image_io import read_rgb
from depthlm_ros.model import load_model

pytestmark = needs_tiny
INTRINSICS = ("--intrinsics", "280", "282", "161", "118.5")


def write_rooms(folder, count):
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), render_room(wall_m=3 + 3 * number / count)[0][..., ::-1])
    return folder


def read_lines(out):
    return [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]


def read_files(out):
    """Returns the content of everything that the run wrote, without its notes about itself."""
    notes = ("labels.journal", "labels.lock", "labels.report.json")
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in notes)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def wait_for(condition, timeout_s=200):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def test_depth_maps_points_and_answers_are_those_of_the_model(tmp_path, capsys):
    source, out = write_rooms(tmp_path / "in", 2), tmp_path / "out"
    asked = ("--ask", "How far is the wall?", "--ask", "How far is this point?", "--ask", "Is there a person?")
    assert main(["label", str(source), "--out", str(out), *INTRINSICS, *asked]) == 0
    assert "2 of 2 pictures, 200 points" in capsys.readouterr().out
    records = read_records(out / "labels.jsonl").records
    assert [record.image.name for record in records] == ["000.jpg", "001.jpg"]
    model = load_model("tiny")
    for record, line in zip(records, read_lines(out), strict=True):
        assert record.intrinsics == CAMERA and len(record.uv_px) == 100
        view = model.look(Frame(read_rgb(record.image), CAMERA))
        depth = view.depth()
        assert np.nanmax(np.abs(read_z(record) - depth.depth_m)) < 0.001
        std = cv2.imread(str(out / line["depth_std_path"]), cv2.IMREAD_UNCHANGED) / line["depth_std_scale"]
        assert np.abs(std - depth.std_m).max() < 0.001
        u, v = record.uv_px.astype(int).T
        assert record.depth_m == pytest.approx(depth.depth_m[v, u], abs=1e-4)
        assert line["teachers"] == [{"name": "tiny", "licence": "Apache-2.0"}]
        wall, refused, person = line["answers"]
        assert (
            refused["question"] == "How far is this point?" and "0 pixels or regions are marked" in refused["refused"]
        )
        for found in (wall, person):
            answer = view.ask(found["question"])
            assert (found["text"], found["status"], found["unit"]) == (answer.text, answer.status.value, answer.unit)


def test_the_labels_are_evaluated_and_read_for_finetuning(tmp_path, capsys):
    source, out = write_rooms(tmp_path / "in", 2), tmp_path / "out"
    assert main(["label", str(source), "--out", str(out), *INTRINSICS, "--ask", "Is there a person?"]) == 0
    scores = tmp_path / "scores.json"
    for protocol in ("plain", "dense"):
        command = ["eval", str(out / "labels.jsonl"), "--model", "tiny", "--protocol", protocol, "--json", str(scores)]
        assert main(command) == 0
        assert json.loads(scores.read_text())["delta1"] == 1.0 and json.loads(scores.read_text())["absrel"] < 0.001
    for line in read_lines(out):
        understood = [answer for answer in line["answers"] if answer["status"] in ("ok", "not_found")]
        if understood:
            turns = parse_object_conversation(line, "here", out).turns
            assert turns == tuple((answer["question"], answer["text"]) for answer in understood)
    assert any("conversations" in line for line in read_lines(out))


def kill_a_worker(command):
    """Kills one of the processes that label pictures for a command with --workers."""
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    workers = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_run_and_a_killed_worker_lose_nothing_and_do_nothing_twice(tmp_path):
    source, out = write_rooms(tmp_path / "in", 24), tmp_path / "out"
    (source / "a" / "000.jpg").write_bytes(b"torn")
    command = ("label", source, "--out", out, *INTRINSICS, "--no-std")
    journal = out / "labels.journal"
    process = start(*command)
    wait_for(lambda: journal.exists() and len(journal.read_text().splitlines()) > 4)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with journal.open("a") as file:
        file.write('{"item": "b/0')  # torn by the kill
    done = {line["item"] for line in map(json.loads, journal.read_text().splitlines()[1:-1])}
    kept = {path: path.stat().st_mtime_ns for path in (out / "depth" / f"{item}.png" for item in done) if path.exists()}
    assert 3 < len(done) < 24
    again = start(*command, "--workers", 2)
    wait_for(lambda: len(journal.read_text().splitlines()) > len(done) + 2)
    kill_a_worker(again)
    stdout, stderr = again.communicate(timeout=400)
    assert again.returncode == 0, stderr
    assert f"{len(done)} of 24 items were finished by an earlier run" in stderr
    assert "23 of 24 pictures" in stdout and "1 x image unusable" in stdout and "worker killed once" in stdout
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert main([*map(str, ("label", source, "--out", tmp_path / "whole", *INTRINSICS, "--no-std"))]) == 0
    assert read_files(out) == read_files(tmp_path / "whole")
    images = [line["image"] for line in read_lines(out)]
    assert len(images) == len(set(images)) == 23


def test_records_keep_their_camera_and_their_scene_but_not_their_labels(tmp_path):
    labels, out = write_labels(tmp_path, images=2), tmp_path / "out"
    lines = [json.loads(line) | {"scene": "hall", "split": "val"} for line in labels.read_text().splitlines()]
    unlabelled = {"image": "room_0.png", "intrinsics": [200, 200, 160, 120, 320, 240]}
    rows = [*lines, lines[0], unlabelled, {"image": "none.png"}, {"question": "what?"}]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["label", str(labels), "--out", str(out), "--depth", "npy", "--points", "3"]) == 0
    found = read_lines(out)
    assert [line["depth_path"] for line in found] == ["depth/room_0.npy", "depth/room_1.npy", "depth/room_0-2.npy"]
    assert [line["original_fx"] for line in found] == [280.0, 280.0, 200.0]
    assert found[0]["scene"] == "hall" and found[0]["split"] == "val" and found[0]["camera_from"] == "its record"
    assert len(found[0]["depth"]) == 3 and found[0]["depth"] != lines[0]["depth"]
    assert np.load(out / "depth" / "room_0.npy").dtype == np.float32
    report = json.loads((out / "labels.report.json").read_text())
    assert report["problems"] == {"image missing": 1, "image path malformed": 1}


def test_shards_are_labelled_with_copies_of_their_pictures(tmp_path):
    labels, out = write_labels(tmp_path, images=3), tmp_path / "out"
    list(pack_shards(labels, tmp_path / "shards", 2, []))
    assert main(["label", str(tmp_path / "shards"), "--out", str(out), "--points", "5"]) == 0
    records = read_records(out / "labels.jsonl").records
    assert [record.image.read_bytes() for record in records] == [
        (tmp_path / f"room_{number}.png").read_bytes() for number in range(3)
    ]
    assert all(record.intrinsics == CAMERA and record.depth.path.is_file() for record in records)
    direct = tmp_path / "direct"
    assert main(["label", str(labels), "--out", str(direct), "--points", "5"]) == 0
    maps = [[read_z(record) for record in read_records(folder / "labels.jsonl").records] for folder in (out, direct)]
    assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(*maps, strict=True))


def test_what_is_assumed_about_the_camera_is_said(tmp_path, capsys):
    source = write_rooms(tmp_path / "in", 1)
    assert main(["label", str(source), "--out", str(tmp_path / "a"), "--fx-over-width", "0.9"]) == 0
    assert "fx = 0.9 of their longer side is assumed" in capsys.readouterr().err
    (line,) = read_lines(tmp_path / "a")
    assert line["intrinsics"][:3] == [288.0, 288.0, 159.5] and line["camera_from"] == "assumed: 0.9 of the longer side"
    assert main(["label", str(source), "--out", str(tmp_path / "b"), "--estimator", "exif"]) == 0
    captured = capsys.readouterr()
    assert "the focal length of each is estimated (exif)" in captured.err
    assert "1 x focal length assumed" in captured.out
    assert read_lines(tmp_path / "b")[0]["camera_from"].startswith("estimated: an assumed field of view of 60 degrees")


def test_pictures_of_another_size_than_the_intrinsics_are_left_out(tmp_path, capsys):
    source = write_rooms(tmp_path / "in", 2)
    cv2.imwrite(str(source / "b" / "small.png"), np.zeros((120, 160, 3), np.uint8))
    assert main(["label", str(source), "--out", str(tmp_path / "out"), *INTRINSICS]) == 0
    captured = capsys.readouterr()
    assert "pictures of 320 x 240, as the first one" in captured.err
    assert "1 x intrinsics unusable" in captured.out and "small.png is 160 x 120" in captured.out


def test_a_picture_that_lies_on_its_side_is_said_or_turned(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    upright = render_room()[0]
    lying = np.ascontiguousarray(np.rot90(upright))  # is shown turned clockwise
    (tmp_path / "in" / "phone.jpg").write_bytes(jpeg_bytes(lying, orientation=TURNED_RIGHT))
    assert main(["label", str(tmp_path / "in"), "--out", str(tmp_path / "a"), "--focal", "280"]) == 0
    assert "1 x picture lies on its side" in capsys.readouterr().out
    assert main(["label", str(tmp_path / "in"), "--out", str(tmp_path / "b"), "--focal", "280", "--turn"]) == 0
    (line,) = read_lines(tmp_path / "b")
    assert line["image"] == "images/phone.jpg" and line["original_rgb_size"] == [320, 240]
    turned = read_rgb(tmp_path / "b" / "images" / "phone.jpg")
    assert np.abs(turned.astype(int) - upright).mean() < 4


def test_a_full_disk_is_said_and_a_later_run_continues(tmp_path, capsys):
    source, out = write_rooms(tmp_path / "in", 4), tmp_path / "out"
    command = ("label", source, "--out", out, *INTRINSICS, "--no-std", "--depth", "npy")
    full = depthlm(*command, max_file_bytes=200_000)
    assert full.returncode == 2 and "Make room and run the same command again" in full.stderr
    assert len(full.stderr.strip().splitlines()[-1]) < 500
    assert main([*map(str, command)]) == 0
    assert "4 of 4 pictures" in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused(tmp_path, capsys):
    source, out = write_rooms(tmp_path / "in", 1), tmp_path / "out"
    assert main(["label", str(source), "--out", str(out), *INTRINSICS]) == 0
    assert main(["label", str(source), "--out", str(out), *INTRINSICS, "--points", "7"]) == 2
    assert "holds another run (points 100)" in capsys.readouterr().err
    inside = source / "labels"
    assert main(["label", str(source), "--out", str(inside), *INTRINSICS]) == 0
    assert main(["label", str(source), "--out", str(inside), *INTRINSICS]) == 0  # its own pictures are not labelled


@pytest.mark.parametrize("verb", ["label", "eval"])
def test_without_ray_the_package_to_install_is_one_line(tmp_path, capsys, monkeypatch, verb):
    labels, out = write_labels(tmp_path, images=1), tmp_path / "out"
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([verb, str(labels), *(("--out", str(out)) if verb == "label" else ()), "--ray"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--ray needs the Python package 'ray'" in last and "pip install 'depthlm_ros[scale]'" in last
    if verb == "label":
        assert main(["label", str(labels), "--out", str(out)]) == 0  # the same folder, without Ray


def test_other_cameras_in_the_same_records_are_refused(tmp_path, capsys):
    labels, out = write_labels(tmp_path, images=1), tmp_path / "out"
    assert main(["label", str(labels), "--out", str(out)]) == 0
    line = json.loads(labels.read_text())
    labels.write_text(json.dumps(line | {"intrinsics": [300, 300, 160, 120, 320, 240]}) + "\n")
    assert main(["label", str(labels), "--out", str(out)]) == 2
    assert "holds another run (digest_of_pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "vlm3-depth", "--workers", "1"), "vlm3-depth"),
        (("--model", "nothing"), "nothing"),
        (("--workers", "0"), "--workers is 0"),
        (("--device", "cuda:0,cuda:1"), "names several devices: add --workers"),
        (("--ray", "--device", "cuda:1"), "Ray gives each worker its GPU"),
        (("--points", "-1"), "--points is -1"),
        (("--seed", "-1"), "--seed is -1"),
        (("--camera", "none.yaml"), "none.yaml"),
        (("--intrinsics", "0", "1", "2", "3"), "focal length fx = 0.0"),
        (("--out", __file__), "test_label_verb.py: this is a file"),
        (("--points", "0", "--depth", "none"), "there is nothing to label"),
        (("--questions", "none.txt"), "none.txt: cannot be read"),
        (("--ask", " "), "the question is empty"),
        (("--fx-over-width", "1", "--focal", "3"), "--focal and --fx-over-width contradict each other"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, options, message):
    source = write_rooms(tmp_path / "in", 1)
    assert main(["label", str(source), "--out", str(tmp_path / "out"), *options]) in (1, 2)
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out and not (tmp_path / "out" / "labels.jsonl").exists()
