"""`depthlm match`: where pixels of one image are in another."""

from __future__ import annotations

import argparse
import json

from depthlm_ros.cli.common import add_pair, add_pixels, load, numbers, read_pair
from depthlm_ros.core import Matches
from depthlm_ros.file_io import to_json_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pair(parser, "vlm3-corr")
    add_pixels(parser, "a pixel of the first image", required=True)


def run(args: argparse.Namespace) -> None:
    """Find the pixels."""
    first, second = read_pair(args.first, args.second, args)
    model = load(args)
    matches = model.look_pair(first, second).match(args.pixel)
    print(json.dumps({"model": model.name, **matches_dict(matches)}) if args.json else matches_text(matches))


def matches_dict(matches: Matches) -> dict[str, object]:
    """In plain types, fit for JSON: null is not found."""
    rows = zip(matches.uv_px.tolist(), matches.matched_px.tolist(), matches.replies, strict=True)
    return {
        "matches": [
            {"pixel": uv, "matched": None if None in to_json_value(found) else found, "reply": reply}
            for uv, found, reply in rows
        ]
    }


def matches_text(matches: Matches) -> str:
    """A line for each pixel."""
    pairs = zip(matches.uv_px, matches.matched_px, strict=True)
    return "\n".join(
        f"({u:g}, {v:g}) -> {numbers(found, 1).replace('unknown', 'not found')}" for (u, v), found in pairs
    )
