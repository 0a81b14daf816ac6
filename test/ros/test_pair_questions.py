"""Questions about two images: which two they are, what is said of them, and what is refused in which words."""

import math
import time
from dataclasses import replace

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
from depthlm_ros.model_files.spec import Calibration  # noqa: E402
from depthlm_ros.ros.frame_processing import Eye  # noqa: E402
from depthlm_ros.ros.inference_thread import Worker  # noqa: E402
from depthlm_ros.ros.message_out import colour_image, rectified_camera_info  # noqa: E402
from depthlm_ros.ros.parameters import Parameters  # noqa: E402
from depthlm_ros.ros.request_queue import Inbox  # noqa: E402
from depthlm_ros.ros.service_request import Codes, Site  # noqa: E402
from depthlm_ros.ros.services import answer_match, answer_pose, child_frame  # noqa: E402
from depthlm_ros.ros.statistics import Meter, Troubles  # noqa: E402
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
    """Pixels of the left half are found in the middle, others are not."""
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


class Desk:
    """An active node without its topics: inbox and worker are real, images are put in by hand."""

    def __init__(self, model, **parameters) -> None:
        self.model, self.parameters = model, Parameters(mode="questions", query_timeout_s=20.0, **parameters)
        troubles = Troubles(lambda line: None)
        self.inbox = Inbox(troubles, self.parameters.max_waiting_questions, self.parameters.history_s)
        eye = Eye(model, False, False, troubles)
        self.worker = Worker(self.inbox, eye, lambda seen: None, lambda: False, Meter(), troubles)
        self.worker.start()
        self.site = Site(model, time.time_ns, lambda: self.parameters, self.inbox, None)

    def see(self, grey: int, at_s: float) -> None:
        message = image(grey, at_s)
        self.inbox.put_info(info(message))
        self.inbox.put_image(message, time.time_ns())

    def match(self, *uv, **fields) -> MatchPixels.Response:
        pixels = [Point(x=float(u), y=float(v)) for u, v in uv]
        return answer_match(self.site, MatchPixels.Request(pixels=pixels, **fields), MatchPixels.Response())

    def pose(self, **fields) -> RelativePose.Response:
        return answer_pose(self.site, RelativePose.Request(**fields), RelativePose.Response())

    @property
    def greys(self) -> list[int]:
        """Grey values of the images of the newest look at two, in their order."""
        return [round(float(canvas.mean())) for canvas in self.model.backend.looked_at[-1]]


@pytest.fixture
def matcher():
    desk = Desk(scripted_model("vlm3-corr", match_reply))
    yield desk
    desk.inbox.close()


@pytest.fixture
def poser():
    desk = Desk(scripted_model("vlm3-pose", pose_reply))
    yield desk
    desk.inbox.close()


def given(first: Image | None = None, second: Image | None = None) -> dict:
    fields = {name: message for name, message in (("first", first), ("second", second)) if message}
    return fields | {f"{name}_info": info(message) for name, message in fields.items()}


def test_two_given_images_are_matched_where_no_camera_ever_sent_one(matcher):
    answer = matcher.match((20, 30), (150, 30), **given(image(40, 3.0, "left"), image(90, 4.0, "right")))
    assert (answer.success, answer.status, answer.message, answer.model) == (True, Codes.OK, "", "vlm3-corr")
    assert matcher.greys == [40, 90]
    assert (answer.first_header.frame_id, answer.second_header.frame_id) == ("left", "right")
    assert (answer.first_header.stamp.sec, answer.second_header.stamp.sec) == (3, 4)
    found, lost = answer.pixels
    assert (found.x, found.y) == pytest.approx((80, 30), abs=1.0)
    assert math.isnan(lost.x) and math.isnan(lost.y) and "not visible" in answer.replies[1]
    assert answer.latency > 0


def test_without_images_the_newest_look_is_held_against_the_camera_s_image_of_then(matcher):
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


def test_a_stored_image_is_held_against_now(matcher):
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30), **given(first=image(200, 1.0, "map")))
    assert answer.success and matcher.greys == [200, 50]
    assert (answer.first_header.frame_id, answer.second_header.frame_id) == ("map", "camera")


def test_a_fresh_answer_waits_for_the_next_image_and_goes_without_one_in_words(matcher):
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30), fresh=True, timeout_s=0.3, **given(first=image(200, 1.0)))
    assert answer.status == Codes.TIMEOUT and "fresh" in answer.message
    both_given = matcher.match((20, 30), fresh=True, **given(image(40), image(90)))
    assert both_given.success


def test_the_time_between_the_images_is_told_where_it_is_not_the_wanted_one(matcher):
    matcher.see(50, 10.0)
    matcher.see(51, 10.2)
    answer = matcher.match((20, 30), seconds_back=2.0)
    assert answer.success and matcher.greys == [50, 51]
    assert "0.20 s before the newest, not 2.00 s" in answer.message


def test_a_camera_that_sent_one_image_has_no_earlier_one(matcher):
    none = matcher.match((20, 30))
    assert none.status == Codes.NO_IMAGE and "no image has arrived" in none.message
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30))
    assert answer.status == Codes.NO_IMAGE and "no earlier image" in answer.message and not answer.pixels


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


@pytest.mark.parametrize(("images", "fields", "said"), BAD)
def test_a_bad_request_is_refused_with_its_field_and_value(matcher, images, fields, said):
    matcher.see(50, 10.0)
    answer = matcher.match((20, 30), **(given(**images) | fields))
    assert answer.status == Codes.BAD_REQUEST and not answer.success and not answer.pixels
    assert said in answer.message, answer.message


@pytest.mark.parametrize(("uv", "said"), [([(160, 3)], "160"), ([], "0 pixels"), ([(1, 1)] * 300, "300 pixels")])
def test_pixels_that_cannot_be_matched_are_refused(matcher, uv, said):
    answer = matcher.match(*uv, **given(image(40), image(90)))
    assert answer.status == Codes.BAD_REQUEST and said in answer.message


def test_where_no_earlier_images_are_kept_it_is_said_how_to_keep_them():
    desk = Desk(scripted_model("vlm3-corr", match_reply), history_s=0.0)
    desk.see(50, 10.0)
    answer = desk.match((20, 30))
    desk.inbox.close()
    assert answer.status == Codes.BAD_REQUEST and "history_s" in answer.message


def test_a_pose_is_told_as_a_transform_with_the_words_it_was_read_from(poser):
    answer = poser.pose(**given(image(40, 3.0), image(90, 4.0)))
    assert answer.success and answer.has_rotation and answer.has_translation and answer.message == ""
    assert (answer.transform.header.frame_id, answer.transform.child_frame_id) == ("camera", "camera_second")
    turn, shift = answer.transform.transform.rotation, answer.transform.transform.translation
    assert (turn.x, turn.y, turn.z, turn.w) == pytest.approx((0, math.sqrt(0.5), 0, math.sqrt(0.5)), abs=1e-9)
    assert (shift.x, shift.y, shift.z) == pytest.approx((-1.2, 0, 1.6))
    assert answer.rotation_angle == pytest.approx(math.pi / 2) and answer.distance == pytest.approx(2.0)
    assert list(answer.reply_names) == ["rotation", "orientation", "direction", "distance"]
    assert answer.replies[3] == "Translation distance: 2.00 meters"


def test_a_distance_that_might_as_well_have_been_another_is_unknown(poser):
    told = "magnitude of the camera translation"
    poser.model.backend.reply = lambda question: "It is 0.00 meters" if told in question else pose_reply(question)
    stood = poser.pose(**given(image(40), image(90)))
    assert stood.has_translation and stood.distance == 0.0  # the model is sure of it
    poser.model.backend.sure = False
    # As of a model whose digits, where it tells depths, are nearly always right: that says nothing of distances.
    poser.model.spec = replace(poser.model.spec, calibration=Calibration(words_spread=0.03))
    answer = poser.pose(**given(image(40), image(90)))
    assert answer.success and answer.has_rotation and answer.direction.z == pytest.approx(0.8)
    assert not answer.has_translation and math.isnan(answer.distance)
    assert "do not tell: translation, distance" in answer.message and answer.replies[3] == "It is 0.00 meters"


def test_a_pose_that_cannot_be_read_is_no_pose(poser):
    poser.model.backend.reply = lambda question: "I cannot tell."
    answer = poser.pose(**given(image(40), image(90)))
    assert answer.status == Codes.NOT_UNDERSTOOD and not answer.success
    assert not answer.has_rotation and math.isnan(answer.transform.transform.rotation.w)
    assert list(answer.replies) == ["I cannot tell."] * 4


def test_a_model_for_the_one_task_refuses_the_other_and_names_who_can(matcher, poser):
    pose = matcher.pose(**given(image(40), image(90)))
    assert pose.status == Codes.BAD_REQUEST and "vlm3-pose" in pose.message and math.isnan(pose.distance)
    match = poser.match((1, 1))
    assert match.status == Codes.BAD_REQUEST and "vlm3-corr" in match.message
    assert not matcher.model.backend.looked_at and not poser.model.backend.looked_at


def test_the_second_camera_s_frame_is_as_wanted_or_its_own_but_never_the_first_s():
    assert child_frame("left", "right", "") == "right"
    assert child_frame("left", "left", "") == "left_second"
    assert child_frame("left", "right", "then") == "then"
    with pytest.raises(BadQuestion, match="'left'"):
        child_frame("left", "right", "left")
