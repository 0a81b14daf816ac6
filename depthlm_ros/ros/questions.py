"""The services: a request becomes a ticket for the worker, and what comes back becomes the response.

A callback waits here in its own thread of the executor, while the stream goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import numpy as np

from depthlm_ros.core import Answer, Intrinsics, PointDepths, Question, Status
from depthlm_ros.errors import BadInput, BadQuestion, DepthLMError
from depthlm_ros.pinhole import backproject
from depthlm_ros.ros.inbox import Busy, Closed, Inbox, Ticket
from depthlm_ros.ros.messages import pixels_from, points_from, region_message, regions_from
from depthlm_ros.ros.parameters import LONGEST_WAIT_S, Parameters
from depthlm_ros.ros.pipeline import Seen
from depthlm_ros.ros.tf import Transforms
from depthlm_ros.srv import QueryDepth, SpatialQuery
from depthlm_ros.view import check_question

Codes = SpatialQuery.Response
CODE_OF_STATUS = {
    Status.OK: Codes.OK,
    Status.NOT_FOUND: Codes.NOT_FOUND,
    Status.NOT_UNDERSTOOD: Codes.NOT_UNDERSTOOD,
}
# Reading a pixel off the map is cheap; asking the model for one is a question of its own.
MOST_PIXELS_READ = 100_000
MOST_PIXELS_TOLD = 1024


class _Refused(Exception):
    """The request ends without an answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Site:
    """What the services need to know of an active node.

    model: its name. clock_ns: the node's clock. current: the parameters as they are now.
    """

    model: str
    clock_ns: Callable[[], int]
    current: Callable[[], Parameters]
    inbox: Inbox
    transforms: Transforms


def answer_spatial(site: Site, request: SpatialQuery.Request, response: SpatialQuery.Response) -> Any:
    """Fill the response to a question in words."""
    started_s = time.perf_counter()
    response.value = response.std = math.nan

    question = Question(request.question, pixels_from(request.pixels), regions_from(request.regions))

    def work(seen: Seen) -> tuple[Seen, Answer]:
        return seen, seen.view.ask_all([question])[0]

    def fill() -> None:
        check_question(request.question)
        seen, answer = _ask(site, request, work, question)
        response.header, points_m = site.transforms.into(seen.header, answer.points_m, request.target_frame)
        _fill_answer(response, answer, points_m, seen.camera)
        response.message = response.message or _age_remark(site, seen)

    return _finish(site, response, fill, started_s)


def answer_depth(site: Site, request: QueryDepth.Request, response: QueryDepth.Response) -> Any:
    """Fill the response to a question for the depth at pixels."""
    started_s = time.perf_counter()
    told = site.current().mode == "sparse"
    uv_px = pixels_from(request.pixels)

    def work(seen: Seen) -> tuple[Seen, PointDepths]:
        return seen, (seen.view.tell_depth_at if told else seen.view.depth_at)(uv_px)

    def fill() -> None:
        _check_count(len(uv_px), MOST_PIXELS_TOLD if told else MOST_PIXELS_READ)
        seen, depths = _ask(site, request, work)
        response.header = seen.header
        response.depth = depths.depth_m.tolist()
        response.std = depths.std_m.tolist()
        response.points = points_from(backproject(uv_px, depths.depth_m, seen.camera))
        response.status, response.success = int(Codes.OK), True
        response.message = _age_remark(site, seen)

    return _finish(site, response, fill, started_s)


def refuse(response: Any, message: str) -> Any:
    """The response of a node that is not active."""
    response.success, response.status, response.message = False, int(Codes.NO_IMAGE), message
    if isinstance(response, SpatialQuery.Response):
        response.value = response.std = math.nan
    return response


def _finish(site: Site, response: Any, fill: Callable[[], None], started_s: float) -> Any:
    """Run `fill`, and turn what it raises into a status and words."""
    response.model = site.model
    try:
        with site.inbox.place():
            fill()
    except Busy:
        most = site.current().max_waiting_questions
        response.status = int(Codes.BUSY)
        response.message = f"{most} questions wait already (parameter max_waiting_questions): ask again later."
    except _Refused as refused:
        response.status, response.message = int(refused.status), str(refused)
    except BadInput as error:
        response.status, response.message = int(Codes.BAD_REQUEST), str(error)
    except Exception as error:  # the service must answer, whatever happened
        words = str(error) if isinstance(error, DepthLMError) else f"{type(error).__name__}: {error}; please report it."
        response.status, response.message = int(Codes.INTERNAL), words
    response.success = response.status == Codes.OK
    response.latency = time.perf_counter() - started_s
    return response


def _ask(site: Site, request: Any, work: Callable[[Seen], Any], question: Question | None = None) -> Any:
    """What `work` returns, from the worker. Raises _Refused, BadInput, or what work raised.

    question: what `work` asks the model in words, if that can be asked together with others.
    """
    timeout_s = _timeout_s(request.timeout_s, site.current())
    if not request.fresh and not site.inbox.can_answer:
        raise _Refused(Codes.NO_IMAGE, _no_image(site))
    ticket = Ticket(work, bool(request.fresh), site.clock_ns(), question=question)
    try:
        site.inbox.ask(ticket)
        return ticket.future.result(timeout_s)
    except Closed:
        raise _Refused(Codes.NO_IMAGE, "the node was deactivated before the answer.") from None
    except futures.TimeoutError:
        ticket.future.cancel()
        raise _timed_out(site, timeout_s, bool(request.fresh)) from None


def _timed_out(site: Site, timeout_s: float, fresh: bool) -> _Refused:
    if not site.inbox.can_answer:
        return _Refused(Codes.NO_IMAGE, f"no answer within {timeout_s:g} s: {_no_image(site)}")
    newest = site.inbox.newest
    age_s = (time.monotonic_ns() - newest.arrived_ns) / 1e9 if newest else math.inf
    if fresh and age_s >= timeout_s:
        why = f"the last image arrived {age_s:.1f} s ago and a fresh one was asked for; check the camera."
    else:
        why = "the model is slower than that; allow more time (timeout_s, or parameter query_timeout_s)."
    return _Refused(Codes.TIMEOUT, f"no answer within {timeout_s:g} s: {why}")


def _no_image(site: Site) -> str:
    newest = site.inbox.newest
    if newest is None:
        return "no image has arrived yet; check the topic `image` and the camera."
    if not site.inbox.has_info:
        return "images arrive but no camera_info; remap camera_info to the camera's calibration."
    return "no image could be used yet; the node's log and /diagnostics say why."


def _timeout_s(asked_s: float, parameters: Parameters) -> float:
    if not (math.isfinite(asked_s) and 0 <= asked_s <= LONGEST_WAIT_S):
        raise BadQuestion(f"timeout_s is {asked_s:g}: give 0 (the node's own) to {LONGEST_WAIT_S:g} seconds.")
    return float(asked_s) or parameters.query_timeout_s


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise BadQuestion(f"{count} pixels are asked for: give 1 to {most} of them.")


def _fill_answer(response: Any, answer: Answer, points_m: np.ndarray, camera: Intrinsics) -> None:
    response.status = int(CODE_OF_STATUS[answer.status])
    response.answer = answer.text
    response.value, response.std, response.unit = float(answer.value), float(answer.std), answer.unit
    response.points = points_from(points_m)
    response.regions = [region_message(region, camera) for region in answer.regions]
    if answer.status is Status.NOT_FOUND:
        response.message = "the model does not see what the question is about."
    elif answer.status is Status.NOT_UNDERSTOOD:
        response.message = "the model does not understand the question: put it as in the README."


def _age_remark(site: Site, seen: Seen) -> str:
    age_s = (time.monotonic_ns() - seen.image.arrived_ns) / 1e9
    if age_s <= site.current().stale_after_s:
        return ""
    return f"answered from an image that arrived {age_s:.1f} s ago: no newer one could be used."
