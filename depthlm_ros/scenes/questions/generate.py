"""Questions about a rendered picture, with the true reply.

What does this pixel show: questions that name a place and want to know the thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes.questions import wording
from depthlm_ros.scenes.questions.visibility import CLEAR_PICTURE_PX, CLEAR_PX, Sighting, is_clear, sightings
from depthlm_ros.scenes.questions.wording import FURNITURE_KINDS, OUTDOORS, absent_names, names_of
from depthlm_ros.scenes.renderer.render import Rendered
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS, Scene

BoxText = Callable[[tuple[int, int, int, int], int, int], str]

ABSENT_SHARE, OUT_OF_SCOPE_SHARE, POINT_SHARE = 0.3, 0.04, 0.14


@dataclass(frozen=True)
class Question:
    """A question and its true reply.

    uv_px: marked points, integer pixels of the picture. kind: distance, where, presence, closer, wide, tall, point,
    points_apart, points_closer, what (naming_questions.py) or out_of_scope. value: the number in the reply before
    rounding (NaN if none), in `unit` ("m", or "" without a value). status: a value of core.Status. names: the objects
    asked about. object_ids: those of them that are in the picture, the one that the reply is about last.
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
    """ "(x1, y1, x2, y2)" from pixel edges, as integers from 0 to 1000 of the picture's width and height."""
    x1, y1, x2, y2 = edges_px
    sx, sy = 1000 / width_px, 1000 / height_px
    return f"({round(x1 * sx)}, {round(y1 * sy)}, {round(x2 * sx)}, {round(y2 * sy)})"


@dataclass(frozen=True)
class _View:
    """What questions are drawn from: clear holds one sighting per name that fits only one thing, plainly in view."""

    clear: tuple[Sighting, ...]
    absent: tuple[str, ...]
    rendered: Rendered
    intrinsics: Intrinsics
    box_text: BoxText

    def box(self, seen: Sighting) -> str:
        height, width = self.rendered.depth_m.shape
        return self.box_text(seen.edges_px, width, height)


def _view(scene: Scene, rendered: Rendered, intrinsics: Intrinsics, box_text: BoxText) -> _View:
    seen, picture_px = sightings(scene, rendered, intrinsics), rendered.depth_m.size
    things = [one.thing for one in seen]
    clear = []
    for one in seen:
        if is_clear(one.pixels, one.share, one.inside, picture_px):
            others = [thing for thing in things if thing.object_id != one.thing.object_id]
            clear += [replace(one, thing=replace(one.thing, name=name)) for name in names_of(one.thing, others)]
    return _View(tuple(clear), absent_names(things), rendered, intrinsics, box_text)


def _answered(kind: str, text: str, reply: str, seen: Sighting, value: float, view: _View) -> Question:
    name = seen.thing.name
    told = reply.format(a=name, box=view.box(seen), x=value)
    return Question(text, told, (), kind, value, "m", "ok", (name,), (seen.thing.object_id,))


def _distance(dice: Dice, view: _View, seen: Sighting) -> Question:
    kind = dice.pick(("distance", "distance", "where", "presence", "presence"))
    wordings = {"distance": wording.DISTANCE, "where": wording.WHERE, "presence": wording.PRESENCE}[kind]
    text = dice.pick(wordings).format(a=seen.thing.name, an=wording.article(seen.thing.name))
    reply = wording.PRESENT if kind == "presence" else wording.FOUND
    return _answered(kind, text, reply, seen, seen.range_m, view)


def _size(dice: Dice, view: _View, seen: Sighting) -> Question:
    if dice.chance(0.5):
        text = dice.pick(wording.WIDE).format(a=seen.thing.name)
        return _answered("wide", text, wording.IS_WIDE, seen, seen.thing.wide_m, view)
    text = dice.pick(wording.TALL).format(a=seen.thing.name)
    return _answered("tall", text, wording.IS_TALL, seen, seen.thing.tall_m, view)


def _closer(dice: Dice, view: _View, one: Sighting, two: Sighting) -> Question:
    text = dice.pick(wording.CLOSER).format(a=one.thing.name, b=two.thing.name)
    near, far = (one, two) if one.range_m < two.range_m else (two, one)
    ids = (far.thing.object_id, near.thing.object_id)
    reply = wording.IS_CLOSER.format(a=near.thing.name, box=view.box(near), x=near.range_m)
    return Question(text, reply, (), "closer", near.range_m, "m", "ok", (one.thing.name, two.thing.name), ids)


def _visible(dice: Dice, view: _View) -> Question:
    coloured = [s for s in view.clear if s.thing.kind in SIMPLE_KINDS]
    seen, kind = dice.pick(coloured if coloured and dice.chance(0.3) else view.clear), dice.unit()
    if kind < 0.28 and len(view.clear) > 1:
        other = dice.pick([s for s in view.clear if s.thing.object_id != seen.thing.object_id] or view.clear)
        low, high = sorted((seen.range_m, other.range_m))
        if high > low * 1.08 and high > low + 0.1:
            return _closer(dice, view, seen, other)
    if 0.28 <= kind < 0.55:
        whole = [s for s in view.clear if s.whole]
        if whole:
            return _size(dice, view, dice.pick(whole))
    return _distance(dice, view, seen)


def _absent_name(dice: Dice, view: _View) -> str:
    """Half the time like something in view: its colour with another shape, or its shape in another colour."""
    if view.clear and dice.chance(0.5):
        words = set(dice.pick(view.clear).thing.name.split())
        alike = [name for name in view.absent if words & set(name.split())]
        if alike:
            return dice.pick(alike)
    if dice.chance(0.5):
        rooms = [name for name in view.absent if name in FURNITURE_KINDS and name not in OUTDOORS]
        if rooms:
            return dice.pick(rooms)
    return dice.pick(view.absent)


def _absent(dice: Dice, view: _View) -> Question:
    name = _absent_name(dice, view)
    kind = dice.pick(
        ("distance", "distance", "where", "presence", "presence", "presence", "presence", "closer", "wide", "tall")
    )
    names: tuple[str, ...] = (name,)
    if kind == "closer" and not view.clear:
        kind = "presence"
    if kind == "closer":
        pair = [name, dice.pick(view.clear).thing.name]
        names = (pair[0], pair[1]) if dice.chance(0.5) else (pair[1], pair[0])
    wordings = {
        **{"distance": wording.DISTANCE, "where": wording.WHERE, "presence": wording.PRESENCE},
        **{"closer": wording.CLOSER, "wide": wording.WIDE, "tall": wording.TALL},
    }[kind]
    text = dice.pick(wordings).format(a=names[0], b=names[-1], an=wording.article(name))
    return Question(text, wording.ABSENT.format(a=name), (), kind, math.nan, "", "not_found", names)


def _pixel(dice: Dice, view: _View) -> tuple[int, int] | None:
    height, width = view.rendered.depth_m.shape
    for _ in range(20):
        u, v = int(dice.unit() * width), int(dice.unit() * height)
        if math.isfinite(view.rendered.depth_m[v, u]):
            return u, v
    return None


def _place(view: _View, uv: tuple[int, int]) -> tuple[float, float, float]:
    k, z = view.intrinsics, float(view.rendered.depth_m[uv[1], uv[0]])
    u, v = view.rendered.straight_px(np.array([uv]))[0]
    return (u - k.cx_px) * z / k.fx_px, (v - k.cy_px) * z / k.fy_px, z


def _points(dice: Dice, view: _View) -> Question | None:
    one, two, kind = _pixel(dice, view), _pixel(dice, view), dice.unit()
    if one is None or two is None:
        return None
    a, b = _place(view, one), _place(view, two)
    if kind < 0.6 or one == two:
        far = math.hypot(*a)
        return Question(dice.pick(wording.POINT), wording.POINT_IS.format(x=far), (one,), "point", far, "m", "ok")
    if kind < 0.8 or abs(math.log(math.hypot(*a) / math.hypot(*b))) < 0.05:
        apart = math.dist(a, b)
        text, reply = dice.pick(wording.POINTS_APART), wording.POINTS_ARE.format(x=apart)
        return Question(text, reply, (one, two), "points_apart", apart, "m", "ok")
    nth, near = min(("first", math.hypot(*a)), ("second", math.hypot(*b)), key=lambda one: one[1])
    text, reply = dice.pick(wording.POINTS_CLOSER), wording.POINT_CLOSER.format(nth=nth, x=near)
    return Question(text, reply, (one, two), "points_closer", near, "m", "ok")


def _out_of_scope(dice: Dice) -> Question:
    kind = dice.unit()
    if kind < 0.5:
        text = dice.pick(wording.OUT_OF_SCOPE)
    elif kind < 0.8:
        # Word salad has no question in it: a question's frame would need one of its fixed phrases.
        words = wording.WORDS.split()
        text = " ".join(dice.pick(words) for _ in range(dice.whole(2, 8)))
    else:
        text = " ".join(
            "".join(dice.pick(wording.LETTERS) for _ in range(dice.whole(1, 9))) for _ in range(dice.whole(1, 5))
        )
    return Question(text, wording.NOT_UNDERSTOOD, (), "out_of_scope", math.nan, "", "not_understood")


def ask_about(
    rng: np.random.Generator,
    scene: Scene,
    rendered: Rendered,
    intrinsics: Intrinsics,
    count: int,
    box_text: BoxText = normalised_box,
) -> list[Question]:
    """`count` questions with true replies about a picture of the scene.

    box_text(edges_px, width_px, height_px) writes a box into a reply. Objects that are neither plainly visible nor
    without a single visible pixel are not asked about, nor are names that fit two visible objects.
    """
    dice, view = Dice(rng), _view(scene, rendered, intrinsics, box_text)
    asked: list[Question] = []
    for _ in range(count):
        draw, question = dice.unit(), None
        if draw < OUT_OF_SCOPE_SHARE:
            question = _out_of_scope(dice)
        elif draw < OUT_OF_SCOPE_SHARE + ABSENT_SHARE:
            question = _absent(dice, view)
        elif draw >= 1 - POINT_SHARE or not view.clear:
            question = _points(dice, view)
        if question is None:
            question = _visible(dice, view) if view.clear else _absent(dice, view)
        asked.append(question)
    return asked


# Of pixels that are asked about: of a thing, each as likely; of the building; the rest are anywhere.
THING_SHARE, BUILDING_SHARE = 0.65, 0.15


def ask_what(
    rng: np.random.Generator, rendered: Rendered, intrinsics: Intrinsics, box_text: BoxText = normalised_box
) -> Question | None:
    """What a pixel shows: the name of the thing, its box and the median distance to its visible pixels; or that it is
    the building. None where only sky is seen, where the thing has no name, or too little of it is seen to know it by.
    """
    dice, named = Dice(rng), {thing.object_id: thing for thing in rendered.scene.objects}
    index, draw = rendered.object_id, dice.unit()
    among = np.isfinite(rendered.depth_m)
    if draw < THING_SHARE and (visible := sorted(set(np.unique(index[among]).tolist()) & set(named))):
        among = among & (index == dice.pick(tuple(visible)))
    elif draw < THING_SHARE + BUILDING_SHARE:
        among = among & (index < 0)
    rows, columns = np.nonzero(among)
    if not len(rows):
        return None
    chosen = dice.whole(0, len(rows) - 1)
    uv, text = (int(columns[chosen]), int(rows[chosen])), dice.pick(wording.WHAT)
    if index[uv[1], uv[0]] < 0:
        return Question(text, wording.NOTHING_HERE, (uv,), "what", math.nan, "", "not_found")
    thing = named.get(int(index[uv[1], uv[0]]))
    v, u = np.nonzero(index == index[uv[1], uv[0]])
    if thing is None or len(v) < CLEAR_PX * index.size / CLEAR_PICTURE_PX:
        return None
    range_m = range_from_z(rendered.straight_px(np.stack([u, v], 1)), rendered.depth_m[v, u], intrinsics)
    far = float(np.nanmedian(range_m))
    edges = int(u.min()), int(v.min()), int(u.max()) + 1, int(v.max()) + 1
    reply = wording.FOUND.format(a=thing.name, box=box_text(edges, index.shape[1], index.shape[0]), x=far)
    return Question(text, reply, (uv,), "what", far, "m", "ok", (thing.name,), (thing.object_id,))
