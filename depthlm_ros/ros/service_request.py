"""From a service's request to the worker and back: every request ends with a status and words.

A callback waits here in its own thread of the executor, while the stream goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from depthlm_ros.core import Question
from depthlm_ros.errors import BadInput, BadQuestion, DepthLMError
from depthlm_ros.model import Model
from depthlm_ros.ros.frame_processing import Seen
from depthlm_ros.ros.message_out import forget
from depthlm_ros.ros.parameters import LONGEST_WAIT_S, Parameters
from depthlm_ros.ros.request_queue import Busy, Closed, Inbox, Ticket
from depthlm_ros.ros.tf import Transforms
from depthlm_ros.srv import SpatialQuery

# All services count alike.
Codes = SpatialQuery.Response


class Refused(BadInput):
    """The request ends without an answer, with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Site:
    """What the services need of an active node. clock_ns: its clock. current: its parameters as they are now."""

    model: Model
    clock_ns: Callable[[], int]
    current: Callable[[], Parameters]
    inbox: Inbox
    transforms: Transforms


def refuse(response: Any, message: str) -> Any:
    """The response of a node that is not active."""
    forget(response)
    response.success, response.status, response.message = False, int(Codes.NO_IMAGE), message
    return response


def finish(site: Site, response: Any, fill: Callable[[], None]) -> Any:
    """The response that `fill` fills, or the status and words of what it raises."""
    started_s = time.perf_counter()
    forget(response)
    response.model = site.model.name
    try:
        with site.inbox.place():
            fill()
    except Busy:
        most = site.current().max_waiting_questions
        response.status = int(Codes.BUSY)
        response.message = f"{most} questions wait already (parameter max_waiting_questions): ask again later."
    except Refused as refused:
        response.status, response.message = int(refused.status), str(refused)
    except BadInput as error:
        response.status, response.message = int(Codes.BAD_REQUEST), str(error)
    except Exception as error:  # the service must answer, whatever happened
        words = str(error) if isinstance(error, DepthLMError) else f"{type(error).__name__}: {error}; please report it."
        response.status, response.message = int(Codes.INTERNAL), words
    response.success = response.status == Codes.OK
    response.latency = time.perf_counter() - started_s
    return response


def ask(
    site: Site,
    request: Any,
    work: Callable[[Any], Any],
    question: Question | None = None,
    needs_look: bool = True,
) -> Any:
    """What `work` returns, from the worker. Raises Refused, BadInput, or what work raised.

    question: what `work` asks the model in words, if that can be asked together with others. needs_look: False if work
    has all its images; it is then called with what was seen or with None.
    """
    timeout_s = _timeout_s(request.timeout_s, site.current())
    fresh = bool(request.fresh) and needs_look
    if needs_look and not fresh and not site.inbox.can_answer:
        raise Refused(Codes.NO_IMAGE, _no_image(site))
    ticket = Ticket(work, fresh, site.clock_ns(), question, needs_look)
    try:
        site.inbox.ask(ticket)
        return ticket.future.result(timeout_s)
    except Closed:
        raise Refused(Codes.NO_IMAGE, "the node was deactivated before the answer.") from None
    except futures.TimeoutError:
        ticket.future.cancel()
        raise _timed_out(site, timeout_s, ticket) from None


def check_count(count: int, most: int) -> None:
    """Raises BadQuestion for no pixels, and for more than can be asked about at once."""
    if not 1 <= count <= most:
        raise BadQuestion(f"{count} pixels are asked for: give 1 to {most} of them.")


def age_remark(site: Site, seen: Seen) -> str:
    """Words for an answer from an old image; empty for a new one."""
    age_s = (time.monotonic_ns() - seen.image.arrived_ns) / 1e9
    if age_s <= site.current().stale_after_s:
        return ""
    return f"answered from an image that arrived {age_s:.1f} s ago: no newer one could be used."


def _timed_out(site: Site, timeout_s: float, ticket: Ticket) -> Refused:
    if ticket.needs_look and not site.inbox.can_answer:
        return Refused(Codes.NO_IMAGE, f"no answer within {timeout_s:g} s: {_no_image(site)}")
    newest = site.inbox.newest
    age_s = (time.monotonic_ns() - newest.arrived_ns) / 1e9 if newest else math.inf
    if ticket.fresh and age_s >= timeout_s:
        why = f"the last image arrived {age_s:.1f} s ago and a fresh one was asked for; check the camera."
    else:
        why = "the model is slower than that; allow more time (timeout_s, or parameter query_timeout_s)."
    return Refused(Codes.TIMEOUT, f"no answer within {timeout_s:g} s: {why}")


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
