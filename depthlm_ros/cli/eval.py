"""`depthlm eval`: scores on labelled images, beside the published ones; several runs in one table."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm_ros.data.records import told
from depthlm_ros.errors import BadInput
from depthlm_ros.file_io import to_json_value

if TYPE_CHECKING:
    from depthlm_ros.data.records import Problem
    from depthlm_ros.eval.depth import Choice
    from depthlm_ros.eval.result_file import Results
    from depthlm_ros.model import Model

DEFAULT_MODEL = "tiny"
TASKS = ("auto", "depth", "objects", "matches", "pose")
PROTOCOLS = ("plain", "depthlm", "depthvlm-sparse", "dense")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the verb."""
    parser.add_argument(
        "labels",
        type=Path,
        nargs="?",
        metavar="LABELS.jsonl",
        help="DepthLM's or DepthVLM's labels, questions about objects (eval/objects.py) or pairs (data/pairreading.py)",
    )
    parser.add_argument("--task", choices=TASKS, default="auto", help="what is scored (default: as the labels tell)")
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="plain", help="of depth: which points (default: %(default)s)"
    )
    parser.add_argument("--as-released", action="store_true", help="with the quirks of the released evaluation")
    parser.add_argument(
        "--points",
        choices=("dense", "words"),
        default="dense",
        help="read the depth map, or let the model say each depth",
    )
    _add_model(parser)
    parser.add_argument("--baselines", action="store_true", help="also what needs no model; alone without --model")
    parser.add_argument("--limit", type=int, metavar="N", help="records to score; of protocol depthlm, samples")
    parser.add_argument("--seed", type=int, help="draw these at random (default: the first; depthlm: 42)")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="what image paths are relative to, if not LABELS")
    parser.add_argument("--depth-type", choices=("z", "range"), default="", help="what labels mean, if they are wrong")
    parser.add_argument("--data-set", default="", help="name in the published tables (default: as the path tells)")
    _add_outputs(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=f"name, NAME=FOLDER, folder or hub id (default: {DEFAULT_MODEL})")
    parser.add_argument("--backend", default="auto", help="what runs it (default: %(default)s)")
    parser.add_argument("--device", default="", help="where torch runs it: cpu, cuda or cuda:N (default: the best)")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there as JSON")
    parser.add_argument(
        "--results", type=Path, metavar="FILE.jsonl", help="keep each record's result there, and go on from it"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="draw the first images and the uncertainty; of pairs, matches"
    )
    parser.add_argument(
        "--compare", type=Path, nargs="+", metavar="FILE.json", help="only put what --json wrote into one table"
    )
    parser.add_argument("--published", action="store_true", help="only print every published table")


def run(args: argparse.Namespace) -> None:
    """Score a model on labelled images."""
    from depthlm_ros.eval.published import ALL_TABLES, OBJECT_BENCH
    from depthlm_ros.eval.tables import comparison, every_table, published, read_run

    if args.published:
        print(every_table(ALL_TABLES))
        return
    if args.compare:
        print(comparison([read_run(path) for path in args.compare]))
        return
    if args.labels is None:
        raise BadInput("no labels: give LABELS.jsonl, --compare, or --published.")
    if args.pictures and args.baselines and args.model is None:
        raise BadInput("--pictures shows what a model says: give --model, or leave it out.")
    if args.json:
        _check_writable(args.json)
    scores = _score(args)
    if args.json:
        args.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    if beside := published(scores):
        print(beside)
    elif scores.get("protocol") == "plain" and scores["data_set"]:
        print(f"published scores on {scores['data_set']} are of --protocol depthlm, depthvlm-sparse or dense.")
    elif scores["task"] == "objects":
        print(f"published scores are of {OBJECT_BENCH}: if these are its questions, say --data-set {OBJECT_BENCH}.")


def _check_writable(path: Path) -> None:
    """Before the work, not after it. Raises BadInput."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"--json {path}: cannot be written there: name a file in a folder that exists.")


def _score(args: argparse.Namespace) -> dict[str, Any]:
    """The scores in plain types, fit for JSON; the table is printed."""
    from depthlm_ros.data.check import duplicate_lines
    from depthlm_ros.eval.published import data_set_named, data_set_of
    from depthlm_ros.eval.result_file import Results

    data_set = data_set_named(args.data_set) if args.data_set else data_set_of(args.labels.resolve())
    model = None if args.baselines and args.model is None else _load(args)
    task = _task(args, model)
    settings = _settings(args, task, model)
    with Results(args.results, settings) as results:
        scores = _depth(args, model, results) if task == "depth" else _words(args, task, model, results)
    about = {"task": task, "data_set": data_set, "labels": args.labels.name}
    named = {"model": model.name if model else "", "backend": model.backend_name if model else ""}
    doubles = duplicate_lines(args.labels)
    complain(replace(one, message=f"{one.message}: scored like any other") for one in doubles)
    given = {"as_released": args.as_released, "limit": args.limit, "seed": args.seed}
    return to_json_value(scores | about | named | given | {"duplicate_lines": len(doubles)})


def _depth(args: argparse.Namespace, model: Model | None, results: Results) -> dict[str, Any]:
    from depthlm_ros.eval.depth import depth_report
    from depthlm_ros.eval.gallery import Gallery

    gallery = Gallery(args.pictures) if args.pictures and model else None
    report = depth_report(args.labels, model, _choice(args), results, gallery, _watch())
    complain((*report.left_out, *report.refused))
    print(report.table() if model else report.baseline_table())
    scores = report.as_dict()
    if model is None:
        nothing = dict.fromkeys(("delta1", "absrel", "rmse", "parse_failures", "seconds_per_image"))
        scores = nothing | {name: scores[name] for name in ("n", "protocol", "images", "left_out", "baselines")}
    return scores | {"points": args.points}


def _words(args: argparse.Namespace, task: str, model: Model | None, results: Results) -> dict[str, Any]:
    from depthlm_ros.eval.language import Wanted, score_words

    if model is None:
        raise BadInput(f"there is no baseline for task {task}: give --model.")
    wanted = Wanted(args.limit, args.seed, args.root, args.pictures)
    found = score_words(task, args.labels, model, results, wanted, _watch())
    complain(found.left_out)
    print(found.table)
    return found.scores


def _choice(args: argparse.Namespace) -> Choice:
    from depthlm_ros.eval.depth import Choice

    return Choice(
        protocol=args.protocol,
        points=args.points,
        as_released=args.as_released,
        limit=args.limit,
        seed=args.seed,
        baselines=args.baselines,
        root=args.root,
        depth_type=args.depth_type,
    )


def _task(args: argparse.Namespace, model: Model | None) -> str:
    from depthlm_ros.eval.language import task_of

    return args.task if args.task != "auto" else task_of(args.labels, model)


def _settings(args: argparse.Namespace, task: str, model: Model | None) -> dict[str, Any]:
    """What results depend on beside the records."""
    settings: dict[str, Any] = {"task": task, "model": args.model or DEFAULT_MODEL if model else ""}
    if model is not None and args.results:
        settings["weights"] = fingerprint(args.model or DEFAULT_MODEL)
    if task == "depth":
        seed = args.seed if args.protocol == "dense" else None
        settings |= {"protocol": args.protocol, "points": args.points, "as_released": args.as_released, "seed": seed}
    return settings


def fingerprint(name: str) -> str:
    """Changes with the model's files: names and sizes of all, contents of the small ones (a bundle's manifest holds
    the digests of its graphs)."""
    from depthlm_ros.model_files.checkpoint import find_model

    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(find_model(name).folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes() if path.suffix == ".json" and path.stat().st_size < 2**20 else b"")
    return digest.hexdigest()


def _load(args: argparse.Namespace) -> Model:
    from depthlm_ros.model import load_model

    return load_model(args.model or DEFAULT_MODEL, backend=args.backend, device=args.device)


def complain(problems: Iterable[Problem]) -> None:
    """What was left out, or is doubtful, on stderr: by reason, with the first lines of each."""
    for line in told(problems):
        print(f"depthlm: {line}", file=sys.stderr)


def _watch() -> Callable[[int, int], None] | None:
    """Progress on one line of a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None
    return lambda done, count: print(f"\r{done} of {count}", end="\n" if done == count else "", file=sys.stderr)
