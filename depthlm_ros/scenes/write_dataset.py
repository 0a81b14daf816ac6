"""Rendered scenes on disk, laid out as a folder of one's own (sets/folder.py): labelled images without a download.

OUT/SCENE/rgb/N.png, depth/N.png (millimetres along the optical axis; 0: sky, or beyond 65.5 m), pose/N.txt (camera to
world), intrinsics.txt, conversations.jsonl and questions.jsonl, which is written last: a scene that has it is done.
OUT/questions.jsonl holds the questions about all scenes whose answers can be scored, as eval/objects.py reads them,
OUT/conversations.jsonl those about objects with the replies in words, as finetune/objects.py reads them. The two views
of a scene see the same things.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.curate import Progress, in_order
from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.data.sets.folder import MILLIMETRES
from depthlm_ros.data.write import appearing, camera_numbers, write_text
from depthlm_ros.errors import BadInput
from depthlm_ros.image_io import write_rgb
from depthlm_ros.scenes.camera.photo import photograph
from depthlm_ros.scenes.questions.generate import Question, ask_about
from depthlm_ros.scenes.questions.view_pairs import sample_poses
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.primitives import Pose, Scene
from depthlm_ros.scenes.world.sample import sample_scene

# A training draws from [seed, step] and its validation from another stream: what is written here is in neither.
STREAM = 2**41
VIEWS, FILES = 2, {"rgb": ".png", "depth": ".png", "pose": ".txt"}
QUESTIONS, CONVERSATIONS = KINDS = ("questions.jsonl", "conversations.jsonl")
LEAST_PX, MOST_PX = 32, 4096
# Focal lengths over the longer side: fields of view of 127 to 6 degrees. Beyond, two views hardly share a thing.
FOCALS = (0.25, 10)
# What a question is called in the scores; width and height are SpatialRGPT-Bench's own categories. Questions whose
# replies name a thing or a place have no scored answer there, and are left out.
LENGTHS = {"distance": "range", "point": "point", "points_apart": "points apart", "wide": "width", "tall": "height"}


@dataclass(frozen=True)
class Rendering:
    """How many scenes, through which camera. questions: asked of each view. Raises BadInput for numbers that make no
    sense."""

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
            ("--focal", self.focal_px, FOCALS[0] * longer_px, FOCALS[1] * longer_px),
            ("--questions", self.questions, 0, 1000),
            ("--seed", self.seed, 0, 2**32),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:
                raise BadInput(f"{name} is {value}: from {least:.12g} to {most:.12g}.")

    @property
    def camera(self) -> Intrinsics:
        """Principal point in the middle, no distortion."""
        centre_px = (self.width_px - 1) / 2, (self.height_px - 1) / 2
        return Intrinsics(self.focal_px, self.focal_px, *centre_px, self.width_px, self.height_px)


def write_scenes(rendering: Rendering, out: Path, workers: int) -> tuple[int, int]:
    """Write what is not there yet; how many scenes and questions there are then, earlier ones included.

    The same call again goes on where it was killed, and writes scenes anew that lack a file. Raises BadInput if the
    folder holds anything else, or scenes of another camera or seed, or if the disk is full.
    """
    try:
        _claim(rendering, out)
        there = {path.parent.name for path in out.glob(f"{'[0-9]' * 6}/{QUESTIONS}")}
        names = sorted(there | {f"{index:06d}" for index in range(rendering.scenes)})
        todo = [name for name in names if not _is_whole(out / name)]
        progress = Progress(out.name, len(names), len(names) - len(todo), unit="scenes")
        for done, outcome in enumerate(in_order(partial(write_scene, rendering, out), todo, min(workers, len(todo)))):
            if outcome.result is None:
                raise BadInput(
                    f"scene {outcome.item} killed its worker twice: is there memory for --workers {workers}?"
                )
            progress.step(len(names) - len(todo) + done + 1)
        for kind in KINDS:
            write_text(out / kind, "".join((out / name / kind).read_text(encoding="utf-8") for name in names))
        questions = (out / QUESTIONS).read_text(encoding="utf-8").count("\n")
    except OSError as exc:
        raise BadInput(f"{out}: {exc}. With that mended, the same command goes on from there.") from exc
    return len(names), questions


def _is_whole(scene: Path) -> bool:
    views = (f"{kind}/{view}{suffix}" for kind, suffix in FILES.items() for view in range(VIEWS))
    return all((scene / name).exists() for name in ("intrinsics.txt", *views, *KINDS))


def write_scene(rendering: Rendering, out: Path, name: str) -> str:
    """Both views of one scene, from the seed and the scene's number alone; returns the name. In a worker process."""
    rng = np.random.default_rng([STREAM, rendering.seed, int(name)])
    camera, folder = rendering.camera, out / name
    scene, poses = _two_views(rng, camera)
    write_text(folder / "intrinsics.txt", _numbers(camera.matrix))
    questions, conversations = "", ""
    for view, pose in enumerate(poses):
        rendered = render(scene, pose, camera)
        with appearing(folder / "depth" / f"{view}.png") as partial_path:
            write_depth(partial_path, rendered.depth_m, MILLIMETRES)
        write_text(folder / "pose" / f"{view}.txt", _numbers(_matrix(pose)))
        with appearing(folder / "rgb" / f"{view}.png") as partial_path:
            write_rgb(partial_path, photograph(rng, rendered))
        drawn = ask_about(rng, scene, rendered, camera, rendering.questions)
        asked = list({(question.question, question.uv_px): question for question in drawn}.values())
        about = {"image": f"{name}/rgb/{view}.png", "intrinsics": camera_numbers(camera)}
        questions += "".join(json.dumps(about | scored) + "\n" for scored in _scored(asked))
        if turns := list(_turns(asked)):
            conversations += json.dumps(about | {"bbox": [], "conversations": turns}) + "\n"
    write_text(folder / CONVERSATIONS, conversations)
    write_text(folder / QUESTIONS, questions)
    return name


def _two_views(rng: np.random.Generator, camera: Intrinsics) -> tuple[Scene, tuple[Pose, Pose]]:
    """A room too full for two cameras is passed over for the next one."""
    while True:
        scene = sample_scene(rng)
        try:
            return scene, sample_poses(rng, scene, camera)
        except RuntimeError:
            continue


def _claim(rendering: Rendering, out: Path) -> None:
    """More scenes of the same kind may be added to a folder; others may not. Raises BadInput."""
    wanted = {key: value for key, value in asdict(rendering).items() if key != "scenes"}
    path = out / "rendering.json"
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise BadInput(f"{out} holds something else (it has no {path.name}): name a new folder.")
        write_text(path, json.dumps(wanted, indent=1) + "\n")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as exc:
        raise BadInput(
            f"{path} is damaged, so that it is unknown what the scenes there are: name a new folder."
        ) from exc
    other = [f"{key} {found.get(key)}, not {value}" for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise BadInput(f"{out} holds scenes with {', '.join(other)}: name another folder.")


def _scored(asked: Sequence[Question]) -> Iterator[dict[str, object]]:
    """The questions that have a scored answer."""
    for question in asked:
        answer: dict[str, object]
        if question.status == "not_found":
            answer = {"category": "absent", "answer": None}
        elif question.kind == "presence":
            answer = {"category": "presence", "answer": True}
        elif question.kind in LENGTHS:
            answer = {"category": LENGTHS[question.kind], "answer": round(question.value, 4), "unit": "m"}
        else:
            continue
        marked = {"pixel_coords": [list(uv) for uv in question.uv_px]} if question.uv_px else {}
        yield {"question": question.question, **answer, **marked}


def _turns(asked: Sequence[Question]) -> Iterator[dict[str, str]]:
    """Questions about objects and their replies in turn, boxes from 0 to 1000."""
    for question in asked:
        if question.kind != "out_of_scope" and not question.uv_px:
            yield {"from": "human", "value": question.question}
            yield {"from": "gpt", "value": question.reply}


def _matrix(pose: Pose) -> np.ndarray:
    """float64 (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = pose.R, pose.t
    return matrix


def _numbers(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(f"{value:.9g}" for value in row) for row in matrix) + "\n"
