# SPDX-License-Identifier: Apache-2.0
"""Naming questions ("What is this?") have true replies."""

import math
import re

import numpy as np
from support.small_scenes import SMALL, random_pictures

from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.scenes.questions.generate import sample_naming_question
from depthlm_ros.scenes.questions.wording import NO_OBJECT_REPLY


def questions():
    for seed, (scene, rendered) in enumerate(random_pictures()):
        for draw in range(10):
            question = sample_naming_question(np.random.default_rng([seed, draw]), rendered, SMALL)
            if question is not None:
                yield scene, rendered, question


def test_reply_gives_name_box_and_distance_of_the_object_at_the_pixel():
    checked = 0
    for scene, rendered, question in questions():
        ((u, v),) = question.uv_px
        assert math.isfinite(rendered.depth_m[v, u])
        if question.status == "not_found":
            assert rendered.object_id[v, u] == -1 and question.reply == NO_OBJECT_REPLY and math.isnan(question.value)
            continue
        (thing,) = (one for one in scene.objects if one.object_id == rendered.object_id[v, u])
        assert question.object_ids == (thing.object_id,) and question.names == (thing.name,)
        name, corners, metres = re.fullmatch(r"The (.*) at (\(.*\)) is (.*) meters away\.", question.reply).groups()
        mask = rendered.object_id == thing.object_id
        rows, columns = np.nonzero(mask)
        ranges_m = rendered.depth_m[mask] * np.linalg.norm(rays(SMALL), axis=2)[mask]
        assert name == thing.name and abs(float(metres) - np.nanmedian(ranges_m)) < 0.006
        edges = columns.min() / 128, rows.min() / 96, (columns.max() + 1) / 128, (rows.max() + 1) / 96
        assert np.abs(1000 * np.array(edges) - np.array(corners.strip("()").split(", "), float)).max() <= 0.5
        checked += 1
    assert checked > 300


def test_most_questions_are_about_objects_and_some_about_the_building():
    status = [question.status for *_, question in questions()]
    assert 0.6 < status.count("ok") / len(status) < 0.9
    assert status.count("ok") + status.count("not_found") == len(status)


def test_picture_of_sky_alone_has_no_naming_question():
    _, rendered = random_pictures()[0]
    depth_m, object_id = np.full_like(rendered.depth_m, np.nan), np.full_like(rendered.object_id, -1)
    empty = type(rendered)(rendered.rgb, depth_m, object_id, rendered.scene, rendered.pose)
    assert all(sample_naming_question(np.random.default_rng(draw), empty, SMALL) is None for draw in range(20))
