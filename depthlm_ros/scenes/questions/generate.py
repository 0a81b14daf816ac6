# SPDX-License-Identifier: Apache-2.0
"""Questions about a rendered picture, each with its true reply.

`sample_questions` draws questions that name objects or mark points; `sample_naming_question` draws one that marks a
pixel and asks what is there. Both return `SceneQuestion`. The replies come from the exact depth and object ids of the
picture. The random draws and their order are part of the training data: a seed must always give the same questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes.questions import wording
from depthlm_ros.scenes.questions.visibility import CLEAR_PICTURE_PX, CLEAR_PX, Sighting, find_sightings, is_clear
from depthlm_ros.scenes.questions.wording import (
    FURNITURE_KINDS,
    OUTDOOR_KINDS,
    absent_names,
    article,
    unambiguous_names,
)
from depthlm_ros.scenes.renderer.render import RenderedImage
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS, Scene

# Writes a box into a reply, from (edges_px, width_px, height_px); edges are left, top, right, bottom.
BoxText = Callable[[tuple[int, int, int, int], int, int], str]

# Shares of all questions: about objects that are not in the picture, about something else entirely, about points.
ABSENT_SHARE, OUT_OF_SCOPE_SHARE, POINT_SHARE = 0.3, 0.04, 0.14
# Shares of pixels in naming questions: on an object (each object equally likely) and on the building. The other
# pixels are drawn from the whole picture.
OBJECT_SHARE, BUILDING_SHARE = 0.65, 0.15

QUESTIONS_OF_KIND = {
    "distance": wording.DISTANCE_QUESTIONS,
    "where": wording.WHERE_QUESTIONS,
    "presence": wording.PRESENCE_QUESTIONS,
    "closer": wording.CLOSER_QUESTIONS,
    "wide": wording.WIDTH_QUESTIONS,
    "tall": wording.HEIGHT_QUESTIONS,
}


@dataclass(frozen=True)
class SceneQuestion:
    """A question and its true reply.

    uv_px: marked points, integer pixels of the picture. kind: distance, where, presence, closer, wide, tall, point,
    points_apart, points_closer, what (from sample_naming_question) or out_of_scope. value: the number in the reply
    before rounding, NaN if the reply has none. unit: the unit of value, "m", or "" without a value. status: a value
    of core.Status. names: the objects that the question names. object_ids: those of them that are visible; the last
    one is the object that the reply is about.
    """

    question: str
    reply: str
    uv_px: tuple[tuple[int, int], ...]
    kind: str
    value: float
    unit: str
    status: str
    names: tuple[str, ...] = ()
    object_ids: tuple[int, ...] = ()


def normalised_box(edges_px: tuple[int, int, int, int], width_px: int, height_px: int) -> str:
    """Returns "(x1, y1, x2, y2)" for pixel edges, as integers from 0 to 1000 of the picture's width and height."""
    x1, y1, x2, y2 = edges_px
    sx, sy = 1000 / width_px, 1000 / height_px
    return f"({round(x1 * sx)}, {round(y1 * sy)}, {round(x2 * sx)}, {round(y2 * sy)})"


def sample_questions(
    rng: np.random.Generator,
    scene: Scene,
    rendered: RenderedImage,
    intrinsics: Intrinsics,
    count: int,
    box_text: BoxText = normalised_box,
) -> list[SceneQuestion]:
    """Draws `count` questions with true replies about a picture of the scene.

    box_text writes a box into a reply. An object is asked about only if it is clearly visible, and called absent only
    if none of its pixels is visible. A name that fits two visible objects is not used.
    """
    dice, facts = Dice(rng), _collect_facts(scene, rendered, intrinsics, box_text)
    questions: list[SceneQuestion] = []
    for _ in range(count):
        draw, question = dice.unit(), None
        if draw < OUT_OF_SCOPE_SHARE:
            question = _out_of_scope_question(dice)
        elif draw < OUT_OF_SCOPE_SHARE + ABSENT_SHARE:
            question = _absent_question(dice, facts)
        elif draw >= 1 - POINT_SHARE or not facts.clear:
            question = _point_question(dice, facts)
        if question is None:
            question = _visible_question(dice, facts) if facts.clear else _absent_question(dice, facts)
        questions.append(question)
    return questions


def sample_naming_question(
    rng: np.random.Generator, rendered: RenderedImage, intrinsics: Intrinsics, box_text: BoxText = normalised_box
) -> SceneQuestion | None:
    """Draws a pixel and asks what it shows.

    The reply gives the name of the object, its box and the median distance to its visible pixels, or says that there
    is no object (only the building). Returns None where only sky is visible, where the object has no name, or where
    too little of it is visible to recognise it.
    """
    dice, named = Dice(rng), {thing.object_id: thing for thing in rendered.scene.objects}
    ids, draw = rendered.object_id, dice.unit()
    candidates = np.isfinite(rendered.depth_m)
    if draw < OBJECT_SHARE and (visible := sorted(set(np.unique(ids[candidates]).tolist()) & set(named))):
        candidates = candidates & (ids == dice.pick(tuple(visible)))
    elif draw < OBJECT_SHARE + BUILDING_SHARE:
        candidates = candidates & (ids < 0)
    rows, columns = np.nonzero(candidates)
    if not len(rows):
        return None
    chosen = dice.integer(0, len(rows) - 1)
    uv, text = (int(columns[chosen]), int(rows[chosen])), dice.pick(wording.NAMING_QUESTIONS)
    object_id = int(ids[uv[1], uv[0]])
    if object_id < 0:
        return SceneQuestion(text, wording.NO_OBJECT_REPLY, (uv,), "what", math.nan, "", "not_found")
    thing = named.get(object_id)
    v, u = np.nonzero(ids == object_id)
    if thing is None or len(v) < CLEAR_PX * ids.size / CLEAR_PICTURE_PX:
        return None
    range_m = range_from_z(rendered.undistorted_px(np.stack([u, v], 1)), rendered.depth_m[v, u], intrinsics)
    median_m = float(np.nanmedian(range_m))
    edges_px = int(u.min()), int(v.min()), int(u.max()) + 1, int(v.max()) + 1
    box = box_text(edges_px, ids.shape[1], ids.shape[0])
    reply = wording.DISTANCE_REPLY.format(a=thing.name, box=box, x=median_m)
    return SceneQuestion(text, reply, (uv,), "what", median_m, "m", "ok", (thing.name,), (thing.object_id,))


@dataclass(frozen=True)
class _PictureFacts:
    """What questions are drawn from. clear: one sighting for each name that fits exactly one object, which is clearly
    visible. absent: names that fit nothing in the picture."""

    clear: tuple[Sighting, ...]
    absent: tuple[str, ...]
    rendered: RenderedImage
    intrinsics: Intrinsics
    box_text: BoxText

    def box(self, sighting: Sighting) -> str:
        """Returns the object's box as text for a reply."""
        height, width = self.rendered.depth_m.shape
        return self.box_text(sighting.edges_px, width, height)


def _collect_facts(scene: Scene, rendered: RenderedImage, intrinsics: Intrinsics, box_text: BoxText) -> _PictureFacts:
    visible, picture_px = find_sightings(scene, rendered, intrinsics), rendered.depth_m.size
    things = [sighting.thing for sighting in visible]
    clear = []
    for sighting in visible:
        if is_clear(sighting.pixels, sighting.share, sighting.inside, picture_px):
            thing = sighting.thing
            others = [other for other in things if other.object_id != thing.object_id]
            clear += [replace(sighting, thing=replace(thing, name=name)) for name in unambiguous_names(thing, others)]
    return _PictureFacts(tuple(clear), absent_names(things), rendered, intrinsics, box_text)


def _visible_question(dice: Dice, facts: _PictureFacts) -> SceneQuestion:
    """Asks about one clearly visible object, or which of two is closer."""
    simple = [sighting for sighting in facts.clear if sighting.thing.kind in SIMPLE_KINDS]
    sighting, kind = dice.pick(simple if simple and dice.chance(0.3) else facts.clear), dice.unit()
    if kind < 0.28 and len(facts.clear) > 1:
        others = [other for other in facts.clear if other.thing.object_id != sighting.thing.object_id]
        other = dice.pick(others or facts.clear)
        low, high = sorted((sighting.range_m, other.range_m))
        if high > low * 1.08 and high > low + 0.1:
            return _closer_question(dice, facts, sighting, other)
    if 0.28 <= kind < 0.55:
        complete = [sighting for sighting in facts.clear if sighting.is_complete]
        if complete:
            return _size_question(dice, facts, dice.pick(complete))
    return _distance_question(dice, facts, sighting)


def _distance_question(dice: Dice, facts: _PictureFacts, sighting: Sighting) -> SceneQuestion:
    kind, name = dice.pick(("distance", "distance", "where", "presence", "presence")), sighting.thing.name
    text = dice.pick(QUESTIONS_OF_KIND[kind]).format(a=name, an=article(name))
    template = wording.PRESENCE_REPLY if kind == "presence" else wording.DISTANCE_REPLY
    return _object_question(kind, text, template, sighting, sighting.range_m, facts)


def _size_question(dice: Dice, facts: _PictureFacts, sighting: Sighting) -> SceneQuestion:
    thing = sighting.thing
    if dice.chance(0.5):
        text = dice.pick(wording.WIDTH_QUESTIONS).format(a=thing.name)
        return _object_question("wide", text, wording.WIDTH_REPLY, sighting, thing.wide_m, facts)
    text = dice.pick(wording.HEIGHT_QUESTIONS).format(a=thing.name)
    return _object_question("tall", text, wording.HEIGHT_REPLY, sighting, thing.tall_m, facts)


def _object_question(
    kind: str, text: str, template: str, sighting: Sighting, value_m: float, facts: _PictureFacts
) -> SceneQuestion:
    """Fills the reply template for a question about one visible object."""
    name = sighting.thing.name
    reply = template.format(a=name, box=facts.box(sighting), x=value_m)
    return SceneQuestion(text, reply, (), kind, value_m, "m", "ok", (name,), (sighting.thing.object_id,))


def _closer_question(dice: Dice, facts: _PictureFacts, one: Sighting, two: Sighting) -> SceneQuestion:
    text = dice.pick(wording.CLOSER_QUESTIONS).format(a=one.thing.name, b=two.thing.name)
    near, far = (one, two) if one.range_m < two.range_m else (two, one)
    ids = (far.thing.object_id, near.thing.object_id)
    reply = wording.CLOSER_REPLY.format(a=near.thing.name, box=facts.box(near), x=near.range_m)
    return SceneQuestion(text, reply, (), "closer", near.range_m, "m", "ok", (one.thing.name, two.thing.name), ids)


def _absent_question(dice: Dice, facts: _PictureFacts) -> SceneQuestion:
    """Asks about an object that is not in the picture."""
    name = _absent_name(dice, facts)
    kind = dice.pick(
        ("distance", "distance", "where", "presence", "presence", "presence", "presence", "closer", "wide", "tall")
    )
    names: tuple[str, ...] = (name,)
    if kind == "closer" and not facts.clear:
        kind = "presence"
    if kind == "closer":
        pair = [name, dice.pick(facts.clear).thing.name]
        names = (pair[0], pair[1]) if dice.chance(0.5) else (pair[1], pair[0])
    text = dice.pick(QUESTIONS_OF_KIND[kind]).format(a=names[0], b=names[-1], an=article(name))
    return SceneQuestion(text, wording.ABSENT_REPLY.format(a=name), (), kind, math.nan, "", "not_found", names)


def _absent_name(dice: Dice, facts: _PictureFacts) -> str:
    """Draws a name that fits nothing visible; half of the time it shares its colour or its shape with a visible
    object."""
    if facts.clear and dice.chance(0.5):
        words = set(dice.pick(facts.clear).thing.name.split())
        similar = [name for name in facts.absent if words & set(name.split())]
        if similar:
            return dice.pick(similar)
    if dice.chance(0.5):
        furniture = [name for name in facts.absent if name in FURNITURE_KINDS and name not in OUTDOOR_KINDS]
        if furniture:
            return dice.pick(furniture)
    return dice.pick(facts.absent)


def _point_question(dice: Dice, facts: _PictureFacts) -> SceneQuestion | None:
    """Asks about one marked point or two; returns None where hardly any pixel has a depth."""
    one, two, kind = _random_pixel(dice, facts), _random_pixel(dice, facts), dice.unit()
    if one is None or two is None:
        return None
    a, b = _camera_point_m(facts, one), _camera_point_m(facts, two)
    if kind < 0.6 or one == two:
        range_m = math.hypot(*a)
        text, reply = dice.pick(wording.POINT_QUESTIONS), wording.POINT_REPLY.format(x=range_m)
        return SceneQuestion(text, reply, (one,), "point", range_m, "m", "ok")
    if kind < 0.8 or abs(math.log(math.hypot(*a) / math.hypot(*b))) < 0.05:
        apart_m = math.dist(a, b)
        text, reply = dice.pick(wording.POINTS_APART_QUESTIONS), wording.POINTS_APART_REPLY.format(x=apart_m)
        return SceneQuestion(text, reply, (one, two), "points_apart", apart_m, "m", "ok")
    nth, near_m = min(("first", math.hypot(*a)), ("second", math.hypot(*b)), key=lambda point: point[1])
    text, reply = dice.pick(wording.POINTS_CLOSER_QUESTIONS), wording.POINTS_CLOSER_REPLY.format(nth=nth, x=near_m)
    return SceneQuestion(text, reply, (one, two), "points_closer", near_m, "m", "ok")


def _random_pixel(dice: Dice, facts: _PictureFacts) -> tuple[int, int] | None:
    """Draws a pixel (u, v) with a known depth; returns None after 20 attempts without one."""
    height, width = facts.rendered.depth_m.shape
    for _ in range(20):
        u, v = int(dice.unit() * width), int(dice.unit() * height)
        if math.isfinite(facts.rendered.depth_m[v, u]):
            return u, v
    return None


def _camera_point_m(facts: _PictureFacts, uv: tuple[int, int]) -> tuple[float, float, float]:
    """Returns the point (x, y, z) that a pixel shows, in the camera's frame, metres."""
    k, z = facts.intrinsics, float(facts.rendered.depth_m[uv[1], uv[0]])
    u, v = facts.rendered.undistorted_px(np.array([uv]))[0]
    return (u - k.cx_px) * z / k.fx_px, (v - k.cy_px) * z / k.fy_px, z


def _out_of_scope_question(dice: Dice) -> SceneQuestion:
    kind = dice.unit()
    if kind < 0.5:
        text = dice.pick(wording.OUT_OF_SCOPE_QUESTIONS)
    elif kind < 0.8:
        # Random words contain no question: a real question would need one of the fixed phrases.
        words = wording.RANDOM_WORDS.split()
        text = " ".join(dice.pick(words) for _ in range(dice.integer(2, 8)))
    else:
        text = " ".join(
            "".join(dice.pick(wording.LETTERS) for _ in range(dice.integer(1, 9))) for _ in range(dice.integer(1, 5))
        )
    return SceneQuestion(text, wording.NOT_UNDERSTOOD_REPLY, (), "out_of_scope", math.nan, "", "not_understood")
