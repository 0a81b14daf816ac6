# SPDX-License-Identifier: Apache-2.0
"""The labels that a model gives one picture, as a record: its depth map, depths at points, answers to questions.

`FrameLabeller` makes them. The line is one of DepthVLM's schema (with a depth map) or of DepthLM's (points only), which
data/read.py reads, with these keys beside:
    depth_std_path, depth_std_scale   standard deviations of the depth map, stored as the map is
    teachers       [{"name", "licence"}]: the model, and the licence of its weights
    camera_from    where the camera comes from, in words
    answers        [{"question", "text", "value", ...}]: core.Answer, or "refused": why the model did not answer
    conversations  the understood answers as SpatialRGPT's turns, with "bbox": [], which `depthlm finetune` reads
Paths are relative to the output folder. The picture is referred to where it lies. A picture of a shard, and one that
was turned or rectified, is written to images/.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from depthlm_ros.core import Answer, DepthMap, Frame, PointDepths, Question, Status
from depthlm_ros.data.depthfile import encode_depth
from depthlm_ros.data.labelling import PictureRecord
from depthlm_ros.data.picture_source import CameraRule, LoadedPicture, Picture, PictureFrame
from depthlm_ros.data.records import BadRecord, DepthFile, Record, RecordProblem, first_text
from depthlm_ros.data.sample_points import WriteOptions, draw_pixels
from depthlm_ros.data.source_view import SourceView
from depthlm_ros.data.write import depthlm_line, depthvlm_line, intrinsics_to_list, relative_path
from depthlm_ros.errors import BadQuestion
from depthlm_ros.file_io import JsonObject, to_json_value

# Formats of depth maps.
PNG, NPY, NO_MAP = "png", "npy", "none"
MILLIMETRES, METRES = 1000.0, 1.0
# The most that 16 bits of millimetres hold.
MOST_PNG_M = 65.535


class FrameView(Protocol):
    """The part of view.View that labels are read from."""

    frame: Frame

    def depth(self, with_std: bool = True) -> DepthMap: ...

    def tell_depth_at(self, uv_px: np.ndarray) -> PointDepths: ...

    def ask_all(self, questions: Sequence[Question]) -> list[Answer]: ...


class FrameModel(Protocol):
    """The part of model.Model that labels need."""

    def look(self, frame: Frame) -> FrameView: ...


@dataclass(frozen=True)
class LabelOptions:
    """What is written for a picture.

    out: the output folder. depth: PNG, NPY or NO_MAP. dense: whether the model has depth maps; if not, it is asked
    about the points in words. std: also the standard deviations, if the model tells them. points: number of points.
    questions: asked about each picture. teacher: name of the model and licence of its weights.
    """

    out: Path
    depth: str
    dense: bool
    std: bool
    points: int
    seed: int
    questions: tuple[str, ...]
    teacher: tuple[str, str]


@dataclass(frozen=True, eq=False)
class DepthLabels:
    """Depth of one picture.

    uv_px, depth_m: labelled points, (N, 2) and (N,). file: the depth map. files: what is written: path in the output
    folder -> content. keys: further keys of the line.
    """

    uv_px: np.ndarray
    depth_m: np.ndarray
    file: DepthFile | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    keys: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[RecordProblem, ...] = ()


@dataclass(frozen=True)
class FrameLabeller:
    """Labels one picture. It is called in worker processes.

    load: returns the model, the same one at each call in a process. describe: returns an answer as JSON values.
    """

    load: Callable[[], FrameModel]
    describe: Callable[[Answer], JsonObject]
    camera: CameraRule
    options: LabelOptions

    @property
    def settings(self) -> dict[str, object]:
        """What the labels depend on besides the model, as JSON values."""
        fields = {**asdict(self.options), "camera": asdict(self.camera)}
        del fields["out"]
        return dict(json.loads(json.dumps(to_json_value(fields), default=str)))

    def __call__(self, picture: Picture) -> PictureRecord:
        """Returns the labels of a picture.

        Raises BadInput (BadRecord with "refused by the model" if that is so), OSError, BackendFailed, SetupError.
        """
        loaded = picture.load()
        seen = self.camera.frame(loaded)
        image, files = self._image(loaded, seen)
        view = self.load().look(seen.frame)
        try:
            is_map = self.options.dense
            depth = self._map_labels(picture.key, seen, view) if is_map else self._told_labels(picture.key, view)
        except BadQuestion as exc:
            raise BadRecord("refused by the model", str(exc)) from exc
        scene, camera = first_text(loaded.fields, "scene", "scene_id"), first_text(loaded.fields, "camera")
        record = Record(
            picture.name, image, seen.frame.intrinsics, depth.uv_px, depth.depth_m, depth=depth.file, scene=scene
        )
        record = replace(record, camera=camera, split=first_text(loaded.fields, "split"))
        name, licence = self.options.teacher
        line = {**_line(record, self.options.out), **depth.keys, "teachers": [{"name": name, "licence": licence}]}
        line |= {"camera_from": seen.camera_from, **self._answers(view)}
        return PictureRecord(line, {**files, **depth.files}, len(depth.uv_px), (*seen.notes, *depth.notes))

    def _image(self, loaded: LoadedPicture, seen: PictureFrame) -> tuple[Path, dict[str, bytes]]:
        """Returns the path of the picture that the labels fit, and the file to write if it does not exist."""
        picture = loaded.picture
        if isinstance(picture.file, Path) and not seen.changed:
            return picture.file, {}
        suffix, content = loaded.suffix, loaded.encoded
        if seen.changed:
            suffix = ".jpg"
            content = cv2.imencode(suffix, cv2.cvtColor(seen.frame.rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
        name = f"images/{picture.key}{suffix}"
        return self.options.out / name, {name: content}

    def _map_labels(self, key: str, seen: PictureFrame, view: FrameView) -> DepthLabels:
        """Returns the depth map and points of it. Raises BadRecord if no depth is known."""
        options = self.options
        has_map = options.depth != NO_MAP
        found = view.depth(with_std=options.std and has_map)
        map_m = np.where(np.isfinite(found.depth_m) & (found.depth_m > 0), found.depth_m, np.float32(np.nan))
        source = SourceView(key, seen.frame.rgb, seen.frame.intrinsics, map_m)
        uv_px = draw_pixels(source, WriteOptions(options.out, "depthvlm", options.points, options.seed))
        depth_m = map_m[uv_px[:, 1], uv_px[:, 0]].astype(np.float64)
        if not has_map:
            return DepthLabels(uv_px, depth_m)
        scale = MILLIMETRES if options.depth == PNG else METRES
        path, std_path = (f"{folder}/{key}.{options.depth}" for folder in ("depth", "depth_std"))
        file = DepthFile(options.out / path, scale, seen.frame.intrinsics.size_px)
        files, keys = {path: _encode_map(map_m, options.depth)}, dict[str, object]()
        if found.std_m is not None:
            files[std_path] = _encode_map(found.std_m, options.depth)
            keys = {"depth_std_path": std_path, "depth_std_scale": scale}
        beyond = int(np.sum(map_m > MOST_PNG_M)) if options.depth == PNG else 0
        message = f"{beyond} pixels are unknown in its PNG, which holds {MOST_PNG_M} m at most: --depth {NPY} holds all"
        notes = (RecordProblem(key, "depth beyond what PNG holds", message, beyond),) if beyond else ()
        return DepthLabels(uv_px, depth_m, file, files, keys, notes)

    def _told_labels(self, key: str, view: FrameView) -> DepthLabels:
        """Returns points at random pixels whose depth the model tells in words. Raises BadRecord if it tells none."""
        if not self.options.points:
            return DepthLabels(np.zeros((0, 2)), np.zeros(0))
        rng = np.random.default_rng([self.options.seed, zlib.crc32(key.encode())])
        told = view.tell_depth_at(rng.integers(0, view.frame.intrinsics.size_px, (self.options.points, 2)))
        known = np.isfinite(told.depth_m) & (told.depth_m > 0)
        if not known.any():
            raise BadRecord("no depth in the replies", f"none of {len(known)} replies tells a depth.")
        return DepthLabels(told.uv_px[known], told.depth_m[known].astype(np.float64))

    def _answers(self, view: FrameView) -> dict[str, object]:
        """Returns the answers to the questions, and the understood ones as turns."""
        if not self.options.questions:
            return {}
        listed = ask_each(view, self.options.questions, self.describe)
        turns: list[dict[str, str]] = []
        for question, (_, answer) in zip(self.options.questions, listed, strict=True):
            if answer and answer.status in (Status.OK, Status.NOT_FOUND):
                turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer.text}]
        return {"answers": [line for line, _ in listed], **({"bbox": [], "conversations": turns} if turns else {})}


def ask_each(
    view: FrameView, texts: Sequence[str], describe: Callable[[Answer], JsonObject]
) -> list[tuple[dict[str, object], Answer | None]]:
    """Returns a line of JSON values for each question, and its answer; where one is refused, None and why.

    If one of the questions is refused, the others are asked one by one.
    """
    questions = [Question(text) for text in texts]
    if not questions:
        return []
    try:
        answers: list[Answer | str] = [*view.ask_all(questions)]
    except BadQuestion:
        answers = [_ask(view, question) for question in questions]
    return [
        ({"question": text, "refused": answer}, None)
        if isinstance(answer, str)
        else ({"question": text, **describe(answer)}, answer)
        for text, answer in zip(texts, answers, strict=True)
    ]


def _ask(view: FrameView, question: Question) -> Answer | str:
    """Returns the answer, or why the question was refused."""
    try:
        return view.ask_all([question])[0]
    except BadQuestion as exc:
        return str(exc)


def _line(record: Record, out: Path) -> dict[str, object]:
    """Returns the fields of a record's line. Without depth they are the picture and its camera."""
    if record.depth is not None:
        return dict(json.loads(depthvlm_line(record, out)))
    if len(record.uv_px):
        return dict(json.loads(depthlm_line(record, out)))
    return {"image": relative_path(record.image, out), "intrinsics": intrinsics_to_list(record.intrinsics)}


def _encode_map(depth_m: np.ndarray, form: str) -> bytes:
    """Returns a map (H, W) as a file: a 16-bit PNG of millimetres, or a .npy file of float32 metres."""
    if form == PNG:
        return encode_depth(depth_m, MILLIMETRES)
    file = io.BytesIO()
    np.save(file, depth_m.astype(np.float32))
    return file.getvalue()
