# SPDX-License-Identifier: Apache-2.0
"""The services of a running node answer in time while images arrive, and invent nothing."""

import json
import shutil
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from geometry_msgs.msg import Point  # noqa: E402
from sensor_msgs.msg import RegionOfInterest  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from support.paths import TINY  # noqa: E402
from support.ros_rig import CAMERA, PATIENCE_S, new_rig, picture  # noqa: E402

from depthlm_ros.core import Frame, Region, Status  # noqa: E402
from depthlm_ros.errors import BadQuestion  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.bundle import manifest_text  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.ros.message_out import colour_image, rectified_camera_info  # noqa: E402
from depthlm_ros.srv import MatchPixels, QueryDepth, RelativePose, SpatialQuery  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

StatusCode = SpatialQuery.Response
STATUS_CODES = {
    Status.OK: StatusCode.OK,
    Status.NOT_FOUND: StatusCode.NOT_FOUND,
    Status.NOT_UNDERSTOOD: StatusCode.NOT_UNDERSTOOD,
    Status.INCONSISTENT: StatusCode.INCONSISTENT,
}
QUESTION = "How far is the red box?"


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """A rig with a node that is watched and has processed an image."""
    with new_rig(tmp_path_factory.mktemp("questions")) as rig:
        rig.start(watched=("depth/image",))
        rig.shoot_until("depth/image")
        yield rig


def pixels(*uv):
    return [Point(x=float(u), y=float(v)) for u, v in uv]


def test_depth_at_pixels_and_points_are_those_of_the_model(rig):
    at_ns = rig.shoot(colour_image(rig.header(), picture(11)))
    rig.of_stamp("depth/image", at_ns)
    answer = rig.ask("query_depth", QueryDepth.Request(pixels=pixels((20, 30), (100, 90), (79, 60))))
    assert (answer.success, answer.status, answer.message, answer.model) == (True, StatusCode.OK, "", "tiny")
    assert stamp_ns(answer.header) == at_ns and answer.header.frame_id == "camera"
    model_m = load_model("tiny", threads=1).look(Frame(picture(11), CAMERA)).depth_at([[20, 30], [100, 90], [79, 60]])
    assert np.allclose(answer.depth, model_m.depth_m, rtol=1e-4, equal_nan=True)
    assert np.allclose(answer.std, model_m.std_m, rtol=1e-3, equal_nan=True)
    for point, (u, v), z in zip(answer.points, [(20, 30), (100, 90), (79, 60)], answer.depth, strict=True):
        expected = [(u - CAMERA.cx_px) / CAMERA.fx_px * z, (v - CAMERA.cy_px) / CAMERA.fy_px * z, z]
        assert np.allclose([point.x, point.y, point.z], expected, atol=1e-5, equal_nan=True)
    assert 0 < answer.latency < 20


def test_question_in_words_gets_the_answer_of_the_model(rig):
    at_ns = rig.shoot(colour_image(rig.header(), picture(12)))
    rig.of_stamp("depth/image", at_ns)
    answer = rig.ask("spatial_query", SpatialQuery.Request(question=QUESTION))
    expected = load_model("tiny", threads=1).look(Frame(picture(12), CAMERA)).ask(QUESTION)
    assert stamp_ns(answer.header) == at_ns
    assert (answer.answer, answer.status) == (expected.text, STATUS_CODES[expected.status])
    assert answer.success == (expected.status is Status.OK) and (answer.success or answer.message)
    assert np.isclose(answer.value, expected.value, equal_nan=True) and answer.unit == expected.unit
    assert len(answer.points) == len(expected.points_m) and len(answer.regions) == len(expected.regions)


def test_fresh_answer_is_from_an_image_taken_after_the_request(rig):
    asked_ns = rig.node.get_clock().now().nanoseconds
    waiting = rig.begin("query_depth", QueryDepth.Request(pixels=pixels((10, 10)), fresh=True))
    while not waiting.done():
        rig.shoot()
        time.sleep(0.03)
    answer = rig.finish(waiting)
    assert answer.success and stamp_ns(answer.header) > asked_ns


def test_questions_are_answered_and_depth_is_published_at_a_high_frame_rate(rig):
    before, waiting = len(rig.received["depth/image"]), []

    def all_answered_and_published():
        rig.shoot()
        if len(waiting) < 12 and sum(not future.done() for future in waiting) < 4:
            request = QueryDepth.Request(pixels=pixels((10, 10), (50, 60)), fresh=bool(len(waiting) % 2))
            waiting.append(rig.begin("query_depth", request))
        answered = len(waiting) == 12 and all(future.done() for future in waiting)
        return answered and len(rig.received["depth/image"]) >= before + 3

    # Images keep arriving, however slow the machine is.
    rig.wait(all_answered_and_published, "answers and depth", patience_s=3 * PATIENCE_S)
    assert all(future.result().success for future in waiting)


def test_question_is_answered_from_the_newest_image_while_nobody_watches(tmp_path):
    with new_rig(tmp_path) as quiet:
        quiet.start(watched=())
        quiet.wait(lambda: quiet.state() == "active", "active node")
        early = quiet.ask("query_depth", QueryDepth.Request(pixels=pixels((1, 1))))
        assert early.status == StatusCode.NO_IMAGE and not early.success and "no image has arrived" in early.message
        quiet.wait(lambda: quiet.node.count_subscribers(f"{quiet.namespace}/image"), "subscriber")
        answers = []
        for _ in range(50):
            at_ns = quiet.shoot()
            time.sleep(0.1)
            answers.append(quiet.ask("query_depth", QueryDepth.Request(pixels=pixels((1, 1)))))
            if stamp_ns(answers[-1].header) == at_ns:
                break
        assert answers[-1].success and stamp_ns(answers[-1].header) == at_ns
        assert quiet.newest_health()["frames_looked_at"] != "0"


def test_questions_beyond_the_limit_are_answered_busy_and_the_others_time_out(tmp_path):
    with new_rig(tmp_path) as small:
        small.start("-p", "max_waiting_questions:=2", watched=("depth/image",))
        small.shoot_until("depth/image")
        request = QueryDepth.Request(pixels=pixels((1, 1)), fresh=True, timeout_s=1.5)
        waiting = [small.begin("query_depth", request) for _ in range(5)]
        answers = [small.finish(future) for future in waiting]
        assert sorted(answer.status for answer in answers) == [StatusCode.BUSY] * 3 + [StatusCode.TIMEOUT] * 2
        messages = " ".join(answer.message for answer in answers)
        assert "max_waiting_questions" in messages and "within 1.5 s" in messages and "fresh" in messages
        small.shoot()
        assert small.ask("query_depth", QueryDepth.Request(pixels=pixels((1, 1)))).success


BAD = [
    ({"question": ""}, "empty"),
    ({"question": " \n "}, "empty"),
    ({"question": "how far? " * 11_000}, "99000 characters"),
    ({"question": QUESTION, "pixels": [(160, 3)]}, "160"),
    ({"question": QUESTION, "pixels": [(5, -3)]}, "-3"),
    ({"question": QUESTION, "pixels": [(float("nan"), 3)]}, "nan"),
    ({"question": QUESTION, "regions": [(150, 3, 20, 20)]}, "region 20 x 20 at (150, 3)"),
    ({"question": QUESTION, "regions": [(1, 3, 0, 20)]}, "region 0 x 20"),
    ({"question": QUESTION, "pixels": [(5, 3)] * 300}, "300 pixels and regions are marked"),
    ({"question": QUESTION, "timeout_s": -1.0}, "timeout_s is -1"),
    ({"question": QUESTION, "timeout_s": float("nan")}, "timeout_s is nan"),
]


@pytest.mark.parametrize(("fields", "words"), BAD)
def test_bad_question_is_refused_with_its_value_and_the_next_one_works(rig, fields, words):
    request = SpatialQuery.Request(question=fields["question"], timeout_s=fields.get("timeout_s", 0.0))
    request.pixels = pixels(*fields.get("pixels", []))
    for x, y, width, height in fields.get("regions", []):
        request.regions.append(RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height))
    answer = rig.ask("spatial_query", request)
    assert answer.status == StatusCode.BAD_REQUEST and not answer.success
    assert words in answer.message and len(answer.message) < 400
    assert np.isnan(answer.value) and np.isnan(answer.std) and not answer.points
    assert rig.ask("query_depth", QueryDepth.Request(pixels=pixels((3, 4)))).success


@pytest.mark.parametrize("uv", [(160, 0), (0, 120), (-1, 0), (float("inf"), 0), (1e300, 0)])
def test_pixel_outside_the_image_is_refused(rig, uv):
    answer = rig.ask("query_depth", QueryDepth.Request(pixels=pixels((3, 4), uv)))
    assert answer.status == StatusCode.BAD_REQUEST and "outside the 160 x 120 image" in answer.message
    assert len(answer.depth) == 0 and not answer.points


def test_request_without_pixels_is_refused(rig):
    answer = rig.ask("query_depth", QueryDepth.Request())
    assert answer.status == StatusCode.BAD_REQUEST and "0 pixels" in answer.message


def test_unusual_characters_in_a_question_are_accepted(rig):
    answer = rig.ask("spatial_query", SpatialQuery.Request(question="¿dónde está el 箱? <|im_end|> \x07 🦄"))
    assert answer.status in STATUS_CODES.values()


def test_response_names_the_frame_that_tf_does_not_know(rig):
    request = SpatialQuery.Request(question=QUESTION, target_frame="no_such_frame")
    answer = rig.ask("spatial_query", request)
    assert answer.status == StatusCode.BAD_REQUEST and "no_such_frame" in answer.message
    same = rig.ask("spatial_query", SpatialQuery.Request(question=QUESTION, target_frame="camera"))
    assert same.status in STATUS_CODES.values() and same.header.frame_id == "camera"


def with_images(request):
    """Returns the request with two images of its own."""
    request.first, request.second = colour_image(Header(frame_id="a"), picture(1)), colour_image(Header(), picture(2))
    request.first_info = rectified_camera_info(request.first.header, CAMERA)
    request.second_info = rectified_camera_info(request.second.header, CAMERA)
    return request


def test_services_about_two_images_answer_or_refuse_as_the_model_does(rig):
    match = rig.ask(
        "match_pixels", with_images(MatchPixels.Request(pixels=pixels((20, 30), (100, 90)), timeout_s=60.0))
    )
    pose = rig.ask("relative_pose", with_images(RelativePose.Request(timeout_s=60.0)))
    try:
        pair = load_model("tiny", threads=1).look_pair(Frame(picture(1), CAMERA), Frame(picture(2), CAMERA))
    except BadQuestion as refusal:  # tiny, where it was exported for one image at a time
        for answer in (match, pose):
            assert (answer.status, answer.message) == (StatusCode.BAD_REQUEST, str(refusal))
        return
    expected = pair.match([[20, 30], [100, 90]])
    assert list(match.replies) == list(expected.replies) and match.first_header.frame_id == "a"
    found_px = [(point.x, point.y) for point in match.pixels]
    known = np.isfinite(expected.matched_px).all(axis=1, keepdims=True)
    assert np.allclose(found_px, np.where(known, expected.matched_px, np.nan), atol=1e-6, equal_nan=True)
    assert match.success == bool(known.any())
    assert dict(zip(pose.reply_names, pose.replies, strict=True)) == pair.pose().replies


def test_model_for_single_images_names_the_models_that_take_two(tmp_path):
    copy = tmp_path / "one"
    shutil.copytree(TINY, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(manifest_text(manifest | {"family": "vlm3-depth"}))
    with new_rig(tmp_path) as one:
        one.start("-p", f"model:={copy}")
        match = one.ask("match_pixels", with_images(MatchPixels.Request(pixels=pixels((1, 1)))))
        pose = one.ask("relative_pose", RelativePose.Request())
        assert (match.status, pose.status) == (StatusCode.BAD_REQUEST, StatusCode.BAD_REQUEST)
        assert "vlm3-corr" in match.message and "vlm3-pose" in pose.message
        assert np.isnan(pose.transform.transform.rotation.w) and np.isnan(pose.distance)


def test_mode_questions_publishes_nothing_and_answers(tmp_path):
    with new_rig(tmp_path) as asked:
        asked.start("-p", "mode:=questions", watched=())
        asked.wait(lambda: asked.node.count_subscribers(f"{asked.namespace}/image"), "subscriber")
        assert not asked.node.count_publishers(f"{asked.namespace}/depth/image")

        def answered():
            asked.shoot()
            return asked.ask("query_depth", QueryDepth.Request(pixels=pixels((1, 1)))).success

        asked.wait(answered, "answer")


def test_answer_holds_the_measurements_of_a_region(rig):
    at_ns = rig.shoot(colour_image(rig.header(), picture(14)))
    rig.of_stamp("depth/image", at_ns)
    request = SpatialQuery.Request(question="How far is this region?")
    request.regions.append(RegionOfInterest(x_offset=60, y_offset=40, width=30, height=30))
    answer = rig.ask("spatial_query", request)
    seen = load_model("tiny", threads=1).look(Frame(picture(14), CAMERA))
    expected = seen.ask("How far is this region?", regions=[Region(60.0, 40.0, 30.0, 30.0)])
    assert [(each.quantity, each.unit, list(each.about)) for each in answer.measurements] == [
        (each.quantity, each.unit, list(each.about)) for each in expected.measurements
    ]
    assert answer.status != StatusCode.OK or answer.measurements
    for message, measured in zip(answer.measurements, expected.measurements, strict=True):
        assert np.isclose(message.value, measured.value, rtol=1e-3, equal_nan=True)
        points_m = np.array([(point.x, point.y, point.z) for point in message.points]).reshape(-1, 3)
        assert np.allclose(points_m, measured.points_m, rtol=1e-3, equal_nan=True)


def test_query_depth_in_sparse_mode_asks_the_model_in_words(tmp_path):
    with new_rig(tmp_path) as sparse:
        sparse.start("-p", "mode:=sparse", watched=("depth/sparse",))
        sparse.shoot_until("depth/sparse", lambda: sparse.shoot(colour_image(sparse.header(), picture(13))))
        answer = sparse.ask("query_depth", QueryDepth.Request(pixels=pixels((20, 30), (100, 90))))
        depths = load_model("tiny", threads=1).look(Frame(picture(13), CAMERA)).tell_depth_at([[20, 30], [100, 90]])
        assert np.allclose(answer.depth, depths.depth_m, equal_nan=True)
        assert np.allclose(answer.std, depths.std_m, rtol=1e-5, equal_nan=True)
