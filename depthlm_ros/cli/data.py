# SPDX-License-Identifier: Apache-2.0
"""`depthlm data`: inspects labelled data, and makes them from public data sets.

SUBVERBS lists the verbs of `depthlm data`; each has a function for its options and one that runs it, side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from depthlm_ros.cli.common import check_output, print_note
from depthlm_ros.cli.label_photos import add_label_photos_options, run_label_photos
from depthlm_ros.data.records import DEPTH_TYPES, NO_CAPS_M
from depthlm_ros.data.sets import NAMES, NAMES_WITH_POSES
from depthlm_ros.data.write import FORMATS
from depthlm_ros.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from depthlm_ros.data.curate import CurationJob, CurationSummary
    from depthlm_ros.data.read import Roots
    from depthlm_ros.data.records import RecordProblem

SHEET_CELLS = 24
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class FileStatistics(Protocol[T_contra]):
    """Statistics of a file of records or pairs."""

    @property
    def records(self) -> int: ...

    def add(self, record: T_contra, /) -> None: ...

    def as_dict(self, problems: Sequence[RecordProblem] = ()) -> dict[str, object]: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verbs of `depthlm data` with their options."""
    verbs = parser.add_subparsers(dest="subverb", required=True)
    for name, (run_subverb, add_options, help_text) in SUBVERBS.items():
        verb = verbs.add_parser(name, help=help_text, description=help_text)
        add_options(verb)
        verb.set_defaults(run_subverb=run_subverb)


def run(args: argparse.Namespace) -> None:
    """Runs the chosen verb of `depthlm data`."""
    args.run_subverb(args)


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data show`."""
    _add_file_options(parser, "records in DepthLM's or DepthVLM's schema, or pairs")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw some of the records there, with their depth")
    parser.add_argument("--cells", type=int, default=SHEET_CELLS, help="records on the sheet (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="check only the sizes of depth maps, not their values")


def run_show(args: argparse.Namespace) -> None:
    """Reads a file of records or pairs and all files that it names; prints statistics and all problems."""
    from depthlm_ros.data.check import check_records
    from depthlm_ros.data.inspect import (
        PairStatistics,
        RecordStatistics,
        check_pairs,
        contact_sheet,
        holds_pairs,
        pair_contact_sheet,
    )

    problems: list[RecordProblem] = []
    if holds_pairs(args.file):
        pairs = check_pairs(args.file, problems, args.images_root)
        _show(args, pairs, PairStatistics(), problems, pair_contact_sheet)
    else:
        statistics = RecordStatistics()
        records = check_records(args.file, problems, _roots(args), None if args.quick else statistics.add_map)
        _show(args, records, statistics, problems, contact_sheet)


def _show(
    args: argparse.Namespace,
    records: Iterable[T],
    statistics: FileStatistics[T],
    problems: list[RecordProblem],
    draw_sheet: Callable[[Sequence[T]], np.ndarray],
) -> None:
    from depthlm_ros.data.inspect import EvenSample, format_summary
    from depthlm_ros.data.records import unusable_file_error
    from depthlm_ros.image_io import write_rgb

    if args.cells < 1:
        raise BadInput(f"--cells is {args.cells}: give at least 1.")
    sample: EvenSample[T] = EvenSample(args.cells)
    for record in records:
        statistics.add(record)
        sample.add(record)
    summary = statistics.as_dict(problems)
    print(json.dumps({**summary, "file": str(args.file)}, indent=1) if args.json else format_summary(summary, problems))
    if args.sheet and sample.items:
        write_rgb(args.sheet, draw_sheet(sample.items))
        print(f"{args.sheet}: {len(sample.items)} of {statistics.records}", file=sys.stderr)
    if not statistics.records:
        raise unusable_file_error(args.file, problems)


def add_curate_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data curate`."""
    _add_job_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="depthlm", help="schema (default: %(default)s)")
    parser.add_argument("--points", type=int, default=100, help="points of each image (default: %(default)s)")


def run_curate(args: argparse.Namespace) -> None:
    """Makes records from a public data set; the same command continues a run that was killed."""
    from depthlm_ros.data.curate import curate

    _print_report(curate(_job(args, args.format, args.points), _workers(args)))


def add_pairs_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data pairs`."""
    _add_job_options(parser, NAMES_WITH_POSES)
    parser.add_argument("--points", type=int, default=100, help="matches of each pair (default: %(default)s)")
    parser.add_argument(
        "--covisibility",
        type=float,
        default=0.25,
        help="share of each view, 0 to 1, that the other view must see (default: %(default)s)",
    )
    parser.add_argument("--per-view", type=int, default=2, help="most pairs of one view (default: %(default)s)")


def run_pairs(args: argparse.Namespace) -> None:
    """Makes pairs of views from a data set whose images have poses; continues a run that was killed."""
    from depthlm_ros.data.pairs import PairOptions, curate_pairs

    if args.name in NAMES and args.name not in NAMES_WITH_POSES:
        raise BadInput(
            f"data set {args.name}: its views have no poses here; pairs are made of {', '.join(NAMES_WITH_POSES)}."
        )
    options = PairOptions(args.covisibility, args.per_view, args.points, args.seed)
    _print_report(curate_pairs(_job(args, "depthlm", args.points), options, _workers(args)))


def add_render_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data render`."""
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the scenes")
    parser.add_argument("--scenes", type=int, default=100, help="scenes with two views each (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"), help="pixels (default: 640 480)"
    )
    parser.add_argument("--focal", type=float, default=525.0, help="focal length in pixels (default: %(default)g)")
    parser.add_argument("--questions", type=int, default=4, help="questions about each view (default: %(default)s)")
    _add_worker_options(parser, "scenes")


def run_render(args: argparse.Namespace) -> None:
    """Renders scenes into a folder that curate and pairs read as data set `folder`, and questions about them."""
    from depthlm_ros.scenes.write_dataset import RenderingOptions, write_scenes

    rendering = RenderingOptions(args.scenes, args.size[0], args.size[1], args.focal, args.questions, args.seed)
    scenes, questions = write_scenes(rendering, args.out, _workers(args))
    print(
        f"{args.out}: {scenes} scenes of two views, {questions} questions (depthlm data curate folder {args.out} ...)"
    )


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data bench`."""
    _add_file_options(parser, "records in DepthVLM's schema, or in DepthLM's")
    parser.add_argument("--out", type=Path, required=True, metavar="BENCH.jsonl", help="where to write the benchmark")
    parser.add_argument("--images", type=int, default=1000, help="how many images (default: %(default)s)")
    points = parser.add_mutually_exclusive_group()
    points.add_argument("--points", type=int, default=10, help="points of each image (default: %(default)s)")
    points.add_argument("--total-points", type=int, default=0, metavar="N", help="points of all images together")
    parser.add_argument("--seed", type=int, default=42, help="seed of images and points (default: %(default)s)")


def run_bench(args: argparse.Namespace) -> None:
    """Chooses images of a file of records, balanced over scenes and cameras, draws points, and writes a benchmark."""
    from depthlm_ros.data.read import read_records
    from depthlm_ros.data.records import describe_problems, unusable_file_error
    from depthlm_ros.data.sample_points import BenchmarkOptions, write_benchmark
    from depthlm_ros.progress import progress_callback

    options = BenchmarkOptions(args.images, args.points, args.total_points, args.seed)
    check_output("--out", args.out, (".jsonl",), {"the file of records": args.file})
    found = read_records(args.file, _roots(args))
    problems = list(found.problems)
    with progress_callback("depthlm data bench", "images") as on_image:
        records = write_benchmark(found.records, args.out, options, problems, on_image)
    for line in describe_problems(problems):
        print(f"depthlm: {line}", file=sys.stderr)
    if not records:
        raise unusable_file_error(args.file, problems)
    scenes, cameras = ({getattr(record, name) for record in records} - {""} for name in ("scene", "camera"))
    points = sum(len(record.uv_px) for record in records)
    print(f"{args.out}: {len(records)} images of {len(scenes)} scenes and {len(cameras)} cameras, {points} points")
    if len(records) < options.images:
        print_note(f"{args.file} has {len(found.records)} records, of which {len(records)} are usable: all are taken.")


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data pack`."""
    _add_file_options(parser, "records in DepthLM's or DepthVLM's schema")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the shards")
    parser.add_argument("--images", type=int, default=1000, help="records in a shard (default: %(default)s)")


def run_pack(args: argparse.Namespace) -> None:
    """Packs records with their files into shards; existing shards stay unchanged."""
    from depthlm_ros.data.inspect import holds_pairs
    from depthlm_ros.data.records import describe_problems, unusable_file_error
    from depthlm_ros.data.webdataset import pack_shards

    if holds_pairs(args.file):
        raise BadInput(f"{args.file} holds pairs, which are not packed: copy the file with the folder of its images.")
    problems: list[RecordProblem] = []
    packed = 0
    for shard, count in pack_shards(args.file, args.out, args.images, problems, _roots(args)):
        print(f"{shard}: {count} records", flush=True)
        packed += count
    for line in describe_problems(problems):
        print(line)
    if not packed:
        raise unusable_file_error(args.file, problems)


def add_unpack_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data unpack`."""
    parser.add_argument(
        "shards", type=Path, nargs="+", metavar="SHARD.tar", help="all shards, or those for this machine"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write records and files")


def run_unpack(args: argparse.Namespace) -> None:
    """Turns shards into files again; existing files stay unchanged."""
    from depthlm_ros.data.webdataset import unpack_shards

    for jsonl, count in unpack_shards(args.shards, args.out):
        print(f"{jsonl}: {count} records", flush=True)


def add_sets_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data sets`, which has none."""


def run_sets(args: argparse.Namespace) -> None:
    """Prints the data sets, their expected folders, and which defects of their releases are corrected."""
    from depthlm_ros.data.sets import data_set

    for name in NAMES:
        described = data_set(name)
        caps = "" if described.caps_m == NO_CAPS_M else f", {described.caps_m[0]:g} to {described.caps_m[1]:g} m"
        print(f"{name}: {described.title}{caps}\n    {described.layout}")
        for correction in described.corrections:
            print(f"    - {correction}")


def _add_file_options(parser: argparse.ArgumentParser, content: str) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help=content)
    help_text = "folder that {} paths are relative to (default: the file's folder)"
    parser.add_argument("--images-root", type=Path, metavar="FOLDER", help=help_text.format("image"))
    parser.add_argument("--depths-root", type=Path, metavar="FOLDER", help=help_text.format("depth map"))
    parser.add_argument(
        "--depth-type",
        choices=sorted(DEPTH_TYPES),
        default="",
        help="meaning of the depths, if the file states it wrongly (default: as the file states)",
    )


def _add_job_options(parser: argparse.ArgumentParser, names: Sequence[str] = NAMES) -> None:
    parser.add_argument("name", metavar="NAME", help=f"data set: {', '.join(names)}")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set as it is released")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the records")
    parser.add_argument("--split", default="", help="split of the data set (default: the usual one)")
    parser.add_argument(
        "--as-released",
        action="store_true",
        help="keep the defects of the released curation, on which published scores are based (see: depthlm data sets)",
    )
    _add_worker_options(parser, "points")


def _add_worker_options(parser: argparse.ArgumentParser, drawn: str) -> None:
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one for each core)")
    parser.add_argument("--seed", type=int, default=42, help=f"seed of the random {drawn} (default: %(default)s)")


def _job(args: argparse.Namespace, schema: str, points: int) -> CurationJob:
    from depthlm_ros.data.curate import CurationJob
    from depthlm_ros.data.sample_points import WriteOptions
    from depthlm_ros.data.source_view import ReadOptions

    read_options = ReadOptions(args.as_released, args.split, schema)
    return CurationJob(args.name, args.root, read_options, WriteOptions(args.out, schema, points, args.seed))


def _roots(args: argparse.Namespace) -> Roots:
    from depthlm_ros.data.read import Roots

    folder = args.file.parent
    return Roots(args.images_root or folder, args.depths_root or args.images_root or folder, args.depth_type)


def _workers(args: argparse.Namespace) -> int:
    if args.workers < 0:
        raise BadInput(f"--workers is {args.workers}: give at least 1, or 0 for one process on each core.")
    return args.workers or os.cpu_count() or 1


def _print_report(report: Mapping[str, object]) -> None:
    file, summary = report["file"], cast("CurationSummary", report)
    print(f"{file}: {summary['records']} records, {summary['points']} points of {summary['items']} items")
    for reason, count in sorted(summary["problems"].items(), key=lambda item: -item[1]):
        print(f"{count} x {reason}")
        for example in summary["examples"].get(reason, []):
            print(f"    {example}")
    if not summary["records"]:
        raise BadInput(f"{file}: no record could be made of the {summary['items']} items.")


# Name: (what runs it, its options, its help text).
SUBVERBS: dict[str, tuple[Callable[[argparse.Namespace], None], Callable[[argparse.ArgumentParser], None], str]] = {
    "show": (run_show, add_show_options, "print statistics of a file of records and everything that is wrong with it"),
    "curate": (run_curate, add_curate_options, "make records from a public data set"),
    "pairs": (run_pairs, add_pairs_options, "make pairs of views, for matching and pose, from depth with poses"),
    "render": (run_render, add_render_options, "render scenes with depth, poses and questions"),
    "bench": (run_bench, add_bench_options, "make a benchmark of records: images balanced over scenes, and points"),
    "pack": (run_pack, add_pack_options, "pack records with their files into WebDataset shards"),
    "unpack": (run_unpack, add_unpack_options, "turn WebDataset shards into records with their files again"),
    "label-photos": (
        run_label_photos,
        add_label_photos_options,
        "label photographs with a model's depth, as shards",
    ),
    "sets": (run_sets, add_sets_options, "list the data sets, and which defects of their releases are corrected"),
}
