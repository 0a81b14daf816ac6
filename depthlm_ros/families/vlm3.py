"""VLM3-depth: depth at a pixel whose coordinates stand in the text.

Prompt, coordinate scale and reply format are those the released checkpoint was trained on. The prompt names the range
as [0, 2000], the paper as [0, 2000): which is meant is a setting of the model.

VLM3-object: questions about regions, whose boxes stand in the text.

Questions and answers follow SpatialRGPT, with every mask replaced by a box. How the checkpoint writes quantitative
answers is unpublished: numbers are read if they have a unit.

VLM3-corr: where a pixel of one image is in another. Coordinates are 0 to 1000 of each image's own size.

VLM3-pose: four questions about two images, whose answers give the pose of the second camera.

Answers read as "Rotation angle: 89.7 degrees", "Yaw=+89.6°, Pitch=+2.6°, Roll=+6.1°", "The camera moves left, forward,
unit vector (-0.69, +0.02, +0.72)." and "Translation distance: 1.98 meters".

True answers in VLM3's words, for training.

The formats are those of its published samples. From which component on a direction is named in words, and from which
distance a camera has moved at all, is not published.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from depthlm_ros.core import Region, RelativePose, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply, normalised
from depthlm_ros.families.parsing import (
    SIGNED,
    answered_metres,
    box_text,
    boxes_in,
    quantity_of,
    signed,
    stated,
    tuples_in,
    without_control,
    without_thinking,
)
from depthlm_ros.geometry.rotations import angles_from_rotation, rotation_angle_deg, rotation_from_angles, unit

COORDINATE_SCALE = 2000
POINT_QUESTION = (
    "Given this image, how far is the point at coordinates ({nx}, {ny}) from the camera? The coordinates are in "
    "normalised [0, 2000] format relative to image width and height. Output the thinking process in <think> </think> "
    "and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
POINT_REPLY = (
    "<think> The point is around {depth_m:.2f} meters away from the camera. </think>\n\n"
    "<answer> {depth_m:.2f} </answer>"
)
POINT_REPLY_START = "<think> The point is around "
# Of a whole reply, nothing forced, as the released notebook asks.
POINT_REPLY_TOKENS = 256


def point_text(u_px: float, v_px: float, size_px: tuple[int, int], most: int = COORDINATE_SCALE) -> str:
    """The depth question for one pixel of an image (width, height); coordinates are at most `most`."""
    nx = min(normalised(u_px, size_px[0], COORDINATE_SCALE), most)
    ny = min(normalised(v_px, size_px[1], COORDINATE_SCALE), most)
    return POINT_QUESTION.format(nx=nx, ny=ny)


def point_prompt(u_px: float, v_px: float, size_px: tuple[int, int], most: int = COORDINATE_SCALE) -> Prompt:
    """The depth question for one pixel. Its reply begins with known words, so only the number is decoded."""
    text = point_text(u_px, v_px, size_px, most)
    return Prompt(text, forced=POINT_REPLY_START, number_only=True, max_new_tokens=8)


def read_point(reply: str) -> float:
    """Metres from a reply, be it whole or only what follows POINT_REPLY_START; NaN unless it gives one plain positive
    number. The released notebook leaves such failures out of its score; here they count as unknown."""
    return answered_metres(reply)


class Vlm3Depth(Family):
    """facebook/VLM3-depth."""

    name = "vlm3-depth"
    abilities = frozenset({"points"})

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        return point_prompt(u_px, v_px, size_px, self.most_coordinate)

    def read_point(self, reply: str) -> float:
        return read_point(reply)


REGION = "bounding box region {box}"
OBJECT_REPLY_TOKENS = 512

_PLACEHOLDER = re.compile(r"<mask>|\bRegion \[([0-9]{1,3})\]", re.IGNORECASE)
_POLARITY = re.compile(
    r"\b(?:(yes|correct|affirmative|true|right|indeed)|(?:no|incorrect|wrong|false|not))\b", re.IGNORECASE
)


class Vlm3Object(Family):
    """facebook/VLM3-object."""

    name = "vlm3-object"
    abilities = frozenset({"questions"})

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Each <mask> of the question becomes the next region, each "Region [i]" region i; a question without either
        is followed by the regions. Raises BadQuestion for pixels, and if placeholders and regions do not match."""
        if len(uv_px):
            raise BadQuestion(
                f"a model of family {self.name} is asked about regions, not pixels: give a box around it."
            )
        boxes = [REGION.format(box=box_text(region, size_px)) for region in regions]
        return Prompt(placed(without_control(question).strip(), boxes), max_new_tokens=OBJECT_REPLY_TOKENS)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """A clock direction becomes degrees to the right of straight ahead: 3 o'clock is 90 deg."""
        text = without_thinking(reply)
        if not text:
            return Reply(reply.strip(), Status.NOT_UNDERSTOOD)
        boxes = boxes_in(text, size_px)
        hour, _ = stated(text, ("o'clock",))
        if 1 <= hour <= 12:
            return Reply(text, Status.OK, hour % 12 * 30.0, "deg", boxes, "direction")
        value, unit = stated(text, ("m", "deg"))
        return Reply(text, Status.OK, value, unit, boxes, quantity_of(text) if unit == "m" else "")


def placed(question: str, boxes: Sequence[str]) -> str:
    """The question with boxes for its placeholders, or behind it if it has none."""
    indices = named_regions(question)
    if not indices:
        return " ".join([question, *([" and ".join(boxes)] if boxes else [])])
    if set(indices) != set(range(len(boxes))):
        raise BadQuestion(
            f"the question names region {', '.join(map(str, sorted(set(indices))))} and {len(boxes)} were given: "
            "name each once or more, counted from 0."
        )
    named = iter(indices)
    return _PLACEHOLDER.sub(lambda _: boxes[next(named)], question)


def named_regions(question: str) -> list[int]:
    """The regions, counted from 0, that a question's placeholders stand for, in their order."""
    indices, masks = [], 0
    for match in _PLACEHOLDER.finditer(question):
        indices.append(int(match[1]) if match[1] else masks)
        masks += match[1] is None
    return indices


def polarity(reply: str) -> bool | None:
    """Whether a reply says yes or no, by its earliest such word, as the released notebook scores; None: it says
    neither, which never counts as a match.

    "right" counts as yes even where it is a direction ("on the right of"), and "no" is a word in "no doubt": use this
    for scoring yes/no questions only.
    """
    found = _POLARITY.search(without_thinking(reply))
    return None if found is None else found[1] is not None


MATCH_COORDINATE_SCALE = 1000
MATCH_QUESTION = (
    "Given these two images, what pixel in the second image corresponds to pixel ({x1}, {y1}) in the first image? "
    "Report the answer as (x, y)."
    ' Please think step by step and follow the format: "<think> [think process] </think>\n\n[answer]".'
)
MATCH_REPLY_TOKENS = 2048


class Vlm3Corr(Family):
    """facebook/VLM3-corr."""

    name = "vlm3-corr"
    abilities = frozenset({"match"})

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        x1 = normalised(u_px, size_px[0], MATCH_COORDINATE_SCALE)
        y1 = normalised(v_px, size_px[1], MATCH_COORDINATE_SCALE)
        return Prompt(MATCH_QUESTION.format(x1=x1, y1=y1), max_new_tokens=MATCH_REPLY_TOKENS)

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        """The first pair of numbers behind the thinking; NaN if there is none within 0 to 1000. 1000 itself is the
        last pixel."""
        pairs = [found for found in tuples_in(without_thinking(reply)) if len(found) == 2]
        if not pairs or not all(0 <= value <= MATCH_COORDINATE_SCALE for value in pairs[0]):
            return math.nan, math.nan
        u, v = (value / MATCH_COORDINATE_SCALE * extent for value, extent in zip(pairs[0], size_px, strict=True))
        return min(u, size_px[0] - 1.0), min(v, size_px[1] - 1.0)


QUESTIONS = {
    "rotation": (
        "Given these two images captured from different viewpoints, what is the relative rotation angle (in degrees) "
        "between the two camera poses?"
    ),
    "orientation": (
        "Treating the first image as the reference viewpoint, describe the camera's reorientation needed to reach the "
        "second image's viewpoint as yaw, pitch and roll about the first camera's local axes, applied intrinsically in "
        "the order yaw -> pitch -> roll.  Conventions: yaw is rotation about the vertical (down) axis, positive = turn "
        "right; pitch is about the lateral (right) axis after yaw, positive = look up; roll is about the optical "
        "(forward) axis after yaw and pitch, positive = bank to the right (image content rotates clockwise from the "
        "operator's POV)."
    ),
    "direction": (
        "Where did the camera move, expressed in the first camera's local frame (X right, Y down, Z forward)?  Give a "
        "qualitative direction and the precise unit direction vector (x, y, z)."
    ),
    "distance": "Estimate the magnitude of the camera translation between the two viewpoints.",
}
POSE_REPLY_TOKENS = 512

_ANGLES = tuple(
    re.compile(rf"\b{name}\s*(?:=\s*)?({SIGNED})(?!,[0-9])", re.IGNORECASE) for name in ("yaw", "pitch", "roll")
)


class Vlm3Pose(Family):
    """facebook/VLM3-pose."""

    name = "vlm3-pose"
    abilities = frozenset({"pose"})

    def pose_prompts(self) -> dict[str, Prompt]:
        return {name: Prompt(question, max_new_tokens=POSE_REPLY_TOKENS) for name, question in QUESTIONS.items()}

    def read_pose(self, replies: Mapping[str, str]) -> RelativePose:
        said = {name: without_thinking(replies.get(name, "")) for name in QUESTIONS}
        direction, distance_m = read_direction(said["direction"]), stated(said["distance"], ("m",))[0]
        return RelativePose(
            rotation=read_rotation(said["orientation"]),
            translation_m=distance_m * direction,
            angle_deg=read_angle(said["rotation"]),
            direction=direction,
            distance_m=distance_m,
            replies=dict(replies),
        )


def read_angle(reply: str) -> float:
    """Degrees in [0, 180]; NaN if the reply does not state them."""
    angle_deg, _ = stated(reply, ("deg",))
    return angle_deg if angle_deg <= 180.0 else math.nan


def read_rotation(reply: str) -> np.ndarray:
    """float64 (3, 3) from yaw, pitch and roll; NaN if one of them is missing or more than a turn."""
    found = [pattern.search(reply) for pattern in _ANGLES]
    angles = [signed(match[1]) for match in found if match is not None]
    if len(angles) < 3 or not all(abs(angle) <= 360.0 for angle in angles):
        return np.full((3, 3), np.nan)
    return rotation_from_angles(*angles)


def read_direction(reply: str) -> np.ndarray:
    """float64 (3,), unit; NaN without a vector, or with one of length zero."""
    vectors = [found for found in tuples_in(reply) if len(found) == 3]
    return unit(np.array(vectors[0])) if vectors else np.full(3, np.nan)


# A camera that moved less has no direction worth learning.
LEAST_MOVE_M = 0.05
# A component of the unit direction that is larger than this is named in words.
NAMED = 0.3
WORDS = (("right", "left"), ("down", "up"), ("forward", "backward"))


def pose_replies(rotation: np.ndarray, translation_m: np.ndarray) -> dict[str, str]:
    """The answers to the four questions of vlm3_pose about a second camera: rotation (3, 3) turns its vectors into the
    first camera, translation_m (3,) is its centre there. No direction of a camera that hardly moved."""
    yaw, pitch, roll = (round(angle, 1) + 0.0 for angle in angles_from_rotation(rotation))
    distance_m = float(np.linalg.norm(translation_m))
    replies = {
        "rotation": f"Rotation angle: {rotation_angle_deg(rotation):.1f} degrees",
        "orientation": f"Yaw={yaw:+.1f}°, Pitch={pitch:+.1f}°, Roll={roll:+.1f}°",
        "distance": f"Translation distance: {distance_m:.2f} meters",
    }
    if distance_m >= LEAST_MOVE_M:
        direction = translation_m / distance_m
        named = [names[int(value < 0)] for value, names in zip(direction, WORDS, strict=True) if abs(value) > NAMED]
        x, y, z = (round(float(value), 2) + 0.0 for value in direction)
        replies["direction"] = f"The camera moves {', '.join(named)}, unit vector ({x:+.2f}, {y:+.2f}, {z:+.2f})."
    return replies
