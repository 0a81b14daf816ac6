# SPDX-License-Identifier: Apache-2.0
"""`depthlm label`: writes the depth that a model sees in many pictures, and its answers to questions about them.

`add_worker_options`, `parse_workers` and `model_request` serve `eval`, `data label-photos` and `bag` too.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.cli.common import add_camera_options, add_model_options, parse_positive, print_note
from depthlm_ros.errors import BadInput, BadIntrinsics, BadQuestion

if TYPE_CHECKING:
    from depthlm_ros.data.frame_labels import FrameLabeller
    from depthlm_ros.data.picture_source import CameraRule, PictureList
    from depthlm_ros.data.worker_pool import Workers
    from depthlm_ros.eval.worker_model import ModelRequest

# Points of a picture: a depth map gives them at once, a model of words is asked for each.
POINTS_OF_MAP, POINTS_IN_WORDS = 100, 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.description = (
        "Labels a folder of pictures, a JSONL file of records or WebDataset shards with a model: labels.jsonl in "
        "the format that `depthlm eval` and `depthlm finetune` read, and depth maps. The same command continues a run "
        "that was killed. A camera is that of the record, else the one given here, else estimated from each picture."
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of pictures or shards, or JSONL file")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the labels")
    add_model_options(parser, "tiny")
    add_camera_options(parser)
    parser.add_argument(
        "--fx-over-width",
        type=parse_positive,
        metavar="RATIO",
        help="assumed focal length instead, in longer sides of each picture",
    )
    parser.add_argument(
        "--depth",
        choices=("png", "npy", "none"),
        default="png",
        help="depth maps: png, 16 bit, millimetres up to 65.5 m; npy, float32 metres; none (default: %(default)s)",
    )
    parser.add_argument("--no-std", action="store_true", help="leave out the standard deviations, which take time")
    parser.add_argument(
        "--points",
        type=int,
        metavar="N",
        help=f"labelled points of each picture (default: {POINTS_OF_MAP} of a depth map, {POINTS_IN_WORDS} in words)",
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of the points (default: %(default)s)")
    add_question_options(parser)
    add_worker_options(parser)


def add_question_options(parser: argparse.ArgumentParser) -> None:
    """Adds --ask and --questions, which read_questions reads."""
    parser.add_argument("--ask", action="append", default=[], metavar="QUESTION", help="a question; may be repeated")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="file with one question on each line")


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Adds --workers and --ray."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; each loads the model (default: 1; with --ray one for each GPU, else for each node). "
        "--device cuda:0,cuda:1 spreads them over devices",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        default="",
        metavar="ADDRESS",
        help="work on a Ray cluster (default address: the one of this machine, else a new one on it)",
    )


def parse_workers(args: argparse.Namespace, shared: Sequence[Path] = ()) -> Workers:
    """Returns the workers of the options. shared: what the nodes of a cluster must see. Raises BadInput."""
    from depthlm_ros.data.ray_cluster import Cluster
    from depthlm_ros.data.worker_pool import Workers

    if args.workers is not None and args.workers < 1:
        raise BadInput(f"--workers is {args.workers}: give at least 1.")
    if not args.ray:
        workers = Workers(args.workers or 1)
        if workers.in_this_process and "," in args.device:
            raise BadInput(f"--device {args.device} names several devices: add --workers, or name one device.")
        return workers
    if ":" in args.device or "," in args.device:
        raise BadInput(f"--device {args.device}: Ray gives each worker its GPU: leave out --device, or give cpu.")
    uses_gpu = not args.device.startswith("cpu")
    return Workers(args.workers or 0, Cluster(args.ray, uses_gpu, tuple(path.resolve() for path in shared)))


def model_request(args: argparse.Namespace, name: str, workers: Workers, as_released: bool = False) -> ModelRequest:
    """Returns how each worker loads the model `name`. The workers of a machine share its cores."""
    from depthlm_ros.eval.worker_model import ModelRequest

    if workers.cluster:
        threads = 1 if workers.count else 0
    else:
        threads = 0 if workers.count <= 1 else max(1, (os.cpu_count() or 1) // workers.count)
    return ModelRequest(name, args.backend, tuple(args.device.split(",")), threads, as_released)


def run(args: argparse.Namespace) -> None:
    """Labels the pictures, and prints what was done."""
    from depthlm_ros.data.labelling import label_records
    from depthlm_ros.data.picture_source import list_pictures

    source = args.source.resolve()
    workers = parse_workers(args, (source,))
    listed = list_pictures(source, args.out)
    labeller = make_labeller(args, listed, workers)
    settings = {"model": args.model, "weights": weights_of(args.model), **labeller.settings}
    report = label_records(source, args.out.resolve(), labeller, settings, workers, listed)
    for line in report_lines(report, args.out):
        print(line)
    if not report["records"]:
        raise BadInput(f"{args.out}: none of the {len(listed.pictures)} pictures could be labelled.")


def report_lines(report: dict[str, object], out: Path, unit: str = "pictures") -> list[str]:
    """Returns the counts of a report as lines for people, with the first examples of each problem."""
    problems, examples = report["problems"], report["examples"]
    assert isinstance(problems, dict) and isinstance(examples, dict)
    points = f", {report['points']} points" if report["points"] else ""
    lines = [f"{out}: {report['records']} of {report['pictures']} {unit}{points}"]
    for reason, count in sorted(problems.items(), key=lambda item: -item[1]):
        lines += [f"{count} x {reason}", *(f"    {example}" for example in examples.get(reason, []))]
    return lines


def make_labeller(args: argparse.Namespace, listed: PictureList, workers: Workers) -> FrameLabeller:
    """Returns the labeller of these options. Raises BadInput, BadQuestion and SetupError for unusable ones."""
    from depthlm_ros.cli.ask import answer_dict
    from depthlm_ros.data.frame_labels import NO_MAP, FrameLabeller, LabelOptions
    from depthlm_ros.eval.worker_model import UnloadedModel
    from depthlm_ros.model_files.checkpoint import find_source

    model = UnloadedModel(find_source(args.model), args.backend)
    questions, dense = read_questions(args), bool(model.spec.head)
    points = args.points if args.points is not None else POINTS_OF_MAP if dense else POINTS_IN_WORDS
    for option, value in (("--points", points), ("--seed", args.seed)):
        if value < 0:
            raise BadInput(f"{option} is {value}: give 0 or more.")
    if questions and "questions" not in model.family.abilities:
        raise BadQuestion(f"{model.name} answers no free questions: leave out --ask, or use depthvlm-4b or tiny.")
    if not dense and points and "points" not in model.family.abilities:
        raise BadQuestion(f"{model.name} tells no depth: give --points 0 with --ask, or use another model.")
    if not questions and not points and not (dense and args.depth != NO_MAP):
        raise BadInput("there is nothing to label: give --depth, --points or --ask.")
    options = LabelOptions(
        out=args.out.resolve(),
        depth=args.depth if dense else NO_MAP,
        dense=dense,
        std=not args.no_std,
        points=points,
        seed=args.seed,
        questions=tuple(questions),
        teacher=(model.name, model.spec.licence or "not stated"),
    )
    load = model_request(args, args.model, workers).load
    return FrameLabeller(load, answer_dict, _camera_rule(args, listed), options)


def weights_of(name: str) -> str:
    """Returns a text that changes with the files of a model; "" for a model of several checkpoints."""
    from depthlm_ros.model_files.checkpoint import Vlm3Checkpoints, find_source

    source = find_source(name)
    return "" if isinstance(source, Vlm3Checkpoints) else source.fingerprint


def read_questions(args: argparse.Namespace) -> list[str]:
    """Returns the questions of --ask and --questions. Raises BadInput for a file without questions."""
    questions = list(args.ask)
    if args.questions:
        try:
            lines = args.questions.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadInput(f"--questions {args.questions}: cannot be read ({exc}): give a text file.") from exc
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise BadInput(f"--questions {args.questions}: no questions in it: write one on each line.")
        questions += found
    if empty := [question for question in questions if not question.strip()]:
        raise BadInput(f"--ask {empty[0]!r}: the question is empty.")
    return list(dict.fromkeys(questions))


def _camera_rule(args: argparse.Namespace, listed: PictureList) -> CameraRule:
    """Returns the camera of pictures whose record has none, and says on stderr what is assumed.

    Raises BadInput, and BadIntrinsics for a camera that is not usable.
    """
    from depthlm_ros.data.picture_source import CameraRule
    from depthlm_ros.geometry.calibration_file import read_camera

    given = [name for name in ("intrinsics", "camera", "focal", "fx_over_width") if getattr(args, name) is not None]
    if len(given) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise BadInput(f"{options} contradict each other: give one of them.")
    intrinsics = tuple(args.intrinsics) if args.intrinsics else None
    calibration = args.camera.resolve() if args.camera else None
    rule = CameraRule(intrinsics, args.focal, calibration, args.fx_over_width, None, args.estimator, args.turn)
    if calibration:
        read_camera(calibration)  # an unusable file would be a problem of every picture
    if intrinsics or args.focal is not None:
        size_px = _first_size(listed)
        rule.stated_camera(size_px)
        rule = replace(rule, size_px=size_px)
        print_note("the intrinsics are used for pictures of {} x {}, as the first one.".format(*size_px))
    elif args.fx_over_width:
        print_note(f"pictures without a camera: fx = {args.fx_over_width:g} of their longer side is assumed.")
    elif not args.camera and not all("intrinsics" in picture.fields for picture in listed.pictures):
        print_note(
            f"pictures without a camera: the focal length of each is estimated ({args.estimator}); its line says from "
            "what. If you know it, give --intrinsics, --focal, --camera or --fx-over-width."
        )
    return rule


def _first_size(listed: PictureList) -> tuple[int, int]:
    """Returns (width, height) of the first readable picture. Raises BadInput if there is none."""
    for picture in listed.pictures:
        try:
            height, width = picture.load().rgb().shape[:2]
        except (BadInput, OSError):
            continue
        return width, height
    raise BadIntrinsics(f"none of the {len(listed.pictures)} pictures can be read.")
