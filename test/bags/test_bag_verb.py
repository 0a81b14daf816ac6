# SPDX-License-Identifier: Apache-2.0
"""`depthlm bag`: depth and answers of recorded bags in every storage; damaged bags; runs that were killed."""

import json
import os
import signal
import time

import numpy as np
import pytest
from support.checkered_room import CAMERA
from support.command_line import depthlm, start
from support.paths import needs_tiny

pytestmark = needs_tiny
pytest.importorskip("rosbags")

from rosbags.highlevel import AnyReader  # noqa: E402
from support.recorded_bags import IMAGE, START_NS, STEP_NS, Recorder, record_rooms, room  # noqa: E402

from depthlm_ros.bags import bag_images  # noqa: E402
from depthlm_ros.bags.bag_images import TopicChoice, list_images  # noqa: E402
from depthlm_ros.bags.frame_messages import output_namespaces  # noqa: E402
from depthlm_ros.cli import main  # noqa: E402
from depthlm_ros.core import Frame  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def read(bag):
    """Returns topic -> messages of a written bag, as another program reads them."""
    found = {}
    with AnyReader([bag]) as reader:
        for connection, time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
    return found


def depths_of(found, topic="/front/depth/image"):
    return {
        time_ns: message.data.view("<f4").reshape(message.height, message.width) for time_ns, message in found[topic]
    }


def stamp_ns(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def report_of(out):
    return json.loads((out / "labels.report.json").read_text())


@pytest.mark.parametrize("storage", ["mcap", slow("zstd"), "sqlite3", "ros1", slow("lz4")])
def test_every_camera_has_the_depth_and_the_answers_of_the_model(tmp_path, storage):
    bag, out = record_rooms(tmp_path / "in.bag", storage, images=2), tmp_path / "out"
    options = ("--cloud", "8", "--ask", "How far is the wall?", "--ask", "How far is this point?")
    assert main(["bag", str(bag), "--out", str(out), *options]) == 0
    found, model = read(out), load_model("tiny")
    outputs = ("depth/image", "depth/camera_info", "depth/points", "answers")
    assert set(found) == {f"/{camera}/{name}" for camera in ("front", "rear") for name in outputs}
    for number in range(2):
        view = model.look(Frame(room(number), CAMERA))
        time_ns, image = found["/front/depth/image"][number]
        assert time_ns == stamp_ns(image) == START_NS + number * STEP_NS and image.header.frame_id == "front"
        np.testing.assert_array_equal(depths_of(found)[time_ns], view.depth().depth_m)
        _, info = found["/front/depth/camera_info"][number]
        assert (stamp_ns(info), info.header.frame_id, info.width) == (time_ns, "front", CAMERA.width_px)
        assert info.k.tolist() == CAMERA.matrix.ravel().tolist() and not info.d.any()
        _, cloud = found["/front/depth/points"][number]
        z = cloud.data.view("<f4").reshape(cloud.height, cloud.width, 4)[..., 2]
        np.testing.assert_array_equal(z, view.depth().depth_m[::8, ::8])
        answered, refused = json.loads(found["/front/answers"][number][1].data)["answers"]
        assert answered["text"] == view.ask("How far is the wall?").text and "refused" in refused
        rear_ns, rear = found["/rear/depth/image"][number]
        assert rear_ns == stamp_ns(rear) == time_ns + 1000 and rear.header.frame_id == "rear"
        expected = model.look(Frame(room(number + 1), CAMERA)).depth().depth_m
        np.testing.assert_array_equal(depths_of(found, "/rear/depth/image")[rear_ns], expected)


def test_a_written_bag_is_read_by_the_library_mcap(tmp_path):
    reader = pytest.importorskip("mcap.reader")
    assert main(["bag", str(record_rooms(tmp_path / "in", "mcap", 2)), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "out.mcap").open("rb") as file:
        topics = [channel.topic for _, channel, _ in reader.make_reader(file, validate_crcs=True).iter_messages()]
    assert sorted(topics) == sorted(
        2 * [f"/{c}/depth/{n}" for c in ("front", "rear") for n in ("camera_info", "image")]
    )


def test_topics_every_and_millimetres(tmp_path, capsys):
    bag, out = record_rooms(tmp_path / "in", "mcap", images=5), tmp_path / "out"
    chosen = ("--topics", "front/image_raw=/rear/camera_info", "--every", "2", "--depth", "16UC1")
    assert main(["bag", str(bag), "--out", str(out), *chosen]) == 2  # its frame is another one
    assert main(["bag", str(bag), "--out", str(out), "--topics", "/front/image_raw", *chosen[2:]]) == 0
    again = [*chosen[2:3], "3", *chosen[4:], "--topics", "/front/image_raw"]
    assert main(["bag", str(bag), "--out", str(out), *again]) == 2
    assert "every 2" in capsys.readouterr().err.splitlines()[-1]
    found = read(out)
    assert set(found) == {"/front/depth/image", "/front/depth/camera_info"}
    assert [time_ns for time_ns, _ in found["/front/depth/image"]] == [START_NS + n * STEP_NS for n in (0, 2, 4)]
    image = found["/front/depth/image"][0][1]
    depth_m = load_model("tiny").look(Frame(room(0), CAMERA)).depth().depth_m
    known = np.isfinite(depth_m)
    assert image.encoding == "16UC1" and image.step == 2 * CAMERA.width_px
    assert np.abs(image.data.view("<u2").reshape(depth_m.shape)[known] / 1000 - depth_m[known]).max() < 0.001


def whole_and_damaged(tmp_path, storage, damage, images=8):
    """Returns the depths of a whole bag, those of a damaged copy of it, and the report about that."""
    whole, damaged = (record_rooms(tmp_path / name, storage, images) for name in ("whole.bag", "damaged.bag"))
    path = damaged if damaged.is_file() else next(p for p in damaged.iterdir() if p.suffix in (".mcap", ".db3"))
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    depths = []
    for bag in (whole, damaged):
        out = tmp_path / f"{bag.name}-out"
        assert main(["bag", str(bag), "--out", str(out), "--topics", "/front/image_raw"]) == 0
        depths.append(depths_of(read(out)))
    return *depths, report_of(out)


def cut_to(share):
    return lambda data: data.__delitem__(slice(int(len(data) * share), None))


def overwrite_at(share, size=64):
    def damage(data):
        at = int(len(data) * share)
        data[at : at + size] = bytes(255 - byte for byte in data[at : at + size])

    return damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
def test_a_bag_that_was_cut_short_keeps_what_lies_before_the_cut(tmp_path, storage):
    whole, kept, report = whole_and_damaged(tmp_path, storage, cut_to(0.6))
    assert 3 <= len(kept) < len(whole)
    for time_ns, depth_m in kept.items():
        np.testing.assert_array_equal(depth_m, whole[time_ns])
    assert any("damaged" in reason for reason in report["problems"]) and report["examples"]


@pytest.mark.parametrize("storage", [slow("zstd"), slow("lz4"), "sqlite3"])
def test_a_damaged_part_in_the_middle_costs_that_part_only(tmp_path, storage, monkeypatch):
    whole, kept, report = whole_and_damaged(tmp_path, storage, overwrite_at(0.5), images=24)
    assert kept and len(whole) == 24
    if storage != "sqlite3":  # there the pixels of an image may be overwritten, which nothing in the file can tell
        assert len(kept) < 24 and report["problems"]
        for time_ns, depth_m in kept.items():
            np.testing.assert_array_equal(depth_m, whole[time_ns])
    assert {START_NS, START_NS + 23 * STEP_NS} & set(kept)


def test_a_record_whose_length_is_destroyed_costs_its_chunk_only(tmp_path):
    at = []

    def destroy_second_chunk(data):
        starts, start = [], 8
        while len(starts) < 2:
            starts += [start] if data[start] == 0x06 else []
            start += 9 + int.from_bytes(data[start + 1 : start + 9], "little")
        data[starts[1] + 1 : starts[1] + 9] = b"\xff" * 7 + b"\x7f"
        at.append(starts[1])

    whole, kept, report = whole_and_damaged(tmp_path, "mcap", destroy_second_chunk, images=24)
    assert 0 < len(kept) < len(whole) and max(kept) == max(whole) and min(kept) == min(whole)
    assert f"byte {at[0]}" in report["examples"]["bag damaged"][0]


def test_single_images_that_cannot_be_used_are_told_and_counted(tmp_path, capsys):
    with Recorder(tmp_path / "in", "mcap") as bag:
        for number in range(3):
            time_ns = START_NS + number * STEP_NS
            bag.info("/front/camera_info", time_ns)
            bag.image("/front/image_raw", room(number), time_ns)
            bag.image("/side/image_raw", room(number), time_ns, "side")  # has no CameraInfo
            bag.image("/depth/image_rect", np.ones((4, 4), np.uint16), time_ns, encoding="16UC1")
        bag.image("/front/image_raw", room(3), time_ns + 10, encoding="rgba8")  # holds too few bytes for that
        bag.write_bytes("/front/image_raw", IMAGE, b"\x00\x01\x00\x00garbage", time_ns + 20)
    assert main(["bag", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert len(read(tmp_path / "out")["/front/depth/image"]) == 3
    problems = report_of(tmp_path / "out")["problems"]
    assert problems == {"no camera_info": 3, "image unusable": 1, "message malformed": 1, "no colour image": 1}
    assert "3 x no camera_info" in capsys.readouterr().out


def test_images_before_the_first_calibration_have_that_one(tmp_path):
    with Recorder(tmp_path / "in", "mcap") as bag:
        for number in range(3):
            bag.image("/front/image_raw", room(number), START_NS + number * STEP_NS)
        bag.info("/front/camera_info", START_NS + 9 * STEP_NS)
    assert len(list_images(tmp_path / "in", TopicChoice()).images) == 3


def test_raw_images_hide_their_compressed_ones_and_cameras_do_not_share_a_topic():
    assert bag_images._without_doubles(["/a/image", "/a/image/compressed", "/b/image/compressed"]) == [
        "/a/image",
        "/b/image/compressed",
    ]
    assert output_namespaces(["/a/image_raw", "/b/left", "/b/right/compressed"]) == {
        "/a/image_raw": "/a",
        "/b/left": "/b/left",
        "/b/right/compressed": "/b/right",
    }
    assert output_namespaces(["/c", "/c/compressed"]) == {"/c": "/c", "/c/compressed": "/c/compressed"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no bag"),
        (b"words", "it is no bag"),
        (b"SQLite format 3\x00", "cannot be read"),
        (None, "no such file"),
    ],
)
def test_what_is_no_bag_is_refused_in_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "some.mcap"
    if content is not None:
        path.write_bytes(content)
    assert main(["bag", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("depthlm:") and message in error


def test_the_output_replaces_no_other_bag(tmp_path, capsys):
    bag, other = (record_rooms(tmp_path / name, "mcap", 1) for name in ("in", "other"))
    before = sorted(path.name for path in other.iterdir())
    for out in (bag, other, bag / "inside"):
        assert main(["bag", str(bag), "--out", str(out)]) == 2
    assert "holds another bag" in capsys.readouterr().err
    assert sorted(path.name for path in other.iterdir()) == before


def test_a_killed_run_continues_to_the_same_bag(tmp_path):
    bag = record_rooms(tmp_path / "in", "mcap", images=12)
    whole, killed = tmp_path / "whole" / "out", tmp_path / "killed" / "out"
    assert main(["bag", str(bag), "--out", str(whole)]) == 0
    journal = killed / "labels.journal"
    process = start("bag", bag, "--out", killed)
    deadline_s = time.monotonic() + 120
    while not (journal.exists() and len(journal.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline_s and process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "metadata.yaml").exists()
    done = depthlm("bag", bag, "--out", killed, "--workers", "2")
    assert done.returncode == 0 and "were finished by an earlier run" in done.stderr
    assert (killed / "out.mcap").read_bytes() == (whole / "out.mcap").read_bytes()
    assert not (killed / "frames").exists()
    assert depthlm("bag", bag, "--out", killed).returncode == 0
