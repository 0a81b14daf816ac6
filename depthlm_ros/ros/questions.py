"""The services about one image: a question in words, and the depth at pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from depthlm_ros.core import Answer, PointDepths, Question
from depthlm_ros.errors import BadQuestion
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.ros.asking import Codes, Site, age_remark, ask, check_count, finish
from depthlm_ros.ros.messages import pixels_from, points_from, regions_from
from depthlm_ros.ros.pipeline import Seen
from depthlm_ros.ros.responses import fill_answer, measurement_message
from depthlm_ros.srv import QueryDepth, SpatialQuery
from depthlm_ros.view import check_question

# Reading a pixel off the map is cheap; asking the model for one is a question of its own.
MOST_PIXELS_READ = 100_000
MOST_PIXELS_TOLD = 1024
# Far more than a model reads; they are refused before they are written into a prompt, which takes the worker's time.
MOST_MARKS = 256


def answer_spatial(site: Site, request: SpatialQuery.Request, response: SpatialQuery.Response) -> Any:
    """Fill the response to a question in words."""

    def fill() -> None:
        check_question(request.question)
        marks = len(request.pixels) + len(request.regions)
        if marks > MOST_MARKS:
            raise BadQuestion(f"{marks} pixels and regions are marked: one question is about at most {MOST_MARKS}.")
        question = Question(request.question, pixels_from(request.pixels), regions_from(request.regions))

        def work(seen: Seen) -> tuple[Seen, Answer]:
            return seen, seen.view.ask_all([question])[0]

        seen, answer = ask(site, request, work, question)
        # All points at once: they are moved by one transform.
        sets_m = [answer.points_m, *(measurement.points_m for measurement in answer.measurements)]
        ends = np.cumsum([len(points_m) for points_m in sets_m])[:-1]
        response.header, moved_m = site.transforms.into(seen.header, np.concatenate(sets_m), request.target_frame)
        points_m, *measured_m = np.split(moved_m, ends)
        response.points = points_from(points_m)
        response.measurements = [
            measurement_message(measurement, at_m)
            for measurement, at_m in zip(answer.measurements, measured_m, strict=True)
        ]
        fill_answer(response, answer, seen.camera)
        response.message = response.message or age_remark(site, seen)

    return finish(site, response, fill)


def answer_depth(site: Site, request: QueryDepth.Request, response: QueryDepth.Response) -> Any:
    """Fill the response to a question for the depth at pixels."""
    told = site.current().mode == "sparse" or not site.model.spec.head

    def fill() -> None:
        check_count(len(request.pixels), MOST_PIXELS_TOLD if told else MOST_PIXELS_READ)
        uv_px = pixels_from(request.pixels)

        def work(seen: Seen) -> tuple[Seen, PointDepths]:
            return seen, (seen.view.tell_depth_at if told else seen.view.depth_at)(uv_px)

        seen, depths = ask(site, request, work)
        response.header = seen.header
        response.depth = depths.depth_m.tolist()
        response.std = depths.std_m.tolist()
        response.points = points_from(backproject(uv_px, depths.depth_m, seen.camera))
        response.status, response.success = int(Codes.OK), True
        response.message = age_remark(site, seen)

    return finish(site, response, fill)
