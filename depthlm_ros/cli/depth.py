# SPDX-License-Identifier: Apache-2.0
"""`depthlm depth`: the depth of one image: as a map, at pixels, as a point cloud, as pictures.

A model with a depth map (DepthVLM, tiny, networks for depth) gives it for every pixel. A model that tells depth in
words (DepthLM, VLM3) is asked about the pixels that --pixel, --points or --grid name. Heavy imports are inside, so that
a help text is fast.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.cli.common import (
    add_as_released_option,
    add_image_options,
    add_pixel_option,
    camera_options,
    check_output,
    load_named_model,
    print_note,
    read_frame,
)
from depthlm_ros.errors import BadImage, BadInput, BadQuestion
from depthlm_ros.file_io import replacing, to_json_value, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from depthlm_ros.core import Frame, PointDepths
    from depthlm_ros.model import Source, View

# The forms of --out for points, and those of pictures.
POINT_SUFFIXES = (".csv", ".jsonl", ".npy")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
COLUMNS = ("u", "v", "depth_m", "std_m")
POINT_OPTIONS = "--pixel U V (may be repeated), --points FILE or --grid N"
# After so many points in words the progress is shown, and what is there is kept if the run is stopped.
POINTS_AT_ONCE = 64
# Values of a truth image per metre, if it is not said: millimetres in images, metres in files of decimal numbers.
IMAGE_SCALE, DECIMAL_SUFFIXES = 1000.0, (".npy", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_image_options(parser)
    add_pixel_option(parser, "tell the depth at this pixel instead of everywhere")
    parser.add_argument(
        "--points", type=Path, metavar="FILE", help="tell it at the pixels in this file: two numbers u, v a line"
    )
    parser.add_argument("--grid", type=int, metavar="N", help="tell it on a grid of N columns over the image")
    parser.add_argument(
        "--words", action="store_true", help="ask for each pixel in words, even if the model has a depth map"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where to write: the map as float32 metres (.npy), or pixels as .csv, .jsonl or .npy (default for pixels: "
        "print them)",
    )
    parser.add_argument("--json", action="store_true", help="print pixels as JSON lines instead of CSV")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the map in colours, with a scale")
    parser.add_argument(
        "--cloud", type=Path, metavar="FILE.ply", help="write a point cloud in colours: of the map, or of the pixels"
    )
    parser.add_argument(
        "--strip", type=Path, metavar="FILE.png", help="draw image, truth (with --truth) and depth side by side"
    )
    parser.add_argument("--truth", type=Path, metavar="FILE", help="true depth for --strip: a 16-bit image or .npy")
    parser.add_argument(
        "--truth-scale",
        type=float,
        metavar="S",
        help="metres = value / S in --truth (default: 1000 for images, 1 for .npy and TIFF)",
    )
    add_as_released_option(parser)


def run(args: argparse.Namespace) -> None:
    """Looks at one image and writes what the options name."""
    from depthlm_ros.model import find_source

    wants_points = bool(args.pixel or args.points or args.grid is not None)
    _check_outputs(args)
    _check_options(args, wants_points)
    source = find_source(args.model)
    _check_model(args, source, wants_points)
    frame = read_frame(args.image, camera_options(args))
    size_px = frame.intrinsics.size_px
    uv_px = requested_pixels(args, size_px) if wants_points else None
    truth_m = _read_truth(args, size_px) if args.truth else None
    view = load_named_model(args, source).look(frame)
    if uv_px is None:
        _write_map(args, view)
    else:
        _write_points(args, view, uv_px, in_words=args.words or not source.spec.head)
    _write_pictures(args, view, truth_m)


def _check_outputs(args: argparse.Namespace) -> None:
    """Raises BadInput for files that cannot be written, or are another file of the command."""
    suffixes = {"out": (), "picture": PICTURE_SUFFIXES, "cloud": (".ply",), "strip": PICTURE_SUFFIXES}
    taken = {"the image": args.image}
    taken |= {f"the file of --{name}": getattr(args, name) for name in ("points", "truth", "camera")}
    for name, allowed in suffixes.items():
        check_output(f"--{name}", getattr(args, name), allowed, taken)
        taken[f"the file of --{name}"] = getattr(args, name)


def _check_options(args: argparse.Namespace, wants_points: bool) -> None:
    """Raises BadInput for options that contradict each other or would be ignored, and for numbers out of range."""
    if args.out and args.out.suffix.lower() not in (POINT_SUFFIXES if wants_points else ("", ".npy")):
        forms = ", ".join(POINT_SUFFIXES)
        raise BadInput(f"--out {args.out}: a map is written as .npy, pixels ({POINT_OPTIONS}) as {forms}.")
    if not wants_points:
        if not (args.out or args.picture or args.cloud or args.strip):
            raise BadInput(f"say what to write (--out, --picture, --cloud, --strip), or name pixels: {POINT_OPTIONS}.")
        for option, does in (("words", "asks about"), ("json", "prints")):
            if getattr(args, option):
                raise BadInput(f"--{option} {does} single pixels: name them with {POINT_OPTIONS}.")
    if args.json and args.out:
        raise BadInput(f"--json prints pixels, and --out {args.out} writes them to a file: leave one of them out.")
    if args.truth and not args.strip:
        raise BadInput("--truth is drawn in --strip: give --strip FILE.png too, or leave --truth out.")
    if args.truth and args.turn:
        raise BadInput("--turn turns the image, but not --truth: leave --turn out, or turn both files before.")
    if args.grid is not None and args.grid < 1:
        raise BadInput(f"--grid is {args.grid}: give at least 1 column.")
    if args.truth_scale is not None and not (args.truth and 0 < args.truth_scale < math.inf):
        raise BadInput(
            f"--truth-scale is {args.truth_scale:g}: give --truth, and a positive number of values per metre."
        )


def _check_model(args: argparse.Namespace, source: Source, wants_points: bool) -> None:
    """Raises BadQuestion, before weights are loaded, for what a model cannot do."""
    from depthlm_ros.families.registry import family_named

    spec = source.spec
    if (args.words or not spec.head) and "points" not in family_named(spec.family).abilities:
        raise BadQuestion(f"{spec.name} tells no depth in words: use depthvlm-4b, depthlm-12b, vlm3-depth or tiny.")
    if spec.head:
        return
    if not wants_points:
        raise BadQuestion(f"{spec.name} tells depth at single pixels, not a map: name them with {POINT_OPTIONS}.")
    for option in ("picture", "strip"):
        if getattr(args, option):
            raise BadQuestion(f"--{option} draws a map, and {spec.name} tells depth at single pixels: leave it out.")


def requested_pixels(args: argparse.Namespace, size_px: tuple[int, int]) -> np.ndarray:
    """Returns float64 (N, 2): all pixels that --pixel, --points and --grid name, in this order.

    size_px: (width, height) of the image. Raises BadInput, with the line of the file, for a pixel outside of it.
    """
    import numpy as np

    from depthlm_ros.geometry.pinhole import check_pixels_inside

    sets_px = [check_pixels_inside(args.pixel, size_px)]
    if args.points:
        sets_px.append(read_pixels(args.points, size_px))
    if args.grid is not None:
        sets_px.append(grid_pixels(size_px, args.grid))
    return np.concatenate(sets_px)


def read_pixels(path: Path, size_px: tuple[int, int]) -> np.ndarray:
    """Returns float64 (N, 2): the pixels in a text file of two numbers u, v a line.

    Spaces, commas or semicolons separate them. A first line in words is a heading; empty lines and lines that begin
    with # are skipped. Raises BadInput.
    """
    from depthlm_ros.geometry.pinhole import check_pixels_inside

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(
            f"--points {path}: cannot be read ({exc}): give a text file of two numbers u, v a line."
        ) from exc
    rows: list[list[float]] = []
    is_first = True
    for number, line in enumerate(lines, start=1):
        fields = line.replace(",", " ").replace(";", " ").split()
        if not fields or fields[0].startswith("#"):
            continue
        may_be_heading, is_first = is_first, False
        try:
            row = [float(field) for field in fields]
            if len(row) != 2:
                raise ValueError(f"{len(row)} numbers")
            rows += check_pixels_inside([row], size_px).tolist()
        except BadQuestion as exc:
            raise BadInput(f"{path}:{number}: {exc}") from exc
        except ValueError as exc:
            if may_be_heading and not re.search(r"\d", line):
                continue
            raise BadInput(
                f"{path}:{number}: {line.strip()[:60]!r} is not two numbers u, v ({exc}): write one pixel a line."
            ) from exc
    if not rows:
        raise BadInput(f"--points {path}: the file names no pixel: write two numbers u, v a line.")
    return check_pixels_inside(rows, size_px)


def grid_pixels(size_px: tuple[int, int], columns: int) -> np.ndarray:
    """Returns float64 (N, 2): the middles of the cells of a grid over an image of size (width, height), row by row.

    The cells are about as wide as high; no grid has more columns or rows than the image has pixels.
    """
    import numpy as np

    width, height = size_px
    columns = min(columns, width)
    rows = min(max(round(columns * height / width), 1), height)
    u_px = (np.arange(columns) + 0.5) * width / columns - 0.5
    v_px = (np.arange(rows) + 0.5) * height / rows - 0.5
    return np.stack(np.meshgrid(u_px, v_px), axis=-1).reshape(-1, 2)


def _write_map(args: argparse.Namespace, view: View) -> None:
    """Writes the map as a float32 (H, W) .npy file, metres along the optical axis, NaN = unknown, and the cloud."""
    import numpy as np

    from depthlm_ros.geometry.point_cloud import CloudBuilder, ply_bytes

    depth_m = view.depth(with_std=False).depth_m.astype(np.float32, copy=False)
    if args.out:
        with replacing(args.out) as partial, partial.open("wb") as file:
            np.save(file, depth_m)
        print(f"{args.out}: {depth_m.shape[1]} x {depth_m.shape[0]}, {_span(depth_m)}")
    if args.cloud:
        cloud = CloudBuilder(view.frame.intrinsics).build(depth_m, view.frame.rgb)
        write_atomically(args.cloud, ply_bytes(cloud[..., :3], view.frame.rgb))
        print(f"{args.cloud}: {int(np.isfinite(cloud[..., 2]).sum())} points")


def _write_points(args: argparse.Namespace, view: View, uv_px: np.ndarray, in_words: bool) -> None:
    """Prints or writes the depth at pixels (N, 2). If it is stopped, what is there is kept."""
    from depthlm_ros.core import PointDepths

    parts: list[PointDepths] = []
    try:
        for part in _points_in_parts(view, uv_px, in_words):
            parts.append(part)
    finally:
        if parts:
            import numpy as np

            done = PointDepths(*(np.concatenate([getattr(one, name) for one in parts]) for name in vars(parts[0])))
            if len(done.uv_px) < len(uv_px):
                print_note(f"stopped: {len(done.uv_px)} of {len(uv_px)} pixels are there.")
            _write_done_points(args, view.frame, done)


def _points_in_parts(view: View, uv_px: np.ndarray, in_words: bool) -> Iterator[PointDepths]:
    """Yields the depth at pixels (N, 2), in their order."""
    from depthlm_ros.progress import progress_callback

    if not in_words:
        yield view.depth_at(uv_px)
        return
    shown = progress_callback("depthlm depth", "pixels") if len(uv_px) > POINTS_AT_ONCE else nullcontext(None)
    with shown as on_progress:
        for start in range(0, len(uv_px), POINTS_AT_ONCE):
            part = view.tell_depth_at(uv_px[start : start + POINTS_AT_ONCE])
            if on_progress:
                on_progress(start + len(part.uv_px), len(uv_px))
            yield part


def _write_done_points(args: argparse.Namespace, frame: Frame, points: PointDepths) -> None:
    from depthlm_ros.geometry.pinhole import backproject, nearest_pixel
    from depthlm_ros.geometry.point_cloud import ply_bytes

    if args.out:
        write_points(args.out, points)
        print(f"{args.out}: {len(points.uv_px)} pixels, {_span(points.depth_m)}")
    else:
        print(points_text(points, ".jsonl" if args.json else ".csv"), end="")
    if args.cloud:
        u, v = nearest_pixel(points.uv_px).T
        points_m = backproject(points.uv_px, points.depth_m, frame.intrinsics)
        write_atomically(args.cloud, ply_bytes(points_m, frame.rgb[v, u]))
        print_note(f"{args.cloud}: the pixels as a point cloud")


def write_points(path: Path, points: PointDepths) -> None:
    """Writes pixels with their depths: .csv, .jsonl, or .npy (float64 (N, 4): u, v, depth_m, std_m)."""
    import numpy as np

    if path.suffix.lower() != ".npy":
        write_atomically(path, points_text(points, path.suffix.lower()))
        return
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, np.column_stack([points.uv_px, points.depth_m, points.std_m]).astype(np.float64))


def points_text(points: PointDepths, suffix: str) -> str:
    """Returns pixels with their depths as lines of CSV with a heading, or of JSON; unknown is nan, or null in JSON."""
    rows = [
        (float(u), float(v), float(f"{depth_m:.4f}"), float(f"{std_m:.4f}"))
        for (u, v), depth_m, std_m in zip(points.uv_px, points.depth_m, points.std_m, strict=True)
    ]
    if suffix == ".jsonl":
        return "".join(json.dumps(to_json_value(dict(zip(COLUMNS, row, strict=True)))) + "\n" for row in rows)
    lines = [",".join(COLUMNS), *(",".join(f"{value:.10g}" for value in row) for row in rows)]
    return "\n".join(lines) + "\n"


def _write_pictures(args: argparse.Namespace, view: View, truth_m: np.ndarray | None) -> None:
    from depthlm_ros.image_io import write_rgb
    from depthlm_ros.visualization import depth_picture, depth_strip

    if args.picture:
        with replacing(args.picture) as partial:
            write_rgb(partial, depth_picture(view.depth(with_std=False).depth_m))
        print(f"{args.picture}: depth in colours")
    if args.strip:
        with replacing(args.strip) as partial:
            write_rgb(partial, depth_strip(view.frame.rgb, view.depth(with_std=False).depth_m, truth_m))
        print(f"{args.strip}: {'image, truth and depth' if truth_m is not None else 'image and depth'} side by side")


def _read_truth(args: argparse.Namespace, size_px: tuple[int, int]) -> np.ndarray:
    """Returns float32 (h, w): the true depth in metres, NaN where it is unknown. size_px: (width, height) of the image.

    Raises BadInput for a file that is no depth map, and for one whose sides have another ratio than the image's.
    """
    from depthlm_ros.data.depthfile import read_depth
    from depthlm_ros.data.records import DepthFile
    from depthlm_ros.data.sample_points import RATIO_TOLERANCE

    scale = args.truth_scale or (1.0 if args.truth.suffix.lower() in DECIMAL_SUFFIXES else IMAGE_SCALE)
    try:
        truth_m = read_depth(DepthFile(args.truth, scale))
    except BadImage as exc:
        raise BadInput(f"--truth {exc} Give a depth map of one channel: a 16-bit image or .npy.") from exc
    height, width = truth_m.shape
    if not truth_m.size or abs(width - size_px[0] * height / size_px[1]) > max(1.0, RATIO_TOLERANCE * width):
        sizes = f"{width} x {height} pixels, the image {size_px[0]} x {size_px[1]}"
        raise BadInput(f"--truth {args.truth} has {sizes}: give the depth map of this image, in any size.")
    return truth_m


def _span(depth_m: np.ndarray) -> str:
    import numpy as np

    known_m = depth_m[np.isfinite(depth_m)]
    return f"{known_m.min():.2f} to {known_m.max():.2f} m" if known_m.size else "all depths are unknown"
