"""What several verbs of the command line share: options for images, cameras and models, and numbers as text.

Heavy imports are inside the functions, so that a help text costs nothing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.errors import BadIntrinsics

if TYPE_CHECKING:
    from depthlm_ros.core import Frame
    from depthlm_ros.model import Model

LENS = ("FX", "FY", "CX", "CY")
PIXEL = ("U", "V")


def add_model(parser: argparse.ArgumentParser, default: str = "tiny") -> None:
    """The model and what runs it."""
    parser.add_argument(
        "--model",
        default=default,
        help="name, NAME=FOLDER, folder or hub id; `depthlm models` lists them (default: %(default)s)",
    )
    parser.add_argument("--backend", default="auto", help="what runs it (default: %(default)s)")
    parser.add_argument("--device", default="", help="where torch runs it: cpu, cuda or cuda:N (default: the best)")


def add_lens(parser: argparse.ArgumentParser) -> None:
    """The camera of the image, or of the first of two."""
    parser.add_argument(
        "--intrinsics",
        type=float,
        nargs=4,
        required=True,
        metavar=LENS,
        help="focal lengths and principal point of this image, pixels",
    )


def add_pair(parser: argparse.ArgumentParser, default_model: str) -> None:
    """Two images and a model for them."""
    parser.add_argument("first", type=Path, help="an image file, without lens distortion")
    parser.add_argument("second", type=Path, help="another one")
    add_lens(parser)
    add_second_lens(parser)
    add_model(parser, default_model)
    parser.add_argument("--json", action="store_true", help="the whole answer as one JSON object")


def add_second_lens(parser: argparse.ArgumentParser) -> None:
    """The camera of the second image."""
    parser.add_argument(
        "--intrinsics-second", type=float, nargs=4, metavar=LENS, help="those of the second image, if they differ"
    )


def add_pixels(parser: argparse.ArgumentParser, help_text: str, required: bool = False) -> None:
    """Pixels, each by an option of its own."""
    parser.add_argument(
        "--pixel",
        type=float,
        nargs=2,
        action="append",
        default=[],
        required=required,
        metavar=PIXEL,
        help=f"{help_text}; may be given again",
    )


def load(args: argparse.Namespace) -> Model:
    """The model of the options."""
    from depthlm_ros.model import load_model

    return load_model(args.model, backend=args.backend, device=args.device)


def read_frame(path: Path, intrinsics: Sequence[float]) -> Frame:
    """An image file with its focal lengths and principal point. Raises BadImage, BadIntrinsics."""
    from depthlm_ros.core import Frame, Intrinsics
    from depthlm_ros.image_io import read_rgb

    rgb = read_rgb(path)
    fx_px, fy_px, cx_px, cy_px = intrinsics
    return Frame(rgb, Intrinsics(fx_px, fy_px, cx_px, cy_px, rgb.shape[1], rgb.shape[0]))


def read_pair(first: Path, second: Path, args: argparse.Namespace) -> tuple[Frame, Frame]:
    """Two image files. Raises BadIntrinsics if one lens cannot be that of both."""
    one, two = read_frame(first, args.intrinsics), read_frame(second, args.intrinsics_second or args.intrinsics)
    if not args.intrinsics_second and one.intrinsics.size_px != two.intrinsics.size_px:
        sizes = ["{} x {}".format(*frame.intrinsics.size_px) for frame in (one, two)]
        raise BadIntrinsics(
            f"{first} is {sizes[0]} and {second} is {sizes[1]} pixels large: one lens cannot be that of both, give "
            "--intrinsics-second."
        )
    return one, two


def numbers(values: Sequence[float], digits: int, unit: str = "") -> str:
    """(1.00, 2.00) m, or "unknown" if any of them is."""
    if not all(math.isfinite(value) for value in values):
        return "unknown"
    written = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"({written}) {unit}".rstrip() if len(values) > 1 else f"{written} {unit}".rstrip()
