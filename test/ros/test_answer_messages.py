# SPDX-License-Identifier: Apache-2.0
"""Answers as markers, detections and a picture: in the right place and frame, and nothing of what is not known."""

import math
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from support import vision_messages  # noqa: E402
from support.paths import ROOT  # noqa: E402
from visualization_msgs.msg import Marker  # noqa: E402

from depthlm_ros.core import Answer, DepthMap, Frame, Intrinsics, Question, Region, Status  # noqa: E402
from depthlm_ros.measurement.measure import measure  # noqa: E402
from depthlm_ros.ros.answer_messages import (  # noqa: E402
    LIFETIME_S,
    MOST_TEXT_CHARS,
    ShownAnswer,
    detections,
    markers,
    picture,
)
from depthlm_ros.visualization import MARK_RGB  # noqa: E402

CAMERA = Intrinsics(100.0, 100.0, 79.5, 59.5, 160, 120)
# A board of 0.6 m x 0.4 m at 2 m before a wall at 5 m; nothing is known at the right.
BOARD = Region(50, 40, 30, 20, "board")
UNKNOWN = Region(130, 10, 20, 20, "ghost")
TEXT = "The board is 2.00 meters away."
NO_PIXELS = np.zeros((0, 2))


def depth_map() -> DepthMap:
    depth_m = np.full((120, 160), 5.0, np.float32)
    depth_m[40:60, 50:80] = 2.0
    depth_m[:, 120:] = np.nan
    return DepthMap(depth_m, CAMERA)


def shown_answer(regions=(BOARD,), uv_px=NO_PIXELS, text=TEXT, status=Status.OK, to_frame=None) -> ShownAnswer:
    """Returns an answer about regions and pixels of the map. to_frame: moves points (N, 3) into the frame "map"."""
    measured = measure(depth_map(), regions, uv_px, 0.05)
    points_m = [one.points_m if to_frame is None else to_frame(one.points_m) for one in measured]
    answer = Answer(text, status, regions=tuple(regions), confidence=0.75, measurements=measured)
    camera_header = Header(frame_id="camera")
    camera_header.stamp.sec = 7
    header = Header(frame_id="camera" if to_frame is None else "map", stamp=camera_header.stamp)
    frame = Frame(np.full((120, 160, 3), 40, np.uint8), CAMERA)
    return ShownAnswer(Question("How far is it?", uv_px), answer, frame, camera_header, header, points_m)


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def shown_markers(shown):
    """Returns the markers that remain when the first has removed all others."""
    first, *rest = over_the_wire(markers(shown)).markers
    assert first.action == Marker.DELETEALL and {marker.action for marker in rest} == {Marker.ADD}
    assert {marker.lifetime.sec for marker in rest} == {LIFETIME_S}
    assert len({(marker.ns, marker.id) for marker in rest}) == len(rest)
    return rest


def vector(message):
    return np.array([message.x, message.y, message.z])


def test_a_thing_is_a_box_around_what_was_measured_with_the_words_above_it():
    box, text = shown_markers(shown_answer())
    assert (box.type, box.header.frame_id, box.header.stamp.sec) == (Marker.CUBE, "camera", 7)
    u, v = (50 + 80 - 1) / 2, (40 + 60 - 1) / 2
    expected_m = [(u - CAMERA.cx_px) / 50, (v - CAMERA.cy_px) / 50, 2.0]
    assert np.allclose(vector(box.pose.position), expected_m, atol=0.03)
    assert np.allclose(vector(box.scale), [0.6, 0.4, 0.01], atol=0.04) and vector(box.scale).min() > 0
    assert box.pose.orientation.w == 1.0 and 0 < box.color.a < 1
    assert (text.type, text.text) == (Marker.TEXT_VIEW_FACING, f"board\n{TEXT}") and text.scale.z > 0
    top_m = box.pose.position.y - box.scale.y / 2
    assert text.pose.position.y < top_m and text.pose.position.z == pytest.approx(2.0, abs=0.03)


def test_a_pixel_is_a_sphere_at_its_point():
    shown = shown_answer((), np.array([[60.0, 50.0], [10.0, 10.0]]))
    spheres = [marker for marker in shown_markers(shown) if marker.type == Marker.SPHERE]
    points_m = [vector(sphere.pose.position) for sphere in spheres]
    assert np.allclose(points_m, [[-0.39, -0.19, 2.0], [-3.475, -2.475, 5.0]], atol=1e-6)
    assert [marker.text for marker in shown_markers(shown) if marker.text] == [TEXT]


def test_in_another_frame_everything_lies_there_and_the_words_are_higher():
    """The frame has x forward, y left and z up, and the camera is 1 m above its origin."""

    def to_map(points_m):
        return points_m @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0.0]]) + [0, 0, 1.0]

    box, text = shown_markers(shown_answer(to_frame=to_map))
    assert {box.header.frame_id, text.header.frame_id} == {"map"}
    assert np.allclose(vector(box.pose.position), to_map(np.array([[-0.3, -0.2, 2.0]]))[0], atol=0.03)
    assert np.allclose(vector(box.scale), [0.01, 0.6, 0.4], atol=0.04)
    assert text.pose.position.z > box.pose.position.z + box.scale.z / 2


def test_a_thing_of_unknown_depth_is_not_in_space_and_an_answer_without_a_place_stands_before_the_camera():
    only_text = shown_markers(shown_answer((UNKNOWN,), text="There is a ghost."))
    assert [marker.text for marker in only_text] == ["There is a ghost."]
    assert only_text[0].header.frame_id == "camera" and only_text[0].pose.position.z == 1.0
    both = shown_markers(shown_answer((UNKNOWN, BOARD)))
    assert [marker.text for marker in both if marker.text] == [f"board\n{TEXT}"]
    assert sum(marker.type == Marker.CUBE for marker in both) == 1
    assert all(np.isfinite(vector(marker.pose.position)).all() for marker in both)


def test_the_colour_says_whether_the_answer_can_be_relied_on():
    colours = {
        status: shown_markers(shown_answer(status=status))[0].color for status in (Status.OK, Status.INCONSISTENT)
    }
    assert colours[Status.OK].g > colours[Status.OK].r and colours[Status.INCONSISTENT].r > 0.9


def test_long_words_are_cut_in_space():
    text = shown_markers(shown_answer((), text="word " * 400))[0]
    assert len(text.text) == MOST_TEXT_CHARS


@pytest.fixture
def vision_msgs(monkeypatch):
    """The real messages where they are installed, else a stand-in that takes the same fields and types."""
    if not vision_messages.ARE_INSTALLED:
        for name, module in vision_messages.stand_in().items():
            monkeypatch.setitem(sys.modules, name, module)
    return sys.modules.get("vision_msgs.msg")


def test_detections_have_the_box_the_name_and_the_confidence(vision_msgs):
    made = detections(shown_answer((BOARD, UNKNOWN)))
    assert made.header.frame_id == "camera" and made.header.stamp.sec == 7 and len(made.detections) == 1
    detection = made.detections[0]
    assert detection.header == made.header and len(detection.results) == 1
    assert np.allclose(vector(detection.bbox.center.position), [-0.3, -0.2, 2.0], atol=0.03)
    assert np.allclose(vector(detection.bbox.size), [0.6, 0.4, 0.0], atol=0.04)
    found = detection.results[0]
    assert (found.hypothesis.class_id, found.hypothesis.score) == ("board", 0.75)
    assert found.pose.pose == detection.bbox.center
    covariance = np.array(found.pose.covariance).reshape(6, 6)
    distance = next(one for one in shown_answer().answer.measurements if one.quantity == "distance")
    assert np.allclose(np.diag(covariance)[:3], distance.std**2) and distance.std > 0.05
    if vision_messages.ARE_INSTALLED:
        assert over_the_wire(made) == made


def test_there_are_no_detections_without_a_known_place(vision_msgs):
    assert not detections(shown_answer((UNKNOWN,))).detections


@pytest.mark.skipif(not vision_messages.ARE_INSTALLED, reason="vision_msgs is not installed: nothing to compare with")
def test_the_messages_of_vision_msgs_have_the_fields_that_the_other_tests_take_for_granted():
    from vision_msgs import msg

    for name, fields in vision_messages.FIELDS.items():
        real = getattr(msg, name).get_fields_and_field_types()
        assert list(real) == list(fields)
        named = {field: kind.replace("sequence<", "").rstrip(">").split("/")[-1] for field, kind in real.items()}
        expected = {field: kind.removesuffix("[]").split("/")[-1] for field, kind in fields.items()}
        assert {field: {"double": "float64"}.get(kind, kind) for field, kind in named.items()} == expected


@pytest.mark.slow
@pytest.mark.skipif(vision_messages.ARE_INSTALLED, reason="vision_msgs is installed: the other tests use it")
def test_detections_are_real_messages_of_a_vision_msgs_that_is_built_from_its_fields(tmp_path):
    """Builds the package, and runs the tests of this file, and those of the topics, with it."""
    vision_messages.write_package(tmp_path / "src" / "vision_msgs")
    base = ["colcon", "build", "--base-paths", "src", "--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}"]
    environment = {name: value for name, value in os.environ.items() if name != "COLCON_PREFIX_PATH"}
    if (ROOT / ".venv" / "ros").read_text().strip() == "wheels":
        environment |= {"AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
    built = subprocess.run(base, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert built.returncode == 0, built.stdout + built.stderr
    tests = ["test/ros/test_answer_messages.py", "test/ros/test_answer_topics.py"]
    again = shlex.join([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests])
    command = f"set +u; . {shlex.quote(str(tmp_path / 'install' / 'local_setup.bash'))}; {again}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "skipped" not in done.stdout.splitlines()[-1], done.stdout + done.stderr


def test_the_picture_has_the_boxes_the_points_and_the_words_below():
    shown = shown_answer((BOARD,), np.array([[20.0, 100.0]]))
    image = over_the_wire(picture(shown))
    assert (image.encoding, image.width, image.header.frame_id, image.header.stamp.sec) == ("rgb8", 160, "camera", 7)
    pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
    marked = (pixels == MARK_RGB).all(axis=-1)
    assert marked[40, 50:80].all() and marked[40:60, 79].all() and marked[100, 20]
    assert (pixels[0, :20] == 40).all() and image.height > 120 + 20
    assert pixels[120:].max() > 150, "no words below the picture"
    assert (shown.frame.rgb == 40).all(), "the frame itself was drawn on"


def test_the_picture_of_a_question_of_any_length_stays_small():
    long = picture(shown_answer(text="much to say " * 1000))
    assert long.height < 4 * 120 and not math.isnan(long.height)
