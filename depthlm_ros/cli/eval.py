# SPDX-License-Identifier: Apache-2.0
"""`depthlm eval`: scores a model on labelled images and compares the scores with the published ones.

Also compares several runs (--compare), prints the published tables (--published), and checks a downloaded checkpoint by
the figures that others have measured (--first-day).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.cli.common import add_model_options, check_output, print_note, say_what_is_released
from depthlm_ros.cli.label import add_worker_options, model_request, parse_workers
from depthlm_ros.data.records import describe_problems
from depthlm_ros.errors import BadInput
from depthlm_ros.file_io import JsonObject, to_json_value
from depthlm_ros.progress import progress_callback

if TYPE_CHECKING:
    from depthlm_ros.data.records import RecordProblem
    from depthlm_ros.data.worker_pool import Workers
    from depthlm_ros.eval.first_day import CheckResult, ScoreCheck
    from depthlm_ros.eval.result_file import ResultStore, Shard
    from depthlm_ros.eval.worker_model import Parallel
    from depthlm_ros.model import Model
    from depthlm_ros.model_files.checkpoint import ModelSource

DEFAULT_MODEL = "tiny"
TASKS = ("auto", "depth", "objects", "matches", "pose")
# Options that --first-day chooses itself, or that make no sense with it.
FIXED_BY_FIRST_DAY = ("shard", "merge", "limit", "seed", "baselines", "depth_type", "pictures", "root", "as_released")
PROTOCOLS = ("plain", "depthlm", "depthvlm-sparse", "dense", "nyu-eigen", "kitti-eigen")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument(
        "labels",
        type=Path,
        nargs="?",
        metavar="LABELS.jsonl",
        help="labels of DepthLM or DepthVLM, questions about objects, or pairs of images; for --first-day a folder",
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
    parser.add_argument(
        "--as-released",
        action="store_true",
        help="ask and score as the released code does, defects included, where that is possible",
    )
    parser.add_argument(
        "--points",
        choices=("dense", "words"),
        default="dense",
        help="read the depth map, or ask the model for each depth (default: %(default)s)",
    )
    add_model_options(parser, DEFAULT_MODEL)
    add_worker_options(parser)
    parser.add_argument(
        "--quantise",
        choices=("int8", "nf4"),
        default="",
        help="quantise a checkpoint's weights when they are loaded (backend torch; needs bitsandbytes)",
    )
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
    parser.add_argument(
        "--shard",
        type=_parse_shard,
        metavar="K/N",
        help="evaluate only share K (from 1) of N of the records, into --results; --merge puts the shares together",
    )
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
        "--merge",
        type=Path,
        nargs="+",
        metavar="FILE.jsonl",
        help="score the results in files that --results wrote, for example with --shard; no model is run",
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
    parser.add_argument(
        "--first-day",
        metavar="NAME",
        help="check a checkpoint: image tokens, and with a folder of labels its scores, beside the figures that others "
        "have measured (depthvlm-4b, depthlm-12b)",
    )


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
    if args.first_day:
        _check_first_day(args)
        return
    if args.labels is None:
        raise BadInput("there are no labels: give LABELS.jsonl, --compare, --published or --first-day.")
    if args.pictures and args.baselines and args.model is None:
        raise BadInput("--pictures shows what a model says: give --model, or leave out --pictures.")
    _check_sharing(args)
    check_output("--json", args.json)
    scores = _score(args)
    if args.json:
        args.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    if published := compare_with_published(scores):
        print(published)
    elif scores.get("protocol") == "plain" and scores["data_set"]:
        print(f"published scores on {scores['data_set']} exist for --protocol depthlm, depthvlm-sparse or dense.")
    elif scores["task"] == "objects":
        print(f"published scores exist for {OBJECT_BENCH}: if these are its questions, add --data-set {OBJECT_BENCH}.")


def _check_first_day(args: argparse.Namespace) -> None:
    """Prints the checks of a model with their verdicts. Raises BadInput if one fails."""
    from depthlm_ros.eval.first_day import FAIL, checks_of, count_tokens
    from depthlm_ros.model_files.checkpoint import find_source
    from depthlm_ros.model_files.spec_yaml import find_spec

    if given := [name for name in FIXED_BY_FIRST_DAY if getattr(args, name)]:
        raise BadInput(f"--first-day has rules of its own: leave out --{given[0].replace('_', '-')}.")
    if args.labels is not None and not args.labels.is_dir():
        raise BadInput(f"{args.labels} is not a folder: --first-day takes the folder that holds the labels.")
    token_checks, score_checks = checks_of(args.first_day)
    check_output("--json", args.json)
    # The sizes are those of the downloaded processor, where the checkpoint is here.
    spec = find_source(args.model).spec if args.model else find_spec(args.first_day)
    args.model = args.model or args.first_day
    results = [count_tokens(spec, check) for check in token_checks]
    print(*results, sep="\n")
    try:
        for check in score_checks:
            results += _run_first_day_check(args, check)
    finally:
        if args.json:
            values = to_json_value([vars(one) for one in results])
            args.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    failed = [one for one in results if one.verdict == FAIL]
    if failed:
        raise BadInput(f"{len(failed)} of {len(results)} first-day figures of {args.model} are not as expected.")


def _run_first_day_check(args: argparse.Namespace, check: ScoreCheck) -> list[CheckResult]:
    """Scores the model on the labels of one check, and prints the figures; says what is missing if there are none."""
    from depthlm_ros.eval.first_day import find_labels, score_check, unusable
    from depthlm_ros.eval.result_file import ResultStore

    labels = None if args.labels is None else find_labels(args.labels, check)
    if labels is None:
        print(f"{check.title:34} not run: no *{check.words[0]}*.jsonl. It needs {check.needs}")
        return []
    args = argparse.Namespace(**{**vars(args), "labels": labels, "protocol": check.options.protocol})
    args.as_released, args.points = check.options.as_released, check.options.points
    source = _find_model(args)
    model, parallel = _open_model(args, source)
    if args.results:
        args.results = args.results.with_stem(f"{args.results.stem}-{check.words[0]}")
    with (
        ResultStore(args.results, _settings(args, "depth", source), model.backend_name) as store,
        progress_callback(check.title, "records") as on_progress,
    ):
        try:
            results = score_check(check, labels, model, store, on_progress, parallel)
        except BadInput as exc:
            results = [unusable(check, exc)]
    print(*results, sep="\n")
    print(f"{'':34} from {labels}; expected figures: {check.source}")
    return results


def _score(args: argparse.Namespace) -> JsonObject:
    """Scores the labels, prints a table, and returns the scores as JSON values."""
    from depthlm_ros.data.check import find_duplicate_lines
    from depthlm_ros.eval.language import detect_task
    from depthlm_ros.eval.published import find_data_set, guess_data_set
    from depthlm_ros.eval.result_file import ResultStore

    data_set = find_data_set(args.data_set) if args.data_set else guess_data_set(args.labels.resolve())
    source = None if args.baselines and args.model is None else _find_model(args)
    model, parallel = None, None
    if source is not None:
        if args.as_released:
            say_what_is_released(source)
        model, parallel = _open_model(args, source)
    task = detect_task(args.labels, model) if args.task == "auto" else args.task
    backend = model.backend_name if model else ""
    with ResultStore(args.results, _settings(args, task, source), backend) as store:
        if args.merge and (doubtful := store.merge(args.merge)):
            print_note(f"{doubtful} results differ between the files: the first one counts.")
        if task == "depth":
            scores = _score_depth(args, model, store, parallel)
        else:
            scores = _score_language(args, task, model, store, parallel)
    duplicates = find_duplicate_lines(args.labels)
    print_problems(replace(one, message=f"{one.message}: scored like any other") for one in duplicates)
    scores |= {
        "task": task,
        "data_set": data_set,
        "labels": args.labels.name,
        "model": model.name if model else "",
        "backend": store.backend,
        "as_released": args.as_released,
        "quantise": args.quantise,
        "limit": args.limit,
        "seed": args.seed,
        "duplicate_lines": len(duplicates),
    } | ({"shard": str(args.shard)} if args.shard else {})
    return dict(to_json_value(scores))


def _parse_shard(text: str) -> Shard:
    """Reads an option K/N, for argparse."""
    from depthlm_ros.eval.result_file import Shard

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share K/N of the records, with K from 1 to N, such as 1/4")
    return Shard(int(match[1]), int(match[2]))


def _check_sharing(args: argparse.Namespace) -> None:
    """Raises BadInput for options of sharing the work that contradict each other."""
    if args.shard and not args.results:
        raise BadInput(f"--shard {args.shard} needs --results FILE.jsonl: --merge reads that file.")
    if args.merge and (args.shard or args.ray or args.workers):
        raise BadInput("--merge runs no model: leave out --shard, --workers and --ray.")
    if args.pictures and (args.ray or (args.workers or 1) > 1):
        raise BadInput("--pictures is drawn by one process: leave out --workers and --ray, or --pictures.")
    if args.ray and not args.results:
        print_note("without --results FILE.jsonl the results are lost if the Ray cluster is.")


def _open_model(args: argparse.Namespace, source: ModelSource) -> tuple[Model, Parallel | None]:
    """Returns the model, and the workers if others than this process evaluate.

    The model is not loaded here if workers load it, or if all results are in files.
    """
    workers = parse_workers(args, (args.labels.resolve(),))
    if args.merge or not workers.in_this_process:
        from depthlm_ros.eval.worker_model import UnloadedModel

        model = UnloadedModel(source, args.backend, args.as_released)
        return model, None if workers.in_this_process else _make_parallel(args, source, workers)
    from depthlm_ros.model import load_model

    return load_model(source, args.backend, device=args.device, as_released=args.as_released), None


def _make_parallel(args: argparse.Namespace, source: ModelSource, workers: Workers) -> Parallel:
    """Returns the workers with the model that each of them loads."""
    from depthlm_ros.eval.worker_model import Parallel
    from depthlm_ros.model_files.checkpoint import find_source

    name = args.model or DEFAULT_MODEL
    if find_source(name).spec.name != source.spec.name:  # one of VLM3's checkpoints
        name = f"{source.spec.name}={source.folder}"
    # With the threads of one process, even where the workers share cores: their number changes the last digits (torch).
    request = replace(model_request(args, name, workers, args.as_released), quantise=args.quantise, threads=0)
    return Parallel(request, workers)


def _find_model(args: argparse.Namespace) -> ModelSource:
    """Returns the model that is scored: of VLM3's checkpoints the one for the task, and quantised if that is asked."""
    from depthlm_ros.eval.language import ABILITIES, detect_task
    from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint, Vlm3Checkpoints, find_source

    source = find_source(args.model or DEFAULT_MODEL)
    if isinstance(source, Vlm3Checkpoints):
        task = detect_task(args.labels, None) if args.task == "auto" else args.task
        source = source.find(ABILITIES.get(task, "points"))
    if not args.quantise:
        return source
    if not isinstance(source, ReleasedCheckpoint):
        raise BadInput(
            f"--quantise {args.quantise}: {source.spec.name} is no checkpoint that torch loads: `depthlm engine build "
            "--precision int8` makes smaller engines."
        )
    return source.quantised(args.quantise)


def _score_depth(
    args: argparse.Namespace, model: Model | None, store: ResultStore, parallel: Parallel | None
) -> dict[str, object]:
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
        shard=args.shard,
    )
    labels = args.labels.resolve() if args.ray else args.labels
    gallery = Gallery(args.pictures) if args.pictures and model else None
    with progress_callback("depthlm eval", "records") as on_progress:
        report = evaluate_depth(labels, model, options, store, gallery, on_progress, parallel)
    print_problems((*report.left_out, *report.refused))
    print(report.table() if model else report.baseline_table())
    scores: dict[str, object] = report.as_dict()
    if model is None:
        unknown = dict.fromkeys(("delta1", "absrel", "rmse", "parse_failures", "seconds_per_image"))
        scores = unknown | {name: scores[name] for name in ("n", "protocol", "images", "left_out", "baselines")}
    return scores | {"points": args.points}


def _score_language(
    args: argparse.Namespace, task: str, model: Model | None, store: ResultStore, parallel: Parallel | None
) -> dict[str, object]:
    from depthlm_ros.eval.language import LanguageEvalOptions, evaluate_language

    if model is None:
        raise BadInput(f"there is no baseline for task {task}: give --model.")
    options = LanguageEvalOptions(args.limit, args.seed, args.root, args.pictures, args.shard)
    labels = args.labels.resolve() if args.ray else args.labels
    with progress_callback("depthlm eval", "records") as on_progress:
        report = evaluate_language(task, labels, model, store, options, on_progress, parallel)
    print_problems(report.left_out)
    print(report.table)
    return report.scores


def _settings(args: argparse.Namespace, task: str, source: ModelSource | None) -> dict[str, object]:
    """Returns everything but the records that the results depend on."""
    from depthlm_ros.model import find_words_model
    from depthlm_ros.model_files.depth_network import DepthNetwork

    settings: dict[str, object] = {"task": task, "model": args.model or DEFAULT_MODEL if source else ""}
    if source is not None and (args.results or args.merge):
        settings["weights"] = source.fingerprint
        if isinstance(source, DepthNetwork) and source.fields.words:
            settings["words"] = find_words_model(source).fingerprint
    if args.quantise:
        settings["quantise"] = args.quantise
    if task == "depth":
        seed = args.seed if args.protocol in ("dense", "nyu-eigen", "kitti-eigen") else None
        settings |= {"protocol": args.protocol, "points": args.points, "as_released": args.as_released, "seed": seed}
    return settings


def print_problems(problems: Iterable[RecordProblem]) -> None:
    """Prints left-out or doubtful records to stderr: the count of each reason with its first examples."""
    for line in describe_problems(problems):
        print(f"depthlm: {line}", file=sys.stderr)
