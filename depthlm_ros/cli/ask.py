"""`depthlm ask`: a question about an image, in one's own words or one of DepthLM's tasks."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm_ros.cli.common import (
    add_lens,
    add_model,
    add_pixels,
    add_second_lens,
    load,
    numbers,
    read_frame,
    read_pair,
)
from depthlm_ros.core import Answer, Measurement, Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families import depthlm
from depthlm_ros.file_io import to_json_value

if TYPE_CHECKING:
    from depthlm_ros.families.depthlm import Task

TASKS: dict[str, Callable[[argparse.Namespace], Task]] = {
    "axis": lambda args: depthlm.forward_distance(),
    "speed": lambda args: depthlm.speed(_needed(args, "seconds")),
    "time": lambda args: depthlm.travel_time(_needed(args, "speed")),
    "two-points": lambda args: depthlm.two_point_distance(),
    "motion": lambda args: depthlm.camera_motion(),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="an image file, without lens distortion")
    question = parser.add_argument("question", help='in plain English: "How far is the red box?"; none with --task')

    def task(name: str) -> str:
        # Not nargs="?": argparse would take a question that follows other options for one argument too many.
        question.required = False
        return name

    add_lens(parser)
    add_model(parser)
    add_pixels(parser, "a pixel that the question is about")
    parser.add_argument(
        "--region",
        type=float,
        nargs=4,
        action="append",
        default=[],
        metavar=("X", "Y", "W", "H"),
        help="a box, in pixels, that the question is about; may be given again",
    )
    parser.add_argument(
        "--task",
        type=task,
        choices=tuple(TASKS),
        help="instead of a question, one DepthLM learnt: axis (forward distance of a pixel), speed (to reach it in "
        "--seconds), time (to reach it at --speed), two-points (their distance), motion (of the camera, to --second)",
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="for task speed")
    parser.add_argument("--speed", type=float, metavar="M/S", help="for task time, metres per second")
    parser.add_argument("--second", type=Path, metavar="IMAGE", help="a second image that the question is about")
    add_second_lens(parser)
    parser.add_argument("--json", action="store_true", help="the whole answer as one JSON object")


def run(args: argparse.Namespace) -> None:
    """Answer one question."""
    task = TASKS[args.task](args) if args.task else None
    if task:
        _check_task(args, task)
    answer = ask(args, task.question if task else args.question)
    answer = in_unit_of(task, answer) if task else answer
    print(json.dumps(answer_dict(answer)) if args.json else answer_text(answer, args.pixel))


def ask(args: argparse.Namespace, question: str) -> Answer:
    """The model's answer about the image, or about two."""
    if args.second is None:
        regions = tuple(Region(*box) for box in args.region)
        return load(args).look(read_frame(args.image, args.intrinsics)).ask(question, args.pixel, regions)
    if args.pixel or args.region:
        raise BadQuestion("a question about two images takes no --pixel and no --region: `depthlm match` finds pixels.")
    first, second = read_pair(args.image, args.second, args)
    return load(args).look_pair(first, second).ask(question)


def in_unit_of(task: Task, answer: Answer) -> Answer:
    """The answer to a task: a number without unit is in the task's; in another unit it is not understood."""
    if answer.status is not Status.OK or not math.isfinite(answer.value) or answer.unit not in ("", task.unit):
        return replace(answer, status=Status.NOT_UNDERSTOOD, value=math.nan, unit="", std=math.nan)
    return replace(answer, unit=task.unit)


def answer_text(answer: Answer, pixels: list[list[float]]) -> str:
    """The words, then a line for each measurement."""
    if answer.regions:
        things = [region.label or f"region {index + 1}" for index, region in enumerate(answer.regions)]
    else:
        things = ["pixel ({:g}, {:g})".format(*uv) for uv in pixels]
    return "\n".join([answer.text, *(_measured(measurement, things) for measurement in answer.measurements)])


def answer_dict(answer: Answer) -> dict[str, Any]:
    """An answer in plain types, fit for JSON: what is unknown is null."""
    fields = vars(answer) | {
        "status": answer.status.value,
        "regions": [vars(region) for region in answer.regions],
        "measurements": [vars(measurement) for measurement in answer.measurements],
    }
    return to_json_value(fields)


def _check_task(args: argparse.Namespace, task: Task) -> None:
    if args.question is not None:
        raise BadQuestion(f"task {args.task} has a question of its own: leave out {args.question!r}, or --task.")
    if len(args.pixel) != task.points or args.region:
        raise BadQuestion(f"task {args.task} is about {task.points} pixel(s) and no region: give --pixel as often.")
    if (args.second is not None) != (task.images == 2):
        raise BadQuestion(f"task {args.task} is about {task.images} image(s): give --second for two, else not.")


def _measured(measurement: Measurement, things: list[str]) -> str:
    about = ", ".join(things[index] for index in measurement.about if index < len(things))
    std = f" +- {measurement.std:.2f}" if math.isfinite(measurement.std) else ""
    value = numbers([measurement.value], 2)
    return f"  {measurement.quantity}: {value}{std} {measurement.unit}" + (f" ({about})" if about else "")


def _needed(args: argparse.Namespace, name: str) -> float:
    value = getattr(args, name)
    if value is None:
        raise BadQuestion(f"task {args.task} needs --{name}.")
    return value
