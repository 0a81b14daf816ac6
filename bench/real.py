# SPDX-License-Identifier: Apache-2.0
"""Scores models on real images in one run: depth, questions, jitter, speed. Beside them a small peer and a constant.

    . ./env.sh && python bench/real.py [--model tiny] [--data FOLDER] [--only photographs,rooms] [--limit 5]

The data are not part of the project. In the folder (default: $DEPTHLM_DATA, else ../shared/data beside the repository):
    ibims1_dev/   photographs: labels.jsonl, questions.jsonl (eval/real_depth.py, eval/real_questions.py)
    real_frames/  frames of depth sensors: labels.jsonl (eval/real_depth.py)
    teachers/     fastdepth.onnx, the peer
A section whose data are missing is skipped, and says so. Scores are means over scenes; a photograph is a scene of its
own. "Scaled": each image is first multiplied by the ratio of medians. Writes a picture, accuracy against latency. Ends
with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path

import cv2
import numpy as np
from real_speed import PEER_NAME, QUESTIONS, FastDepth, Latency, measure_latency, measure_questions, size_mb

from depthlm_ros.data.records import Record, RecordProblem
from depthlm_ros.data.sensor_frames import DRIVING, ROOM, TABLETOP, SensorFrame
from depthlm_ros.errors import DepthLMError
from depthlm_ros.eval.gallery import CHART_PX, MARGIN_PX, draw_chart
from depthlm_ros.eval.judges import Predictor, model_predictor
from depthlm_ros.eval.real_depth import (
    SceneResults,
    SceneScores,
    UncertaintyScores,
    is_trained_on_elsewhere,
    predict_scenes,
    read_evaluation_frames,
    read_photographs,
    thin_scenes,
)
from depthlm_ros.eval.real_questions import PhotoQuestionScores, read_photo_questions, score_photo_questions
from depthlm_ros.eval.result_file import ResultStore
from depthlm_ros.file_io import JsonValue, to_json_value
from depthlm_ros.image_io import write_rgb
from depthlm_ros.model import Model, load_model
from depthlm_ros.progress import progress_callback
from depthlm_ros.visualization import GRID_RGB, INK_RGB, draw_text

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DATA = Path(os.environ.get("DEPTHLM_DATA", ROOT.parent / "shared" / "data"))
PHOTOGRAPHS, FRAMES, PEER = "ibims1_dev", "real_frames", "teachers/fastdepth.onnx"
CONSTANT_NAME = "best constant"
# Scenes whose frames follow each other closely.
SEQUENCES = ("7scenes_one/scene", "hololens_dvmvs/eth_office", "taeyoung_d435/lab")
ROOM_SETS: dict[str, tuple[str, Callable[[SensorFrame], bool]]] = {
    "given": ("rooms, intrinsics given", lambda frame: frame.intrinsics_given),
    "all": ("rooms, all", lambda frame: True),
    "given_unseen": (
        "rooms, given, no NYU or SUN",
        lambda frame: frame.intrinsics_given and not is_trained_on_elsewhere(frame),
    ),
    "all_unseen": ("rooms, all, no NYU or SUN", lambda frame: not is_trained_on_elsewhere(frame)),
}
MODEL_RGB, PEER_RGB = (110, 190, 250), (250, 170, 90)

Section = dict[str, object]


@dataclass(frozen=True)
class Contender:
    """Something that predicts depth. store: its results, so that no frame is predicted twice."""

    name: str
    predict: Predictor
    model: Model | None = None
    store: ResultStore = field(default_factory=ResultStore)


@dataclass(frozen=True)
class Bench:
    """What is compared, on which data. peer: file of FastDepth, None if it is missing."""

    contenders: tuple[Contender, ...]
    data: Path
    peer: Path | None
    against: Path | None
    limit: int | None
    rounds: int

    @property
    def models(self) -> dict[str, Model]:
        """The models by name."""
        return {one.name: one.model for one in self.contenders if one.model is not None}

    def frames(self, kind: str) -> list[SensorFrame]:
        """Returns the frames of one kind; with a limit so many of each scene, evenly spaced."""
        problems: list[RecordProblem] = []
        frames = read_evaluation_frames(self.data / FRAMES, (kind,), problems)
        for problem in problems:
            print(f"left out: {problem}")
        kept = {one.where for one in thin_scenes([one.record for one in frames], self.limit or len(frames))}
        return [frame for frame in frames if frame.record.where in kept]

    def predict(self, title: str, records: Sequence[Record]) -> dict[str, SceneResults]:
        """Returns the results of every contender."""
        found = {}
        for one in self.contenders:
            with progress_callback(f"{one.name}: {title}", "images") as show:
                found[one.name] = predict_scenes(one.predict, records, one.store, show)
        return found


def with_constant(results: Mapping[str, SceneResults]) -> dict[str, SceneResults]:
    """Returns the results of the contenders, and last those of the best constant on the same points."""
    return {**results, CONSTANT_NAME: next(iter(results.values())).best_constant()}


def score_photographs(bench: Bench) -> Section:
    """Scores depth and its uncertainty at the labelled pixels of photographs."""
    records = read_photographs(bench.data / PHOTOGRAPHS)[: bench.limit]
    results = with_constant(bench.predict("photographs", records))
    scores = {name: one.scores() for name, one in results.items()}
    uncertainty = {name: one.uncertainty() for name, one in results.items()}
    uncertainty = {name: one for name, one in uncertainty.items() if one.n}
    print(depth_table("photographs", scores))
    print(uncertainty_table(uncertainty))
    return {name: asdict(one) | {"uncertainty": uncertainty.get(name)} for name, one in scores.items()}


def score_rooms(bench: Bench) -> Section:
    """Scores depth on the rooms, in four choices of scenes."""
    frames, section = bench.frames(ROOM), Section()
    results = bench.predict("rooms", [frame.record for frame in frames])
    for key, (title, is_in) in ROOM_SETS.items():
        if chosen := [frame.record for frame in frames if is_in(frame)]:
            part = with_constant({name: one.of(chosen) for name, one in results.items()})
            section[key] = scores = {name: one.scores() for name, one in part.items()}
            print(depth_table(title, scores))
    return section


def score_kind(kind: str) -> Callable[[Bench], Section]:
    """Returns the section that scores depth on the frames of one kind."""

    def score(bench: Bench) -> Section:
        records = [frame.record for frame in bench.frames(kind)]
        scores = {name: one.scores() for name, one in with_constant(bench.predict(kind, records)).items()}
        print(depth_table(kind, scores))
        return dict(scores)

    return score


def score_sequences(bench: Bench) -> Section:
    """Measures the jitter of scale from frame to frame; with a limit on the first frames of each sequence."""
    frames, section = read_evaluation_frames(bench.data / FRAMES, (ROOM,)), Section()
    print(f"\n{'jitter of ln(scale) from frame to frame':44}  predicted  sensor  difference")
    for scene in SEQUENCES:
        records = [frame.record for frame in frames if frame.record.scene == scene][: bench.limit]
        jitters = {name: one.jitter() for name, one in (bench.predict(scene, records) if records else {}).items()}
        for name, one in jitters.items():
            print(f"  {scene:26} {name:15}  {one.predicted:8.3f}  {one.sensor:7.3f}  {one.difference:8.3f}")
        section[scene] = jitters
    return section


def score_questions(bench: Bench) -> Section:
    """Asks every model about things in the photographs, and texts without an answer."""
    questions, section = read_photo_questions(bench.data / PHOTOGRAPHS), Section()
    questions = questions[:: math.ceil(len(questions) / (bench.limit or len(questions)))]
    for name, model in bench.models.items():
        if "questions" not in model.family.abilities:
            print(f"\n{name} answers no questions")
            continue
        with progress_callback(f"{name}: questions", "questions") as show:
            section[name] = scores = score_photo_questions(model.look, questions, show)
        print(question_table(name, scores))
    return section


def score_speed(bench: Bench) -> Section:
    """Measures sizes, the latency on one and on two threads, and the cost of questions."""
    sizes = {name: size_mb(name) for name in bench.models}
    if bench.peer:
        sizes[PEER_NAME] = bench.peer.stat().st_size / 1e6
    latency = {
        threads: measure_latency(list(bench.models), bench.peer, bench.against, threads, bench.rounds)
        for threads in (1, 2)
    }
    print(f"\n{'640 x 480 picture to depth map, ms':34}  1 thread (quartiles)    2 threads (quartiles)     MB")
    for name in latency[1]:
        times = "   ".join(
            f"{one.median_ms:6.1f} ({one.lower_ms:5.1f} to {one.upper_ms:5.1f})"
            for one in (latency[1][name], latency[2][name])
        )
        print(f"  {name:32} {times}" + (f"  {sizes[name]:6.1f}" if name in sizes else "       -"))
    asked = {name: model for name, model in bench.models.items() if {"questions", "points"} <= model.family.abilities}
    questions = {name: measure_questions(model) for name, model in asked.items()}
    for name, one in questions.items():
        print(
            f"  {name}: a frame with {QUESTIONS} questions takes {one['pixels_ratio']:.1f} (about pixels) and "
            f"{one['things_ratio']:.1f} (about things) times as long as the frame"
        )
    return {"size_mb": sizes, "one_thread": latency[1], "two_threads": latency[2], "questions": questions}


# Section -> (what it needs in the folder of data, its function).
SECTIONS: dict[str, tuple[str, Callable[[Bench], Section]]] = {
    "photographs": (PHOTOGRAPHS, score_photographs),
    "rooms": (FRAMES, score_rooms),
    "tabletop": (FRAMES, score_kind(TABLETOP)),
    "driving": (FRAMES, score_kind(DRIVING)),
    "sequences": (FRAMES, score_sequences),
    "questions": (PHOTOGRAPHS, score_questions),
    "speed": ("", score_speed),
}


def depth_table(title: str, scores: Mapping[str, SceneScores]) -> str:
    """Returns aligned lines, one a contender. Bias and spread are of ln(median prediction / median truth)."""
    first = next(iter(scores.values()))
    head = f"{title} ({first.scenes} scenes, {first.images} images)"
    rows = [
        row(name, one.delta1, one.delta1_scaled, one.absrel, one.log_bias, one.log_spread, one.within_std)
        for name, one in scores.items()
    ]
    return "\n".join([f"\n{head:50}   delta1   scaled   AbsRel     bias   spread in 1 std", *rows])


def uncertainty_table(scores: Mapping[str, UncertaintyScores]) -> str:
    """Returns aligned lines. "const": the likelihood with the best constant share of the depth as the deviation."""
    rows = [
        row(
            name,
            *(one.within_std, one.rank_correlation),
            *(one.gaussian_nll, one.gaussian_nll_constant, one.laplace_nll, one.laplace_nll_constant),
        )
        for name, one in scores.items()
    ]
    head = "reported deviations, -ln likelihood in nats"
    return "\n".join([f"{head:50} in 1 std Spearman    Gauss    const  Laplace    const", *rows])


def row(name: str, *numbers: float) -> str:
    """Returns an aligned line. A number that is not known is a dash."""
    return f"  {name:48}" + "".join(f" {number:8.3f}" if number == number else f" {'-':>8}" for number in numbers)


def question_table(name: str, scores: PhotoQuestionScores) -> str:
    """Returns the scores of questions in lines."""
    return (
        f"\n{name}: {scores.present} questions about things that are there, {scores.absent} about others\n"
        f"  found {scores.found:.3f}, distance right {scores.distance_right:.3f} (by its own measurement "
        f"{scores.measured_right:.3f}), points at the thing {scores.pointed:.3f}\n"
        f"  absent said absent {scores.absent_right:.3f}; words and map contradict in {scores.contradictions:.3f} of "
        f"{scores.compared} answers, {scores.inconsistent:.3f} say so; within one deviation {scores.within_std:.3f}\n"
        f"  confidence {scores.mean_confidence:.3f}, calibration error {scores.calibration_error:.3f}; nonsense "
        f"refused {scores.nonsense_refused:.3f}, that of the training {scores.trained_nonsense_refused:.3f}"
    )


def draw_trade_off(accuracy: Mapping[str, float], latency: Mapping[str, Latency], constant: float) -> np.ndarray:
    """Returns a chart: delta1 on the photographs against the latency on one thread; a line for the best constant."""
    names = [name for name in accuracy if name in latency]
    upper = 1.4 * max(latency[name].median_ms for name in names), 1.0
    chart = draw_chart("delta1 on photographs against ms a picture, one thread", (), (), upper)
    bottom_px = MARGIN_PX + CHART_PX

    def at(milliseconds: float, delta1: float) -> tuple[int, int]:
        return MARGIN_PX + round(CHART_PX * milliseconds / upper[0]), bottom_px - round(CHART_PX * delta1)

    cv2.line(chart, at(0, constant), at(upper[0], constant), INK_RGB, 1, cv2.LINE_AA)
    draw_text(chart, CONSTANT_NAME, (MARGIN_PX + 4, at(0, constant)[1] - 4), 0.4)
    for name in names:
        u_px, v_px = at(latency[name].median_ms, accuracy[name])
        colour = PEER_RGB if name == PEER_NAME else MODEL_RGB
        cv2.circle(chart, (u_px, v_px), 6, colour, -1, cv2.LINE_AA)
        cv2.circle(chart, (u_px, v_px), 6, GRID_RGB, 1, cv2.LINE_AA)
        draw_text(chart, f"{Path(name).name} {accuracy[name]:.2f}", (u_px + 9, v_px + 4), 0.4)
    return chart


def write_trade_off(photographs: Section, speed: Section, path: Path) -> None:
    """Writes the chart of accuracy against latency, if both were measured."""
    accuracy = {name: one["delta1"] for name, one in photographs.items() if isinstance(one, dict)}
    latency = speed.get("one_thread")
    if not accuracy or not isinstance(latency, dict):
        print(f"\n{path} is not drawn: it needs the sections photographs and speed")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rgb(path, draw_trade_off(accuracy, latency, accuracy[CONSTANT_NAME]))
    print(f"\naccuracy against latency: {path}")


def rounded(value: object) -> JsonValue:
    """Returns JSON values: dataclasses become objects, numbers have four digits behind the point, NaN is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return rounded(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): rounded(inner) for key, inner in value.items()}
    plain = to_json_value(value)
    return round(plain, 4) if isinstance(plain, float) else plain


def run(bench: Bench, only: Sequence[str], picture: Path) -> dict[str, JsonValue]:
    """Runs the sections and returns their results as JSON values."""
    found: dict[str, Section] = {}
    skipped: dict[str, str] = {} if bench.peer else {PEER_NAME: f"{bench.data / PEER} does not exist"}
    for name in only:
        needed, score = SECTIONS[name]
        if (bench.data / needed).exists() or not needed:
            found[name] = score(bench)
        else:
            skipped[name] = f"{bench.data / needed} does not exist: give the folder of the data with --data"
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    write_trade_off(found.get("photographs", {}), found.get("speed", {}), picture)
    print("rendered scenes are scored by: python bench/rendered.py")
    return {name: rounded(section) for name, section in found.items()} | {"skipped": rounded(skipped)}


def parse_sections(text: str) -> list[str]:
    """Returns the sections named in "a,b", in the order of SECTIONS."""
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"section {unknown[0]!r} does not exist: choose from {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in names]


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="name, NAME=FOLDER or folder; repeatable (default: tiny)")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the data (default: %(default)s)")
    parser.add_argument("--only", type=parse_sections, default=list(SECTIONS), help=",".join(SECTIONS))
    parser.add_argument("--limit", type=int, help="photographs, questions, and frames of each scene")
    parser.add_argument("--rounds", type=int, default=60, help="timed looks of each model (default: %(default)s)")
    parser.add_argument("--against", type=Path, help="root of another checkout, whose tiny is timed in turns, too")
    parser.add_argument("--picture", type=Path, default=ROOT / "out" / "real.png", help="default: %(default)s")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit is {args.limit}: it must be at least 1")
    return args


def main() -> int:
    """Runs the benchmark and returns the exit code: 0 if everything that has data could be measured."""
    args = parse_arguments()
    names = args.model or ["tiny"]
    peer = args.data / PEER if (args.data / PEER).is_file() else None
    try:
        models = [(name, load_model(name)) for name in names]
        contenders = [Contender(name, model_predictor(model), model) for name, model in models]
        contenders += [Contender(PEER_NAME, FastDepth(peer).predict)] if peer else []
        bench = Bench(tuple(contenders), args.data, peer, args.against, args.limit, args.rounds)
        found = run(bench, args.only, args.picture)
    except DepthLMError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    machine = {"models": names, "cpus": len(os.sched_getaffinity(0)), "machine": platform.machine()}
    print(json.dumps(machine | found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
