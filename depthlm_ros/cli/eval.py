"""`depthlm eval`: scores a model on labelled images and compares the scores with the published ones.

Also compares several runs (--compare) and prints the published tables (--published).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.cli.common import add_model_options
from depthlm_ros.data.records import describe_problems
from depthlm_ros.errors import BadInput
from depthlm_ros.file_io import JsonObject, to_json_value
from depthlm_ros.progress import progress_callback

if TYPE_CHECKING:
    from depthlm_ros.data.records import RecordProblem
    from depthlm_ros.eval.result_file import ResultStore
    from depthlm_ros.model import Model
    from depthlm_ros.model_files.checkpoint import ModelSource

DEFAULT_MODEL = "tiny"
TASKS = ("auto", "depth", "objects", "matches", "pose")
PROTOCOLS = ("plain", "depthlm", "depthvlm-sparse", "dense")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument(
        "labels",
        type=Path,
        nargs="?",
        metavar="LABELS.jsonl",
        help="labels of DepthLM or DepthVLM, questions about objects, or pairs of images",
    )
    parser.add_argument(
        "--task", choices=TASKS, default="auto", help="what is scored (default: what the labels are for)"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="plain",
        help="which points of a depth map are scored (default: %(default)s)",
    )
    parser.add_argument("--as-released", action="store_true", help="score with the defects of the released evaluation")
    parser.add_argument(
        "--points",
        choices=("dense", "words"),
        default="dense",
        help="read the depth map, or ask the model for each depth (default: %(default)s)",
    )
    add_model_options(parser, DEFAULT_MODEL)
    parser.set_defaults(model=None)  # a baseline without --model needs no model
    parser.add_argument(
        "--baselines", action="store_true", help="also score answers that need no model; without --model only these"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="number of records to score (protocol depthlm: of samples)"
    )
    parser.add_argument("--seed", type=int, help="choose them at random (default: take the first; depthlm: 42)")
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help="folder that image paths are relative to (default: that of LABELS)"
    )
    parser.add_argument(
        "--depth-type", choices=("z", "range"), default="", help="meaning of the depths, if LABELS state it wrongly"
    )
    parser.add_argument("--data-set", default="", help="name in the published tables (default: guessed from the path)")
    _add_outputs(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to this file")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE.jsonl",
        help="write each record's result there, and continue a run that was stopped",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="draw the first images and the uncertainty, or the matches of pairs",
    )
    parser.add_argument(
        "--compare", type=Path, nargs="+", metavar="FILE.json", help="only print files of --json in one table"
    )
    parser.add_argument("--published", action="store_true", help="only print every published table")


def run(args: argparse.Namespace) -> None:
    """Scores a model on labelled images, or prints tables."""
    from depthlm_ros.eval.published import ALL_TABLES, OBJECT_BENCH
    from depthlm_ros.eval.tables import compare_runs, compare_with_published, published_tables, read_run

    if args.published:
        print(published_tables(ALL_TABLES))
        return
    if args.compare:
        print(compare_runs([read_run(path) for path in args.compare]))
        return
    if args.labels is None:
        raise BadInput("there are no labels: give LABELS.jsonl, --compare, or --published.")
    if args.pictures and args.baselines and args.model is None:
        raise BadInput("--pictures shows what a model says: give --model, or leave out --pictures.")
    if args.json:
        _check_writable(args.json)
    scores = _score(args)
    if args.json:
        args.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    if published := compare_with_published(scores):
        print(published)
    elif scores.get("protocol") == "plain" and scores["data_set"]:
        print(f"published scores on {scores['data_set']} exist for --protocol depthlm, depthvlm-sparse or dense.")
    elif scores["task"] == "objects":
        print(f"published scores exist for {OBJECT_BENCH}: if these are its questions, add --data-set {OBJECT_BENCH}.")


def _check_writable(path: Path) -> None:
    """Checks --json before the work, so that scores are not lost after it. Raises BadInput."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"--json {path}: cannot be written there: name a file in an existing folder.")


def _score(args: argparse.Namespace) -> JsonObject:
    """Scores the labels, prints a table, and returns the scores as JSON values."""
    from depthlm_ros.data.check import find_duplicate_lines
    from depthlm_ros.eval.language import detect_task
    from depthlm_ros.eval.published import find_data_set, guess_data_set
    from depthlm_ros.eval.result_file import ResultStore
    from depthlm_ros.model import load_model
    from depthlm_ros.model_files.checkpoint import find_model

    data_set = find_data_set(args.data_set) if args.data_set else guess_data_set(args.labels.resolve())
    source = None if args.baselines and args.model is None else find_model(args.model or DEFAULT_MODEL)
    model = None if source is None else load_model(source, backend=args.backend, device=args.device)
    task = detect_task(args.labels, model) if args.task == "auto" else args.task
    with ResultStore(args.results, _settings(args, task, source)) as store:
        scores = _score_depth(args, model, store) if task == "depth" else _score_language(args, task, model, store)
    duplicates = find_duplicate_lines(args.labels)
    print_problems(replace(one, message=f"{one.message}: scored like any other") for one in duplicates)
    scores |= {
        "task": task,
        "data_set": data_set,
        "labels": args.labels.name,
        "model": model.name if model else "",
        "backend": model.backend_name if model else "",
        "as_released": args.as_released,
        "limit": args.limit,
        "seed": args.seed,
        "duplicate_lines": len(duplicates),
    }
    return dict(to_json_value(scores))


def _score_depth(args: argparse.Namespace, model: Model | None, store: ResultStore) -> dict[str, object]:
    from depthlm_ros.eval.depth import DepthEvalOptions, evaluate_depth
    from depthlm_ros.eval.gallery import Gallery

    options = DepthEvalOptions(
        protocol=args.protocol,
        points=args.points,
        as_released=args.as_released,
        limit=args.limit,
        seed=args.seed,
        baselines=args.baselines,
        root=args.root,
        depth_type=args.depth_type,
    )
    gallery = Gallery(args.pictures) if args.pictures and model else None
    with progress_callback("depthlm eval", "records") as on_progress:
        report = evaluate_depth(args.labels, model, options, store, gallery, on_progress)
    print_problems((*report.left_out, *report.refused))
    print(report.table() if model else report.baseline_table())
    scores: dict[str, object] = report.as_dict()
    if model is None:
        unknown = dict.fromkeys(("delta1", "absrel", "rmse", "parse_failures", "seconds_per_image"))
        scores = unknown | {name: scores[name] for name in ("n", "protocol", "images", "left_out", "baselines")}
    return scores | {"points": args.points}


def _score_language(args: argparse.Namespace, task: str, model: Model | None, store: ResultStore) -> dict[str, object]:
    from depthlm_ros.eval.language import LanguageEvalOptions, evaluate_language

    if model is None:
        raise BadInput(f"there is no baseline for task {task}: give --model.")
    options = LanguageEvalOptions(args.limit, args.seed, args.root, args.pictures)
    with progress_callback("depthlm eval", "records") as on_progress:
        report = evaluate_language(task, args.labels, model, store, options, on_progress)
    print_problems(report.left_out)
    print(report.table)
    return report.scores


def _settings(args: argparse.Namespace, task: str, source: ModelSource | None) -> dict[str, object]:
    """Returns everything but the records that the results depend on."""
    from depthlm_ros.model import find_words_model
    from depthlm_ros.model_files.depth_network import DepthNetwork

    settings: dict[str, object] = {"task": task, "model": args.model or DEFAULT_MODEL if source else ""}
    if source is not None and args.results:
        settings["weights"] = source.fingerprint
        if isinstance(source, DepthNetwork) and source.fields.words:
            settings["words"] = find_words_model(source).fingerprint
    if task == "depth":
        seed = args.seed if args.protocol == "dense" else None
        settings |= {"protocol": args.protocol, "points": args.points, "as_released": args.as_released, "seed": seed}
    return settings


def print_problems(problems: Iterable[RecordProblem]) -> None:
    """Prints left-out or doubtful records to stderr: the count of each reason with its first examples."""
    for line in describe_problems(problems):
        print(f"depthlm: {line}", file=sys.stderr)
