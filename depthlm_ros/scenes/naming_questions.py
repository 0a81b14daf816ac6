"""What does this pixel show: questions that name a place and want to know the thing."""

from __future__ import annotations

import math

import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.geometry.pinhole import range_from_z
from depthlm_ros.scenes import phrases
from depthlm_ros.scenes.dice import Dice
from depthlm_ros.scenes.questions import BoxText, Question, normalised_box
from depthlm_ros.scenes.render import Rendered
from depthlm_ros.scenes.visibility import CLEAR_PICTURE_PX, CLEAR_PX

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
    uv, text = (int(columns[chosen]), int(rows[chosen])), dice.pick(phrases.WHAT)
    if index[uv[1], uv[0]] < 0:
        return Question(text, phrases.NOTHING_HERE, (uv,), "what", math.nan, "", "not_found")
    thing = named.get(int(index[uv[1], uv[0]]))
    v, u = np.nonzero(index == index[uv[1], uv[0]])
    if thing is None or len(v) < CLEAR_PX * index.size / CLEAR_PICTURE_PX:
        return None
    range_m = range_from_z(rendered.straight_px(np.stack([u, v], 1)), rendered.depth_m[v, u], intrinsics)
    far = float(np.nanmedian(range_m))
    edges = int(u.min()), int(v.min()), int(u.max()) + 1, int(v.max()) + 1
    reply = phrases.FOUND.format(a=thing.name, box=box_text(edges, index.shape[1], index.shape[0]), x=far)
    return Question(text, reply, (uv,), "what", far, "m", "ok", (thing.name,), (thing.object_id,))
