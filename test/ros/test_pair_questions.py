# SPDX-License-Identifier: Apache-2.0
"""Questions about two images: which two images are used, what the answers say, and which requests are refused."""

import contextlib
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from geometry_msgs.msg import Point  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from support.scripted_backend import TOKENIZER, scripted_model  # noqa: E402

from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.errors import BadQuestion  # noqa: E402
from depthlm_ros.model_files.spec import ErrorCalibration  # noqa: E402
from depthlm_ros.ros.frame_processing import FrameProcessor  # noqa: E402
from depthlm_ros.ros.inference_thread import InferenceThread  # noqa: E402
from depthlm_ros.ros.message_out import colour_image, rectified_camera_info  # noqa: E402
from depthlm_ros.ros.parameters import Parameters  # noqa: E402
from depthlm_ros.ros.request_queue import RequestQueue  # noqa: E402
from depthlm_ros.ros.service_request import ServiceContext, StatusCode, respond  # noqa: E402
from depthlm_ros.ros.services import answer_match, answer_pose, child_frame  # noqa: E402
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog  # noqa: E402
from depthlm_ros.srv import MatchPixels, RelativePose  # noqa: E402

if not TOKENIZER.is_file():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

CAMERA = Intrinsics(150.0, 150.0, 79.5, 59.5, 160, 120)
POSE_REPLIES = {
    "rotation angle": "Rotation angle: 90.0 degrees",
    "yaw, pitch and roll": "Yaw=+90.0°, Pitch=+0.0°, Roll=+0.0°",
    "Where did the camera move": "The camera moves left, forward, unit vector (-0.60, +0.00, +0.80).",
    "magnitude of the camera translation": "Translation distance: 2.00 meters",
}


def match_reply(question: str) -> str:
    """The model finds pixels of the left half in the middle, and does not find others."""
    u = int(question.partition("pixel (")[2].partition(",")[0])
    return "<think> It is there. </think>\n\n(500, 250)" if u < 500 else "<think> Hm. </think>\n\nIt is not visible."


def pose_reply(question: str) -> str:
    return next(reply for about, reply in POSE_REPLIES.items() if about in question)


def image(grey: int, at_s: float = 0.0, frame_id: str = "camera") -> Image:
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(round(at_s * 1e9), 1_000_000_000)
    return colour_image(header, np.full((CAMERA.height_px, CAMERA.width_px, 3), grey, np.uint8))


def info(of: Image) -> CameraInfo:
    return rectified_camera_info(of.header, CAMERA)


class Clock:
    def now(self):
        return SimpleNamespace(nanoseconds=time.time_ns())


class ServicesWithoutTopics:
    """The services of an active node without its topics: queue and thread are real, a test puts in the images."""

    def __init__(self, model, **parameters) -> None:
        self.model, self.parameters = model, Parameters(mode="questions", query_timeout_s=20.0, **parameters)
        problems = ProblemLog(lambda line: None)
        self.queue = RequestQueue(Clock(), problems, self.parameters.max_waiting_questions, self.parameters.history_s)
        processor = FrameProcessor(model, False, False, problems)
        statistics = FrameStatistics()
        thread = InferenceThread(self.queue, processor, lambda result: None, lambda: False, statistics, problems)
        thread.start()
        self.context: ServiceContext | None = ServiceContext(model, lambda: self.parameters, self.queue, None)

    def see(self, grey: int, at_s: float) -> None:
        message = image(grey, at_s)
        self.queue.put_info(info(message))
        self.queue.put_image(message)

    def respond(self, answer, request, response):
        return respond(lambda: self.context, lambda: "the node is not active", answer, request, response)

    def match(self, *uv, **fields) -> MatchPixels.Response:
        pixels = [Point(x=float(u), y=float(v)) for u, v in uv]
        return self.respond(answer_match, MatchPixels.Request(pixels=pixels, **fields), MatchPixels.Response())

    def pose(self, **fields) -> RelativePose.Response:
        return self.respond(answer_pose, RelativePose.Request(**fields), RelativePose.Response())

    @property
    def greys(self) -> list[int]:
        """Grey values of the two images that the model saw last, in their order."""
        return [round(float(canvas.mean())) for canvas in self.model.backend.looked_at[-1]]


@pytest.fixture
def matcher():
    services = ServicesWithoutTopics(scripted_model("vlm3-corr", match_reply))
    yield services
    services.queue.close()


@pytest.fixture
def poser():
    services = ServicesWithoutTopics(scripted_model("vlm3-pose", pose_reply))
    yield services
    services.queue.close()


def pair_of(first: Image | None = None, second: Image | None = None) -> dict:
    fields = {name: message for name, message in (("first", first), ("second", second)) if message}
    return fields | {f"{name}_info": info(message) for name, message in fields.items()}


def test_response_of_an_inactive_node_says_so_and_holds_no_numbers(poser):
    poser.context = None
    answer = poser.pose()
    assert (answer.success, answer.status, answer.message) == (False, StatusCode.NOT_ACTIVE, "the node is not active")
    assert math.isnan(answer.distance) and not answer.model


def test_unexpected_error_ends_with_status_internal(poser):
    poser.model.backend.reply = lambda question: 1 / 0
    answer = poser.pose(**pair_of(image(40), image(90)))
    assert answer.status == StatusCode.INTERNAL and "ZeroDivisionError" in answer.message and not answer.success


def test_request_is_answered_busy_while_all_places_are_taken(matcher):
    with contextlib.ExitStack() as places:
        for _ in range(matcher.parameters.max_waiting_questions):
            places.enter_context(matcher.queue.reserve_place())
        answer = matcher.match((20, 30), **pair_of(image(40), image(90)))
    assert answer.status == StatusCode.BUSY and "max_waiting_questions" in answer.message
    assert matcher.match((20, 30), **pair_of(image(40), image(90))).success


def test_two_given_images_are_matched_without_any_camera_image(matcher):
    answer = matcher.match((20, 30), (150, 30), **pair_of(image(40, 3.0, "left"), image(90, 4.0, "right")))
    assert (answer.success, answer.status, answer.message, answer.model) == (True, StatusCode.OK, "", "vlm3-corr")
    assert matcher.greys == [40, 90]
    assert (answer.first_header.frame_id, answer.second_header.frame_id) == ("left", "right")
    assert (answer.first_header.stamp.sec, answer.second_header.stamp.sec) == (3, 4)
    found, lost = answer.pixels
    assert (found.x, found.y) == pytest.approx((80, 30), abs=1.0)
    assert math.isnan(lost.x) and math.isnan(lost.y) and "not visible" in answer.replies[1]
    assert answer.latency > 0


def test_request_without_images_compares_the_newest_frame_with_an_earlier_image(matcher):
    for step in range(31):
        matcher.see(100 + step, 10.0 + step / 10)
    answer = matcher.match((20, 30), seconds_back=1.0)
    assert answer.success and answer.message == ""
    assert answer.second_header.stamp.sec == 13
    back_s = 13.0 - answer.first_header.stamp.sec - answer.first_header.stamp.nanosec / 1e9
    assert back_s == pytest.approx(1.0, abs=0.16)
    assert matcher.greys == [130 - round(10 * back_s), 130]
    as_far_as_kept = matcher.match((20, 30))
    assert 13 - as_far_as_kept.first_header.stamp.sec - as_far_as_kept.first_header.stamp.nanosec / 1e9 >= 1.7


def test_given_first_image_is_compared_with_the_newest_frame(matcher):
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30), **pair_of(first=image(200, 1.0, "map")))
    assert answer.success and matcher.greys == [200, 50]
    assert (answer.first_header.frame_id, answer.second_header.frame_id) == ("map", "camera")


def test_fresh_request_waits_for_the_next_image_and_times_out_without_one(matcher):
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30), fresh=True, timeout_s=0.3, **pair_of(first=image(200, 1.0)))
    assert answer.status == StatusCode.TIMEOUT and "fresh" in answer.message
    both_given = matcher.match((20, 30), fresh=True, **pair_of(image(40), image(90)))
    assert both_given.success


def test_message_tells_the_time_between_the_images_if_it_is_not_the_requested_one(matcher):
    matcher.see(50, 10.0)
    matcher.see(51, 11.0)
    answer = matcher.match((20, 30), seconds_back=0.5)
    assert answer.success and matcher.greys == [50, 51]
    assert "1.00 s before the newest, not 0.50 s" in answer.message


def test_request_about_a_time_before_the_images_began_again_is_refused(matcher):
    for step in range(31):
        matcher.see(100 + step, 100.0 + step / 10)
    assert matcher.match((20, 30), seconds_back=1.0).success
    matcher.see(50, 10.0)  # the bag has begun again
    matcher.see(51, 10.2)
    answer = matcher.match((20, 30), seconds_back=1.0)
    assert answer.status == StatusCode.NO_IMAGE and "0.20 s, not 1.00 s" in answer.message
    as_far_as_kept = matcher.match((20, 30))
    assert as_far_as_kept.success and matcher.greys == [50, 51] and "0.20 s" in as_far_as_kept.message


def test_request_is_refused_if_the_camera_sent_only_one_image(matcher):
    none = matcher.match((20, 30))
    assert none.status == StatusCode.NO_IMAGE and "no image has arrived" in none.message
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30))
    assert answer.status == StatusCode.NO_IMAGE and "no earlier image" in answer.message and not answer.pixels


def broken(**fields) -> Image:
    message = image(9)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


BAD = [
    ({}, {"seconds_back": 2.5}, "seconds_back is 2.5"),
    ({}, {"seconds_back": -1.0}, "seconds_back is -1"),
    ({}, {"seconds_back": math.nan}, "seconds_back is nan"),
    ({}, {"timeout_s": -1.0}, "timeout_s is -1"),
    ({"second": image(5)}, {}, "without `first`"),
    ({"first": broken(encoding="rgb99")}, {}, "first: "),
    ({"first": image(5), "second": broken(width=161)}, {}, "second: "),
    ({"first": image(5)}, {"first_info": CameraInfo()}, "first: "),
    ({"first": image(5)}, {"first_info": info(image(5, frame_id="other"))}, "first_info is of camera frame 'other'"),
]


@pytest.mark.parametrize(("images", "fields", "words"), BAD)
def test_bad_request_is_refused_with_its_field_and_value(matcher, images, fields, words):
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30), **(pair_of(**images) | fields))
    assert answer.status == StatusCode.BAD_REQUEST and not answer.success and not answer.pixels
    assert words in answer.message, answer.message


@pytest.mark.parametrize(("uv", "words"), [([(160, 3)], "160"), ([], "0 pixels"), ([(1, 1)] * 300, "300 pixels")])
def test_pixels_that_cannot_be_matched_are_refused(matcher, uv, words):
    answer = matcher.match(*uv, **pair_of(image(40), image(90)))
    assert answer.status == StatusCode.BAD_REQUEST and words in answer.message


def test_message_says_how_to_keep_earlier_images_if_none_are_kept():
    services = ServicesWithoutTopics(scripted_model("vlm3-corr", match_reply), history_s=0.0)
    services.see(50, 10.0)
    answer = services.match((20, 30))
    services.queue.close()
    assert answer.status == StatusCode.BAD_REQUEST and "history_s" in answer.message


def test_pose_is_a_transform_and_comes_with_the_replies_of_the_model(poser):
    answer = poser.pose(**pair_of(image(40, 3.0), image(90, 4.0)))
    assert answer.success and answer.has_rotation and answer.has_translation and answer.message == ""
    assert (answer.transform.header.frame_id, answer.transform.child_frame_id) == ("camera", "camera_second")
    turn, shift = answer.transform.transform.rotation, answer.transform.transform.translation
    assert (turn.x, turn.y, turn.z, turn.w) == pytest.approx((0, math.sqrt(0.5), 0, math.sqrt(0.5)), abs=1e-9)
    assert (shift.x, shift.y, shift.z) == pytest.approx((-1.2, 0, 1.6))
    assert answer.rotation_angle == pytest.approx(math.pi / 2) and answer.distance == pytest.approx(2.0)
    assert list(answer.reply_names) == ["rotation", "orientation", "direction", "distance"]
    assert answer.replies[3] == "Translation distance: 2.00 meters"


def test_distance_is_unknown_if_the_model_might_have_told_another_as_likely(poser):
    about = "magnitude of the camera translation"
    poser.model.backend.reply = lambda question: "It is 0.00 meters" if about in question else pose_reply(question)
    standing = poser.pose(**pair_of(image(40), image(90)))
    assert standing.has_translation and standing.distance == 0.0  # the model is sure of it
    poser.model.backend.sure = False
    # The calibration of a model whose digits are nearly always right in depths; that says nothing about distances.
    poser.model.spec = replace(poser.model.spec, calibration=ErrorCalibration(words_spread=0.03))
    answer = poser.pose(**pair_of(image(40), image(90)))
    assert answer.success and answer.has_rotation and answer.direction.z == pytest.approx(0.8)
    assert not answer.has_translation and math.isnan(answer.distance)
    assert "do not tell: translation, distance" in answer.message and answer.replies[3] == "It is 0.00 meters"


def test_pose_that_cannot_be_read_is_not_understood(poser):
    poser.model.backend.reply = lambda question: "I cannot tell."
    answer = poser.pose(**pair_of(image(40), image(90)))
    assert answer.status == StatusCode.NOT_UNDERSTOOD and not answer.success
    assert not answer.has_rotation and math.isnan(answer.transform.transform.rotation.w)
    assert list(answer.replies) == ["I cannot tell."] * 4


def test_model_refuses_a_task_that_it_cannot_do_and_names_a_model_that_can(matcher, poser):
    pose = matcher.pose(**pair_of(image(40), image(90)))
    assert pose.status == StatusCode.BAD_REQUEST and "vlm3-pose" in pose.message and math.isnan(pose.distance)
    match = poser.match((1, 1))
    assert match.status == StatusCode.BAD_REQUEST and "vlm3-corr" in match.message
    assert not matcher.model.backend.looked_at and not poser.model.backend.looked_at


def test_frame_of_the_second_camera_is_the_requested_or_its_own_but_never_the_first_one():
    assert child_frame("left", "right", "") == "right"
    assert child_frame("left", "left", "") == "left_second"
    assert child_frame("left", "right", "then") == "then"
    with pytest.raises(BadQuestion, match="'left'"):
        child_frame("left", "right", "left")
