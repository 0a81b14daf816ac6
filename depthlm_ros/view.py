"""One look at one frame: depth, depth at pixels and answers are read off it, as often as wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from depthlm_ros.backends.base import Look
from depthlm_ros.backends.decoding import Generated
from depthlm_ros.bundle import Bundle
from depthlm_ros.canonical import CanonicalView
from depthlm_ros.core import Answer, DepthMap, Frame, PointDepths, Question, Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.pinhole import backproject

MAX_QUESTION_CHARS = 2000


class Speaker(Protocol):
    """What a View needs of the model that looked."""

    bundle: Bundle
    family: Family

    def reply_to(self, look: Look, prompts: Sequence[Prompt]) -> list[tuple[str, Generated]]:
        """The model's words after each prompt."""
        ...


class View:
    """What one pass over a frame has shown. Nothing is said about pixels that the model did not see.

    backend_s: seconds that the model itself took for the look.
    """

    def __init__(self, model: Speaker, frame: Frame, canonical: CanonicalView, look: Look, backend_s: float) -> None:
        self.frame, self.backend_s = frame, backend_s
        self._model, self._canonical, self._look = model, canonical, look

    def depth(self) -> DepthMap:
        """Dense depth at the frame's size; NaN where the model does not see the scene."""
        return DepthMap(self._depth_m, self.frame.intrinsics, self.frame.stamp_ns, self.frame.frame_id)

    def depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """The dense depth at pixels (N, 2) of the frame, at the nearest pixel.

        std_m combines the spread of the map around the pixel with the model's own relative error on its validation
        scenes. Raises BadQuestion for pixels outside the frame.
        """
        uv_px = self._checked(uv_px)
        u, v = np.rint(uv_px).astype(int).T
        depth_m = self._depth_m[v, u]
        spread_m = spread(self._look.depth_m, self._canonical.uv_to_canvas(uv_px))
        std_m = np.hypot(spread_m, self._model.bundle.dense_std * depth_m)
        return PointDepths(uv_px, depth_m, std_m.astype(np.float32))

    def tell_depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """Depth at pixels (N, 2) in the model's words: one question per pixel, all in one batch.

        Raises BadQuestion for pixels outside the frame.
        """
        uv_px = self._checked(uv_px)
        depth_m = np.full(len(uv_px), np.nan, np.float32)
        visible = np.flatnonzero(self._sees(uv_px))
        canvas, size_px = self._canonical.uv_to_canvas(uv_px), self._canonical.canvas_size_px
        prompts = [self._model.family.point_prompt(u, v, size_px) for u, v in canvas[visible]]
        for index, (text, _) in zip(visible, self._model.reply_to(self._look, prompts), strict=True):
            depth_m[index] = self._model.family.read_point(text)
        return PointDepths(uv_px, depth_m, self._model.bundle.words_std * depth_m)

    def ask(self, question: str, uv_px: np.ndarray | Sequence = (), regions: Sequence[Region] = ()) -> Answer:
        """A question in words, about the image, some pixels (N, 2) or some regions of the frame: see ask_all."""
        return self.ask_all([Question(question, np.asarray(uv_px, np.float64).reshape(-1, 2), tuple(regions))])[0]

    def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Many questions in one batch; the answers are those of asking one by one.

        An answer's points are measured: the depth map at the given pixels, else in the middle of the boxes that the
        model names. Raises BadQuestion if there is nothing to ask, or for pixels and regions that are not seen.
        """
        replies = self._model.reply_to(self._look, [self._prompt(question) for question in questions])
        return [self._answer(*pair) for pair in zip(questions, replies, strict=True)]

    @cached_property
    def _depth_m(self) -> np.ndarray:
        depth_m = self._canonical.depth_to_image(self._look.depth_m)
        if self.frame.seen is not None:
            depth_m[~self.frame.seen] = np.nan
        depth_m.flags.writeable = False
        return depth_m

    def _prompt(self, question: Question) -> Prompt:
        check_question(question.text)
        uv_px = self._checked(question.uv_px)
        for u, v in uv_px[~self._sees(uv_px)]:
            raise BadQuestion(
                f"the model does not see pixel ({u:g}, {v:g}): it is outside its field of view, ask inside."
            )
        canvas = self._canonical.uv_to_canvas(uv_px)
        boxes = [self._to_canvas(region) for region in question.regions]
        return self._model.family.question_prompt(question.text, canvas, boxes, self._canonical.canvas_size_px)

    def _answer(self, question: Question, said: tuple[str, Generated]) -> Answer:
        text, generated = said
        if not generated.finished:
            return Answer(text, Status.NOT_UNDERSTOOD)
        reply = self._model.family.read_reply(text, self._canonical.canvas_size_px)
        if reply.status is not Status.OK:
            return Answer(reply.text, reply.status, confidence=probability(generated))
        return self._measured(question, reply, probability(generated))

    def _measured(self, question: Question, reply: Reply, confidence: float) -> Answer:
        regions = question.regions or tuple(self._to_image(box) for box in reply.boxes)
        uv_px = question.uv_px if len(question.uv_px) else centres(regions)
        uv_px = uv_px[self._in_frame(uv_px)]
        points_m = backproject(uv_px, self.depth_at(uv_px).depth_m, self.frame.intrinsics)
        std, doubt = self._model.bundle.words_std * reply.value, ""
        if reply.is_distance and len(points_m) == 1:
            std, doubt = self._compared(reply.value, std, float(np.linalg.norm(points_m[0])))
        return Answer(reply.text + doubt, reply.status, reply.value, reply.unit, std, points_m, regions, confidence)

    def _compared(self, said_m: float, std_m: float, measured_m: float) -> tuple[float, str]:
        """Standard deviation of a distance in words and what to add to it, given what the depth map says there: where
        they differ by more than both uncertainties together, the difference is the uncertainty, and is told."""
        if not math.isfinite(measured_m):
            return std_m, ""
        difference_m = abs(said_m - measured_m)
        if difference_m <= math.hypot(std_m, self._model.bundle.dense_std * measured_m):
            return std_m, ""
        return difference_m, f" But the depth map says {measured_m:.2f} meters there."

    def _checked(self, uv_px: np.ndarray | Sequence) -> np.ndarray:
        uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
        for u, v in uv_px[~self._in_frame(uv_px)]:
            width, height = self.frame.intrinsics.size_px
            raise BadQuestion(
                f"pixel ({u:g}, {v:g}) is outside the {width} x {height} image: u 0..{width - 1}, v 0..{height - 1}."
            )
        return uv_px

    def _in_frame(self, uv_px: np.ndarray) -> np.ndarray:
        width, height = self.frame.intrinsics.size_px
        u, v = uv_px[:, 0], uv_px[:, 1]
        return (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)

    def _sees(self, uv_px: np.ndarray) -> np.ndarray:
        """bool (N,): pixels of the frame that lie on the canvas and show something."""
        on_canvas = self._canonical.contains(uv_px)
        if self.frame.seen is None:
            return on_canvas
        u, v = np.rint(uv_px).astype(int).T
        return on_canvas & self.frame.seen[v, u]

    def _to_canvas(self, region: Region) -> Region:
        """Boxes are edges, pixels are centres: half a pixel lies between them."""
        if not self._region_is_seen(region):
            width, height = self.frame.intrinsics.size_px
            raise BadQuestion(
                f"region {region.width_px:g} x {region.height_px:g} at ({region.x_px:g}, {region.y_px:g}) is empty, "
                f"leaves the {width} x {height} image, or has its middle where the model does not see."
            )
        return corners_to_region(self._canonical.uv_to_canvas(corners(region) - 0.5) + 0.5, region.label)

    def _region_is_seen(self, region: Region) -> bool:
        low, high = corners(region)
        inside = bool((low >= 0).all() and (high <= self.frame.intrinsics.size_px).all() and (high > low).all())
        return inside and bool(self._sees(centres([region]))[0])

    def _to_image(self, region: Region) -> Region:
        uv = self._canonical.uv_to_image(corners(region) - 0.5) + 0.5
        return corners_to_region(np.clip(uv, 0, self.frame.intrinsics.size_px), region.label)


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


def corners(region: Region) -> np.ndarray:
    """(2, 2): top-left and bottom-right."""
    x, y = region.x_px, region.y_px
    return np.array([[x, y], [x + region.width_px, y + region.height_px]])


def corners_to_region(uv: np.ndarray, label: str = "") -> Region:
    """Inverse of corners."""
    (x0, y0), (x1, y1) = uv
    return Region(float(x0), float(y0), float(x1 - x0), float(y1 - y0), label)


def centres(regions: Sequence[Region]) -> np.ndarray:
    """(N, 2) centre pixels."""
    return np.array([corners(region).mean(0) - 0.5 for region in regions]).reshape(-1, 2)


def probability(generated: Generated) -> float:
    """Geometric mean of the probabilities of the chosen tokens."""
    if not generated.log_probability:
        return math.nan
    return math.exp(sum(generated.log_probability) / len(generated.log_probability))
