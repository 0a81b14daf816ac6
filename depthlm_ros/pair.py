"""One look at two images together: pixels of the one found in the other, and how the camera moved between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from depthlm_ros.backends.base import Look
from depthlm_ros.core import Answer, Matches, RelativePose, Status
from depthlm_ros.geometry.canonical_view import Placement
from depthlm_ros.speech import Said, Speaker
from depthlm_ros.view import check_question

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
