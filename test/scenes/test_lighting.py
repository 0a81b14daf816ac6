"""Shadows, colours and reflections are where light would put them, and a seed always gives the same picture."""

import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.small_scenes import GREY, SMALL, alone, along_y, random_pictures, scene_with, world_points

import depthlm_ros.scenes
from depthlm_ros.scenes.camera.photo import developed, photograph, recoloured
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.generate import ask_about
from depthlm_ros.scenes.questions.visibility import sightings
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world import clutter, colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS, Paint, Piece, Placed, box
from depthlm_ros.scenes.world.sample import sample_scene


@pytest.fixture(scope="module")
def pictures():
    return random_pictures()


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


def test_developed_otherwise_a_picture_keeps_its_shapes_and_its_colours_their_order(pictures):
    changed = 0
    for seed, (_, rendered) in enumerate(pictures):
        photo = photograph(np.random.default_rng(seed), rendered)
        kept = photo.copy()
        other = developed(np.random.default_rng(seed), photo)
        assert np.array_equal(photo, kept) and other.dtype == np.uint8 and other.shape == photo.shape
        for channel in range(3):
            order = np.argsort(photo[..., channel], axis=None)
            assert (np.diff(other[..., channel].ravel()[order].astype(int)) >= 0).all()
        changed += not np.array_equal(other, photo)
    assert 0.3 < changed / len(pictures) < 0.7


def test_recoloured_a_picture_keeps_its_shapes_and_not_its_colours(pictures):
    shapes, tints = [], []
    for seed, (_, rendered) in enumerate(pictures):
        photo = photograph(np.random.default_rng(seed), rendered)
        kept = photo.copy()
        other = recoloured(np.random.default_rng(seed), photo, rendered.object_id)
        assert np.array_equal(photo, kept) and other.dtype == np.uint8 and other.shape == photo.shape
        both = [image.astype(float) for image in (photo, other)]
        shapes.append(_alike(*(image.mean(2) for image in both)))
        tints.append(_alike(*(image[..., 0] - image[..., 1] for image in both)))
    assert np.median(shapes) > 0.8
    assert np.median(tints) < 0.5


def _alike(a, b):
    """Correlation, 0 for something flat."""
    return np.corrcoef(a.ravel(), b.ravel())[0, 1] if a.std() > 0 and b.std() > 0 else 0.0


def test_compiled_kernels_follow_an_edit_in_any_file_of_the_room(tmp_path):
    package = Path(depthlm_ros.scenes.__file__).parent.parent
    copy = tmp_path / "depthlm_ros"
    shutil.copytree(package / "scenes", copy / "scenes", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "core.py", "errors.py"):
        shutil.copy(package / name, copy / name)
    code = (
        "import numpy as np; from depthlm_ros.scenes.renderer.lookup import shadow_lists; "
        "from depthlm_ros.scenes.renderer.raycast import geometry; "
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
