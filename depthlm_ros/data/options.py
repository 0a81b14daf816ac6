"""Options of the verbs of `depthlm data`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from depthlm_ros.data.records import MEANINGS
from depthlm_ros.data.sets import NAMES, POSED
from depthlm_ros.data.write import FORMATS

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
