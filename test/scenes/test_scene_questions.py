"""What is said about a rendered picture is true of its depth and ids."""

import math
import re

import numpy as np
import pytest
from support.small_scenes import GREY, SMALL, alone, along_y, random_pictures, scene_with, world_points

from depthlm_ros.geometry.pinhole import rays
from depthlm_ros.scenes.questions.generate import ask_about
from depthlm_ros.scenes.questions.visibility import sightings
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.primitives import Piece, Placed, box


@pytest.fixture(scope="module")
def pictures():
    return random_pictures()


def test_replies_are_true_of_depth_and_ids(pictures):
    kinds = set()
    for seed, (scene, rendered) in enumerate(pictures):
        for asked in ask_about(np.random.default_rng(seed), scene, rendered, SMALL, 25):
            kinds.add((asked.kind, asked.status))
            _check(asked, scene, rendered)
    ok = {"distance", "where", "presence", "closer", "wide", "tall", "point", "points_apart", "points_closer"}
    assert {kind for kind, status in kinds if status == "ok"} == ok
    assert ("out_of_scope", "not_understood") in kinds and ("presence", "not_found") in kinds


def _check(asked, scene, rendered):
    text = asked.question + asked.reply
    assert text.isascii() and "{" not in text
    if asked.status == "not_understood":
        assert asked.reply == "I do not understand the question." and math.isnan(asked.value)
    elif asked.status == "not_found":
        name = re.fullmatch(r"There is no (.*) in this image\.", asked.reply)[1]
        assert name in asked.names and name in asked.question
        assert _pixels(name, scene, rendered) == []
    elif asked.uv_px:
        _check_points(asked, rendered)
    else:
        _check_object(asked, scene, rendered)


def _pixels(name, scene, rendered):
    masks = [rendered.object_id == o.object_id for o in scene.objects if _fits(name, o)]
    return [mask for mask in masks if mask.any()]


def _fits(name, thing):
    """A name with a colour does not fit a thing of another colour, or of none that has a name."""
    return name == thing.name or (name == f"{thing.colour} {thing.kind}")


def _number(asked):
    said = float(re.search(r"(\d+\.\d\d) meters", asked.reply)[1])
    assert asked.unit == "m" and abs(said - asked.value) <= 0.005001
    return said


def _check_object(asked, scene, rendered):
    said, range_m = _number(asked), rendered.depth_m * np.linalg.norm(rays(SMALL), axis=2)
    medians = {}
    for name in asked.names:
        (mask,) = _pixels(name, scene, rendered)
        assert mask.sum() >= 12 and name in asked.question
        medians[name] = float(np.median(range_m[mask]))
    name = min(medians, key=medians.get)
    assert name in asked.reply
    if asked.kind in ("wide", "tall"):
        (thing,) = (o for o in scene.objects if _fits(name, o) and (rendered.object_id == o.object_id).any())
        assert abs(said - (thing.wide_m if asked.kind == "wide" else thing.tall_m)) < 0.006
        assert asked.kind in asked.reply
    else:
        assert abs(said - medians[name]) < 0.006
    _check_box(asked.reply, _pixels(name, scene, rendered)[0])


def _check_box(reply, mask):
    """The box holds every pixel of the object, edge to edge, and nothing beyond."""
    x1, y1, x2, y2 = (int(n) for n in re.search(r"\((\d+), (\d+), (\d+), (\d+)\)", reply).groups())
    v, u = np.nonzero(mask)
    height, width = mask.shape
    expected = (u.min() / width, v.min() / height, (u.max() + 1) / width, (v.max() + 1) / height)
    assert np.abs(np.array([x1, y1, x2, y2]) - 1000 * np.array(expected)).max() <= 0.5


def _check_points(asked, rendered):
    said = _number(asked)
    ends = world_points(rendered, SMALL)
    far = [float(np.linalg.norm(ends[v, u] - rendered.pose.t)) for u, v in asked.uv_px]
    if asked.kind == "point":
        assert abs(said - far[0]) < 0.006
    elif asked.kind == "points_closer":
        assert abs(said - min(far)) < 0.006
        assert asked.reply.startswith("The first" if far[0] < far[1] else "The second")
    else:
        (u, v), (u2, v2) = asked.uv_px
        assert abs(said - np.linalg.norm(ends[v, u] - ends[v2, u2])) < 0.006


def test_shares_of_absent_and_out_of_scope_questions(pictures):
    status = [
        asked.status
        for seed, (scene, rendered) in enumerate(pictures)
        for asked in ask_about(np.random.default_rng(seed), scene, rendered, SMALL, 40)
    ]
    assert 0.2 < status.count("not_found") / len(status) < 0.4
    assert 0.02 < status.count("not_understood") / len(status) < 0.07


def test_size_is_asked_only_of_what_is_seen_whole():
    # Half outside the picture; behind a wall but for a strip; in full view.
    outside = Placed(
        Piece("table", "", (box((0, 0, 0.5), (2.0, 1.0, 1.0), GREY),), (2.0, 1.0, 1.0)), (2.4, 4.0, 0.0), 0.0
    )
    hidden = Placed(
        Piece("shelf", "", (box((0, 0, 1.0), (1.0, 0.3, 2.0), GREY),), (1.0, 0.3, 2.0)), (4.3, 8.0, 0.0), 0.0
    )
    cover = alone(box((4.1, 6.0, 1.0), (0.8, 0.1, 2.4), GREY), kind="")
    whole = Placed(
        Piece("cabinet", "", (box((0, 0, 0.5), (0.8, 0.4, 1.0), GREY),), (0.8, 0.4, 1.0)), (5.6, 7.0, 0.0), 0.0
    )
    scene = scene_with(outside, hidden, cover, whole)
    seen = {s.thing.name: s for s in sightings(scene, render(scene, along_y(), SMALL), SMALL)}
    assert seen["cabinet"].whole and seen["cabinet"].share == 1.0
    assert not seen["table"].whole and seen["table"].inside < 0.8
    assert not seen["shelf"].whole and seen["shelf"].share < 0.6


def test_names_that_fit_two_things_in_view_are_not_asked_about():
    def chair_at(x):
        return Placed(
            Piece("chair", "", (box((0, 0, 0.5), (0.5, 0.5, 1.0), GREY),), (0.5, 0.5, 1.0)), (x, 6.0, 0.0), 0.0
        )

    scene = scene_with(chair_at(3.0), chair_at(5.0))
    rendered = render(scene, along_y(), SMALL)
    assert len(sightings(scene, rendered, SMALL)) == 2
    asked = ask_about(np.random.default_rng(0), scene, rendered, SMALL, 200)
    assert not any("chair" in q.names for q in asked)


def _cube(kind, colour, x, y=5.0):
    part = box((0, 0, 0.4), (0.8, 0.8, 0.8), GREY)
    return Placed(Piece(kind, colour, (part,), (0.8, 0.8, 0.8)), (x, y, 0.0), 0.0)


def _asked_names(*pieces):
    scene = scene_with(*pieces)
    rendered = render(scene, along_y(), SMALL)
    asked = ask_about(np.random.default_rng(0), scene, rendered, SMALL, 600)
    found = {name for q in asked if q.status == "ok" for name in q.names}
    return found, {q.names[0] for q in asked if q.status == "not_found" and q.kind == "presence"}


def test_a_colour_tells_two_of_a_kind_apart():
    found, absent = _asked_names(_cube("sofa", "red", 3.0), _cube("sofa", "blue", 5.0))
    assert found == {"red sofa", "blue sofa"}
    assert "green sofa" in absent and not absent & {"sofa", "red sofa", "blue sofa"}


def test_a_colour_is_not_named_where_another_of_the_kind_has_no_one_colour():
    found, absent = _asked_names(_cube("sofa", "red", 3.0), _cube("sofa", "", 5.0))
    assert not found
    assert not any("sofa" in name for name in absent)


def test_one_of_a_kind_goes_with_and_without_its_colour():
    found, absent = _asked_names(_cube("sofa", "red", 4.0))
    assert found == {"sofa", "red sofa"}
    assert not absent & {"sofa", "red sofa", "chair", "armchair"}


def test_nobody_is_told_that_there_is_no_table_where_a_desk_stands():
    _, absent = _asked_names(_cube("desk", "", 4.0))
    assert not absent & {"table", "desk", "counter"} and "sofa" in absent


def test_is_there_a_thing_is_answered_yes_as_often_as_no(pictures):
    said = [
        asked.status
        for seed, (scene, rendered) in enumerate(pictures)
        for asked in ask_about(np.random.default_rng(seed), scene, rendered, SMALL, 40)
        if asked.kind == "presence"
    ]
    assert len(said) > 300
    assert 0.4 < said.count("ok") / len(said) < 0.6
