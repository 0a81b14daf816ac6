# SPDX-License-Identifier: Apache-2.0
"""`depthlm ask`: asks a question about one or two images, in the user's words or as one of DepthLM's tasks."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.cli.common import (
    add_as_released_option,
    add_image_options,
    add_json_option,
    add_pixel_option,
    add_second_intrinsics_option,
    camera_options,
    format_numbers,
    load_named_model,
    read_frame,
    read_pair,
    typed_text,
)
from depthlm_ros.core import Answer, Measurement, Region, Status
from depthlm_ros.errors import BadInput, BadQuestion
from depthlm_ros.families import depthlm
from depthlm_ros.families.base import check_marked
from depthlm_ros.file_io import JsonObject, to_json_value

if TYPE_CHECKING:
    from depthlm_ros.families.depthlm import DepthLMTask

TASKS: dict[str, Callable[[argparse.Namespace], DepthLMTask]] = {
    "axis": lambda args: depthlm.forward_distance(),
    "speed": lambda args: depthlm.speed(_required(args, "seconds")),
    "time": lambda args: depthlm.travel_time(_required(args, "speed")),
    "two-points": lambda args: depthlm.two_point_distance(),
    "motion": lambda args: depthlm.camera_motion(),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_image_options(parser)
    question = parser.add_argument(
        "question", help='in plain English, for example "How far is the red box?"; leave it out with --task'
    )
    add_pixel_option(
        parser,
        "a pixel that the question is about; a question for its distance becomes the one that DepthLM and VLM3 were "
        "trained on",
    )
    parser.add_argument(
        "--region",
        type=float,
        nargs=4,
        action="append",
        default=[],
        metavar=("X", "Y", "W", "H"),
        help="a box, in pixels, that the question is about; may be repeated",
    )

    def task_name(name: str) -> str:
        # nargs="?" would not work: argparse then rejects a question that follows other options.
        question.required = False
        return name

    parser.add_argument(
        "--task",
        type=task_name,
        choices=tuple(TASKS),
        help="a task of DepthLM's training instead of a question: axis (forward distance of a pixel), speed (needed to "
        "reach the pixel in --seconds), time (needed to reach the pixel at --speed), two-points (distance between two "
        "pixels), motion (of the camera, from the image to --second)",
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="for task speed")
    parser.add_argument("--speed", type=float, metavar="M/S", help="for task time, in metres per second")
    parser.add_argument("--second", type=Path, metavar="IMAGE", help="a second image that the question is about")
    add_second_intrinsics_option(parser)
    add_json_option(parser)
    add_as_released_option(parser)


def run(args: argparse.Namespace) -> None:
    """Asks one question and prints the answer."""
    _check_options(args)
    task = TASKS[args.task](args) if args.task else None
    if task:
        _check_task(args, task)
    answer, facts = ask(args, task.question if task else typed_text(args.question))
    answer = with_task_unit(task, answer) if task else answer
    print(json.dumps(facts | answer_dict(answer)) if args.json else answer_text(answer, args.pixel))


def ask(args: argparse.Namespace, question: str) -> tuple[Answer, JsonObject]:
    """Returns the answer about one image or two, and facts: the model's name, the seconds of its look and its words.

    Raises BadQuestion for pixels or regions in two images, and for a question about a point that is not marked.
    """
    from depthlm_ros.geometry.pinhole import check_pixels_inside

    if args.second is not None and (args.pixel or args.region):
        raise BadQuestion("a question about two images takes no --pixel and no --region: `depthlm match` finds pixels.")
    check_marked(question, len(args.pixel) + len(args.region))
    if args.second is not None:
        frames = [*read_pair(args.image, args.second, args)]
    else:
        frames = [read_frame(args.image, camera_options(args))]
    check_pixels_inside(args.pixel, frames[0].intrinsics.size_px)
    model = load_named_model(args)
    if len(frames) == 2:
        pair = model.look_pair(*frames)
        look_s, answer_question = pair.backend_s, partial(pair.ask, question)
    else:
        view, regions = model.look(*frames), [Region(*box) for box in args.region]
        look_s, answer_question = view.backend_s, partial(view.ask, question, args.pixel, regions)
    started_s = time.perf_counter()
    answer = answer_question()
    return answer, {"model": model.name, "look_s": look_s, "answer_s": time.perf_counter() - started_s}


def with_task_unit(task: DepthLMTask, answer: Answer) -> Answer:
    """Gives an answer the unit of its task if it has none; an answer in another unit becomes NOT_UNDERSTOOD."""
    if answer.status is not Status.OK or not math.isfinite(answer.value) or answer.unit not in ("", task.unit):
        return replace(answer, status=Status.NOT_UNDERSTOOD, value=math.nan, unit="", std=math.nan)
    return replace(answer, unit=task.unit)


def answer_text(answer: Answer, pixels: list[list[float]]) -> str:
    """Returns the model's words, then a line for each measurement. pixels: (u, v) of the question."""
    if answer.regions:
        subjects = [region.label or f"region {index + 1}" for index, region in enumerate(answer.regions)]
    else:
        subjects = ["pixel ({:g}, {:g})".format(*uv) for uv in pixels]
    return "\n".join([answer.text, *(_measurement_text(measurement, subjects) for measurement in answer.measurements)])


def answer_dict(answer: Answer) -> JsonObject:
    """Converts an answer to JSON values; unknown numbers are null."""
    fields = vars(answer) | {
        "status": answer.status.value,
        "regions": [vars(region) for region in answer.regions],
        "measurements": [vars(measurement) for measurement in answer.measurements],
    }
    return dict(to_json_value(fields))


def _check_options(args: argparse.Namespace) -> None:
    """Raises BadInput for options that would be ignored."""
    for name, task in (("seconds", "speed"), ("speed", "time")):
        if getattr(args, name) is not None and args.task != task:
            raise BadInput(f"--{name} is for --task {task}: leave it out, or write the number into the question.")
    if args.intrinsics_second and args.second is None:
        raise BadInput("--intrinsics-second is the camera of --second IMAGE, which is not given: leave it out.")


def _check_task(args: argparse.Namespace, task: DepthLMTask) -> None:
    if args.question is not None:
        raise BadQuestion(f"task {args.task} has its own question: leave out {args.question!r}, or leave out --task.")
    if len(args.pixel) != task.points or args.region:
        raise BadQuestion(f"task {args.task} needs {task.points} pixel(s) and no region: give --pixel for each pixel.")
    if (args.second is not None) != (task.images == 2):
        raise BadQuestion(f"task {args.task} needs {task.images} image(s): give --second only for a task with two.")


def _measurement_text(measurement: Measurement, subjects: list[str]) -> str:
    about = ", ".join(subjects[index] for index in measurement.about if index < len(subjects))
    std = f" +- {measurement.std:.2f}" if math.isfinite(measurement.std) else ""
    value = format_numbers([measurement.value], 2)
    return f"  {measurement.quantity}: {value}{std} {measurement.unit}" + (f" ({about})" if about else "")


def _required(args: argparse.Namespace, name: str) -> float:
    value = getattr(args, name)
    if value is None:
        raise BadQuestion(f"task {args.task} needs --{name}.")
    return float(value)
