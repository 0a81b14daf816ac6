"""The renderer's depth is exact, its ids fit the depth, and what is said about a picture is true of it."""

import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import depthlm_ros.scenes
from depthlm_ros.core import Intrinsics
from depthlm_ros.pinhole import rays
from depthlm_ros.scenes import (
    belongings,
    building,
    catalogue,
    clutter,
    colours,
    equipment,
    furniture,
    household,
    outdoors,
    tabletop,
)
from depthlm_ros.scenes.camera_path import KEEP_M, camera_path, demo_scene
from depthlm_ros.scenes.dice import Dice
from depthlm_ros.scenes.names import VOCABULARY
from depthlm_ros.scenes.photo import photograph
from depthlm_ros.scenes.pose import CLEAR_M, clearance_m, look, sample_pose
from depthlm_ros.scenes.primitives import SIMPLE_KINDS, SKY, Paint, Piece, Placed, ball, box, frustum
from depthlm_ros.scenes.questions import ask_about
from depthlm_ros.scenes.render import render
from depthlm_ros.scenes.sample import assemble, sample_scene
from depthlm_ros.scenes.visibility import sightings

SMALL = Intrinsics(96.0, 96.0, 63.5, 47.5, 128, 96)
ODD = Intrinsics(101.0, 87.0, 40.2, 60.7, 97, 83)
GREY = Paint((0.5, 0.5, 0.5))
ROOM_M = (8.0, 10.0, 4.0)
CAMERA_M = np.array([4.0, 2.0, 1.5])
PICTURES = 60


def scene_with(*pieces, size=ROOM_M, lights=((4.0, 5.0, 3.5, 0.1, 9.0, 9.0, 9.0, 0.0, 0.0, -1.0),)):
    return assemble(list(pieces), (GREY,) * 6, size, list(lights), Dice(np.random.default_rng(0)), "test")


def alone(part, xyz=(0.0, 0.0, 0.0), yaw=0.0, kind="thing"):
    return Placed(Piece(kind, "", (part,), (1.0, 1.0, 1.0)), xyz, yaw)


def along_y(pitch=0.0):
    return look(CAMERA_M, math.pi / 2, pitch)


def world_points(rendered, camera):
    """(H, W, 3) float64: where each pixel's ray ends."""
    v, u = np.mgrid[: camera.height_px, : camera.width_px].astype(float)
    rays = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, np.ones_like(u)], -1)
    return rendered.pose.t + (rays * rendered.depth_m[..., None].astype(float)) @ rendered.pose.R.T


@pytest.fixture(scope="module")
def pictures():
    """Random scenes, one picture each."""
    made = []
    for seed in range(PICTURES):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        made.append((scene, render(scene, sample_pose(rng, scene), SMALL)))
    return made


@pytest.mark.parametrize("camera", [SMALL, ODD])
def test_a_wall_straight_ahead_has_its_distance_at_every_pixel(camera):
    depth_m = render(scene_with(), along_y(), camera).depth_m
    row = int(camera.cy_px)
    slope = np.abs(np.arange(camera.width_px) - camera.cx_px) / camera.fx_px
    # The end wall is 8 m ahead, the side walls 4 m to the left and right.
    assert np.abs(depth_m[row] - np.minimum(8.0, 4.0 / np.maximum(slope, 1e-9))).max() < 1e-4


@pytest.mark.parametrize("camera", [SMALL, ODD])
@pytest.mark.parametrize("pitch", [-0.6, 0.1])
def test_every_ray_into_an_empty_room_ends_on_its_shell(camera, pitch):
    points = world_points(render(scene_with(), along_y(pitch), camera), camera)
    gap = np.minimum(np.abs(points), np.abs(points - np.array(ROOM_M))).min(-1)
    assert gap.max() < 1e-4


def test_a_ray_that_ends_nowhere_near_has_no_depth():
    scene = scene_with(size=(500.0, 500.0, 500.0))
    assert np.isnan(render(scene, look(np.array([250.0, 1.0, 250.0]), math.pi / 2, 0.0), SMALL).depth_m[48, 64])


@pytest.mark.parametrize("distance_m", [0.6, 3.0, 6.5])
def test_a_ball_has_its_radius(distance_m):
    centre, radius = CAMERA_M + np.array([0.2, distance_m, -0.1]), 0.25
    rendered = render(scene_with(alone(ball(tuple(centre), (2 * radius,) * 3, GREY))), along_y(), SMALL)
    hit = rendered.object_id == 0
    assert hit.sum() > 20
    assert np.abs(np.linalg.norm(world_points(rendered, SMALL)[hit] - centre, axis=-1) - radius).max() < 1e-4


@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_a_box_has_its_faces(yaw):
    size, foot = np.array([0.8, 0.5, 1.1]), np.array([4.1, 4.5, 0.3])
    part = box((0.0, 0.0, size[2] / 2), tuple(size), GREY)
    rendered = render(scene_with(alone(part, tuple(foot), yaw)), along_y(-0.2), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - foot - (0, 0, size[2] / 2)
    turn = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    local = np.abs(points @ turn.T) / (size / 2)
    assert len(local) > 200
    assert np.abs(local.max(-1) - 1).max() < 3e-4


@pytest.mark.parametrize("taper", [0.0, 0.5, 0.97])
def test_a_cylinder_or_cone_has_its_side_and_top(taper):
    radius, height, foot = 0.4, 0.9, np.array([4.0, 4.0, 0.0])
    rendered = render(scene_with(alone(frustum(tuple(foot), radius, height, GREY, taper))), along_y(-0.4), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - foot
    out, up = np.linalg.norm(points[:, :2], axis=-1), points[:, 2]
    on_side = np.abs(out - radius * (1 - taper * up / height))
    on_top = np.abs(up - height) + np.maximum(0, out - radius * (1 - taper))
    assert len(points) > 200
    assert np.minimum(on_side, on_top).max() < 2e-4


def test_a_tilted_part_lies_where_its_pitch_puts_it():
    pitch, centre = -0.3, np.array([4.0, 4.0, 1.2])
    part = box(tuple(centre), (1.0, 0.02, 0.8), GREY, pitch=pitch)
    rendered = render(scene_with(alone(part)), along_y(), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - centre
    # A negative pitch leans the top towards +y, as chair backs lean.
    normal = np.array([0.0, math.cos(pitch), math.sin(pitch)])
    assert points[points[:, 2] > 0.1][:, 1].mean() > points[points[:, 2] < -0.1][:, 1].mean()
    assert np.abs(np.abs(points @ normal) - 0.01).max() < 1e-2


def test_the_nearer_of_two_things_is_seen():
    near, far = alone(box((4.0, 4.0, 1.5), (0.4,) * 3, GREY)), alone(box((4.0, 5.0, 1.5), (2.0,) * 3, GREY))
    for order, id_near in (((near, far), 0), ((far, near), 1)):
        rendered = render(scene_with(*order), along_y(), SMALL)
        assert rendered.object_id[48, 64] == id_near
        assert abs(rendered.depth_m[48, 64] - 1.8) < 1e-4


def test_a_thing_that_reaches_behind_the_camera_is_still_seen():
    table = alone(box((4.0, 3.0, 0.7), (3.0, 6.0, 0.05), GREY))
    rendered = render(scene_with(table), along_y(-0.5), SMALL)
    seen = rendered.object_id == 0
    assert seen[-1].all()
    assert np.abs(world_points(rendered, SMALL)[seen][:, 2] - 0.725).max() < 1e-4


def test_ids_change_where_depth_jumps(pictures):
    for scene, rendered in pictures:
        ids, depth = rendered.object_id.astype(int), rendered.depth_m
        things = {o.object_id for o in scene.objects if o.kind in ("ball", "box") and o.tall_m == o.wide_m}
        for k in things & set(np.unique(ids)):
            # Within one ball no two neighbours differ by more than its size.
            tall = next(o.tall_m for o in scene.objects if o.object_id == k)
            same = (ids[:, 1:] == k) & (ids[:, :-1] == k)
            assert (np.abs(np.diff(depth, axis=1))[same] <= tall + 1e-3).all()


def test_a_shadow_falls_below_a_plate_under_the_lamp():
    plate = alone(box((4.0, 5.0, 1.5), (1.0, 1.0, 0.05), GREY))
    pose = along_y(-0.5)
    lit, dark = render(scene_with(), pose, SMALL), render(scene_with(plate), pose, SMALL)
    floor = world_points(dark, SMALL)
    below = (dark.object_id < 0) & (np.abs(floor - (4.0, 5.0, 0.0)) < (0.4, 0.4, 0.01)).all(-1)
    aside = (dark.object_id < 0) & (np.abs(floor - (6.0, 5.0, 0.0)) < (0.4, 0.4, 0.01)).all(-1)
    assert below.sum() > 10 and aside.sum() > 10
    assert dark.rgb[below].mean() < 0.7 * lit.rgb[below].mean()
    assert abs(dark.rgb[aside].mean() / lit.rgb[aside].mean() - 1) < 0.02


def test_the_same_seed_gives_the_same_picture_and_another_seed_another():
    def picture(seed):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        rendered = render(scene, sample_pose(rng, scene), SMALL)
        return rendered, photograph(rng, rendered), ask_about(rng, scene, rendered, SMALL, 8)

    (one, photo, asked), (two, photo2, asked2), (three, *_) = picture(7), picture(7), picture(8)
    assert np.array_equal(one.depth_m, two.depth_m) and np.array_equal(one.rgb, two.rgb)
    assert np.array_equal(photo, photo2) and repr(asked) == repr(asked2)
    assert not np.array_equal(one.depth_m, three.depth_m)


def test_a_photograph_is_bytes_and_neither_black_nor_white(pictures):
    for seed, (_, rendered) in enumerate(pictures):
        photo = photograph(np.random.default_rng(seed), rendered)
        assert photo.dtype == np.uint8 and photo.shape == (96, 128, 3)
        assert 25 < photo.mean() < 230


def test_cameras_stand_free_and_upright(pictures):
    for scene, rendered in pictures:
        assert clearance_m(scene, rendered.pose.t) >= CLEAR_M
        assert np.nanmin(rendered.depth_m[32:64, 43:85], initial=9.0) > 0.3
        R = rendered.pose.R
        assert np.allclose(R.T @ R, np.eye(3)) and np.linalg.det(R) > 0
        assert -R[2, 1] > 0.7  # the camera's down is the world's down
        assert -0.67 < R[2, 2] < 0.3


def test_every_pixel_has_a_depth_but_the_sky(pictures):
    outdoors = 0
    for scene, rendered in pictures:
        known = np.isfinite(rendered.depth_m)
        assert np.isfinite(rendered.rgb).all()
        assert rendered.depth_m.dtype == np.float32 and rendered.object_id.dtype == np.int16
        if scene.paints[0, 6] != SKY:
            assert known.all()
            continue
        outdoors += 1
        up = (rays(SMALL).astype(float) @ rendered.pose.R.T)[..., 2]
        # Nothing solid is unknown, and the ground is known to 20 m at least.
        assert (rendered.object_id[~known] == -1).all()
        assert known[rendered.pose.t[2] < -20 * up].all()
    assert outdoors > 0


@pytest.mark.parametrize("colour", colours.NAMED)
@pytest.mark.parametrize("kind", SIMPLE_KINDS)
def test_every_colour_and_kind_is_seen_by_its_name_and_hue(colour, kind):
    piece = clutter.coloured(Dice(np.random.default_rng(1)), kind, colour, 0.8)
    scene = scene_with(Placed(piece, (4.0, 3.8, 0.0), 0.3))
    rendered = render(scene, along_y(-0.4), SMALL)
    (seen,) = sightings(scene, rendered, SMALL)
    assert seen.thing.name == f"{colour} {kind}" and seen.whole
    # The same shape in grey tells the light; what is left is the paint.
    grey = Piece("thing", "", tuple(part._replace(paint=GREY) for part in piece.parts), piece.size_m)
    light = render(scene_with(Placed(grey, (4.0, 3.8, 0.0), 0.3)), along_y(-0.4), SMALL).rgb / 0.5
    inside = rendered.object_id == seen.thing.object_id
    paint = (rendered.rgb[inside] / light[inside]).mean(0)
    assert min(colours.NAMED, key=lambda name: _apart(paint, np.array(colours.NAMED[name]))) == colour


def _apart(a, b):
    return np.linalg.norm(a / a.sum() - b / b.sum()) + 0.1 * abs(math.log(a.max() / b.max()))


MAKERS = {m for room in catalogue.ROOMS.values() for m in (*room.at_wall, *room.free, *room.loose)} | set(
    (*tabletop.SMALL, *outdoors.LOOSE)
)


@pytest.mark.parametrize("make", sorted(MAKERS, key=lambda m: m.__name__))
def test_furniture_takes_no_more_floor_than_it_says_and_stands_on_it(make):
    for seed in range(20):
        piece = make(Dice(np.random.default_rng(seed)))
        solids = scene_with(Placed(piece, (0.0, 0.0, 0.0), 0.0)).solids
        reach = np.abs(solids[:, 3:12].reshape(-1, 3, 3)).sum(1)
        low, high = (solids[:, :3] - reach).min(0), (solids[:, :3] + reach).max(0)
        assert -0.05 < low[2] < 0.2 or piece.kind in ("window", "monitor")
        assert (np.maximum(high, -low)[:2] <= np.array(piece.size_m[:2]) / 2 + 0.12).all()
        if piece.kind == "table" and piece.top_m:
            assert 0.3 <= piece.top_m <= 0.8


@pytest.mark.parametrize("yaw", [0.0, 0.5, 2.0])
def test_an_object_knows_its_true_extents_whatever_its_yaw(yaw):
    parts = (
        box((0.2, 0.0, 0.5), (1.0, 0.3, 1.0), GREY),
        frustum((-0.5, 0.0, 0.0), 0.1, 1.4, GREY, -0.5),
        ball((0.0, 0.0, 0.3), (0.2, 0.8, 0.2), GREY),
    )
    scene = scene_with(Placed(Piece("thing", "", parts, (1.0, 1.0, 1.0)), (4.0, 5.0, 0.0), yaw))
    (thing,) = scene.objects
    assert thing.wide_m == pytest.approx(0.7 + 0.5 + 0.15, abs=1e-5)
    assert thing.tall_m == pytest.approx(1.4, abs=1e-5)


def test_a_bucket_widens_upwards():
    part = frustum((4.0, 4.0, 0.0), 0.3, 0.8, GREY, -0.5)
    rendered = render(scene_with(alone(part)), along_y(-0.2), SMALL)
    points = world_points(rendered, SMALL)[rendered.object_id == 0] - (4.0, 4.0, 0.0)
    out = np.linalg.norm(points[:, :2], axis=-1)
    on_side = np.abs(out - 0.3 * (1 + 0.5 * points[:, 2] / 0.8)) < 2e-4
    on_top = (np.abs(points[:, 2] - 0.8) < 2e-4) & (out < 0.4501)
    assert (on_side | on_top).all() and on_side.sum() > 100 and on_top.sum() > 20


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


@pytest.mark.parametrize(
    ("make", "axis", "low_m", "high_m"),
    [
        (building.door, 2, 1.95, 2.25),
        (furniture.table, 2, 0.72, 0.77),
        (furniture.desk, 2, 0.71, 0.76),
        (furniture.chair, 2, 0.75, 1.05),
        (furniture.bed, 1, 1.9, 2.2),
        (equipment.fridge, 0, 0.55, 0.78),
        (household.toilet, 2, 0.7, 0.85),
        (household.washing_machine, 0, 0.59, 0.61),
        (clutter.person, 2, 1.5, 1.95),
        (outdoors.car, 0, 3.5, 5.1),
        (outdoors.car, 2, 1.35, 1.8),
        (belongings.bicycle, 0, 1.6, 1.85),
    ],
)
def test_things_have_the_sizes_of_real_ones(make, axis, low_m, high_m):
    for seed in range(40):
        piece = make(Dice(np.random.default_rng(seed)))
        solids = scene_with(Placed(piece, (0.0, 0.0, 0.0), 0.0)).solids
        reach = np.abs(solids[:, 3:12].reshape(-1, 3, 3)).sum(1)
        size = (solids[:, :3] + reach).max(0) - (solids[:, :3] - reach).min(0)
        assert low_m <= size[axis] <= high_m


def test_every_kind_of_room_gets_its_share():
    assert sum(room.share for room in catalogue.ROOMS.values()) == pytest.approx(1.0)


def test_a_polished_floor_shows_what_stands_on_it_upside_down():
    white = Paint((0.9, 0.9, 0.9), emission=2.0)
    pole = alone(box((4.0, 6.0, 1.0), (0.5, 0.1, 2.0), white))
    pose = along_y(-0.35)
    dull = render(scene_with(pole), pose, SMALL)
    glossy = replace(dull.scene, paints=dull.scene.paints.copy())
    glossy.paints[4, 8] = 0.3
    shiny = render(glossy, pose, SMALL)
    gain = (shiny.rgb - dull.rgb).mean(2)
    floor = np.abs(world_points(dull, SMALL)[..., 2]) < 0.01
    assert (gain[floor] >= 0).all() and np.abs(gain[~floor & (dull.object_id >= 0)]).max() < 1e-6
    # The pole's foot is 4 m away; its mirror image lies nearer, straight below it.
    below = floor & (np.abs(world_points(dull, SMALL)[..., 0] - 4.0) < 0.1) & (dull.depth_m > 2.8)
    aside = floor & (np.abs(world_points(dull, SMALL)[..., 0] - 4.9) < 0.1) & (dull.depth_m > 2.8)
    assert below.sum() > 10 and gain[below].mean() > 2 * gain[aside].mean()


def test_every_name_in_a_scene_is_in_the_vocabulary():
    for seed in range(100):
        scene = sample_scene(np.random.default_rng(seed))
        assert {o.name for o in scene.objects} <= set(VOCABULARY)


def test_the_demo_flight_is_smooth_free_and_shows_the_red_box_and_the_blue_ball():
    scene = demo_scene()
    poses = camera_path(scene, 60)
    assert len(poses) == 60
    assert min(clearance_m(scene, pose.t) for pose in poses) >= KEEP_M
    steps = np.linalg.norm(np.diff([pose.t for pose in poses], axis=0), axis=1)
    assert steps.max() < 0.15 and steps.sum() > 0.5
    turns = [math.acos(min(1.0, a.R[:, 2] @ b.R[:, 2])) for a, b in pairwise(poses)]
    assert max(turns) < math.radians(4)
    both = 0
    for pose in poses[::6]:
        names = {s.thing.name for s in sightings(scene, render(scene, pose, SMALL), SMALL) if s.pixels >= 12}
        both += {"red box", "blue ball"} <= names
    assert both >= 8


def test_compiled_kernels_follow_an_edit_in_any_file_of_the_room(tmp_path):
    package = Path(depthlm_ros.scenes.__file__).parent.parent
    copy = tmp_path / "depthlm_ros"
    shutil.copytree(package / "scenes", copy / "scenes", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "core.py", "errors.py"):
        shutil.copy(package / name, copy / name)
    code = (
        "import numpy as np; from depthlm_ros.scenes.lookup import shadow_lists; "
        "from depthlm_ros.scenes.raycast import geometry; "
        "solids = np.array([[2, 0, 0, .5, 0, 0, 0, .5, 0, 0, 0, .5, 0, 0]], np.float32); "
        "lists = shadow_lists(geometry(solids), np.zeros(1, np.float32), np.zeros((1, 10), np.float32)); "
        "print((lists >= 0).sum())"
    )

    def listed():
        return int(subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True).stdout)

    before = listed()
    assert 0 < before == listed()
    raycast = copy / "scenes" / "raycast.py"
    raycast.write_text(raycast.read_text().replace("return near if (near <= far)", "return near if (near > far)"))
    assert listed() != before
