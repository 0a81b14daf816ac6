"""What a pixel shows: the questions and replies are true of the picture."""

import math
import re

import numpy as np
from support.small_scenes import SMALL, random_pictures

from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.scenes.questions.generate import ask_what
from depthlm_ros.scenes.questions.wording import NOTHING_HERE


def questions():
    for seed, (scene, rendered) in enumerate(random_pictures()):
        for draw in range(10):
            asked = ask_what(np.random.default_rng([seed, draw]), rendered, SMALL)
            if asked is not None:
                yield scene, rendered, asked


def test_the_reply_names_the_thing_at_the_pixel_with_its_box_and_its_distance():
    told = 0
    for scene, rendered, asked in questions():
        ((u, v),) = asked.uv_px
        assert math.isfinite(rendered.depth_m[v, u])
        if asked.status == "not_found":
            assert rendered.object_id[v, u] == -1 and asked.reply == NOTHING_HERE and math.isnan(asked.value)
            continue
        (thing,) = (one for one in scene.objects if one.object_id == rendered.object_id[v, u])
        assert asked.object_ids == (thing.object_id,) and asked.names == (thing.name,)
        name, corners, metres = re.fullmatch(r"The (.*) at (\(.*\)) is (.*) meters away\.", asked.reply).groups()
        mask = rendered.object_id == thing.object_id
        rows, columns = np.nonzero(mask)
        ranges_m = rendered.depth_m[mask] * np.linalg.norm(rays(SMALL), axis=2)[mask]
        assert name == thing.name and abs(float(metres) - np.nanmedian(ranges_m)) < 0.006
        edges = columns.min() / 128, rows.min() / 96, (columns.max() + 1) / 128, (rows.max() + 1) / 96
        assert np.abs(1000 * np.array(edges) - np.array(corners.strip("()").split(", "), float)).max() <= 0.5
        told += 1
    assert told > 300


def test_most_questions_are_about_things_and_some_about_the_building():
    status = [asked.status for *_, asked in questions()]
    assert 0.6 < status.count("ok") / len(status) < 0.9
    assert status.count("ok") + status.count("not_found") == len(status)


def test_a_picture_of_sky_alone_has_no_such_question():
    _, rendered = random_pictures()[0]
    depth_m, object_id = np.full_like(rendered.depth_m, np.nan), np.full_like(rendered.object_id, -1)
    empty = type(rendered)(rendered.rgb, depth_m, object_id, rendered.scene, rendered.pose)
    assert all(ask_what(np.random.default_rng(draw), empty, SMALL) is None for draw in range(20))
