"""One look at one frame: depth, depth at pixels and answers are read off it, as often as wanted.

Words held against geometry: an answer is what the model said, what the depth map says, and whether they agree.

What a model said, and what a View needs of the model that said it.

One look at two images together: pixels of the one found in the other, and how the camera moved between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.generation import Generated
from depthlm_ros.backends.number_uncertainty import number_distribution, read_number
from depthlm_ros.core import Answer, DepthMap, Matches, Measurement, PointDepths, Question, Region, RelativePose, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.geometry.canonical_view import Placement, centres, in_frame
from depthlm_ros.geometry.pinhole import backproject, z_from_range
from depthlm_ros.measurement.measure import measure
from depthlm_ros.model_files.spec import Calibration, ModelSpec

UNITS = {"m": "meters"}


def judged(
    reply: Reply,
    std: float,
    confidence: float,
    depth: DepthMap,
    uv_px: np.ndarray,
    regions: Sequence[Region],
    relative_std: float,
) -> Answer:
    """The answer to a question about pixels (N, 2) or regions of the depth map's camera.

    std: standard deviation of the reply's number; relative_std: of the map's depths. Where the number and the map
    differ by more than both uncertainties together, the text says so and the difference is the uncertainty.
    points_m: at the pixels, else in the middle of the regions.
    """
    measurements = measure(depth, regions, uv_px, relative_std)
    at_px = uv_px if len(uv_px) else centres(regions)
    at_px = at_px[in_frame(at_px, depth.intrinsics.size_px)]
    u, v = np.rint(at_px).astype(int).T
    points_m = backproject(at_px, depth.depth_m[v, u], depth.intrinsics)
    text, std = reply.text, std
    against = counterpart(reply, measurements)
    if against is not None and abs(reply.value - against.value) > math.hypot(std, against.std):
        std = abs(reply.value - against.value)
        text += f" But the depth map says {against.value:.2f} {UNITS.get(against.unit, against.unit)}."
    return Answer(
        text, reply.status, reply.value, reply.unit, std, points_m, tuple(regions), confidence, tuple(measurements)
    )


def counterpart(reply: Reply, measurements: Sequence[Measurement]) -> Measurement | None:
    """The measurement of the quantity that the reply's number is about; None if nothing can be compared."""
    for measurement in measurements:
        same = measurement.quantity == reply.quantity and measurement.unit == reply.unit
        if same and math.isfinite(measurement.value) and math.isfinite(reply.value):
            return measurement
    return None


@dataclass(frozen=True)
class Said:
    """A reply without its forced beginning. pieces: the text of each of its tokens. generated.watched: the log
    probabilities of digits.SYMBOLS at each."""

    text: str
    pieces: tuple[str, ...]
    generated: Generated

    @property
    def probability(self) -> float:
        """Geometric mean of the probabilities of the chosen tokens."""
        if not self.generated.log_probability:
            return math.nan
        return math.exp(sum(self.generated.log_probability) / len(self.generated.log_probability))

    def std_of(self, value: float, calibration: Calibration) -> float:
        """Standard deviation of a number in the reply: the spread of what might have been written instead, together
        with the model's own relative error; NaN if there is no number."""
        return math.hypot(calibration.words_spread * self.spread_of(value), calibration.words_relative * value)

    def spread_of(self, value: float) -> float:
        """Standard deviation of the numbers that might have been written instead of one in the reply, as likely as the
        model found them: 0 if the reply has other numbers only, NaN if there is no number."""
        if not math.isfinite(value):
            return math.nan
        number, start = read_number(self.pieces, abs(value))
        return number_distribution(number, self.generated.watched[start:])[1] if number else 0.0


class Speaker(Protocol):
    """A loaded model, as far as views need it."""

    spec: ModelSpec
    family: Family
    backend: Backend

    def reply_to(self, look: Look, prompts: Sequence[Prompt]) -> list[Said]:
        """The model's words after each prompt."""
        ...

    def reply_to_marked(self, canvas: np.ndarray, prompts: Sequence[Prompt]) -> list[Said]:
        """The model's words after each prompt, on copies of the canvas (h, w, 3) that bear the prompt's marks."""
        ...


MAX_QUESTION_CHARS = 2000


class View:
    """What one pass over a frame has shown. Nothing is said about pixels that the model did not see.

    backend_s: seconds that the model itself took for the look.
    """

    def __init__(self, model: Speaker, placement: Placement, look: Look | None, backend_s: float) -> None:
        self.frame, self.backend_s = placement.frame, backend_s
        self._model, self._placement, self._first_look = model, placement, look

    def depth(self) -> DepthMap:
        """Dense depth at the frame's size; NaN where the model does not see the scene.

        Raises BadQuestion if the model has no depth head.
        """
        return DepthMap(self._depth_m, self.frame.intrinsics, self.frame.stamp_ns, self.frame.frame_id)

    def depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """Depth at pixels (N, 2) of the frame: the dense depth at the nearest pixel, or, of a model without dense
        depth, what it says.

        std_m combines the spread of the map around the pixel with the model's own relative error, as calibrated on its
        validation scenes. Raises BadQuestion for pixels outside the frame.
        """
        if not self._model.spec.head:
            return self.tell_depth_at(uv_px)
        uv_px = self._placement.checked(uv_px)
        u, v = np.rint(uv_px).astype(int).T
        depth_m = self._depth_m[v, u]
        calibration = self._model.spec.calibration
        spread_m = calibration.dense_spread * spread(self._canvas_depth_m, self._placement.uv_to_canvas(uv_px))
        std_m = np.hypot(spread_m, calibration.dense_relative * depth_m)
        return PointDepths(uv_px, depth_m, std_m.astype(np.float32))

    def tell_depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """Depth at pixels (N, 2) in the model's words: one question per pixel, all in one batch.

        std_m is the spread of the numbers that the model might have written instead. Raises BadQuestion for pixels
        outside the frame.
        """
        uv_px = self._placement.checked(uv_px)
        depth_m, std_m = np.full((2, len(uv_px)), np.nan, np.float32)
        visible = np.flatnonzero(self._placement.sees(uv_px))
        family, size_px = self._model.family, self._placement.size_px
        prompts = [family.point_prompt(u, v, size_px) for u, v in self._placement.uv_to_canvas(uv_px)[visible]]
        for index, said in zip(visible, self._say(prompts), strict=True):
            depth_m[index] = self._z(family.read_point(said.text), uv_px[index])
            std_m[index] = said.std_of(float(depth_m[index]), self._model.spec.calibration)
        return PointDepths(uv_px, depth_m, std_m)

    def ask(self, question: str, uv_px: np.ndarray | Sequence = (), regions: Sequence[Region] = ()) -> Answer:
        """A question in words, about the image, some pixels (N, 2) or some regions of the frame: see ask_all."""
        return self.ask_all([Question(question, np.asarray(uv_px, np.float64).reshape(-1, 2), tuple(regions))])[0]

    def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Many questions in one batch; the answers are those of asking one by one.

        The model reads the question and names the things it is about; what the depth map says about these, or about
        the given pixels and regions, is measured (Answer.measurements). Raises BadQuestion if there is nothing to ask,
        or for pixels and regions that are not seen.
        """
        said = self._say([self._prompt(question) for question in questions])
        replies = [self._model.family.read_reply(each.text, self._placement.size_px) for each in said]
        asked_for = self._find(questions, said, replies)
        return [self._answer(*given) for given in zip(questions, said, replies, asked_for, strict=True)]

    @cached_property
    def _look(self) -> Look:
        """Looked at when it is first needed: a model that marks pixels in the image has no use for the image itself."""
        return self._first_look or self._model.backend.look([self._placement.canvas[None]])

    @property
    def _canvas_depth_m(self) -> np.ndarray:
        if self._look.depth_m is None:
            raise BadQuestion(
                f"{self._model.spec.name} has no dense depth: ask for the depth at pixels (depth_at; mode: sparse), or "
                "use depthvlm-4b."
            )
        return self._look.depth_m[0]

    @cached_property
    def _depth_m(self) -> np.ndarray:
        depth_m = self._placement.canonical.depth_to_image(self._canvas_depth_m)
        if self.frame.seen is not None:
            depth_m[~self.frame.seen] = np.nan
        depth_m.flags.writeable = False
        return depth_m

    def _say(self, prompts: Sequence[Prompt]) -> list[Said]:
        """The model's replies; prompts that mark pixels are asked on marked copies of the image."""
        plain = [prompt for prompt in prompts if not prompt.marks_px]
        marked = [prompt for prompt in prompts if prompt.marks_px]
        replies = iter(self._model.reply_to(self._look, plain) if plain else [])
        about_marks = iter(self._model.reply_to_marked(self._placement.canvas, marked) if marked else [])
        return [next(about_marks if prompt.marks_px else replies) for prompt in prompts]

    def _prompt(self, question: Question) -> Prompt:
        check_question(question.text)
        canvas = self._placement.uv_to_canvas(self._placement.seen(question.uv_px))
        boxes = [self._placement.region_to_canvas(region) for region in question.regions]
        return self._model.family.question_prompt(question.text, canvas, boxes, self._placement.size_px)

    def _find(self, questions: Sequence[Question], said: Sequence[Said], replies: Sequence) -> list[tuple[Region, ...]]:
        """Boxes on the canvas of the things that each question is about, where neither the question nor the reply has
        any: the model is asked for them, all in one batch."""
        found: list[tuple[Region, ...]] = [reply.boxes for reply in replies]
        if not ("boxes" in self._model.family.abilities and self._model.spec.head):
            return found
        lost = [
            index
            for index, (question, reply) in enumerate(zip(questions, replies, strict=True))
            if reply.status is Status.OK and not (reply.boxes or question.regions or len(question.uv_px))
        ]
        prompts = [self._model.family.find_prompt(questions[index].text) for index in lost]
        for index, reply in zip(lost, self._say(prompts) if prompts else [], strict=True):
            found[index] = self._model.family.read_found(reply.text, self._placement.size_px)
        return found

    def _answer(self, question: Question, said: Said, reply, boxes: tuple[Region, ...]) -> Answer:
        if not said.generated.finished:
            return Answer(said.text, Status.NOT_UNDERSTOOD)
        if reply.status is not Status.OK:
            return Answer(reply.text, reply.status, confidence=said.probability)
        named = (self._placement.region_to_image(box) for box in boxes)
        # What the model names outside the image has nothing left of it.
        regions = question.regions or tuple(box for box in named if box.width_px > 0 and box.height_px > 0)
        std = said.std_of(reply.value, self._model.spec.calibration)
        if not self._model.spec.head:
            words = (reply.text, reply.status, reply.value, reply.unit, std)
            return Answer(*words, regions=regions, confidence=said.probability)
        relative = self._model.spec.calibration.dense_relative
        return judged(reply, std, said.probability, self.depth(), question.uv_px, regions, relative)

    def _z(self, told_m: float, uv_px: np.ndarray) -> float:
        """z of a depth that the model told at a pixel: some checkpoints learnt distances along the ray."""
        if self._model.spec.depth_type != "range":
            return told_m
        return float(z_from_range(uv_px[None], np.array([told_m]), self.frame.intrinsics)[0])


def check_question(text: str) -> None:
    """Raises BadQuestion if there is nothing to ask or too much."""
    if not text.strip():
        raise BadQuestion('the question is empty: ask for example "How far is the red box?".')
    if len(text) > MAX_QUESTION_CHARS:
        raise BadQuestion(f"the question has {len(text)} characters: at most {MAX_QUESTION_CHARS} are taken.")


def spread(depth_m: np.ndarray, uv_px: np.ndarray) -> np.ndarray:
    """float64 (N,): standard deviation of the map over the 3 x 3 pixels around each (u, v)."""
    height, width = depth_m.shape
    u = np.clip(np.rint(uv_px[:, 0]).astype(int), 0, width - 1)
    v = np.clip(np.rint(uv_px[:, 1]).astype(int), 0, height - 1)
    padded = np.pad(depth_m.astype(np.float64), 1, mode="edge")
    return np.stack([padded[v + dv, u + du] for dv in range(3) for du in range(3)]).std(0)


# A model that knows that the camera stood still finds no distance likely that is much larger.
SMALL_SPREAD_M = 0.1


class PairView:
    """What one pass over two frames has shown.

    backend_s: seconds that the model itself took for the look.
    """

    def __init__(self, model: Speaker, first: Placement, second: Placement, look: Look, backend_s: float) -> None:
        self.frames, self.backend_s = (first.frame, second.frame), backend_s
        self._model, self._first, self._second, self._look = model, first, second, look

    def match(self, uv_px: np.ndarray | Sequence) -> Matches:
        """Where pixels (N, 2) of the first frame are in the second, in the model's words.

        Raises BadQuestion for pixels outside the first frame, or if the model cannot match pixels.
        """
        uv_px = self._first.seen(uv_px)
        family, size_px = self._model.family, self._first.size_px
        prompts = [family.match_prompt(u, v, size_px) for u, v in self._first.uv_to_canvas(uv_px)]
        said = self._model.reply_to(self._look, prompts)
        told_px = np.array([self._read(each) for each in said]).reshape(-1, 2)
        matched_px = self._second.canonical.uv_to_image(told_px)
        matched_px[~self._second.in_frame(matched_px)] = math.nan
        return Matches(uv_px, matched_px, tuple(each.text for each in said))

    def pose(self) -> RelativePose:
        """Pose of the second camera in the first, in the model's words. A distance that might as well have been any
        other is unknown, and with it the translation. Raises BadQuestion if the model cannot."""
        prompts = self._model.family.pose_prompts()
        replies = self._model.reply_to(self._look, list(prompts.values()))
        whole = {name: said for name, said in zip(prompts, replies, strict=True) if said.generated.finished}
        pose = self._model.family.read_pose({name: said.text for name, said in whole.items()})
        if "distance" not in whole or self._is_told(pose.distance_m, whole["distance"]):
            return pose
        return replace(pose, translation_m=np.full(3, np.nan), distance_m=math.nan)

    def ask(self, question: str) -> Answer:
        """A question in words about both images; nothing is measured. Raises BadQuestion if there is nothing to ask."""
        check_question(question)
        nowhere, size_px = np.zeros((0, 2)), self._first.size_px
        said = self._model.reply_to(self._look, [self._model.family.question_prompt(question, nowhere, (), size_px)])[0]
        if not said.generated.finished:
            return Answer(said.text, Status.NOT_UNDERSTOOD)
        reply = self._model.family.read_reply(said.text, size_px)
        std = said.std_of(reply.value, self._model.spec.calibration)
        return Answer(reply.text, reply.status, reply.value, reply.unit, std, confidence=said.probability)

    def _is_told(self, distance_m: float, said: Said) -> bool:
        """Whether a distance is larger than the spread of what might have been written instead, or that is small.

        Not the calibrated standard deviation: that was fitted on depths, of which none is zero, and trusts the digits.
        """
        return not said.spread_of(distance_m) > max(distance_m, SMALL_SPREAD_M)

    def _read(self, said: Said) -> tuple[float, float]:
        """A pixel of the second canvas. A reply that was cut off is not read: its last number may be half a one."""
        if not said.generated.finished:
            return math.nan, math.nan
        return self._model.family.read_match(said.text, self._second.size_px)
