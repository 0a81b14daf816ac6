# SPDX-License-Identifier: Apache-2.0
"""`depthlm bag`: writes the depth that a model sees in the images of a recorded bag, and its answers, as a bag."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.cli.common import add_model_options, parse_positive
from depthlm_ros.cli.label import (
    add_question_options,
    add_worker_options,
    model_request,
    parse_workers,
    read_questions,
    report_lines,
    weights_of,
)
from depthlm_ros.errors import BadInput, BadQuestion

if TYPE_CHECKING:
    from depthlm_ros.bags.bag_images import ImageList, TopicChoice
    from depthlm_ros.bags.frame_messages import FrameLabeller
    from depthlm_ros.data.worker_pool import Workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.description = (
        "Reads a bag of ROS 2 (mcap or sqlite3, folder or file) or ROS 1, and writes an mcap bag with depth, its "
        "camera_info and, if they are asked for, clouds and answers, for every camera in it. No ROS is needed. What is "
        "damaged in the bag is left out, told and counted. The same command continues a run that was killed."
    )
    parser.add_argument("bag", type=Path, metavar="IN", help="the bag: a folder or a file")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the bag to write: a folder")
    parser.add_argument(
        "--topics",
        nargs="+",
        default=[],
        metavar="IMAGE[=CAMERA_INFO]",
        help="topics of images (raw or compressed), each with its camera_info if that is not beside it (default: all)",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th image of a topic")
    add_model_options(parser, "tiny")
    parser.add_argument(
        "--depth",
        choices=("32FC1", "16UC1", "none"),
        default="32FC1",
        help="encoding of depth: 32FC1, metres; 16UC1, millimetres up to 65.5 m; none (default: %(default)s)",
    )
    parser.add_argument("--cloud", type=int, metavar="STRIDE", help="also clouds, of every n-th pixel and row")
    parser.add_argument("--min-depth", type=float, default=0.0, metavar="M", help="nearer is -Inf, in metres")
    parser.add_argument(
        "--max-depth", type=parse_positive, default=100.0, metavar="M", help="farther is +Inf (default: %(default)g m)"
    )
    parser.add_argument("--rectified", action="store_true", help="the images are rectified already: P is their camera")
    add_question_options(parser)
    add_worker_options(parser)


def run(args: argparse.Namespace) -> None:
    """Writes the bag, and prints what was done."""
    from depthlm_ros.bags.bag_images import list_images
    from depthlm_ros.bags.write_bag import write_bag
    from depthlm_ros.data.labelling import label_listed

    bag, out = args.bag.resolve(), args.out.resolve()
    _check_folders(bag, out)
    workers = parse_workers(args, (bag,))
    listed = list_images(bag, _topic_choice(args))
    labeller = _make_labeller(args, listed, workers)
    # A run with other choices is refused by the digest of its images anyway; so the message names the option.
    chosen = {"topics": args.topics, "every": args.every}
    settings = {"model": args.model, "weights": weights_of(args.model), **chosen, **labeller.options.settings}
    report = label_listed(bag, out, labeller, settings, workers, listed.images, listed.problems)
    for line in report_lines(report, args.out, "images"):
        print(line)
    if not report["records"]:
        raise BadInput(f"{args.out}: none of the {len(listed.images)} images could be used.")
    write_bag(out)


def _check_folders(bag: Path, out: Path) -> None:
    """Raises BadInput if the output would lie in the bag, or replace another one."""
    if out == bag or bag in out.parents:
        raise BadInput(f"--out {out} is the bag that is read, or lies in it: name another folder.")
    if (out / "metadata.yaml").exists() and not (out / "labels.journal").exists():
        raise BadInput(f"--out {out} holds another bag: name another folder.")


def _topic_choice(args: argparse.Namespace) -> TopicChoice:
    from depthlm_ros.bags.bag_images import TopicChoice

    if args.every < 1:
        raise BadInput(f"--every is {args.every}: give 1 for every image, or more.")
    pairs = [word.partition("=") for word in args.topics]
    absolute = [(f"/{image.strip('/')}", f"/{info.strip('/')}" if info else "") for image, _, info in pairs]
    return TopicChoice(dict(absolute), args.every)


def _make_labeller(args: argparse.Namespace, listed: ImageList, workers: Workers) -> FrameLabeller:
    """Returns the labeller of these options. Raises BadInput, BadQuestion and SetupError for unusable ones."""
    from depthlm_ros.bags.frame_messages import BagOptions, FrameLabeller, output_namespaces
    from depthlm_ros.cli.ask import answer_dict
    from depthlm_ros.eval.worker_model import UnloadedModel
    from depthlm_ros.model_files.checkpoint import find_source

    model = UnloadedModel(find_source(args.model), args.backend)
    questions, dense = read_questions(args), bool(model.spec.head)
    encoding = "" if args.depth == "none" else args.depth
    if questions and "questions" not in model.family.abilities:
        raise BadQuestion(f"{model.name} answers no free questions: leave out --ask, or use depthvlm-4b or tiny.")
    if (encoding or args.cloud) and not dense:
        raise BadInput(f"{model.name} has no dense depth: give --depth none with --ask, or use another model.")
    if args.cloud is not None and args.cloud < 1:
        raise BadInput(f"--cloud is {args.cloud}: give 1 for every pixel, or more.")
    if not 0 <= args.min_depth < args.max_depth:
        raise BadInput(f"--min-depth {args.min_depth:g} must be from 0 to less than --max-depth {args.max_depth:g}.")
    if not (encoding or args.cloud or questions):
        raise BadInput("there is nothing to write: give --depth, --cloud or --ask.")
    namespaces = output_namespaces(image.topic for image in listed.images)
    options = BagOptions(
        encoding=encoding,
        cloud_stride=args.cloud or 0,
        min_depth_m=args.min_depth,
        max_depth_m=args.max_depth,
        rectified=args.rectified,
        questions=tuple(questions),
        namespaces=tuple(sorted(namespaces.items())),
    )
    return FrameLabeller(model_request(args, args.model, workers).load, answer_dict, options)
