# SPDX-License-Identifier: Apache-2.0
"""The demo: runs a camera and the depth node as processes, asks questions, and writes pictures and a table.

`make demo`, or `python -m depthlm_ros.ros.tools.demo`. Without --images the camera moves through a rendered room whose
exact depth is known. With --images it shows a user's pictures, and strips.png has a strip of image, depth and cloud of
each. The exit code is 0 only if depth, point cloud and all answers arrived.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthlm_ros.errors import BadIntrinsics, DepthLMError, SetupError
from depthlm_ros.eval.metrics import DepthScores
from depthlm_ros.image_io import write_rgb
from depthlm_ros.ros.camera_info_sync import stamp_ns
from depthlm_ros.ros.tools.depth_listener import RELIABLE, DepthListener, ReceivedFrame, ReceptionStatistics
from depthlm_ros.ros.tools.picture_lens import add_lens_options, find_lens, known_lens, picture_files
from depthlm_ros.ros.tools.process_graph import ProcessGraph
from depthlm_ros.ros.tools.replay_camera import image_source
from depthlm_ros.srv import SpatialQuery
from depthlm_ros.visualization import BACKGROUND_RGB, cloud_picture, depth_picture, depth_range_m, side_by_side

TRUTH_TOPIC = "depth_truth/image"
ROOM_QUESTIONS = ("How far is the red box?", "Which is closer, the blue ball or the red box?")
PICTURE_QUESTIONS = ("How far is the chair?", "Is there a door?")
PIXEL_QUESTION = "How far is this point?"
# "There is no red box" is an answer, too, and so is one that names a contradiction.
ANSWERED_STATUSES = (SpatialQuery.Response.OK, SpatialQuery.Response.NOT_FOUND, SpatialQuery.Response.INCONSISTENT)
# The pictures show these fields of a ReceivedFrame.
PICTURE_FIELDS = ("rgb", "depth_m", "cloud_m")
STRIP_HEIGHT_PX, STRIP_GAP_PX = 360, 8
# Pictures are shown with at most this many pixels on the longer side: full photographs would fill the topics.
LONGEST_PX = 1024
# Of a larger folder, this many pictures are shown. One whose depth does not arrive within this time is given up.
MOST_PICTURES = 12
PICTURE_PATIENCE_S = 20.0


class ShownPictures:
    """The pictures of --images, which are recognised by their pixels: the first complete frame of each.

    names: digest of the pixels -> name; empty where there are no pictures with names. lens_text: about their lens.
    """

    def __init__(self, names: dict[bytes, str], lens_text: str = "") -> None:
        self.names, self.lens_text = names, lens_text
        self.frames: dict[str, ReceivedFrame] = {}
        self._name_at: dict[int, str] = {}

    def add(self, frame: ReceivedFrame) -> None:
        """Takes a frame of which a part has just arrived; the callback of DepthListener."""
        if not self.names or frame.rgb is None:
            return
        if frame.stamp_ns not in self._name_at:
            self._name_at[frame.stamp_ns] = self.names.get(pixel_digest(frame.rgb), "")
        name = self._name_at[frame.stamp_ns]
        if name and frame.depth_m is not None and frame.cloud_m is not None:
            self.frames.setdefault(name, frame)

    def name_at(self, stamp_ns: int) -> str:
        """Returns the name of the picture that had this stamp; "" if it is not known."""
        return self._name_at.get(stamp_ns, "")

    @property
    def missing(self) -> list[str]:
        """The pictures that have no complete frame yet."""
        return [name for name in self.names.values() if name not in self.frames]


def pixel_digest(rgb: np.ndarray) -> bytes:
    """Returns a digest of an image's pixels."""
    return hashlib.blake2b(np.ascontiguousarray(rgb), digest_size=16).digest()


@dataclass(frozen=True)
class QuestionResult:
    """One question of the demo. answered: whether the model replied; "there is no such object" is a reply too."""

    question: str
    text: str
    seconds: float
    answered: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    args = parse_options(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        return 130
    except DepthLMError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the demo's options."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.usage = "%(prog)s [--images FOLDER [--fx PIXELS | --fov DEGREES]] [options]; --help lists them"
    parser.add_argument("--images", type=Path, help="folder of pictures, or a video (default: a rendered room)")
    add_lens_options(parser)
    parser.add_argument("--model", default="tiny", help="name or folder of a model (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=60, help="depth images to wait for (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="longest wait for each step (default: %(default)g)"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures (default: %(default)s)")
    return parser


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line. Ends the process with 2 if it is wrong."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        lens = known_lens(args)
    except BadIntrinsics as exc:
        parser.error(str(exc))
    if args.images is None and not lens.is_empty:
        parser.error("a lens belongs to pictures: name them too, make demo IMAGES=folder FX=pixels.")
    return args


def run(args: argparse.Namespace) -> None:
    """Starts camera and node, receives frames, asks the questions, writes the pictures and prints the table.

    Raises SetupError if a process fails, a step takes too long, or a question has no answer.
    """
    shown = read_pictures(args)
    args.out.mkdir(parents=True, exist_ok=True)
    statistics = ReceptionStatistics()
    with ProcessGraph(args.out / "log") as graph:
        graph.start("camera", "depthlm_ros.ros.tools.replay_camera", *replay_camera_options(args))
        graph.start("depth node", "depthlm_ros.ros.node", "--ros-args", "-p", f"model:={args.model}")
        if args.images:  # A lost image would leave its depth and the answers about it without a name.
            listener = DepthListener(statistics.add, on_message=shown.add, image_qos=RELIABLE)
        else:
            listener = DepthListener(statistics.add, truth_topic=TRUTH_TOPIC)
        graph.add(listener)
        frame = receive_frames(graph, listener, statistics, shown, args)
        questions = choose_questions(args, [frame, *shown.frames.values()])
        results = [ask(graph, listener, shown, question, uv_px) for question, uv_px in questions]
        # The frame before the questions serves if a busy machine lost a message of every later frame.
        frame = listener.newest_frame_with(*PICTURE_FIELDS) or frame
    pictures = write_pictures(frame, shown, args.out)
    table = format_table(frame, statistics, listener, shown, results, pictures)
    (args.out / "table.txt").write_text(table + "\n", encoding="utf-8")
    print(table)
    unanswered = [result.question for result in results if not result.answered]
    if unanswered:
        raise SetupError(f"no answer to: {' '.join(unanswered)} (see the table and {args.out / 'log'}).")


def read_pictures(args: argparse.Namespace) -> ShownPictures:
    """Reads the pictures of --images, and says what their lens is and which are left out.

    Raises BadInput if there is nothing to show.
    """
    if args.images is None:
        return ShownPictures({})
    lens = find_lens(args.images, known_lens(args))
    print_progress(lens.text)
    count = len(picture_files(args.images, lambda text: None))
    if count > MOST_PICTURES:
        print_progress(f"showing {MOST_PICTURES} of the {count} pictures, evenly spread.")
    source = image_source(args.images, lens, print_progress, LONGEST_PX, MOST_PICTURES, cache_bytes=0)
    # A video is only opened here; its frames have no names.
    return ShownPictures({pixel_digest(image.rgb): image.name for image in source()} if count else {}, lens.text)


def replay_camera_options(args: argparse.Namespace) -> list[str]:
    """Returns the options of the replay camera."""
    if args.images is None:
        return []
    limits = ["--longest", str(LONGEST_PX), "--most", str(MOST_PICTURES)]
    return ["--images", str(args.images), *limits, *known_lens(args).options()]


def receive_frames(
    graph: ProcessGraph,
    listener: DepthListener,
    statistics: ReceptionStatistics,
    shown: ShownPictures,
    args: argparse.Namespace,
) -> ReceivedFrame:
    """Waits for the first image, the first depth with its cloud, then for --frames depth images and every picture.

    Returns the newest complete frame. Raises SetupError if a step takes too long.
    """
    reason = "" if args.images else " (the very first start compiles the renderer)"
    print_progress(f"waiting for the camera's first image{reason} ...")
    graph.wait(lambda: listener.images > 0, "image from the camera", args.timeout)
    print_progress("waiting for the first depth and its cloud ...")
    graph.wait(lambda: listener.newest_frame_with(*PICTURE_FIELDS) is not None, "depth with its cloud", args.timeout)
    print_progress(f"receiving {args.frames} frames ...")
    first = listener.newest_frame_with(*PICTURE_FIELDS)
    assert first is not None
    statistics.clear()
    graph.wait(lambda: len(statistics.arrived_ns) >= max(args.frames, 2), f"{args.frames} frames", args.timeout)
    given_up_s = time.monotonic() + PICTURE_PATIENCE_S
    graph.wait(lambda: not shown.missing or time.monotonic() > given_up_s, "picture", 2 * PICTURE_PATIENCE_S)
    return listener.newest_frame_with(*PICTURE_FIELDS) or first


def choose_questions(
    args: argparse.Namespace, frames: Sequence[ReceivedFrame]
) -> list[tuple[str, list[tuple[float, float]]]]:
    """Returns the questions with their pixels; one is about the middle of the pictures.

    frames: with depth, of all sizes. The pixel is in all of them, because nobody knows which is visible when it is
    asked.
    """
    if args.images is None:
        return [(question, []) for question in ROOM_QUESTIONS]
    height, width = np.min([frame.depth_m.shape for frame in frames if frame.depth_m is not None], axis=0).tolist()
    return [*((question, []) for question in PICTURE_QUESTIONS), (PIXEL_QUESTION, [(width // 2, height // 2)])]


def ask(
    graph: ProcessGraph,
    listener: DepthListener,
    shown: ShownPictures,
    question: str,
    uv_px: list[tuple[float, float]],
) -> QuestionResult:
    """Asks one question through the node's service. Raises SetupError if there is no response."""
    pixels = "".join(f" ({u:g}, {v:g})" for u, v in uv_px)
    print_progress(f"asking: {question}{pixels}")
    started_s = time.monotonic()
    response = graph.ask(listener, question, uv_px)
    seconds = time.monotonic() - started_s
    answered = response.status in ANSWERED_STATUSES
    text = response.answer if answered else f"none: {response.message or response.answer}"
    picture = shown.name_at(stamp_ns(response.header))
    about = f" [{picture}]" if picture else ""
    return QuestionResult(question + pixels + about, " ".join(text.split()), seconds, answered)


def write_pictures(frame: ReceivedFrame, shown: ShownPictures, folder: Path) -> list[Path]:
    """Writes the image, depth, exact depth if it is known, cloud, the cloud from the side, and a strip of the others.

    strips.png has a strip of each of the shown pictures.

    Returns the files.
    """
    assert frame.rgb is not None and frame.depth_m is not None and frame.cloud_m is not None
    range_m = depth_range_m(frame.depth_m if frame.true_depth_m is None else frame.true_depth_m)
    pictures = {"image": frame.rgb, "depth": depth_picture(frame.depth_m, range_m)}
    if frame.true_depth_m is not None:
        pictures["truth"] = depth_picture(frame.true_depth_m, range_m)
    pictures["cloud"] = cloud_picture(frame.cloud_m, frame.rgb)
    panels = list(pictures.items())
    pictures["side"] = cloud_picture(frame.cloud_m, frame.rgb, yaw_deg=90.0, pitch_deg=0.0)
    pictures["strip"] = side_by_side(panels, STRIP_HEIGHT_PX)
    if shown.frames:
        pictures["strips"] = picture_strips(shown.frames)
    for name in {"truth", "strips"} - set(pictures):  # An earlier run may have written them.
        (folder / f"{name}.png").unlink(missing_ok=True)
    for name, picture in pictures.items():
        write_rgb(folder / f"{name}.png", picture)
    return [folder / f"{name}.png" for name in pictures]


def picture_strips(frames: dict[str, ReceivedFrame]) -> np.ndarray:
    """Returns the strips of image, depth and cloud of these frames, by name, one below the other."""
    strips = []
    for name, frame in sorted(frames.items()):
        assert frame.rgb is not None and frame.depth_m is not None and frame.cloud_m is not None
        panels = [(name, frame.rgb), ("depth", depth_picture(frame.depth_m))]
        panels.append(("cloud", cloud_picture(frame.cloud_m, frame.rgb)))
        strips.append(side_by_side(panels, STRIP_HEIGHT_PX))
    size = (sum(len(one) + STRIP_GAP_PX for one in strips), max(one.shape[1] for one in strips), 3)
    sheet = np.full(size, BACKGROUND_RGB, np.uint8)
    top_px = 0
    for one in strips:
        sheet[top_px : top_px + len(one), : one.shape[1]] = one
        top_px += len(one) + STRIP_GAP_PX
    return sheet


def format_table(
    frame: ReceivedFrame,
    statistics: ReceptionStatistics,
    listener: DepthListener,
    shown: ShownPictures,
    results: Sequence[QuestionResult],
    pictures: Sequence[Path],
) -> str:
    """Returns the results of the demo as aligned lines."""
    assert frame.depth_m is not None
    height, width = frame.depth_m.shape
    p50_s, p99_s = np.percentile(statistics.latency_s, (50, 99))
    rows = [
        ("frames", f"{len(statistics.arrived_ns)} depth images of {width} x {height}, {listener.clouds} clouds"),
        ("rate", f"{statistics.rate_hz:.1f} per second"),
        (
            "latency",
            f"p50 {1e3 * p50_s:.0f} ms, p99 {1e3 * p99_s:.0f} ms, from the image's stamp to its depth received",
        ),
        ("error", format_error(statistics.errors)),
    ]
    if shown.lens_text:
        rows.append(("lens", shown.lens_text))
    rows += [("picture", describe_frame(name, received)) for name, received in sorted(shown.frames.items())]
    rows += [("picture", f"{name}: no depth, see the log of the node") for name in shown.missing]
    for result in results:
        rows.append(("question", result.question))
        rows.append(("answer", f"{result.text}   ({1e3 * result.seconds:.0f} ms)"))
    rows.append(("pictures", " ".join(str(path) for path in pictures)))
    return "\n".join(f"  {name:10}{text}" for name, text in rows)


def describe_frame(name: str, frame: ReceivedFrame) -> str:
    """Returns the size and the depths of a picture in words."""
    assert frame.depth_m is not None
    height, width = frame.depth_m.shape
    near_m, far_m = depth_range_m(frame.depth_m)
    middle_m = frame.depth_m[height // 2, width // 2]
    middle = f"{middle_m:.2f} m" if np.isfinite(middle_m) else "unknown"
    return f"{name}: {width} x {height}, depth {near_m:.1f} to {far_m:.1f} m, in the middle {middle}"


def format_error(errors: Sequence[DepthScores]) -> str:
    """Returns the mean error over the frames whose exact depth is known."""
    if not errors:
        return "unknown: these images come without exact depth"
    absrel, delta1 = np.mean([(e.absrel, e.delta1) for e in errors], axis=0)
    return f"AbsRel {absrel:.3f}, delta1 {delta1:.3f} against the exact depth of {len(errors)} frames"


def print_progress(text: str) -> None:
    """Prints a line without delay."""
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
