# SPDX-License-Identifier: Apache-2.0
"""Writes rendered scenes to disk: labelled images that need no download.

`write_scenes` fills a folder in the layout of data/sets/folder.py: OUT/SCENE/rgb/N.png, depth/N.png (millimetres along
the optical axis; 0 for the sky and beyond 65.5 m), pose/N.txt (camera to world), intrinsics.txt, conversations.jsonl,
and questions.jsonl, which is written last: a scene that has it is complete. OUT/questions.jsonl holds the questions of
all scenes that have a scored answer, as eval/language.py reads them; OUT/conversations.jsonl holds the questions about
objects with replies in words, as data/read.py reads them. The two views of a scene show the same objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.data.sets.folder import MILLIMETRES
from depthlm_ros.data.worker_pool import map_in_order
from depthlm_ros.data.write import intrinsics_to_list
from depthlm_ros.errors import BadInput
from depthlm_ros.file_io import parse_json, replacing, write_atomically
from depthlm_ros.image_io import write_rgb
from depthlm_ros.progress import progress_bar
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.questions.generate import SceneQuestion, sample_questions
from depthlm_ros.scenes.questions.view_pairs import sample_poses
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.primitives import Pose, Scene
from depthlm_ros.scenes.world.sample import sample_scene

# Training draws from [seed, step], and validation from another stream. The scenes written here are in neither.
STREAM = 2**41
VIEWS, FILES = 2, {"rgb": ".png", "depth": ".png", "pose": ".txt"}
QUESTIONS, CONVERSATIONS = TEXT_FILES = ("questions.jsonl", "conversations.jsonl")
LEAST_PX, MOST_PX = 32, 4096
# Limits of the focal length over the longer side: fields of view of 127 to 6 degrees. Beyond them, two views hardly
# show the same objects.
FOCAL_LIMITS = (0.25, 10)
# Kinds of questions about lengths and their categories in the scores; width and height are categories of
# SpatialRGPT-Bench. Questions whose reply names an object or a place have no scored answer and are left out.
LENGTH_CATEGORIES = {
    "distance": "range",
    "point": "point",
    "points_apart": "points apart",
    "wide": "width",
    "tall": "height",
}


@dataclass(frozen=True)
class RenderingOptions:
    """How many scenes to render, and through which camera.

    questions: number of questions about each view. Raises BadInput for values out of range.
    """

    scenes: int
    width_px: int = 640
    height_px: int = 480
    focal_px: float = 525.0
    questions: int = 4
    seed: int = 42

    def __post_init__(self) -> None:
        longer_px = max(self.width_px, self.height_px)
        limits = (
            ("--scenes", self.scenes, 1, 999_999),
            ("the width of --size", self.width_px, LEAST_PX, MOST_PX),
            ("the height of --size", self.height_px, LEAST_PX, MOST_PX),
            ("--focal", self.focal_px, FOCAL_LIMITS[0] * longer_px, FOCAL_LIMITS[1] * longer_px),
            ("--questions", self.questions, 0, 1000),
            ("--seed", self.seed, 0, 2**32),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:
                raise BadInput(f"{name} is {value}; it must be from {least:.12g} to {most:.12g}.")

    @property
    def camera(self) -> Intrinsics:
        """The camera: principal point in the middle, no distortion."""
        centre_px = (self.width_px - 1) / 2, (self.height_px - 1) / 2
        return Intrinsics(self.focal_px, self.focal_px, *centre_px, self.width_px, self.height_px)


def write_scenes(options: RenderingOptions, out: Path, workers: int) -> tuple[int, int]:
    """Writes the scenes that the folder does not contain yet.

    Returns the numbers of scenes and questions in the folder, earlier ones included. After an interruption the same
    call continues the work; a scene that lacks a file is written again. Raises BadInput if the folder contains
    anything else, or scenes of another camera or seed, or if the folder cannot be written.
    """
    try:
        _check_folder(options, out)
        existing = {path.parent.name for path in out.glob(f"{'[0-9]' * 6}/{QUESTIONS}")}
        names = sorted(existing | {f"{index:06d}" for index in range(options.scenes)})
        todo = [name for name in names if not _is_complete(out / name)]
        with progress_bar(out.name, len(names), len(names) - len(todo), unit="scenes") as bar:
            for outcome in map_in_order(partial(write_scene, options, out), todo, min(workers, len(todo))):
                if outcome.result is None:
                    raise BadInput(
                        f"scene {outcome.item} killed its worker process twice, perhaps for lack of memory: "
                        f"use fewer than --workers {workers}."
                    )
                bar.update()
        for kind in TEXT_FILES:
            write_atomically(out / kind, "".join((out / name / kind).read_text(encoding="utf-8") for name in names))
        questions = (out / QUESTIONS).read_text(encoding="utf-8").count("\n")
    except OSError as exc:
        raise BadInput(f"{out}: {exc}. Fix this, then run the same command again to continue.") from exc
    return len(names), questions


def write_scene(options: RenderingOptions, out: Path, name: str) -> str:
    """Writes both views of one scene and returns its name; runs in a worker process.

    The result depends only on the options and the number in the name.
    """
    rng = np.random.default_rng([STREAM, options.seed, int(name)])
    camera, folder = options.camera, out / name
    scene, poses = _sample_two_views(rng, camera)
    write_atomically(folder / "intrinsics.txt", _format_matrix(camera.matrix), sync=False)
    questions, conversations = "", ""
    for view, pose in enumerate(poses):
        rendered = render(scene, pose, camera)
        with replacing(folder / "depth" / f"{view}.png", sync=False) as partial_path:
            write_depth(partial_path, rendered.depth_m, MILLIMETRES)
        write_atomically(folder / "pose" / f"{view}.txt", _format_matrix(_pose_matrix(pose)), sync=False)
        with replacing(folder / "rgb" / f"{view}.png", sync=False) as partial_path:
            write_rgb(partial_path, photograph(rng, rendered))
        drawn = sample_questions(rng, scene, rendered, camera, options.questions)
        asked = list({(question.question, question.uv_px): question for question in drawn}.values())
        about = {"image": f"{name}/rgb/{view}.png", "intrinsics": intrinsics_to_list(camera)}
        questions += "".join(json.dumps(about | scored) + "\n" for scored in _scored_questions(asked))
        if turns := list(_conversation_turns(asked)):
            conversations += json.dumps(about | {"bbox": [], "conversations": turns}) + "\n"
    write_atomically(folder / CONVERSATIONS, conversations)
    write_atomically(folder / QUESTIONS, questions)
    return name


def _is_complete(scene: Path) -> bool:
    """Returns whether the folder of a scene contains all its files."""
    views = (f"{kind}/{view}{suffix}" for kind, suffix in FILES.items() for view in range(VIEWS))
    return all((scene / name).exists() for name in ("intrinsics.txt", *views, *TEXT_FILES))


def _sample_two_views(rng: np.random.Generator, camera: Intrinsics) -> tuple[Scene, tuple[Pose, Pose]]:
    """Draws a scene with two poses; a scene too full for two cameras is replaced by the next one."""
    while True:
        scene = sample_scene(rng)
        try:
            return scene, sample_poses(rng, scene, camera)
        except RuntimeError:
            continue


def _check_folder(options: RenderingOptions, out: Path) -> None:
    """Raises BadInput if the folder contains anything but scenes with the same options; claims an empty folder."""
    expected = {key: value for key, value in asdict(options).items() if key != "scenes"}
    path = out / "rendering.json"
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise BadInput(f"{out} contains something else (it has no {path.name}): choose a new folder.")
        write_atomically(path, json.dumps(expected, indent=1) + "\n")
        return
    try:
        found = dict(parse_json(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as exc:
        raise BadInput(f"{path} is damaged, so the options of its scenes are unknown: choose a new folder.") from exc
    other = [f"{key} {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value]
    if other:
        raise BadInput(f"{out} contains scenes with {', '.join(other)}: choose another folder.")


def _scored_questions(questions: Sequence[SceneQuestion]) -> Iterator[dict[str, object]]:
    """Yields the questions that have a scored answer, as lines of questions.jsonl."""
    for question in questions:
        answer: dict[str, object]
        if question.status == "not_found":
            answer = {"category": "absent", "answer": None}
        elif question.kind == "presence":
            answer = {"category": "presence", "answer": True}
        elif question.kind in LENGTH_CATEGORIES:
            answer = {"category": LENGTH_CATEGORIES[question.kind], "answer": round(question.value, 4), "unit": "m"}
        else:
            continue
        marked = {"pixel_coords": [list(uv) for uv in question.uv_px]} if question.uv_px else {}
        yield {"question": question.question, **answer, **marked}


def _conversation_turns(questions: Sequence[SceneQuestion]) -> Iterator[dict[str, str]]:
    """Yields questions about objects and their replies in turn; boxes are from 0 to 1000."""
    for question in questions:
        if question.kind != "out_of_scope" and not question.uv_px:
            yield {"from": "human", "value": question.question}
            yield {"from": "gpt", "value": question.reply}


def _pose_matrix(pose: Pose) -> np.ndarray:
    """Returns the pose as float64 (4, 4), camera to world."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = pose.R, pose.t
    return matrix


def _format_matrix(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(f"{value:.9g}" for value in row) for row in matrix) + "\n"
