# SPDX-License-Identifier: Apache-2.0
"""The demo as a user runs it: real processes and topics, pictures on disk, a table, and no process left behind."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room
from support.exif import jpeg_bytes
from support.line_drawing import drawing
from support.paths import ROOT

MARK = "DEPTHLM_TEST_MARK"
pytestmark = pytest.mark.ros


@pytest.fixture
def mark():
    """Yields a value for the environment of all processes of one test, and checks that none of them outlives it."""
    value = uuid.uuid4().hex
    yield value
    assert marked_processes(value) == []


def marked_processes(value):
    entry = f"{MARK}={value}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if entry in environ.read_bytes():
                found.append((environ.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # the process has ended, or belongs to another user
            continue
    return found


def command(out, *args):
    timeout = ("--timeout", "300")  # the renderer may have to be compiled, on a busy machine
    return [sys.executable, "-m", "depthlm_ros.ros.tools.demo", "--out", str(out), *timeout, *map(str, args)]


def environment(mark):
    return os.environ | {MARK: mark, "ROS_DOMAIN_ID": str(os.getpid() % 80 + 15)}


def demo(out, mark, *args):
    return subprocess.run(
        command(out, *args), cwd=ROOT, env=environment(mark), capture_output=True, text=True, timeout=400, check=False
    )


def table(done):
    """Returns the rows of the printed table: name to texts."""
    rows = {}
    for line in done.stdout.splitlines():
        if line.startswith("  "):
            name, text = line.split(maxsplit=1)
            rows.setdefault(name, []).append(text)
    return rows


def check_frames(rows, at_least, size):
    frames, clouds = map(int, re.match(rf"(\d+) depth images of {size}, (\d+) clouds", rows["frames"][0]).groups())
    assert frames >= at_least and clouds > 0
    assert float(rows["rate"][0].split()[0]) > 0
    p50_ms, p99_ms = map(float, re.findall(r"p\d\d (\d+) ms", rows["latency"][0]))
    assert 0 < p50_ms <= p99_ms


def test_rendered_room_gives_depth_errors_answers_and_pictures(tmp_path, mark):
    done = demo(tmp_path, mark, "--frames", 12)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table(done)
    check_frames(rows, 12, "640 x 480")
    absrel, delta1, frames = re.match(r"AbsRel ([\d.]+), delta1 ([\d.]+) .* (\d+) frames", rows["error"][0]).groups()
    assert 0 < float(absrel) < 5 and 0 <= float(delta1) <= 1 and int(frames) >= 5
    assert rows["question"] == ["How far is the red box?", "Which is closer, the blue ball or the red box?"]
    assert len(rows["answer"]) == 2
    pictures = {
        name: cv2.imread(str(tmp_path / f"{name}.png")) for name in ("image", "depth", "truth", "cloud", "side")
    }
    assert pictures["image"].shape == (480, 640, 3)
    for name, picture in pictures.items():
        assert picture.shape[0] == 480 and picture.std() > 5, name
    assert cv2.imread(str(tmp_path / "strip.png")).shape[1] > 3 * 360


@pytest.mark.slow
def test_folder_of_images_with_a_calibration_is_shown(tmp_path, mark):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(2):
        cv2.imwrite(str(images / f"{i}.png"), render_room(wall_m=4.0 + i)[0][..., ::-1])
    lens = ["--fx", CAMERA.fx_px, "--fy", CAMERA.fy_px, "--cx", CAMERA.cx_px, "--cy", CAMERA.cy_px]
    done = demo(tmp_path / "out", mark, "--frames", 4, "--images", images, *lens)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table(done)
    check_frames(rows, 4, "320 x 240")
    assert rows["error"] == ["unknown: these images come without exact depth"]
    assert rows["lens"] == [f"focal length: {CAMERA.fx_px:g} px, as given."]
    shown = cv2.imread(str(tmp_path / "out" / "image.png"))
    assert any(np.array_equal(shown, cv2.imread(str(images / f"{i}.png"))) for i in range(2))


def test_photographs_need_no_lens_and_each_has_a_strip_and_a_row(tmp_path, mark):
    images = tmp_path / "images"
    images.mkdir()
    drawn = drawing(480.0, 35, -10)
    (images / "exif.jpg").write_bytes(jpeg_bytes(render_room(wall_m=4.0)[0], film_mm=30))
    (images / "lines.jpg").write_bytes(jpeg_bytes(drawn))
    (images / "tall.jpg").write_bytes(jpeg_bytes(np.ascontiguousarray(np.rot90(drawn))))
    (images / "large.jpg").write_bytes(jpeg_bytes(cv2.resize(drawn, (2048, 1536))))
    (images / "cut.jpg").write_bytes(jpeg_bytes(drawn)[:5000])
    (images / "phone.heic").write_bytes(b"ftypheic")
    done = demo(tmp_path / "out", mark, "--frames", 4, "--images", images)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"demo: left out: .*cut\.jpg: ends after 5000 bytes", done.stdout)
    assert "demo: left out: phone.heic (save as JPEG or PNG)." in done.stdout
    rows = table(done)
    assert f"demo: {rows['lens'][0]}" in done.stdout
    assert "from the Exif data of 1 of" in rows["lens"][0] and "estimated from the lines in 3 of 3" in rows["lens"][0]
    sizes = dict(re.match(r"(\S+): (\d+ x \d+), depth [\d.]+ to", text).groups() for text in rows["picture"])
    assert sizes == {
        "exif.jpg": "320 x 240", "large.jpg": "1024 x 768", "lines.jpg": "640 x 480", "tall.jpg": "480 x 640"
    }  # fmt: skip
    questions = [re.match(r"(.*?)(?: \[(.*)\])?$", text).groups() for text in rows["question"]]
    assert [question for question, _ in questions] == [
        "How far is the chair?", "Is there a door?", "How far is this point? (160, 120)"
    ]  # fmt: skip
    named = {picture for _, picture in questions if picture}  # A busy machine may lose an image and so its name.
    assert named and named <= set(sizes)
    strips = cv2.imread(str(tmp_path / "out" / "strips.png"))
    assert strips.shape[0] > 4 * 360 and strips.std() > 5
    assert "picture" in (tmp_path / "out" / "table.txt").read_text()


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--images", "{tmp}", "--fx=abc"), 2, "'abc' is not a focal length: give a positive number of pixels"),
        slow(("--images", "{tmp}", "--fx=-1"), 2, "'-1' is not a focal length"),
        slow(("--images", "{tmp}", "--fov=200"), 2, "'200' is not a field of view"),
        (("--images", "{tmp}", "--cx=3"), 2, "without FX"),
        slow(("--fx=525",), 2, "IMAGES=folder"),
        slow(("--images", "{tmp}/nowhere"), 1, "nowhere does not exist"),
        (("--images", "{tmp}"), 1, "holds no images"),
        slow(("--images", "{tmp}/notes.txt"), 1, "neither an image nor a video"),
    ],
)
def test_bad_input_is_refused_at_once_without_traceback(tmp_path, mark, args, code, message):
    (tmp_path / "notes.txt").write_text("not a picture")
    done = demo(tmp_path / "out", mark, *(arg.format(tmp=tmp_path) for arg in args))
    assert done.returncode == code and message in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_node_that_cannot_start_is_reported_with_its_log(tmp_path, mark):
    done = demo(tmp_path, mark, "--model", "no_such_model", "--timeout", 60)
    assert done.returncode == 1
    assert "depth node" in done.stderr and "no_such_model" in done.stderr


def test_sigterm_ends_camera_and_node_too(tmp_path, mark):
    running = subprocess.Popen(
        command(tmp_path, "--frames", 100000), cwd=ROOT, env=environment(mark), stdout=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 120
    while len(marked_processes(mark)) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
