# SPDX-License-Identifier: Apache-2.0
"""VLM3's four models: depth at a pixel, questions about regions, correspondences, and the pose between two images.

VLM3-depth: the coordinates of the pixel are in the text. Prompt, coordinate scale and reply format are those of the
released checkpoint's training. The prompt gives the range as [0, 2000], the paper as [0, 2000): a setting of the model
(most_coordinate) says which of them is used.

VLM3-object: questions about regions, whose boxes are in the text. Questions and answers follow SpatialRGPT, with a box
instead of every mask. How the checkpoint writes quantitative answers is unpublished: numbers are read if they have a
unit.

VLM3-corr: where a pixel of one image is in another one. Coordinates are 0 to 1000 of each image's own size.

VLM3-pose: four questions about two images, whose answers give the pose of the second camera. Answers have the form
"Rotation angle: 89.7 degrees", "Yaw=+89.6°, Pitch=+2.6°, Roll=+6.1°", "The camera moves left, forward, unit vector
(-0.69, +0.02, +0.72)." and "Translation distance: 1.98 meters". `pose_replies` writes true answers in this form, for
training. The form is that of the published samples; which components of a direction are named in words, and from which
distance on a camera counts as moved, is unpublished.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from depthlm_ros.core import Region, RelativePose, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import (
    Family,
    Prompt,
    Reply,
    asks_depth,
    check_marked,
    normalise_coordinate,
)
from depthlm_ros.families.parsing import (
    SIGNED,
    escape_control_tokens,
    find_boxes,
    find_tuples,
    format_box,
    parse_answer_m,
    parse_signed,
    quantity_in,
    stated_value,
    strip_thinking,
)
from depthlm_ros.geometry.canonical_view import PICTURE
from depthlm_ros.geometry.rotations import angles_from_rotation, rotation_angle_deg, rotation_from_angles, unit_vector

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
# Longest complete reply, without forced words, as in the released notebook.
POINT_REPLY_TOKENS = 256


def point_question(u_px: float, v_px: float, size_px: tuple[int, int], most: int = COORDINATE_SCALE) -> str:
    """Returns the text of the depth question about a pixel of an image (width, height); `most`: largest coordinate."""
    nx = min(normalise_coordinate(u_px, size_px[0], COORDINATE_SCALE), most)
    ny = min(normalise_coordinate(v_px, size_px[1], COORDINATE_SCALE), most)
    return POINT_QUESTION.format(nx=nx, ny=ny)


def point_prompt(u_px: float, v_px: float, size_px: tuple[int, int], most: int = COORDINATE_SCALE) -> Prompt:
    """Returns the depth question for one pixel. The beginning of its reply is known, so only the number is decoded."""
    text = point_question(u_px, v_px, size_px, most)
    return Prompt(
        text, forced=POINT_REPLY_START, number_only=True, max_new_tokens=8, complete_tokens=POINT_REPLY_TOKENS
    )


def read_point(reply: str) -> float:
    """Returns metres from a reply with or without POINT_REPLY_START; NaN unless it gives one plain positive number.

    The released notebook leaves such failures out of its score; here they count as unknown.
    """
    return parse_answer_m(reply)


class Vlm3Depth(Family):
    """facebook/VLM3-depth."""

    name = "vlm3-depth"
    abilities = frozenset({"points"})
    pixels_of = PICTURE

    def point_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        """Returns the depth question. That replies begin with POINT_REPLY_START is known of DepthLM only."""
        return replace(point_prompt(u_px, v_px, size_px, self.most_coordinate), forced_is_known=False)

    def read_point(self, reply: str) -> float:
        return read_point(reply)

    def question_prompt(
        self, question: str, uv_px: np.ndarray, regions: Sequence[Region], size_px: tuple[int, int]
    ) -> Prompt:
        """Returns the one question that the model was trained on. Raises BadQuestion for any other."""
        check_marked(question, len(uv_px))
        if len(uv_px) != 1 or regions or not asks_depth(question):
            raise BadQuestion(
                f"a model of family {self.name} cannot answer questions in words, except for the depth of one pixel "
                "('How far is this point?'): use vlm3-object or depthvlm-4b."
            )
        u_px, v_px = uv_px[0]
        text = point_question(u_px, v_px, size_px, self.most_coordinate)
        return Prompt(text, max_new_tokens=POINT_REPLY_TOKENS)

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        depth_m = read_point(reply)
        if not math.isfinite(depth_m):
            return Reply(reply.strip(), Status.NOT_UNDERSTOOD)
        return Reply(reply.strip(), Status.OK, depth_m, "m", quantity="distance")


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
        """Returns the question with its regions in the text.

        Each <mask> of the question becomes the next region, each "Region [i]" becomes region i. A question without
        placeholders is followed by the regions. Raises BadQuestion for pixels, and if placeholders and regions do not
        match.
        """
        if len(uv_px):
            raise BadQuestion(
                f"a model of family {self.name} is asked about regions, not pixels: give a box around it."
            )
        check_marked(question, len(regions))
        boxes = [REGION.format(box=format_box(region, size_px)) for region in regions]
        return Prompt(
            fill_placeholders(escape_control_tokens(question).strip(), boxes), max_new_tokens=OBJECT_REPLY_TOKENS
        )

    def read_reply(self, reply: str, size_px: tuple[int, int]) -> Reply:
        """Reads a length or angle; a clock direction becomes degrees to the right of straight ahead (3 o'clock: 90)."""
        text = strip_thinking(reply)
        if not text:
            return Reply(reply.strip(), Status.NOT_UNDERSTOOD)
        boxes = find_boxes(text, size_px)
        hour, _ = stated_value(text, ("o'clock",))
        if 1 <= hour <= 12:
            return Reply(text, Status.OK, hour % 12 * 30.0, "deg", boxes, "direction")
        value, unit = stated_value(text, ("m", "deg"))
        return Reply(text, Status.OK, value, unit, boxes, quantity_in(text) if unit == "m" else "")


def fill_placeholders(question: str, boxes: Sequence[str]) -> str:
    """Returns the question with boxes in the place of its placeholders, or after it if it has none.

    Raises BadQuestion if placeholders and boxes do not match.
    """
    indices = placeholder_regions(question)
    if not indices:
        return " ".join([question, *([" and ".join(boxes)] if boxes else [])])
    if set(indices) != set(range(len(boxes))):
        raise BadQuestion(
            f"the question names region {', '.join(map(str, sorted(set(indices))))} and {len(boxes)} were given: "
            "name each once or more, counted from 0."
        )
    order = iter(indices)
    return _PLACEHOLDER.sub(lambda _: boxes[next(order)], question)


def placeholder_regions(question: str) -> list[int]:
    """Returns the indices of the regions, counted from 0, that a question's placeholders refer to, in their order."""
    indices, masks = [], 0
    for match in _PLACEHOLDER.finditer(question):
        indices.append(int(match[1]) if match[1] else masks)
        masks += match[1] is None
    return indices


def polarity(reply: str) -> bool | None:
    """Returns whether a reply says yes or no, by the first such word, as the released notebook scores.

    None if it says neither, which never counts as a match. "right" counts as yes even where it is a direction ("on the
    right of"), and "no" counts in "no doubt" too: use this only to score yes/no questions.
    """
    word = _POLARITY.search(strip_thinking(reply))
    return None if word is None else word[1] is not None


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
    pixels_of = PICTURE

    def match_prompt(self, u_px: float, v_px: float, size_px: tuple[int, int]) -> Prompt:
        x1 = normalise_coordinate(u_px, size_px[0], MATCH_COORDINATE_SCALE)
        y1 = normalise_coordinate(v_px, size_px[1], MATCH_COORDINATE_SCALE)
        return Prompt(MATCH_QUESTION.format(x1=x1, y1=y1), max_new_tokens=MATCH_REPLY_TOKENS)

    def read_match(self, reply: str, size_px: tuple[int, int]) -> tuple[float, float]:
        """Reads the first pair of numbers after the thinking; NaN if it is not within 0 to 1000.

        1000 itself becomes the last pixel.
        """
        pairs = [values for values in find_tuples(strip_thinking(reply)) if len(values) == 2]
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
        texts = {name: strip_thinking(replies.get(name, "")) for name in QUESTIONS}
        direction, distance_m = read_direction(texts["direction"]), stated_value(texts["distance"], ("m",))[0]
        return RelativePose(
            rotation=read_rotation(texts["orientation"]),
            translation_m=distance_m * direction,
            angle_deg=read_angle(texts["rotation"]),
            direction=direction,
            distance_m=distance_m,
            replies=dict(replies),
        )


def read_angle(reply: str) -> float:
    """Returns degrees in [0, 180]; NaN if the reply does not state them."""
    angle_deg, _ = stated_value(reply, ("deg",))
    return angle_deg if angle_deg <= 180.0 else math.nan


def read_rotation(reply: str) -> np.ndarray:
    """Returns float64 (3, 3) from yaw, pitch and roll; NaN if one is missing or more than a full turn."""
    matches = [pattern.search(reply) for pattern in _ANGLES]
    angles = [parse_signed(match[1]) for match in matches if match is not None]
    if len(angles) < 3 or not all(abs(angle) <= 360.0 for angle in angles):
        return np.full((3, 3), np.nan)
    return rotation_from_angles(*angles)


def read_direction(reply: str) -> np.ndarray:
    """Returns float64 (3,), a unit vector; NaN without a vector, or with one of length zero."""
    vectors = [values for values in find_tuples(reply) if len(values) == 3]
    return unit_vector(np.array(vectors[0])) if vectors else np.full(3, np.nan)


class Vlm3(Family):
    """All four together: which of them is asked is decided by the question (model.Vlm3Models)."""

    name = "vlm3"
    abilities = Vlm3Depth.abilities | Vlm3Object.abilities | Vlm3Corr.abilities | Vlm3Pose.abilities


# If a camera moved less than this, its direction is not used for training.
LEAST_MOVE_M = 0.05
# A component of the unit direction that is larger than this is named in words.
NAMED = 0.3
WORDS = (("right", "left"), ("down", "up"), ("forward", "backward"))


def pose_replies(rotation: np.ndarray, translation_m: np.ndarray) -> dict[str, str]:
    """Returns the true answers to QUESTIONS about a second camera, by name, in VLM3's words.

    rotation (3, 3) turns its vectors into the first camera, translation_m (3,) is its centre there. There is no
    "direction" for a camera that moved by less than LEAST_MOVE_M.
    """
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
