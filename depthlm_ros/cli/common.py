"""What several verbs of the command line share: options for images, cameras and models, and formatting of numbers.

add_image_options and add_pair_options describe the input of a verb; read_frame and read_pair read it. Heavy imports are
inside the functions, so that a help text is fast.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.errors import BadIntrinsics

if TYPE_CHECKING:
    from depthlm_ros.core import Frame

INTRINSICS = ("FX", "FY", "CX", "CY")


def add_image_options(parser: argparse.ArgumentParser, name: str = "image", model: str = "tiny") -> None:
    """Adds an image, its camera and a model. model: name of the default model."""
    parser.add_argument(name, type=Path, help="an image file, without lens distortion")
    parser.add_argument(
        "--intrinsics",
        type=float,
        nargs=4,
        required=True,
        metavar=INTRINSICS,
        help="focal lengths and principal point of this image, in pixels",
    )
    add_model_options(parser, model)


def add_model_options(parser: argparse.ArgumentParser, model: str) -> None:
    """Adds a model and the backend that runs it. model: name of the default model."""
    parser.add_argument(
        "--model",
        default=model,
        help=f"name, NAME=FOLDER, folder or hub id; `depthlm models` lists the names (default: {model})",
    )
    parser.add_argument("--backend", default="auto", help="what runs the model (default: %(default)s)")
    parser.add_argument("--device", default="", help="where torch runs it: cpu, cuda or cuda:N (default: the best)")


def add_pair_options(parser: argparse.ArgumentParser, model: str) -> None:
    """Adds two images, their cameras, a model and --json. model: name of the default model."""
    add_image_options(parser, "first", model)
    parser.add_argument("second", type=Path, help="another image file")
    add_second_intrinsics_option(parser)
    add_json_option(parser)


def add_second_intrinsics_option(parser: argparse.ArgumentParser) -> None:
    """Adds the camera of the second image."""
    parser.add_argument(
        "--intrinsics-second",
        type=float,
        nargs=4,
        metavar=INTRINSICS,
        help="focal lengths and principal point of the second image, if they differ",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print the complete answer as one JSON object")


def add_pixel_option(parser: argparse.ArgumentParser, help_text: str, required: bool = False) -> None:
    """Adds --pixel, which may be repeated."""
    parser.add_argument(
        "--pixel",
        type=float,
        nargs=2,
        action="append",
        default=[],
        required=required,
        metavar=("U", "V"),
        help=f"{help_text}; may be repeated",
    )


def parse_size(text: str) -> tuple[int, int]:
    """Reads an option WIDTHxHEIGHT in pixels, for argparse."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: expected WIDTHxHEIGHT, for example 640x480")
    return int(match[1]), int(match[2])


def parse_positive(text: str) -> float:
    """Reads an option that is a positive number, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number below 1000000")
    return value


def read_frame(path: Path, intrinsics: Sequence[float]) -> Frame:
    """Reads an image file. intrinsics: (fx, fy, cx, cy) in pixels. Raises BadImage, BadIntrinsics."""
    from depthlm_ros.core import Frame, Intrinsics
    from depthlm_ros.image_io import read_rgb

    rgb = read_rgb(path)
    fx_px, fy_px, cx_px, cy_px = intrinsics
    return Frame(rgb, Intrinsics(fx_px, fy_px, cx_px, cy_px, rgb.shape[1], rgb.shape[0]))


def read_pair(first: Path, second: Path, args: argparse.Namespace) -> tuple[Frame, Frame]:
    """Reads two image files. Raises BadImage, and BadIntrinsics if images of two sizes have only one camera."""
    one, two = read_frame(first, args.intrinsics), read_frame(second, args.intrinsics_second or args.intrinsics)
    if not args.intrinsics_second and one.intrinsics.size_px != two.intrinsics.size_px:
        sizes = ["{} x {}".format(*frame.intrinsics.size_px) for frame in (one, two)]
        raise BadIntrinsics(
            f"{first} has {sizes[0]} pixels and {second} has {sizes[1]}: they cannot have the same intrinsics; give "
            "--intrinsics-second."
        )
    return one, two


def format_numbers(values: Sequence[float], digits: int, unit: str = "") -> str:
    """Returns for example "(1.00, 2.00) m" or "1.00 m", and "unknown" if any value is not finite."""
    if not all(math.isfinite(value) for value in values):
        return "unknown"
    text = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"({text}) {unit}".rstrip() if len(values) > 1 else f"{text} {unit}".rstrip()
