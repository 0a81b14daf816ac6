# SPDX-License-Identifier: Apache-2.0
"""What one pass of a model over a frame shows, and everything that can be read from it, as often as needed.

View: one frame: dense depth, depth at pixels, answers to questions. PairView: two frames: pixels of the first found in
the second, the relative pose, answers. Both ask a LanguageModel and read its GenerationResult. The language model reads
the images when the first question comes. `compose_answer` combines what the model says with what the depth map says, so
that an answer speaks with one voice, or names the contradiction.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import numpy as np

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.number_uncertainty import GenerationResult
from depthlm_ros.core import Answer, DepthMap, Matches, Measurement, PointDepths, Question, Region, RelativePose, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.geometry.canonical_view import CanvasPlacement, region_centres_px, region_corners_px
from depthlm_ros.geometry.pinhole import backproject, check_pixels_inside, nearest_pixel, pixels_inside, z_from_range
from depthlm_ros.measurement.extents import estimate_down
from depthlm_ros.measurement.image_pair import ImagePair, feature_grid, relative_pose, shown_cells
from depthlm_ros.measurement.measure import agree, local_depth_std, measure, replace_number
from depthlm_ros.model_files.spec import ModelSpec

MAX_QUESTION_CHARS = 2000
# A model that knows that the camera stood still gives hardly any probability to distances much larger than this.
SMALL_SPREAD_M = 0.1
# An answer about an object says that it is not sure below this calibrated confidence.
SURE_CONFIDENCE = 0.35
NOT_SURE = "I am not sure: "
# The answer about a thing that the model claims to see where the frame shows nothing.
UNSEEN = "The image shows nothing there."
# Relative standard deviations below this count as this, so that their reciprocals are finite.
LEAST_RELATIVE_STD = 1e-6
# The median of a map, for map_std_scale, is that of every so many rows and columns.
MEDIAN_STEP_PX = 4
_UNIT_WORDS = {"m": "meters"}


class LanguageModel(Protocol):
    """The part of a loaded model that the views need."""

    spec: ModelSpec
    family: Family
    backend: Backend

    def generate_replies(self, look: Look, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        """Returns the model's reply to each prompt."""
        ...

    def generate_marked_replies(self, picture: np.ndarray, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        """Returns the model's reply to each prompt, about its own copy of the picture (h, w, 3) with its markers."""
        ...


class View:
    """The result of one pass over a frame. It says nothing about pixels that the model did not see.

    frame: the frame. backend_s: seconds that the backend took for the pass. canvas_size_px: (width, height) of what the
    model saw.
    """

    def __init__(self, model: LanguageModel, placement: CanvasPlacement, look: Look | None, backend_s: float) -> None:
        """look: None for a model without dense depth. It looks when it is first asked about the image as a whole."""
        self.frame, self.backend_s, self.canvas_size_px = placement.frame, backend_s, placement.canvas_size_px
        self._model, self._placement, self._newest_look = model, placement, look
        self._reading = threading.Lock()

    def depth(self, with_std: bool = True) -> DepthMap:
        """Returns dense depth at the size of the frame, NaN where the model does not see the scene.

        with_std: also the standard deviation, if the model tells it: that takes about as long as the depth, after the
        pass over the frame. Raises BadQuestion if the model has no depth head.
        """
        std_m = self._std_m if with_std else None
        frame, canonical = self.frame, self._placement.canonical
        detail_px = max(1.0, 1.0 / max(canonical.x.scale, canonical.y.scale))
        return DepthMap(self._depth_m, frame.intrinsics, frame.stamp_ns, frame.frame_id, std_m, detail_px)

    def depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """Returns the depth at pixels (N, 2) of the frame: the dense depth of the nearest pixel.

        A model without dense depth is asked in words instead (tell_depth_at). std_m is that of the depth map. If the
        model does not tell it, it combines the spread of the map around the pixel with the relative error that was
        measured on validation scenes. Raises BadQuestion for pixels outside the frame.
        """
        if not self._model.spec.head:
            return self.tell_depth_at(uv_px)
        uv_px = check_pixels_inside(uv_px, self.frame.intrinsics.size_px)
        u, v = nearest_pixel(uv_px).T
        depth_m = self._depth_m[v, u]
        if self._std_m is not None:
            return PointDepths(uv_px, depth_m, self._std_m[v, u])
        calibration = self._model.spec.calibration
        local_std_m = local_depth_std(self._canvas_depth_m, self._placement.canonical.uv_to_canvas(uv_px))
        local_std_m *= self.frame.depth_scale
        std_m = np.hypot(calibration.dense_spread * local_std_m, calibration.dense_relative * depth_m)
        return PointDepths(uv_px, depth_m, std_m.astype(np.float32))

    def tell_depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """Returns the depth at pixels (N, 2) in the model's words: one question for each pixel, all in one batch.

        std_m is the calibrated spread of the numbers that the model could have written instead. Raises BadQuestion for
        pixels outside the frame.
        """
        uv_px = check_pixels_inside(uv_px, self.frame.intrinsics.size_px)
        depth_m, std_m = np.full((2, len(uv_px)), np.nan, np.float32)
        visible = np.flatnonzero(self._placement.is_visible(uv_px))
        family = self._model.family
        size_px = self._placement.size_in(family.pixels_of)
        asked_px = self._placement.uv_in(family.pixels_of, uv_px[visible])
        prompts = [family.point_prompt(u, v, size_px) for u, v in asked_px]
        for index, result in zip(visible, self._generate(prompts), strict=True):
            depth_m[index] = self._to_z_m(family.read_point(result.text), uv_px[index])
            std_m[index] = result.number_std(float(depth_m[index]), self._model.spec.calibration)
        scale = np.float32(self.frame.depth_scale)
        return PointDepths(uv_px, scale * depth_m, scale * std_m)

    def ask(self, question: str, uv_px: np.ndarray | Sequence = (), regions: Sequence[Region] = ()) -> Answer:
        """Answers a question in words about the image, some pixels (N, 2) or some regions of the frame: see ask_all."""
        return self.ask_all([Question(question, np.asarray(uv_px, np.float64).reshape(-1, 2), tuple(regions))])[0]

    def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers many questions in one batch. The answers are the same as those to the questions one by one.

        The model reads each question and names the objects that it is about. What the depth map says about these
        objects, or about the pixels and regions of the question, is measured (Answer.measurements). Raises BadQuestion
        for an empty question, and for pixels and regions that the model does not see.
        """
        results = self._generate([self._prompt(question) for question in questions])
        replies = [self._model.family.read_reply(result.text, self._placement.canvas_size_px) for result in results]
        boxes = self._locate_objects(questions, replies)
        return [self._answer(*each) for each in zip(questions, results, replies, boxes, strict=True)]

    @property
    def _look(self) -> Look:
        """The look at the whole image, read by the language model (Backend.read). It is made and read only once.

        Depth needs neither. A model that is asked by markers in the image needs no look, so that it is made late.
        """
        with self._reading:
            if self._newest_look is None:
                self._newest_look = self._make_look()
            self._newest_look = self._model.backend.read(self._newest_look)
            return self._newest_look

    def _make_look(self) -> Look:
        return self._model.backend.look([self._placement.canvas[None]])

    @property
    def _canvas_depth_m(self) -> np.ndarray:
        """float32 (h, w), z-depth in metres on the canvas. Raises BadQuestion if the model has no depth head."""
        if self._newest_look is None or self._newest_look.depth_m is None:
            raise BadQuestion(
                f"{self._model.spec.name} has no dense depth: ask for the depth at pixels (depth_at; mode: sparse), or "
                "use depthvlm-4b."
            )
        return self._newest_look.depth_m[0]

    @cached_property
    def _depth_m(self) -> np.ndarray:
        depth_m = self._placement.canonical.depth_to_image(self._canvas_depth_m)
        if self.frame.seen is not None:
            depth_m[~self.frame.seen] = np.nan
        depth_m *= np.float32(self.frame.depth_scale)
        depth_m.flags.writeable = False
        return depth_m

    @cached_property
    def _std_m(self) -> np.ndarray | None:
        """float32 (H, W): calibrated standard deviation of _depth_m, NaN where that is not finite; None if unknown."""
        if self._newest_look is None or self._newest_look.relative_std is None:
            return None
        calibration = self._model.spec.calibration
        relative_std = np.maximum(self._newest_look.relative_std[0], LEAST_RELATIVE_STD)
        # depth_to_image interpolates the reciprocals of its map linearly: they shall be the standard deviations.
        std = np.reciprocal(self._placement.canonical.depth_to_image(np.reciprocal(relative_std)))
        known_m = self._depth_m[::MEDIAN_STEP_PX, ::MEDIAN_STEP_PX]
        known_m = known_m[known_m > 0]
        told_m = float(np.median(known_m)) / self.frame.depth_scale if known_m.size else math.nan
        scale = calibration.map_std_scale(told_m, len(std))
        std = np.sqrt((scale * std) ** 2 + calibration.map_std_floor**2)
        std_m = np.where(np.isfinite(self._depth_m), std * self._depth_m, np.nan).astype(np.float32, copy=False)
        std_m.flags.writeable = False
        return std_m

    def _generate(self, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        """Returns the model's replies. Prompts with markers are asked about marked copies of the image."""
        plain = [prompt for prompt in prompts if not prompt.markers_px]
        marked = [prompt for prompt in prompts if prompt.markers_px]
        to_plain = iter(self._model.generate_replies(self._look, plain) if plain else [])
        to_marked = iter(self._model.generate_marked_replies(self._placement.picture, marked) if marked else [])
        return [next(to_marked if prompt.markers_px else to_plain) for prompt in prompts]

    def _prompt(self, question: Question) -> Prompt:
        check_question(question.text)
        uv_px = self._placement.check_visible(question.uv_px)
        boxes = [self._placement.region_to_canvas(region) for region in question.regions]
        family = self._model.family
        asked_px = self._placement.uv_in(family.pixels_of, uv_px)
        prompt = family.question_prompt(question.text, asked_px, boxes, self._placement.size_in(family.pixels_of))
        return prompt.heard_by(question.on_words)

    def _locate_objects(self, questions: Sequence[Question], replies: Sequence[Reply]) -> list[tuple[Region, ...]]:
        """Returns the boxes on the canvas of the objects that each question is about.

        If neither a question nor its reply has boxes or pixels, the model is asked where the objects are, for all such
        questions in one batch.
        """
        boxes: list[tuple[Region, ...]] = [reply.boxes for reply in replies]
        if not ("boxes" in self._model.family.abilities and self._model.spec.head):
            return boxes
        missing = [
            index
            for index, (question, reply) in enumerate(zip(questions, replies, strict=True))
            if reply.status is Status.OK and not (reply.boxes or question.regions or len(question.uv_px))
        ]
        asked = [(questions[index], replies[index]) for index in missing]
        prompts = [self._model.family.find_prompt(one.text).heard_by(one.on_words, said.text) for one, said in asked]
        for index, result in zip(missing, self._generate(prompts) if prompts else [], strict=True):
            boxes[index] = self._model.family.read_boxes(result.text, self._placement.canvas_size_px)
        return boxes

    def _answer(self, question: Question, result: GenerationResult, reply: Reply, boxes: tuple[Region, ...]) -> Answer:
        if not result.tokens.finished:
            return Answer(result.text, Status.NOT_UNDERSTOOD)
        confidence = self._model.spec.calibration.calibrated_confidence(result.confidence)
        if reply.status is not Status.OK:
            return Answer(reply.text, reply.status, confidence=confidence)
        named = (self._placement.region_to_image(box) for box in boxes)
        # A box outside the image is clipped to nothing.
        regions = question.regions or tuple(box for box in named if box.width_px > 0 and box.height_px > 0)
        if not self._shows(regions):
            return Answer(UNSEEN, Status.NOT_FOUND, regions=regions, confidence=confidence)
        std = result.number_std(reply.value, self._model.spec.calibration)
        reply, std = _scaled(reply, std, self.frame.depth_scale)
        if not self._model.spec.head:
            words = (reply.text, reply.status, reply.value, reply.unit, std)
            return Answer(*words, regions=regions, confidence=confidence, words_value=reply.value)
        relative_std = self._model.spec.calibration.dense_relative
        found = (reply, std, confidence, self.depth(), question.uv_px, regions, relative_std)
        return compose_answer(*found, lambda _: self._down)

    @cached_property
    def _down(self) -> np.ndarray:
        """The direction of gravity in the frame, float64 (3,)."""
        return estimate_down(self.depth(with_std=False))

    def _shows(self, regions: Sequence[Region]) -> bool:
        """Returns whether the frame shows anything in any of the regions, or at all if there are none."""
        seen = self.frame.seen
        if seen is None:
            return True
        corners_px = [np.rint(region_corners_px(region)).astype(int).clip(0) for region in regions]
        parts = [seen[top:bottom, left:right] for (left, top), (right, bottom) in corners_px] or [seen]
        return any(part.any() for part in parts)

    def _to_z_m(self, reply_m: float, uv_px: np.ndarray) -> float:
        """Converts a depth in the model's words to z-depth: some checkpoints give the distance along the ray."""
        if self._model.spec.depth_type != "range":
            return reply_m
        return float(z_from_range(uv_px[None], np.array([reply_m]), self.frame.intrinsics)[0])


class PairView:
    """The result of one pass over two frames together.

    frames: the two frames. backend_s: seconds that the backend took for the pass.
    """

    def __init__(
        self, model: LanguageModel, first: CanvasPlacement, second: CanvasPlacement, look: Look, backend_s: float
    ) -> None:
        self.frames, self.backend_s = (first.frame, second.frame), backend_s
        self._model, self._first, self._second, self._look = model, first, second, look

    def match(self, uv_px: np.ndarray | Sequence) -> Matches:
        """Returns where pixels (N, 2) of the first frame are in the second frame.

        They are measured by the features of both images if the model gives them, else told in the model's words. Images
        without a measured pose show two places, whose features are alike by chance only: they have no matches. Raises
        BadQuestion for pixels outside the first frame, or if the model cannot match pixels.
        """
        uv_px = self._first.check_visible(uv_px)
        if self._measured is None:
            matched_px, replies = self._match_in_words(uv_px)
        else:
            canvas_px = self._measured.match(self._first.canonical.uv_to_canvas(uv_px))
            matched_px, replies = self._second.canonical.uv_to_image(canvas_px), ("",) * len(uv_px)
        matched_px[~pixels_inside(matched_px, self._second.frame.intrinsics.size_px)] = math.nan
        return Matches(uv_px, matched_px, replies)

    def _match_in_words(self, uv_px: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        family = self._model.family
        asked_px, size_px = self._first.uv_in(family.pixels_of, uv_px), self._first.size_in(family.pixels_of)
        prompts = [family.match_prompt(u, v, size_px) for u, v in asked_px]
        results = self._model.generate_replies(self._look, prompts)
        found_px = np.array([self._read_match_px(result) for result in results]).reshape(-1, 2)
        return self._second.uv_from(family.pixels_of, found_px), tuple(result.text for result in results)

    def pose(self) -> RelativePose:
        """Returns the pose of the second camera in the first camera's frame.

        It is measured by the features of both images and the depth of the first if the model gives them, else told in
        the model's words. The distance, and with it the translation, is unknown (NaN) if it is not larger than its
        uncertainty: that of the measurement, or of what the model could have said instead. Raises BadQuestion if the
        model cannot say a pose.
        """
        if self._measured is not None:
            return relative_pose(self._measured.pose, SMALL_SPREAD_M)
        prompts = self._model.family.pose_prompts()
        results = self._model.generate_replies(self._look, list(prompts.values()))
        finished = {name: result for name, result in zip(prompts, results, strict=True) if result.tokens.finished}
        pose = self._model.family.read_pose({name: result.text for name, result in finished.items()})
        if "distance" in finished and not _is_distance_certain(pose.distance_m, finished["distance"]):
            pose = replace(pose, translation_m=np.full(3, np.nan), distance_m=math.nan)
        scale = self.frames[0].depth_scale
        return replace(pose, translation_m=scale * pose.translation_m, distance_m=scale * pose.distance_m)

    def ask(self, question: str) -> Answer:
        """Answers a question in words about both images, without measurements. Raises BadQuestion if it is empty."""
        check_question(question)
        self._model.family.check_ability("pairs")
        no_pixels, size_px = np.zeros((0, 2)), self._first.canvas_size_px
        prompt = self._model.family.question_prompt(question, no_pixels, (), size_px)
        result = self._model.generate_replies(self._look, [prompt])[0]
        if not result.tokens.finished:
            return Answer(result.text, Status.NOT_UNDERSTOOD)
        reply = self._model.family.read_reply(result.text, size_px)
        calibration = self._model.spec.calibration
        confidence = calibration.calibrated_confidence(result.confidence)
        reply, std = _scaled(reply, result.number_std(reply.value, calibration), self.frames[0].depth_scale)
        words = (reply.text, reply.status, reply.value, reply.unit, std)
        return Answer(*words, confidence=confidence, words_value=reply.value)

    @cached_property
    def _measured(self) -> ImagePair | None:
        """Both images by their features and the depth of the first; None if the model does not give them."""
        look, second = self._look, self._look.second
        if look.host_features is None or look.depth_m is None or second is None or second.host_features is None:
            return None
        token_px = self._model.spec.pixels_per_token
        one, other = (
            feature_grid(features[0], shown_cells(placement, token_px // 2), token_px)
            for features, placement in ((look.host_features, self._first), (second.host_features, self._second))
        )
        depth_m = look.depth_m[0] * np.float32(self._first.canonical.depth_factor * self.frames[0].depth_scale)
        cameras = [each.canonical.canvas_camera(each.frame.intrinsics) for each in (self._first, self._second)]
        return ImagePair(one, other, depth_m, (cameras[0], cameras[1]))

    def _read_match_px(self, result: GenerationResult) -> tuple[float, float]:
        """Returns a pixel of the second image; NaN for a reply that was cut off: its last number may be incomplete."""
        if not result.tokens.finished:
            return math.nan, math.nan
        family = self._model.family
        return family.read_match(result.text, self._second.size_in(family.pixels_of))


def _scaled(reply: Reply, std: float, scale: float) -> tuple[Reply, float]:
    """Returns a reply and the standard deviation of its number, at the scale of the frame."""
    return reply.scaled(scale), std * scale if reply.unit == "m" else std


def _is_distance_certain(distance_m: float, result: GenerationResult) -> bool:
    """Returns whether a distance is larger than the spread of what the model could have written instead.

    A small spread (SMALL_SPREAD_M) is certain in any case. This is not the calibrated standard deviation, which was
    fitted on depths: no depth is zero, and it trusts the digits.
    """
    return not result.number_spread(distance_m) > max(distance_m, SMALL_SPREAD_M)


def check_question(text: str) -> None:
    """Raises BadQuestion for an empty question, for one that is too long, and for one that is no text."""
    if not text.strip():
        raise BadQuestion('the question is empty: ask for example "How far is the red box?".')
    if len(text) > MAX_QUESTION_CHARS:
        raise BadQuestion(f"the question has {len(text)} characters: at most {MAX_QUESTION_CHARS} are taken.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadQuestion(f"the question {text!r} holds half a character (a surrogate): decode the text as UTF-8.")


def compose_answer(
    reply: Reply,
    std: float,
    confidence: float,
    depth: DepthMap,
    uv_px: np.ndarray,
    regions: Sequence[Region],
    relative_std: float,
    find_down: Callable[[DepthMap], np.ndarray] = estimate_down,
) -> Answer:
    """Returns the answer to a question about pixels (N, 2) or regions of a depth map, with its measurements.

    std: standard deviation of the number in the reply. confidence: calibrated. relative_std: standard deviation of the
    depths over depth, for a map without std_m. find_down: as in measure.
    The number in the reply and the same quantity in the map are combined by their uncertainties (measure.agree), in
    value and text. If they contradict each other, the text says so, the status is INCONSISTENT, and the value is the
    measured one, with the difference as its standard deviation. An answer about an object begins with NOT_SURE if the
    confidence is below SURE_CONFIDENCE. The answer's points_m lie at the pixels or, without pixels, in the middle of
    the regions; only those inside the image are there.
    """
    measurements = measure(depth, regions, uv_px, relative_std, find_down)
    at_px = uv_px if len(uv_px) else region_centres_px(regions)
    height, width = depth.depth_m.shape
    at_px = at_px[pixels_inside(at_px, (width, height))]
    u, v = nearest_pixel(at_px).T
    points_m = backproject(at_px, depth.depth_m[v, u], depth.intrinsics)
    text, status, value, std = _compare_with_map(reply, std, find_comparable_measurement(reply, measurements))
    if status is Status.OK and not len(uv_px) and confidence < SURE_CONFIDENCE:
        text = NOT_SURE + text
    return Answer(
        text, status, value, reply.unit, std, points_m, tuple(regions), confidence, tuple(measurements), reply.value
    )


def _compare_with_map(reply: Reply, std: float, measured: Measurement | None) -> tuple[str, Status, float, float]:
    """Returns text, status, value and std of the answer. measured: the quantity of the reply in the map, if any."""
    if measured is None:
        return reply.text, reply.status, reply.value, std
    number = agree(reply.value, std, measured.value, measured.std)
    if number.is_consistent:
        return replace_number(reply.text, reply.value, number.value), reply.status, number.value, number.std
    unit = _UNIT_WORDS.get(measured.unit, measured.unit)
    text = f"{reply.text} But the depth map says {measured.value:.2f} {unit}."
    return text, Status.INCONSISTENT, number.value, number.std


def find_comparable_measurement(reply: Reply, measurements: Sequence[Measurement]) -> Measurement | None:
    """Returns the measurement of the same quantity, in the same unit, as the number in the reply.

    Of several it is the first. But a reply that does not name several things gives the distance of the nearest one
    ("The second point is closer: ..."). Returns None if there is none, or if the number or the measurement is not
    finite.
    """
    if not math.isfinite(reply.value):
        return None
    same = [one for one in measurements if one.quantity == reply.quantity and one.unit == reply.unit]
    same = [one for one in same if math.isfinite(one.value)]
    if reply.quantity == "distance" and len(reply.boxes) < 2:
        return min(same, key=lambda one: one.value, default=None)
    return next(iter(same), None)
