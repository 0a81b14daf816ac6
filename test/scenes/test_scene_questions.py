# SPDX-License-Identifier: Apache-2.0
"""Questions about a rendered picture have replies that agree with its depth and object ids."""

import math
import re

import numpy as np
import pytest
from support.small_scenes import GREY, SMALL, alone, along_y, random_pictures, scene_with, world_points

from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.scenes.questions.generate import sample_questions
from depthlm_ros.scenes.questions.visibility import find_sightings
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.primitives import Piece, PlacedPiece, box


@pytest.fixture(scope="module")
def pictures():
    return random_pictures()


def test_replies_agree_with_depth_and_ids(pictures):
    kinds = set()
    for seed, (scene, rendered) in enumerate(pictures):
        for question in sample_questions(np.random.default_rng(seed), scene, rendered, SMALL, 25):
            kinds.add((question.kind, question.status))
            _check(question, scene, rendered)
    ok = {"distance", "where", "presence", "closer", "wide", "tall", "point", "points_apart", "points_closer"}
    assert {kind for kind, status in kinds if status == "ok"} == ok
    assert ("out_of_scope", "not_understood") in kinds and ("presence", "not_found") in kinds


def _check(question, scene, rendered):
    text = question.question + question.reply
    assert text.isascii() and "{" not in text
    if question.status == "not_understood":
        assert question.reply == "I do not understand the question." and math.isnan(question.value)
    elif question.status == "not_found":
        name = re.fullmatch(r"There is no (.*) in this image\.", question.reply)[1]
        assert name in question.names and name in question.question
        assert _pixels(name, scene, rendered) == []
    elif question.uv_px:
        _check_points(question, rendered)
    else:
        _check_object(question, scene, rendered)


def _pixels(name, scene, rendered):
    masks = [rendered.object_id == o.object_id for o in scene.objects if _fits(name, o)]
    return [mask for mask in masks if mask.any()]


def _fits(name, thing):
    """Returns whether a name fits; one with a colour does not fit an object of another colour or without a colour."""
    return name == thing.name or (name == f"{thing.colour} {thing.kind}")


def _number(question):
    stated = float(re.search(r"(\d+\.\d\d) meters", question.reply)[1])
    assert question.unit == "m" and abs(stated - question.value) <= 0.005001
    return stated


def _check_object(question, scene, rendered):
    stated, range_m = _number(question), rendered.depth_m * np.linalg.norm(rays(SMALL), axis=2)
    medians = {}
    for name in question.names:
        (mask,) = _pixels(name, scene, rendered)
        assert mask.sum() >= 12 and name in question.question
        medians[name] = float(np.median(range_m[mask]))
    name = min(medians, key=medians.get)
    assert name in question.reply
    if question.kind in ("wide", "tall"):
        (thing,) = (o for o in scene.objects if _fits(name, o) and (rendered.object_id == o.object_id).any())
        assert abs(stated - (thing.wide_m if question.kind == "wide" else thing.tall_m)) < 0.006
        assert question.kind in question.reply
    else:
        assert abs(stated - medians[name]) < 0.006
    _check_box(question.reply, _pixels(name, scene, rendered)[0])


def _check_box(reply, mask):
    """Checks that the box contains every pixel of the object, from edge to edge, and no more."""
    x1, y1, x2, y2 = (int(n) for n in re.search(r"\((\d+), (\d+), (\d+), (\d+)\)", reply).groups())
    v, u = np.nonzero(mask)
    height, width = mask.shape
    expected = (u.min() / width, v.min() / height, (u.max() + 1) / width, (v.max() + 1) / height)
    assert np.abs(np.array([x1, y1, x2, y2]) - 1000 * np.array(expected)).max() <= 0.5


def _check_points(question, rendered):
    stated = _number(question)
    ends = world_points(rendered, SMALL)
    far = [float(np.linalg.norm(ends[v, u] - rendered.pose.t)) for u, v in question.uv_px]
    if question.kind == "point":
        assert abs(stated - far[0]) < 0.006
    elif question.kind == "points_closer":
        assert abs(stated - min(far)) < 0.006
        assert question.reply.startswith("The first" if far[0] < far[1] else "The second")
    else:
        (u, v), (u2, v2) = question.uv_px
        assert abs(stated - np.linalg.norm(ends[v, u] - ends[v2, u2])) < 0.006


def test_shares_of_absent_and_out_of_scope_questions(pictures):
    status = [
        question.status
        for seed, (scene, rendered) in enumerate(pictures)
        for question in sample_questions(np.random.default_rng(seed), scene, rendered, SMALL, 40)
    ]
    assert 0.2 < status.count("not_found") / len(status) < 0.4
    assert 0.02 < status.count("not_understood") / len(status) < 0.07


def test_only_completely_visible_objects_are_asked_for_their_size():
    # One object is half outside the picture, one is mostly behind a wall, one is completely visible.
    outside = PlacedPiece(
        Piece("table", "", (box((0, 0, 0.5), (2.0, 1.0, 1.0), GREY),), (2.0, 1.0, 1.0)), (2.4, 4.0, 0.0), 0.0
    )
    hidden = PlacedPiece(
        Piece("shelf", "", (box((0, 0, 1.0), (1.0, 0.3, 2.0), GREY),), (1.0, 0.3, 2.0)), (4.3, 8.0, 0.0), 0.0
    )
    cover = alone(box((4.1, 6.0, 1.0), (0.8, 0.1, 2.4), GREY), kind="")
    whole = PlacedPiece(
        Piece("cabinet", "", (box((0, 0, 0.5), (0.8, 0.4, 1.0), GREY),), (0.8, 0.4, 1.0)), (5.6, 7.0, 0.0), 0.0
    )
    scene = scene_with(outside, hidden, cover, whole)
    sightings = {s.thing.name: s for s in find_sightings(scene, render(scene, along_y(), SMALL), SMALL)}
    assert sightings["cabinet"].is_complete and sightings["cabinet"].share == 1.0
    assert not sightings["table"].is_complete and sightings["table"].inside < 0.8
    assert not sightings["shelf"].is_complete and sightings["shelf"].share < 0.6


def test_ambiguous_names_are_not_used():
    def chair_at(x):
        return PlacedPiece(
            Piece("chair", "", (box((0, 0, 0.5), (0.5, 0.5, 1.0), GREY),), (0.5, 0.5, 1.0)), (x, 6.0, 0.0), 0.0
        )

    scene = scene_with(chair_at(3.0), chair_at(5.0))
    rendered = render(scene, along_y(), SMALL)
    assert len(find_sightings(scene, rendered, SMALL)) == 2
    questions = sample_questions(np.random.default_rng(0), scene, rendered, SMALL, 200)
    assert not any("chair" in q.names for q in questions)


def _cube(kind, colour, x, y=5.0):
    part = box((0, 0, 0.4), (0.8, 0.8, 0.8), GREY)
    return PlacedPiece(Piece(kind, colour, (part,), (0.8, 0.8, 0.8)), (x, y, 0.0), 0.0)


def _asked_names(*pieces):
    scene = scene_with(*pieces)
    rendered = render(scene, along_y(), SMALL)
    questions = sample_questions(np.random.default_rng(0), scene, rendered, SMALL, 600)
    asked_names = {name for q in questions if q.status == "ok" for name in q.names}
    return asked_names, {q.names[0] for q in questions if q.status == "not_found" and q.kind == "presence"}


def test_colours_distinguish_two_objects_of_one_kind():
    asked_names, absent = _asked_names(_cube("sofa", "red", 3.0), _cube("sofa", "blue", 5.0))
    assert asked_names == {"red sofa", "blue sofa"}
    assert "green sofa" in absent and not absent & {"sofa", "red sofa", "blue sofa"}


def test_no_colour_is_named_if_another_object_of_the_kind_has_no_named_colour():
    asked_names, absent = _asked_names(_cube("sofa", "red", 3.0), _cube("sofa", "", 5.0))
    assert not asked_names
    assert not any("sofa" in name for name in absent)


def test_single_object_is_named_with_and_without_its_colour():
    asked_names, absent = _asked_names(_cube("sofa", "red", 4.0))
    assert asked_names == {"sofa", "red sofa"}
    assert not absent & {"sofa", "red sofa", "chair", "armchair"}


def test_similar_kinds_are_not_called_absent():
    _, absent = _asked_names(_cube("desk", "", 4.0))
    assert not absent & {"table", "desk", "counter"} and "sofa" in absent


def test_presence_questions_are_answered_yes_as_often_as_no(pictures):
    stated = [
        question.status
        for seed, (scene, rendered) in enumerate(pictures)
        for question in sample_questions(np.random.default_rng(seed), scene, rendered, SMALL, 40)
        if question.kind == "presence"
    ]
    assert len(stated) > 300
    assert 0.4 < stated.count("ok") / len(stated) < 0.6
