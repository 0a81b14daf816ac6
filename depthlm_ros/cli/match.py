# SPDX-License-Identifier: Apache-2.0
"""`depthlm match`: finds pixels of one image in another image."""

from __future__ import annotations

import argparse
import json

from depthlm_ros.cli.common import add_pair_options, add_pixel_option, format_numbers, load_named_model, read_pair
from depthlm_ros.core import Matches
from depthlm_ros.file_io import JsonObject, to_json_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_pair_options(parser, "vlm3-corr")
    add_pixel_option(parser, "a pixel of the first image", required=True)


def run(args: argparse.Namespace) -> None:
    """Prints where each pixel of the first image is in the second."""
    from depthlm_ros.geometry.pinhole import check_pixels_inside

    first, second = read_pair(args.first, args.second, args)
    uv_px = check_pixels_inside(args.pixel, first.intrinsics.size_px)
    model = load_named_model(args)
    matches = model.look_pair(first, second).match(uv_px)
    print(json.dumps({"model": model.name, **matches_dict(matches)}) if args.json else matches_text(matches))


def matches_dict(matches: Matches) -> JsonObject:
    """Converts matches to JSON values; a pixel that was not found has the match null."""
    rows = zip(matches.uv_px.tolist(), to_json_value(matches.matched_px), matches.replies, strict=True)
    return {
        "matches": [
            {"pixel": uv, "matched": None if None in matched else matched, "reply": reply}
            for uv, matched, reply in rows
        ]
    }


def matches_text(matches: Matches) -> str:
    """Returns a line for each pixel."""
    lines = []
    for (u, v), matched in zip(matches.uv_px, matches.matched_px, strict=True):
        lines.append(f"({u:g}, {v:g}) -> {format_numbers(matched, 1).replace('unknown', 'not found')}")
    return "\n".join(lines)
