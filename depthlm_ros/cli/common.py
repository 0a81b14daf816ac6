# SPDX-License-Identifier: Apache-2.0
"""What several verbs of the command line share: options for images, cameras and models, and formatting of numbers.

add_image_options and add_pair_options describe the input of a verb; read_frame and read_pair read it. A camera that is
not given is estimated from the image, which is said on stderr (print_note). load_named_model loads the model of a verb.
check_output says before the work that a file cannot be written. Heavy imports are inside the functions, so that a help
text is fast.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.errors import BadInput, BadIntrinsics

if TYPE_CHECKING:
    import numpy as np

    from depthlm_ros.core import Frame, Intrinsics
    from depthlm_ros.geometry.focal_estimation import FocalEstimate
    from depthlm_ros.model import Model
    from depthlm_ros.model_files.checkpoint import Source

INTRINSICS = ("FX", "FY", "CX", "CY")
# Family -> what of its released code --as-released does not repeat, beside its kernels.
NOT_REPEATED = {
    "depthlm": ", and its refusal of arrows that do not fit at the border (here the image is widened for them)",
    "depthvlm": ", and how it resizes the map to the image (here 1 / depth is interpolated)",
}


@dataclass(frozen=True)
class CameraOptions:
    """What the command line says about the camera of an image: at most one of the first three.

    intrinsics: (fx, fy, cx, cy), pixels. calibration: a ROS calibration file; its lens distortion is removed from the
    image. focal_px: on both axes, with the principal point in the middle. estimator: how the focal length is estimated
    where none of them is given (FocalSettings.estimator). turn: turn the image upright, as its Exif data say.
    """

    intrinsics: Sequence[float] | None = None
    calibration: Path | None = None
    focal_px: float | None = None
    estimator: str = "auto"
    turn: bool = False

    @property
    def is_given(self) -> bool:
        """Whether the camera is known, so that nothing is estimated."""
        return not (self.intrinsics is None and self.calibration is None and self.focal_px is None)


def camera_options(args: argparse.Namespace) -> CameraOptions:
    """Returns the options of add_camera_options as they were given."""
    return CameraOptions(args.intrinsics, args.camera, args.focal, args.estimator, args.turn)


def print_note(text: str) -> None:
    """Prints one line on stderr."""
    print(f"depthlm: {text}", file=sys.stderr, flush=True)


def add_image_options(parser: argparse.ArgumentParser, name: str = "image", model: str = "tiny") -> None:
    """Adds an image, its camera and a model. model: name of the default model."""
    parser.add_argument(name, type=Path, help="an image file, without lens distortion unless --camera is given")
    add_camera_options(parser)
    add_model_options(parser, model)


def add_camera_options(parser: argparse.ArgumentParser) -> None:
    """Adds the camera of an image, in one of three forms, and what is done without it."""
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument(
        "--intrinsics",
        type=float,
        nargs=4,
        metavar=INTRINSICS,
        help="focal lengths and principal point of this image, in pixels (default: estimated from the image)",
    )
    camera.add_argument(
        "--camera",
        type=Path,
        metavar="FILE.yaml",
        help="ROS calibration file of the camera instead; the lens distortion in it is removed from the image",
    )
    camera.add_argument(
        "--focal",
        type=parse_positive,
        metavar="F",
        help="only the focal length instead, in pixels; the principal point is the middle of the image",
    )
    parser.add_argument(
        "--estimator",
        default="auto",
        metavar="HOW",
        help="how a camera that is not given is estimated: auto (Exif data, then vanishing points), exif, or "
        "package.module:name of your own estimator (default: %(default)s)",
    )
    parser.add_argument(
        "--turn",
        action="store_true",
        help="turn the image upright as its Exif data say, with its camera; pixels are then those of the turned image",
    )


def add_model_options(parser: argparse.ArgumentParser, model: str) -> None:
    """Adds a model and the backend that runs it. model: name of the default model."""
    parser.add_argument(
        "--model",
        default=model,
        help=f"name, NAME=FOLDER, folder or hub id; `depthlm models` lists the names (default: {model})",
    )
    parser.add_argument("--backend", default="auto", help="what runs the model (default: %(default)s)")
    parser.add_argument("--device", default="", help="where it runs: cpu, cuda, cuda:N or openvino (default: the best)")


def add_pair_options(parser: argparse.ArgumentParser, model: str) -> None:
    """Adds two images, their cameras, a model and --json. model: name of the default model."""
    add_image_options(parser, "first", model)
    parser.add_argument("second", type=Path, help="another image file")
    add_second_intrinsics_option(parser)
    add_json_option(parser)
    add_as_released_option(parser)


def add_second_intrinsics_option(parser: argparse.ArgumentParser) -> None:
    """Adds the camera of the second image."""
    parser.add_argument(
        "--intrinsics-second",
        type=float,
        nargs=4,
        metavar=INTRINSICS,
        help="focal lengths and principal point of the second image, if its camera is another one",
    )


def add_as_released_option(parser: argparse.ArgumentParser) -> None:
    """Adds --as-released."""
    parser.add_argument(
        "--as-released",
        action="store_true",
        help="repeat the released code of the model bit for bit, defects included, where that is possible",
    )


def say_what_is_released(source: Source) -> None:
    """Says on stderr what --as-released does with a model, and what of the release it does not repeat."""
    from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint, Vlm3Checkpoints

    spec = source.spec
    if not isinstance(source, (ReleasedCheckpoint, Vlm3Checkpoints)):
        print_note(f"--as-released: {spec.name} is not a released checkpoint: nothing of it is repeated bit for bit.")
        return
    print_note(
        f"--as-released: {spec.name} is asked at the released code's own pixels, its replies are decoded completely, "
        "and depth is the number that it says. Not repeated are the kernels of the release (sums in bfloat16 differ in "
        f"their last bits, and a CPU computes in float32){NOT_REPEATED.get(spec.family, '')}."
    )


def load_named_model(args: argparse.Namespace, source: Source | None = None) -> Model:
    """Loads the model of add_model_options, and says what --as-released repeats of it.

    source: what find_source returned for its name, if that was called before. Raises as load_model does.
    """
    from depthlm_ros.model import find_source, load_model

    source = source or find_source(args.model)
    if args.as_released:
        say_what_is_released(source)
    return load_model(source, args.backend, device=args.device, as_released=args.as_released)


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


def typed_text(text: str) -> str:
    """Returns the text of an argument that was typed in UTF-8, whatever the locale is.

    Bytes that the locale does not know, all beyond ASCII in the locale C, stand in the argument as half characters.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


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


def read_frame(path: Path, options: CameraOptions, estimate: FocalEstimate | None = None) -> Frame:
    """Reads an image file with its camera. estimate: of its focal length, where that was estimated before.

    What is estimated or doubtful is said on stderr. Raises BadImage, BadIntrinsics, SetupError (for the estimator).
    """
    from depthlm_ros.core import Frame
    from depthlm_ros.geometry.calibration_file import read_camera
    from depthlm_ros.geometry.pinhole import centred_camera
    from depthlm_ros.geometry.rectify import Rectifier
    from depthlm_ros.image_io import read_rgb

    rgb, seen = read_rgb(path), None
    size_px = rgb.shape[1], rgb.shape[0]
    if options.calibration is not None:
        rectifier = Rectifier(read_camera(options.calibration), rectified=False)
        rgb, camera, seen = rectifier.rectify(rgb), rectifier.intrinsics, rectifier.valid
        if rectifier.model.has_distortion:
            print_note(f"{path}: its lens distortion is removed; pixels are those of the rectified image.")
    elif options.is_given:
        camera = _typed_camera(path, options, size_px)
    else:
        estimate = estimate or _estimate_focal([path], options.estimator)
        camera = centred_camera(size_px, estimate.focal_px)
    turns = _quarter_turns(path, options.turn)
    return _turned_frame(Frame(rgb, camera, seen=seen), turns) if turns else Frame(rgb, camera, seen=seen)


def _typed_camera(path: Path, options: CameraOptions, size_px: tuple[int, int]) -> Intrinsics:
    """Returns the camera that was typed in, and says what is unlikely about it."""
    from depthlm_ros.core import Intrinsics
    from depthlm_ros.geometry.focal_estimation import focal_doubts
    from depthlm_ros.geometry.pinhole import centred_camera

    if options.intrinsics is not None:
        fx_px, fy_px, cx_px, cy_px = options.intrinsics
        camera = Intrinsics(fx_px, fy_px, cx_px, cy_px, *size_px)
    else:
        camera = centred_camera(size_px, options.focal_px or math.nan)
    if doubt := focal_doubts(camera):
        print_note(f"{path}: {doubt}")
    return camera


def _estimate_focal(paths: Sequence[Path], estimator: str) -> FocalEstimate:
    """Returns the best of the estimates from images of one size, and says on stderr what it is and how good."""
    from depthlm_ros.geometry.focal_estimation import FocalSettings, estimate_focal, make_estimator
    from depthlm_ros.image_io import image_size

    made, size_px = make_estimator(FocalSettings(estimator)), image_size(paths[0])
    estimates = [estimate_focal(path, size_px, made) for path in paths]
    best = min(estimates, key=lambda one: math.inf if math.isnan(one.error) else one.error)
    if not (math.isfinite(best.focal_px) and best.focal_px > 0):
        raise BadIntrinsics(f"{paths[0]}: {best.source} gives the focal length {best.focal_px}: give --intrinsics.")
    fov_deg = 2 * math.degrees(math.atan(0.5 * max(size_px) / best.focal_px))
    error = "its error is unknown" if math.isnan(best.error) else f"right to about {100 * best.error:.0f} %"
    print_note(
        f"{' and '.join(map(str, paths))}: no camera was given: a focal length of {best.focal_px:.0f} pixels (a field "
        f"of view of {fov_deg:.0f} degrees along the longer side) is taken from {best.source}, {error}, and distances "
        "grow with it. If you know it, give --intrinsics, --focal or --camera."
    )
    return best


def _quarter_turns(path: Path, turn: bool) -> int:
    """Returns by how many quarter turns (counter-clockwise) an image is turned; says so if it should be but is not."""
    from depthlm_ros.geometry.focal_estimation import QUARTER_TURNS, orientation_from_exif

    orientation = orientation_from_exif(path)
    turns = QUARTER_TURNS.get(orientation, 0)
    if turns and not turn:
        print_note(
            f"{path}: its Exif data (orientation {orientation}) say that it is shown turned, but it is used as it is "
            "stored, which models were not trained on: --turn turns it upright, with its intrinsics."
        )
    elif orientation in (2, 4, 5, 7):
        print_note(f"{path}: its Exif data say that it is mirrored (orientation {orientation}): it is used as stored.")
    return turns if turn else 0


def _turned_frame(frame: Frame, quarter_turns: int) -> Frame:
    """Returns a frame turned counter-clockwise, with its camera and its seen pixels."""
    import numpy as np

    from depthlm_ros.geometry.pinhole import turned_camera

    def turned(image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(image, quarter_turns))

    seen = None if frame.seen is None else turned(frame.seen)
    return replace(frame, rgb=turned(frame.rgb), intrinsics=turned_camera(frame.intrinsics, quarter_turns), seen=seen)


def read_pair(first: Path, second: Path, args: argparse.Namespace) -> tuple[Frame, Frame]:
    """Reads two image files. Raises BadImage, and BadIntrinsics if images of two sizes have only one camera.

    Where no camera is given, images of one size share the better of the two estimates.
    """
    from depthlm_ros.image_io import image_size

    options = camera_options(args)
    others = options if not args.intrinsics_second else CameraOptions(args.intrinsics_second, turn=options.turn)
    sizes_px = [image_size(path) for path in (first, second)]
    same_size = sizes_px[0] == sizes_px[1]
    if options.is_given and others is options and not same_size:
        sizes = ["{} x {}".format(*size_px) for size_px in sizes_px]
        raise BadIntrinsics(
            f"{first} has {sizes[0]} pixels and {second} has {sizes[1]}: they cannot have the same intrinsics; give "
            "--intrinsics-second."
        )
    both = same_size and not options.is_given and others is options
    estimate = _estimate_focal([first, second], options.estimator) if both else None
    return read_frame(first, options, estimate), read_frame(second, others, estimate)


def check_output(
    option: str, path: Path | None, suffixes: Sequence[str] = (), taken: Mapping[str, Path | None] | None = None
) -> None:
    """Checks before the work that a file can be written, so that nothing is lost after it. Raises BadInput.

    option: which option names it. suffixes: those that it may have; empty for any. taken: in words, what each of
    the command's other files is; it must not overwrite them.
    """
    if path is None:
        return
    is_free = path.is_file() and os.access(path, os.W_OK) if path.exists() else True
    if not (is_free and path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise BadInput(f"{option} {path}: cannot be written there: name a file in an existing folder.")
    for what, other in (taken or {}).items():
        if other is not None and other.resolve() == path.resolve():
            raise BadInput(f"{option} {path} is {what} itself: name another file.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise BadInput(f"{option} {path}: its name must end in {' or '.join(suffixes)}.")


def format_numbers(values: Sequence[float], digits: int, unit: str = "") -> str:
    """Returns for example "(1.00, 2.00) m" or "1.00 m", and "unknown" if any value is not finite."""
    if not all(math.isfinite(value) for value in values):
        return "unknown"
    text = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"({text}) {unit}".rstrip() if len(values) > 1 else f"{text} {unit}".rstrip()
