"""Options of `depthlm engine build|inspect|list|clean`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from depthlm_ros.export.trt_support_table import TARGETS

BACKENDS = ("tensorrt", "onnxruntime")
PRECISIONS = ("bf16", "fp16", "fp32", "int8")


def add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a model's name, NAME=FOLDER, or a folder")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--camera", type=Path, metavar="FILE.yaml", help="calibration of the camera, as ROS writes it")
    camera.add_argument("--size", type=_size, metavar="WxH", help="size of the camera's images instead")
    parser.add_argument(
        "--focal", type=_positive, metavar="F", help="their focal length, pixels (default: the model's canonical one)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the model but for its depth head (default: bf16 for tensorrt, fp32 for onnxruntime; int8 rounds the "
        "weights of linear layers, onnxruntime only)",
    )
    parser.add_argument(
        "--head-precision", choices=("fp16", "fp32"), default="", help="of the depth head (default: fp16 beside half)"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="", help="what runs it (default: tensorrt if it is here)"
    )
    parser.add_argument(
        "--target", choices=tuple(TARGETS), help="the machine that runs it, if it is another one (default: this one)"
    )
    parser.add_argument("--depth-only", action="store_true", help="leave out all that only questions need")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the engine; its name is the engine's name")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare with torch (default: if the model is small; takes as much memory again)",
    )
    parser.add_argument(
        "--workspace",
        type=_positive,
        metavar="GB",
        help="memory for TensorRT's builder (default: half of what is free)",
    )


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", help="an engine's name or folder")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def add_clean(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", nargs="?", default="", help="an engine's name or folder (default: only leftovers)")
    parser.add_argument("--all", action="store_true", help="the engine itself too")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: expected WIDTHxHEIGHT, for example 640x480")
    return int(match[1]), int(match[2])


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value
