"""`depthlm data`: look at labelled data, and make them from public data sets.

Options of the verbs of `depthlm data`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from depthlm_ros.data.records import MEANINGS, NO_CAPS_M
from depthlm_ros.data.sets import NAMES, POSED
from depthlm_ros.data.write import FORMATS
from depthlm_ros.errors import BadInput

SHEET_CELLS = 24


def add_show(parser: argparse.ArgumentParser) -> None:
    _add_file(parser, "records in DepthLM's or DepthVLM's schema, or pairs")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw some of the records there, with their depth")
    parser.add_argument("--cells", type=int, default=SHEET_CELLS, help="how many (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--quick", action="store_true", help="look at the sizes of depth maps only, not at their values"
    )


def add_curate(parser: argparse.ArgumentParser) -> None:
    _add_job(parser)
    parser.add_argument("--format", choices=FORMATS, default="depthlm", help="schema (default: %(default)s)")
    parser.add_argument("--points", type=int, default=100, help="drawn from each image (default: %(default)s)")


def add_pairs(parser: argparse.ArgumentParser) -> None:
    _add_job(parser, POSED)
    parser.add_argument("--points", type=int, default=100, help="matches of each pair (default: %(default)s)")
    parser.add_argument(
        "--covisibility",
        type=float,
        default=0.25,
        help="share of each view that the other must see, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--per-view", type=int, default=2, help="partners of a view at most (default: %(default)s)")


def add_render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the scenes go")
    parser.add_argument("--scenes", type=int, default=100, help="of two views each (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"), help="pixels (default: 640 480)"
    )
    parser.add_argument("--focal", type=float, default=525.0, help="focal length in pixels (default: %(default)g)")
    parser.add_argument("--questions", type=int, default=4, help="asked of each view (default: %(default)s)")
    _add_running(parser, "scenes")


def add_pack(parser: argparse.ArgumentParser) -> None:
    _add_file(parser, "records in DepthLM's or DepthVLM's schema")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the shards go")
    parser.add_argument("--images", type=int, default=1000, help="records in a shard (default: %(default)s)")


def add_unpack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shards", type=Path, nargs="+", metavar="SHARD.tar", help="all of them, or this machine's share"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where records and files go")


def _add_file(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help=what)
    help_text = "what {} paths are relative to (default: the file)"
    parser.add_argument("--images-root", type=Path, metavar="FOLDER", help=help_text.format("image"))
    parser.add_argument("--depths-root", type=Path, metavar="FOLDER", help=help_text.format("depth map"))
    parser.add_argument(
        "--depth-type", choices=sorted(MEANINGS), default="", help="what the depths are, if not as said"
    )


def _add_job(parser: argparse.ArgumentParser, names: Sequence[str] = NAMES) -> None:
    parser.add_argument("name", metavar="NAME", help=f"data set: {', '.join(names)}")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set as it comes")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the records go")
    parser.add_argument("--split", default="", help="of the data set (default: its usual one)")
    parser.add_argument(
        "--as-released",
        action="store_true",
        help="with the defects of the released curation, which published numbers rest on (see: depthlm data sets)",
    )
    _add_running(parser, "points that are drawn")


def _add_running(parser: argparse.ArgumentParser, drawn: str) -> None:
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one for each core)")
    parser.add_argument("--seed", type=int, default=42, help=f"of the {drawn} (default: %(default)s)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", required=True)
    for name, (do, add_options, help_text) in _verbs().items():
        verb = verbs.add_parser(name, help=help_text, description=help_text)
        add_options(verb)
        verb.set_defaults(do=do)


def run(args: argparse.Namespace) -> None:
    args.do(args)


def show(args: argparse.Namespace) -> None:
    """Read a file of records or pairs, look at every file it names, and say what is in it and what is wrong with it."""
    from depthlm_ros.data.check import checked_records
    from depthlm_ros.data.inspect import (
        PairStatistics,
        Statistics,
        checked_pairs,
        contact_sheet,
        holds_pairs,
        pair_sheet,
    )
    from depthlm_ros.data.records import Problem

    problems: list[Problem] = []
    if holds_pairs(args.file):
        pairs = checked_pairs(args.file, problems, args.images_root)
        _show(args, pairs, PairStatistics(), problems, pair_sheet)
    else:
        statistics = Statistics()
        records = checked_records(args.file, problems, _roots(args), None if args.quick else statistics.add_map)
        _show(args, records, statistics, problems, contact_sheet)


def _show(args: argparse.Namespace, found: Iterable[Any], statistics: Any, problems: list[Any], draw: Any) -> None:
    from depthlm_ros.data.inspect import Spread, table
    from depthlm_ros.data.records import nothing_usable
    from depthlm_ros.image_io import write_rgb

    if args.cells < 1:
        raise BadInput(f"--cells is {args.cells}: at least 1.")
    some: Spread[Any] = Spread(args.cells)
    for thing in found:
        statistics.add(thing)
        some.offer(thing)
    summary = statistics.as_dict(problems)
    print(json.dumps({**summary, "file": str(args.file)}, indent=1) if args.json else table(summary, problems))
    if args.sheet and some.kept:
        write_rgb(args.sheet, draw(some.kept))
        print(f"{args.sheet}: {len(some.kept)} of {statistics.records}", file=sys.stderr)
    if not statistics.records:
        raise nothing_usable(args.file, problems)


def curate_verb(args: argparse.Namespace) -> None:
    """Make records from a public data set; the same command goes on where a run was killed."""
    from depthlm_ros.data.curate import curate

    _tell(curate(_job(args, args.format, args.points), _workers(args)))


def pairs_verb(args: argparse.Namespace) -> None:
    """Make pairs of views from a data set whose images have poses."""
    from depthlm_ros.data.pairs import PairPlan, curate_pairs

    if args.name in NAMES and args.name not in POSED:
        raise BadInput(
            f"data set {args.name}: its views come without poses here; pairs are made of {', '.join(POSED)}."
        )
    plan = PairPlan(args.covisibility, args.per_view, args.points, args.seed)
    _tell(curate_pairs(_job(args, "depthlm", args.points), plan, _workers(args)))


def render_verb(args: argparse.Namespace) -> None:
    """Render scenes into a folder that curate and pairs take as data set `folder`, and questions about them."""
    from depthlm_ros.scenes.write_dataset import Rendering, write_scenes

    rendering = Rendering(args.scenes, args.size[0], args.size[1], args.focal, args.questions, args.seed)
    scenes, questions = write_scenes(rendering, args.out, _workers(args))
    print(
        f"{args.out}: {scenes} scenes of two views, {questions} questions (depthlm data curate folder {args.out} ...)"
    )


def pack_verb(args: argparse.Namespace) -> None:
    """Pack records into shards; one that is there already is left as it is."""
    from depthlm_ros.data.inspect import holds_pairs
    from depthlm_ros.data.records import Problem, nothing_usable, told
    from depthlm_ros.data.webdataset import pack

    if holds_pairs(args.file):
        raise BadInput(f"{args.file} holds pairs, which are not packed: copy the file with the folder of its images.")
    problems: list[Problem] = []
    packed = 0
    for shard, count in pack(args.file, args.out, args.images, problems, _roots(args)):
        print(f"{shard}: {count} records", flush=True)
        packed += count
    for line in told(problems):
        print(line)
    if not packed:
        raise nothing_usable(args.file, problems)


def unpack_verb(args: argparse.Namespace) -> None:
    """Turn shards into files again; those of a shard that is there already are left as they are."""
    from depthlm_ros.data.webdataset import unpack

    for jsonl, count in unpack(args.shards, args.out):
        print(f"{jsonl}: {count} records", flush=True)


def sets_verb(args: argparse.Namespace) -> None:
    """List the data sets."""
    from depthlm_ros.data.sets import data_set

    for name in NAMES:
        chosen = data_set(name)
        caps = "" if chosen.caps_m == NO_CAPS_M else f", {chosen.caps_m[0]:g} to {chosen.caps_m[1]:g} m"
        print(f"{name}: {chosen.title}{caps}\n    {chosen.layout}")
        for correction in chosen.corrections:
            print(f"    - {correction}")


def _job(args: argparse.Namespace, schema: str, points: int) -> Any:
    from depthlm_ros.data.curate import Job
    from depthlm_ros.data.sample_points import Plan
    from depthlm_ros.data.source_view import Choice

    choice = Choice(args.as_released, args.split, schema)
    return Job(args.name, args.root, choice, Plan(args.out, schema, points, args.seed))


def _roots(args: argparse.Namespace) -> Any:
    from depthlm_ros.data.read import Roots

    here = args.file.parent
    return Roots(args.images_root or here, args.depths_root or args.images_root or here, args.depth_type)


def _workers(args: argparse.Namespace) -> int:
    if args.workers < 0:
        raise BadInput(f"--workers is {args.workers}: at least 1, or 0 for one on each core.")
    return args.workers or os.cpu_count() or 1


def _tell(report: dict[str, Any]) -> None:
    print(f"{report['file']}: {report['records']} records, {report['points']} points of {report['items']} items")
    for reason, count in sorted(report["problems"].items(), key=lambda item: -item[1]):
        print(f"{count} x {reason}")
        for example in report["examples"].get(reason, []):
            print(f"    {example}")
    if not report["records"]:
        raise BadInput(f"{report['file']}: not one record could be made of {report['items']} items.")


def _verbs() -> dict[str, tuple[Callable[[argparse.Namespace], None], Callable[[argparse.ArgumentParser], None], str]]:
    """What each does, its options, and what it is for."""
    return {
        "show": (show, add_show, "numbers about a file of records, and everything that is wrong with it"),
        "curate": (curate_verb, add_curate, "make records from a public data set"),
        "pairs": (pairs_verb, add_pairs, "make pairs of views, for matching and pose, from posed depth"),
        "render": (render_verb, add_render, "make images with depth, poses and questions of rendered scenes"),
        "pack": (pack_verb, add_pack, "pack records with their files into WebDataset shards"),
        "unpack": (unpack_verb, add_unpack, "turn such shards into records with their files again"),
        "sets": (sets_verb, lambda parser: None, "the data sets, and what is mended of their releases"),
    }
