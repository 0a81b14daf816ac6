# SPDX-License-Identifier: Apache-2.0
"""Tests of measuring objects in boxes and at pixels: in rendered scenes, in rooms computed by hand, and in bad maps."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.checkered_room import CAMERA as ROOM_CAMERA
from support.checkered_room import FLOOR_M, render_room

from bench.geometry import QUANTITIES, pictures, results, summary
from depthlm_ros.core import DepthMap, Intrinsics, Region
from depthlm_ros.errors import BadQuestion
from depthlm_ros.measurement.extents import estimate_down, nearest_points
from depthlm_ros.measurement.measure import measure
from depthlm_ros.measurement.segment import segment_object

CAMERA = Intrinsics(480.0, 480.0, 319.5, 239.5, 640, 480)
EYE_M, WALL_M = 1.4, 6.0
STD = 0.05


def room(*boxes, pitch_deg=0.0, balls=(), camera=CAMERA):
    """Returns the depth map of a room, and the id of the object at each pixel: -1 for the room, then boxes, then balls.

    The floor is EYE_M below the camera, a wall WALL_M ahead. Boxes (centre x, z, size x, y, z; metres) stand on the
    floor; balls are (centre x, height above the floor, z, radius). The camera looks down by pitch_deg.
    """
    u, v = np.meshgrid(np.arange(camera.width_px), np.arange(camera.height_px))
    x, y = (u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px
    c, s = math.cos(math.radians(pitch_deg)), math.sin(math.radians(pitch_deg))
    ray = np.stack([x, c * y + s, c - s * y], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.fmin(np.where(ray[..., 1] > 0, EYE_M / ray[..., 1], np.inf), WALL_M / ray[..., 2])
        seen = np.full(depth.shape, -1)
        hits = [_box_entry(ray, *box) for box in boxes] + [_ball_entry(ray, *ball) for ball in balls]
    for number, entry in enumerate(hits):
        seen = np.where(entry < depth, number, seen)
        depth = np.fmin(depth, entry)
    return DepthMap(depth.astype(np.float32), camera), seen


def _box_entry(ray, x_m, z_m, wide_m, tall_m, deep_m):
    low, size = np.array([x_m - wide_m / 2, EYE_M - tall_m, z_m - deep_m / 2]), np.array([wide_m, tall_m, deep_m])
    with np.errstate(divide="ignore"):
        near, far = np.sort([low / ray, (low + size) / ray], axis=0)
    entry = near.max(-1)
    return np.where((entry > 0) & (entry < far.min(-1)), entry, np.inf)


def _ball_entry(ray, x_m, high_m, z_m, radius_m):
    centre = np.array([x_m, EYE_M - high_m, z_m])
    a, b = (ray**2).sum(-1), ray @ centre
    root = b**2 - a * (centre @ centre - radius_m**2)
    return np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def around(mask):
    """Returns the tight box around the pixels that are True."""
    v, u = np.nonzero(mask)
    return Region(float(u.min()), float(v.min()), float(np.ptp(u)) + 1, float(np.ptp(v)) + 1)


def values(depth, regions, uv_px=(), std=STD):
    """Returns {(quantity, *about): value}."""
    return {(one.quantity, *one.about): one.value for one in measure(depth, regions, uv_px, std)}


@pytest.fixture(scope="module")
def rendered():
    """Returns all measurements in rendered scenes, of about 300 objects."""
    return [result for picture in pictures(0, 40) for result in results(picture, picture.depth)]


@pytest.mark.parametrize(
    ("which", "least"),
    [
        ("all", (0.89, 0.89, 0.81, 0.85, 0.85)),
        ("clear", (0.92, 0.92, 0.85, 0.88, 0.86)),
        ("whole", (0.97, 0.97, 0.88, 0.88, 0.0)),
    ],
)
def test_true_boxes_in_true_depth_are_measured_within_two_percent(rendered, which, least):
    """Objects of "whole" are fully visible, those of "clear" enough for a question; all have at least 100 pixels."""
    shares = [summary(rendered, quantity, which).get("within", 1.0) for quantity in QUANTITIES]
    assert all(share >= limit for share, limit in zip(shares, least, strict=True)), shares


def test_the_usual_error_is_far_below_two_percent(rendered):
    assert max(summary(rendered, quantity, "all")["p50"] for quantity in QUANTITIES) < 0.004


def test_a_box_on_the_floor_has_its_own_distance_height_and_width():
    depth, seen = room((0.0, 3.0, 0.5, 0.8, 0.4))
    found = values(depth, [around(seen == 0)])
    assert found["nearest", 0] == pytest.approx(math.hypot(EYE_M - 0.8, 2.8), rel=0.01)  # Its upper front edge.
    assert found["nearest", 0] < found["distance", 0] < math.hypot(EYE_M, 2.8)  # Between the ends of its front.
    assert found["height", 0] == pytest.approx(0.8, rel=0.01)
    assert found["width", 0] == pytest.approx(0.5, rel=0.015)  # A pixel is more than one percent.


def test_width_is_across_the_line_of_sight():
    depth, seen = room((1.0, 2.6, 0.5, 0.8, 0.4))
    corners = np.array([(0.75, 2.8), (1.25, 2.4)])  # From the end of its left side to the end of its front.
    box = around(seen == 0)
    ahead = math.atan((box.x_px + (box.width_px - 1) / 2 - CAMERA.cx_px) / CAMERA.fx_px)
    across = corners @ (math.cos(ahead), -math.sin(ahead))
    assert values(depth, [box])["width", 0] == pytest.approx(np.ptp(across), rel=0.015)


@pytest.mark.parametrize("pitch_deg", [5.0, 12.0, 30.0])
def test_height_is_vertical_however_the_camera_is_tilted(pitch_deg):
    depth, seen = room((0.0, 2.6, 0.5, 0.8, 0.4), pitch_deg=pitch_deg)
    found = values(depth, [around(seen == 0)])
    assert found["height", 0] == pytest.approx(0.8, rel=0.015)
    assert found["width", 0] == pytest.approx(0.5, rel=0.015)


def test_a_ball_is_measured_with_its_true_width_and_distance():
    depth, seen = room(balls=[(-0.6, 0.25, 2.5, 0.25)], pitch_deg=10.0)
    found = values(depth, [around(seen == 0)])
    assert found["width", 0] == pytest.approx(0.5, rel=0.03)
    assert found["nearest", 0] == pytest.approx(math.hypot(0.6, EYE_M - 0.25, 2.5) - 0.25, rel=0.01)


def test_the_floor_and_wall_in_a_box_do_not_belong_to_the_object():
    depth, seen = room((0.0, 3.0, 0.06, 1.5, 0.06), (0.0, 3.0, 0.8, 0.06, 0.06))  # A pole on a bar.
    mask = seen >= 0
    segment = segment_object(depth, around(mask))
    found = np.zeros_like(mask)
    found[tuple(segment.uv_px.astype(int).T[::-1])] = True
    assert mask.sum() < 0.4 * around(mask).width_px * around(mask).height_px
    assert (found & mask).sum() > 0.97 * mask.sum()
    assert (found & ~mask).sum() < 0.03 * mask.sum()


def test_an_object_behind_a_post_is_one_object():
    depth, seen = room((0.0, 3.5, 1.2, 0.7, 0.4), (0.0, 2.0, 0.1, 1.9, 0.1))
    found = values(depth, [around(seen == 0)])
    assert found["width", 0] == pytest.approx(1.2, rel=0.02)
    assert found["height", 0] == pytest.approx(0.7, rel=0.02)
    assert found["nearest", 0] == pytest.approx(math.hypot(0.06, EYE_M - 0.7, 3.3), rel=0.01)


def test_objects_on_a_table_do_not_make_it_higher():
    legs = [(x, z, 0.06, 0.72, 0.06) for x in (-0.6, 0.6) for z in (2.6, 3.2)]
    top = [(x, 2.9, 0.3, 0.72, 0.7) for x in (-0.5, -0.2, 0.1, 0.4)]  # Only its front is visible.
    depth, seen = room(*legs, *top, (0.1, 2.75, 0.1, 0.8, 0.1), pitch_deg=25.0)
    table = (seen >= 0) & (seen < len(legs + top))
    assert values(depth, [around(table)])["height", 0] == pytest.approx(0.72, rel=0.02)


def test_the_visible_part_of_an_object_at_the_edge_of_the_image_is_measured():
    depth, seen = room((2.0, 3.0, 1.0, 0.8, 0.4))
    assert seen[:, -1].max() == 0
    slope = (CAMERA.width_px - 0.5 - CAMERA.cx_px) / CAMERA.fx_px
    box = around(seen == 0)
    ahead = math.atan((box.x_px + (box.width_px - 1) / 2 - CAMERA.cx_px) / CAMERA.fx_px)
    across = np.array([(1.5, 3.2), (3.2 * slope, 3.2)]) @ (math.cos(ahead), -math.sin(ahead))
    assert values(depth, [box])["width", 0] == pytest.approx(np.ptp(across), rel=0.015)


@pytest.mark.parametrize(("grow_px", "within"), [(6, 0.03), (-4, 0.06)])
def test_a_box_that_is_not_tight_still_finds_its_object(grow_px, within):
    depth, seen = room((0.3, 3.0, 0.8, 0.9, 0.4))
    tight = around(seen == 0)
    grown = Region(
        tight.x_px - grow_px, tight.y_px - grow_px, tight.width_px + 2 * grow_px, tight.height_px + 2 * grow_px
    )
    one, two = values(depth, [tight]), values(depth, [grown])
    assert [two[key] for key in one] == pytest.approx(list(one.values()), rel=within)


def test_a_box_on_a_wall_measures_the_wall():
    depth, _ = room()
    found = values(depth, [Region(300, 100, 48, 24)])
    assert found["distance", 0] == pytest.approx(WALL_M * math.hypot(1, (239.5 - 123) / 480), rel=0.01)
    assert found["width", 0] == pytest.approx(48 / 480 * WALL_M, rel=0.02)


def test_a_box_of_three_pixels_is_measured():
    depth, seen = room(balls=[(0.5 / 160, EYE_M - 0.5 / 160, 3.0, 0.009)])  # In the middle of a pixel.
    box = around(seen == 0)
    assert box.width_px == 3
    found = values(depth, [box])
    assert found["distance", 0] == pytest.approx(3.0, rel=0.01)
    assert found["width", 0] == pytest.approx(0.018, rel=0.2)


def test_two_boxes_have_their_gap_and_the_certain_relations():
    depth, seen = room((-0.8, 2.5, 0.4, 0.4, 0.4), balls=[(0.7, 2.0, 4.0, 0.3)])
    found = {one.quantity: one for one in measure(depth, [around(seen == 0), around(seen == 1)], (), STD)}
    # From the end of the upper right edge, visible on top of the box, to the ball.
    assert found["gap"].value == pytest.approx(math.dist((-0.6, 0.4, 2.7), (0.7, 2.0, 4.0)) - 0.3, rel=0.02)
    assert found["nearer"].about == found["left of"].about == (0, 1)
    assert found["left of"].value == pytest.approx(1.5, rel=0.05)
    assert found["above"].about == (1, 0)
    assert found["above"].value == pytest.approx(2.0 - 0.2, rel=0.05)
    assert "in front of" not in found


def test_in_front_of_is_reported_for_objects_that_share_columns():
    depth, seen = room((0.0, 2.0, 0.3, 0.5, 0.3), (0.1, 4.0, 1.0, 1.2, 0.3))
    found = {one.quantity: one for one in measure(depth, [around(seen == 1), around(seen == 0)], (), STD)}
    assert found["in front of"].about == found["nearer"].about == (1, 0)
    assert found["nearer"].value == pytest.approx(3.85 - math.hypot(1.85, EYE_M - 0.5), abs=0.1)


def test_uncertain_relations_are_not_reported():
    depth, seen = room((-0.5, 3.0, 0.4, 0.6, 0.4), (0.5, 3.1, 0.4, 0.6, 0.4))
    regions = [around(seen == 0), around(seen == 1)]
    assert {"nearer", "above"} <= {key[0] for key in values(depth, regions, std=0.0)} | {"above"}
    assert {key[0] for key in values(depth, regions, std=0.1)} & {"nearer", "above", "in front of"} == set()
    assert {key[0] for key in values(depth, regions, std=math.nan)} <= {"distance", "nearest", "height", "width", "gap"}


def test_pixels_have_their_distance_and_gap():
    wall = np.full((240, 320), 4.0, np.float32)
    camera = replace(ROOM_CAMERA, cx_px=160.0, cy_px=120.0, fy_px=280.0)
    one, two, gap = measure(DepthMap(wall, camera), (), [(160, 120), (300, 120)], STD)[:3]
    assert (one.quantity, one.value, one.about) == ("distance", pytest.approx(4.0), (0,))
    assert (two.value, two.about) == (pytest.approx(4 * math.hypot(1, 0.5)), (1,))
    assert (gap.quantity, gap.value, gap.about) == ("gap", pytest.approx(2.0), (0, 1))
    assert one.std == pytest.approx(STD * 4.0)


def test_a_pixel_on_the_border_of_two_is_measured_in_the_second():
    columns = np.tile(np.arange(1, 9, dtype=np.float32), (6, 1))
    depth = DepthMap(columns, Intrinsics(1e6, 1e6, 3.5, 2.5, 8, 6))
    found = [values(depth, (), [(u, 2.0)])["distance", 0] for u in (-0.5, 0.5, 1.5, 2.5, 6.5, 7.49)]
    assert found == pytest.approx([1, 2, 3, 4, 8, 8])


def test_boxes_and_pixels_are_numbered_together():
    depth, seen = room((0.3, 3.0, 0.5, 0.8, 0.4))
    found = values(depth, [around(seen == 0)], [(20, 20)])
    assert {key[1:] for key in found if key[0] == "distance"} == {(0,), (1,)}
    assert found["gap", 0, 1] > 2.5
    assert ("height", 1) not in found


def test_points_are_where_the_value_was_measured():
    depth, seen = room((-0.8, 2.5, 0.4, 0.4, 0.4), (0.7, 4.5, 0.6, 0.9, 0.4))
    for one in measure(depth, [around(seen == 0), around(seen == 1)], (), STD):
        if one.quantity in ("distance", "nearest"):
            assert np.linalg.norm(one.points_m[0]) == pytest.approx(one.value)
        elif one.quantity == "gap":
            assert math.dist(*one.points_m) == pytest.approx(one.value)
        elif one.quantity in ("height", "width"):
            assert math.dist(*one.points_m) >= one.value - 1e-9


def test_a_size_is_as_uncertain_as_the_depth_and_a_gap_as_its_ends():
    depth, seen = room((-0.1, 2.0, 0.3, 0.5, 0.3), (0.2, 5.0, 0.6, 1.6, 0.3))
    found = {(one.quantity, *one.about): one for one in measure(depth, [around(seen == 0), around(seen == 1)], (), 0.1)}
    width, gap = found["width", 0], found["gap", 0, 1]
    assert width.std == pytest.approx(0.1 * width.value, rel=0.1)
    ends = np.linalg.norm(gap.points_m, axis=1)
    assert gap.std == pytest.approx(0.1 * math.hypot(*ends), rel=0.1)  # The ends lie behind each other.


def test_pairs_are_compared_up_to_four():
    depth, _ = room()
    pixels = [(100 + 20 * n, 300) for n in range(5)]
    assert sum(key[0] == "gap" for key in values(depth, (), pixels[:4])) == 6
    assert {key[0] for key in values(depth, (), pixels)} == {"distance"}
    assert measure(depth, (), (), STD) == ()


@pytest.mark.parametrize("nothing", [np.nan, np.inf, 0.0, -1.0])
def test_values_are_unknown_where_the_depth_is_unknown(nothing):
    depth, _ = room()
    depth.depth_m[100:200, 100:200] = nothing
    found = measure(depth, [Region(110, 110, 50, 50), Region(400, 300, 40, 40)], [(150, 150)], STD)
    unknown = [one for one in found if set(one.about) & {0, 2}]
    assert {one.quantity for one in unknown} == {"distance", "nearest", "height", "width", "gap"}
    assert all(math.isnan(one.value) and math.isnan(one.std) and len(one.points_m) == 0 for one in unknown)
    assert all(math.isfinite(one.value) for one in found if one not in unknown)


def test_a_map_with_holes_and_rounded_to_millimetres_gives_nearly_the_same():
    depth, seen = room((0.3, 3.0, 0.5, 0.8, 0.4), pitch_deg=15.0)
    exact = values(depth, [around(seen == 0)])
    worn = np.round(depth.depth_m, 3)
    worn[np.random.default_rng(0).random(worn.shape) < 0.05] = np.nan
    found = values(DepthMap(worn, CAMERA), [around(seen == 0)])
    assert [found[key] for key in exact] == pytest.approx(list(exact.values()), rel=0.03)


@pytest.mark.filterwarnings("error")
def test_any_depth_map_is_measured_without_warnings():
    rng = np.random.default_rng(0)
    camera = Intrinsics(30.0, 31.0, 9.0, 7.0, 20, 15)
    for fill in (np.nan, np.inf, 0.0, 1e-30, 1e30, 3.0):
        rows = np.full((15, 20), fill, np.float32)
        for share in (0.0, 0.5, 1.0):
            mixed = np.where(rng.random(rows.shape) < share, rng.lognormal(0, 2, rows.shape), rows).astype(np.float32)
            found = measure(DepthMap(mixed, camera), [Region(2, 2, 9, 9), Region(0, 0, 1, 1)], [(19, 14)], STD)
            assert all(one.value >= 0 or math.isnan(one.value) for one in found)


@pytest.mark.parametrize(
    ("region", "says"),
    [
        (Region(10, 10, 0, 5), "0 x 5"),
        (Region(10, 10, 5, -3), "5 x -3"),
        (Region(10, 10, math.nan, 5), "nan"),
        (Region(math.inf, 10, 5, 5), "inf"),
        (Region(640, 10, 5, 5), r"\(640, 10\)"),
        (Region(-20, 10, 15, 5), r"\(-20, 10\)"),
    ],
)
def test_boxes_without_size_or_outside_are_refused_with_their_values(region, says):
    depth, _ = room()
    with pytest.raises(BadQuestion, match=says):
        measure(depth, [region], (), STD)


def test_a_box_is_clipped_to_the_image_and_has_at_least_one_pixel():
    depth, _ = room()
    assert segment_object(depth, Region(-20, -20, 40, 40)).box_px == (0, 0, 20, 20)
    assert segment_object(depth, Region(100.6, 50.2, 0.1, 0.1)).box_px == (101, 50, 102, 51)
    assert segment_object(depth, Region(639.9, 479.9, 0.1, 0.1)).box_px == (639, 479, 640, 480)


@pytest.mark.parametrize("pixel", [(640, 10), (10, -1), (math.nan, 3)])
def test_pixels_outside_are_refused_with_their_values(pixel):
    depth, _ = room()
    with pytest.raises(BadQuestion, match=f"{pixel[0]:g}, {pixel[1]:g}"):
        measure(depth, (), [pixel], STD)


@pytest.mark.parametrize("pitch_deg", [-15.0, 0.0, 20.0, 35.0])
def test_down_is_estimated_from_the_surfaces_of_the_room(pitch_deg):
    depth, _ = room((0.3, 3.0, 0.5, 0.8, 0.4), pitch_deg=pitch_deg)
    pitch = math.radians(pitch_deg)
    assert estimate_down(depth) == pytest.approx([0, math.cos(pitch), math.sin(pitch)], abs=0.004)


def test_down_is_the_cameras_own_if_surfaces_do_not_agree():
    wall = DepthMap(np.full((480, 640), 3.0, np.float32), CAMERA)
    assert estimate_down(wall) == pytest.approx([0, 1, 0], abs=1e-6)
    noise = np.random.default_rng(0).uniform(1, 5, (480, 640)).astype(np.float32)
    assert estimate_down(DepthMap(noise, CAMERA)) == pytest.approx([0, 1, 0], abs=1e-6)


def test_down_is_estimated_for_another_camera():
    _, depth_m = render_room()
    depth = DepthMap(depth_m.astype(np.float32), ROOM_CAMERA)
    assert estimate_down(depth) == pytest.approx([0, 1, 0], abs=0.003)
    floor = values(depth, (), [(161, 239)])["distance", 0]
    assert floor == pytest.approx(FLOOR_M * math.hypot(282.0 / (239 - 118.5), 1), rel=1e-5)


def test_nearest_points_are_nearly_as_near_as_the_true_nearest_pair():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.5, 3.0):
        one, two = rng.normal(size=(3000, 3)), rng.normal(size=(2000, 3)) + shift
        brute = np.sqrt(min(((two - point) ** 2).sum(1).min() for point in one))
        assert math.dist(*nearest_points(one, two)) <= brute + 0.15
    sheet = np.stack([*np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 60)), np.zeros((60, 60))], -1).reshape(
        -1, 3
    )
    assert math.dist(*nearest_points(sheet, sheet + np.array([1.5, 0.2, 0.3]))) == pytest.approx(
        math.hypot(0.5, 0.3), abs=0.02
    )


def test_every_object_has_the_relative_error_that_the_map_tells_of_it():
    """Two flat walls: the left one is uncertain by 10 % of its depth, the right one by 1 %. The scalar is not used."""
    depth_m = np.full((480, 640), 2.0, np.float32)
    depth_m[:, 320:] = 3.0
    std_m = np.where(np.arange(640) < 320, 0.2, 0.03).astype(np.float32) * np.ones_like(depth_m)
    found = measure(DepthMap(depth_m, CAMERA, std_m=std_m), (), [(100, 240), (540, 240)], 9.9)
    distances = [one for one in found if one.quantity == "distance"]
    assert [one.std / one.value for one in distances] == pytest.approx([0.1, 0.01], rel=1e-4)
    (nearer,) = (one for one in found if one.quantity == "nearer")
    assert nearer.std == pytest.approx(np.hypot(0.1 * distances[0].value, 0.01 * distances[1].value), rel=1e-4)
    (left,) = (one for one in found if one.quantity == "left of")
    across_m = 2.0 * (100 - 319.5) / 480, 3.0 * (540 - 319.5) / 480
    assert left.std == pytest.approx(np.hypot(0.1 * across_m[0], 0.01 * across_m[1]), rel=1e-4)


def test_an_object_in_a_box_has_the_median_of_its_pixels_relative_errors():
    depth, seen = room((0.0, 3.0, 0.6, 0.5, 0.4))
    std_m = np.where(seen == 0, 0.05, 0.4).astype(np.float32) * depth.depth_m
    told = {one.quantity: one for one in measure(replace(depth, std_m=std_m), [around(seen == 0)], (), 9.9)}
    same = {one.quantity: one for one in measure(depth, [around(seen == 0)], (), 0.05)}
    for quantity in ("distance", "height", "width"):
        assert told[quantity].std == pytest.approx(same[quantity].std, rel=1e-5)
