# SPDX-License-Identifier: Apache-2.0
"""Questions about photographs with true replies, from the boxes of a detector, the classes of a segmenter and the
teachers' depth: where is, is there, how far, which is closer, how many, how far is this point, what is this.

Only what the labels say surely is asked: a name is absent if nothing in the labels resembles it, a count needs sure
boxes, and a thing needs known depth in the middle of its box.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.photo_labels import SEGMENT_CLASSES
from depthlm_ros.families.tiny import Tiny
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes.questions import wording
from depthlm_ros.scenes.questions.wording import article
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.training.embedded.names import (
    DETECTED_NAMES,
    NAME_OF_SEGMENT,
    NAMES,
    name_of_class,
    plural,
    similar_names,
)
from depthlm_ros.training.embedded.pictures import DEPTH_STRIDE_PX, TOKEN_PX, PhotoPicture
from depthlm_ros.training.embedded.prompts import make_turn, point_turn, tokens_in_box, vary_typing
from depthlm_ros.training.embedded.recipe import PictureSettings
from depthlm_ros.training.packing import ChatTurn

# Scores from which on a box is asked about, and from which on boxes are counted.
LEAST_SCORE, SURE_SCORE = 0.5, 0.7
# Segments that are things, from this share of the picture on, and how much of its box a segment must fill.
LEAST_SEGMENT_AREA, LEAST_SEGMENT_FILL = 0.015, 0.5
# Names whose segments are right in most photographs; those of the other names only say that something may be there.
TRUSTED_SEGMENTS = frozenset(
    {"bed", "window", "cabinet", "door", "curtain", "picture", "sofa", "mirror", "rug", "shelf"}
)
# Share of a box's sides that its distance is measured in, and how much of that must be known.
INNER_SHARE, LEAST_KNOWN = 0.5, 0.3
ABSENT_SHARE, POINT_SHARE, COUNT_SHARE, CLOSER_SHARE, NAMING_SHARE = 0.34, 0.08, 0.06, 0.08, 0.12
# Other words that people use, and the word of the reply.
SYNONYMS = {
    "sofa": ("couch",),
    "fridge": ("refrigerator",),
    "television": ("tv",),
    "picture": ("painting",),
    "rug": ("carpet",),
    "plant": ("potted plant",),
    "table": ("dining table",),
}
COUNT_QUESTIONS = ("How many {many} are there?", "How many {many} do you see?", "Count the {many}.")


@dataclass(frozen=True)
class Thing:
    """A thing in a photograph. box_px: left, top, right, bottom. alike: how many things have its name."""

    name: str
    box_px: tuple[float, float, float, float]
    range_m: float
    alike: int

    @property
    def area_px(self) -> float:
        left, top, right, bottom = self.box_px
        return (right - left) * (bottom - top)


def turns_about_photo(
    rng: np.random.Generator, settings: PictureSettings, family: Tiny, picture: PhotoPicture, camera: Intrinsics
) -> list[ChatTurn]:
    """Returns settings.points questions about depths and settings.questions about things."""
    writer = _Writer(rng, family, picture, camera)
    turns = [writer.depth_of_point() for _ in range(settings.points)]
    turns += [writer.question() for _ in range(settings.questions)]
    return [turn for turn in turns if turn is not None]


def find_things(picture: PhotoPicture, camera: Intrinsics) -> list[Thing]:
    """Returns the things that can be asked about, by name: of several with one name the largest one."""
    candidates = [
        (name_of_class(box.name), (box.x0, box.y0, box.x1, box.y1))
        for box in picture.boxes
        if box.score >= LEAST_SCORE and name_of_class(box.name) in NAMES
    ]
    detected = {name for name, _ in candidates}
    candidates += [
        (name, box) for name, box in find_segments(picture) if not similar_names(name) & detected and name in NAMES
    ]
    counts = Counter(name for name, _ in candidates)
    ranges_m = picture.depth_m * ray_lengths(camera)
    things = []
    for name, box in candidates:
        range_m = measure_range(ranges_m, box)
        if math.isfinite(range_m):
            things.append(Thing(name, box, range_m, counts[name]))
    largest: dict[str, Thing] = {}
    for thing in sorted(things, key=lambda one: one.area_px):
        largest[thing.name] = thing
    return [largest[name] for name in sorted(largest)]


def find_segments(picture: PhotoPicture) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Returns name and box (pixels) of the connected segments that are large and fill their box."""
    if picture.segments is None:
        return []
    found = []
    for code, segment in enumerate(SEGMENT_CLASSES):
        name = NAME_OF_SEGMENT.get(segment, "")
        if name not in TRUSTED_SEGMENTS:
            continue
        count, _, stats, _ = cv2.connectedComponentsWithStats((picture.segments == code).astype(np.uint8))
        for x, y, w, h, area in stats[1:count]:
            if area >= LEAST_SEGMENT_AREA * picture.segments.size and area >= LEAST_SEGMENT_FILL * w * h:
                left, top, right, bottom = (DEPTH_STRIDE_PX * float(edge) for edge in (x, y, x + w, y + h))
                found.append((name, (left, top, right, bottom)))
    return found


def ray_lengths(camera: Intrinsics) -> np.ndarray:
    """Returns float32 (H/4, W/4): range over z at the cells of a picture's depth."""
    width, height, step = camera.width_px, camera.height_px, DEPTH_STRIDE_PX
    x = ((np.arange(width // step) + 0.5) * step - 0.5 - camera.cx_px) / camera.fx_px
    y = ((np.arange(height // step) + 0.5) * step - 0.5 - camera.cy_px) / camera.fy_px
    return np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2).astype(np.float32)


def measure_range(ranges_m: np.ndarray, box_px: tuple[float, float, float, float]) -> float:
    """Returns the median range in the inner half of a box, NaN if too little of it is known."""
    left, top, right, bottom = (edge / DEPTH_STRIDE_PX for edge in box_px)
    margin = (1 - INNER_SHARE) / 2
    x0, x1 = math.floor(left + margin * (right - left)), math.ceil(right - margin * (right - left))
    y0, y1 = math.floor(top + margin * (bottom - top)), math.ceil(bottom - margin * (bottom - top))
    inner = ranges_m[max(y0, 0) : max(y1, y0 + 1), max(x0, 0) : max(x1, x0 + 1)]
    known = inner[np.isfinite(inner)]
    return float(np.median(known)) if len(known) >= max(LEAST_KNOWN * inner.size, 1) else math.nan


def absent_names(picture: PhotoPicture) -> list[str]:
    """Returns the names that nothing in the labels resembles. Only names that the detector knows can be absent."""
    if not picture.labels.has_boxes:
        return []
    seen = {name_of_class(box.name) for box in picture.labels.boxes} | set(map(name_of_class, picture.labels.maybe))
    if picture.labels.segments is not None:
        codes = np.unique(picture.labels.segments)
        seen |= {NAME_OF_SEGMENT.get(SEGMENT_CLASSES[code], "") for code in codes if code < len(SEGMENT_CLASSES)}
    return [name for name in NAMES if name in DETECTED_NAMES and not similar_names(name) & seen]


@dataclass
class _Writer:
    """Writes turns about one photograph."""

    rng: np.random.Generator
    family: Tiny
    picture: PhotoPicture
    camera: Intrinsics

    def __post_init__(self) -> None:
        self.dice = Dice(self.rng)
        height, width = self.picture.image.shape[:2]
        self.size_px = (width, height)
        self.things = find_things(self.picture, self.camera)
        self.absent = absent_names(self.picture)

    def question(self) -> ChatTurn | None:
        """Returns a question of a random kind; one about a thing that is absent where there is nothing to ask about."""
        draw = self.dice.unit()
        kinds: tuple[tuple[float, Callable[[], ChatTurn | None]], ...] = (
            (ABSENT_SHARE, self._absent),
            (POINT_SHARE, self._point),
            (COUNT_SHARE, self._count),
            (CLOSER_SHARE, self._closer),
            (NAMING_SHARE, self._naming),
        )
        for share, write in kinds:
            if draw < share:
                return write() or self._absent()
            draw -= share
        return self._about_thing() or self._absent()

    def depth_of_point(self) -> ChatTurn | None:
        """Returns a question for the depth of a pixel."""
        if (place := self._known_cell()) is None:
            return None
        u, v, z = place
        return point_turn(u, v, z, self.family, self.size_px, TOKEN_PX)

    def _known_cell(self) -> tuple[int, int, float] | None:
        rows, columns = np.nonzero(np.isfinite(self.picture.depth_m))
        if not len(rows):
            return None
        chosen = self.dice.integer(0, len(rows) - 1)
        row, column = int(rows[chosen]), int(columns[chosen])
        step, z = DEPTH_STRIDE_PX, float(self.picture.depth_m[row, column])
        return column * step + step // 2, row * step + step // 2, z

    def _asked(self, text: str, reply: str, thing: Thing | None, uv: tuple[int, int] | None = None) -> ChatTurn:
        uv_px = np.asarray([uv] if uv is not None else [], float).reshape(-1, 2)
        prompt = self.family.question_prompt(vary_typing(self.rng, text), uv_px, (), self.size_px)
        attention = None
        if thing is not None:
            inside = tokens_in_box(thing.box_px, self.size_px, TOKEN_PX)
            attention = (inside, inside)
        return make_turn(prompt, reply, attention)

    def _box(self, thing: Thing) -> str:
        return self.family.box_text(thing.box_px, *self.size_px)

    def _asked_name(self, name: str) -> str:
        return self.dice.pick((name, name, name, *SYNONYMS.get(name, ())))

    def _about_thing(self) -> ChatTurn | None:
        if not self.things:
            return None
        thing, kind = self.dice.pick(tuple(self.things)), self.dice.pick(("distance", "distance", "where", "presence"))
        name = self._asked_name(thing.name)
        questions = {
            "distance": wording.DISTANCE_QUESTIONS,
            "where": wording.WHERE_QUESTIONS,
            "presence": wording.PRESENCE_QUESTIONS,
        }
        text = self.dice.pick(questions[kind]).format(a=name, an=article(name))
        template = wording.PRESENCE_REPLY if kind == "presence" else wording.DISTANCE_REPLY
        return self._asked(text, template.format(a=thing.name, box=self._box(thing), x=thing.range_m), thing)

    def _absent(self) -> ChatTurn | None:
        if not self.absent:
            return None
        name = self.dice.pick(tuple(self.absent))
        kinds = (wording.DISTANCE_QUESTIONS, wording.WHERE_QUESTIONS, *(wording.PRESENCE_QUESTIONS,) * 2)
        asked = self._asked_name(name)
        text = self.dice.pick(self.dice.pick(kinds)).format(a=asked, an=article(asked))
        return self._asked(text, wording.ABSENT_REPLY.format(a=name), None)

    def _closer(self) -> ChatTurn | None:
        if len(self.things) < 2:
            return None
        one, two = (self.things[index] for index in self.rng.choice(len(self.things), 2, replace=False))
        near, far = (one, two) if one.range_m < two.range_m else (two, one)
        if far.range_m < 1.15 * near.range_m:
            return None
        text = self.dice.pick(wording.CLOSER_QUESTIONS).format(a=one.name, b=two.name)
        return self._asked(text, wording.CLOSER_REPLY.format(a=near.name, box=self._box(near), x=near.range_m), near)

    def _count(self) -> ChatTurn | None:
        """Counts where every box of the name is sure, and nothing may be another one."""
        boxes = [(name_of_class(box.name), box.score) for box in self.picture.labels.boxes]
        maybe = set(map(name_of_class, self.picture.labels.maybe))
        kept = Counter(name_of_class(box.name) for box in self.picture.boxes)
        sure = sorted(
            name
            for name in {name for name, _ in boxes} - maybe
            if name in NAMES and kept[name] == sum(name == other for other, _ in boxes)
            and all(score >= SURE_SCORE for other, score in boxes if other == name)
        )  # fmt: skip
        if not sure:
            return None
        name = self.dice.pick(tuple(sure))
        text, count = self.dice.pick(COUNT_QUESTIONS).format(many=plural(name)), kept[name]
        one, many = wording.COUNT_ONE_REPLY.format(a=name), wording.COUNT_REPLY.format(n=count, many=plural(name))
        reply = one if count == 1 else many
        return self._asked(text, reply, None)

    def _naming(self) -> ChatTurn | None:
        if not self.things:
            return None
        thing = self.dice.pick(tuple(self.things))
        left, top, right, bottom = thing.box_px
        share_x, share_y = 0.35 + 0.3 * self.dice.unit(), 0.35 + 0.3 * self.dice.unit()
        uv = (int(left + share_x * (right - left)), int(top + share_y * (bottom - top)))
        text = self.dice.pick(wording.NAMING_QUESTIONS)
        reply = wording.DISTANCE_REPLY.format(a=thing.name, box=self._box(thing), x=thing.range_m)
        return self._asked(text, reply, thing, uv)

    def _point(self) -> ChatTurn | None:
        if (place := self._known_cell()) is None:
            return None
        u, v, z = place
        range_m = float(range_from_z(np.array([[u, v]], float), np.array([z]), self.camera)[0])
        return self._asked(self.dice.pick(wording.POINT_QUESTIONS), wording.POINT_REPLY.format(x=range_m), None, (u, v))
