# SPDX-License-Identifier: Apache-2.0
"""Light, shadows, reflections and photographs are plausible, and a seed always gives the same picture."""

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
from depthlm_ros.scenes.camera.photo import jitter_tones, photograph, recolour
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.questions.generate import sample_questions
from depthlm_ros.scenes.questions.visibility import find_sightings
from depthlm_ros.scenes.renderer.jit import DIGEST, digest_of_sources
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world import clutter, colours
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS, Paint, Piece, PlacedPiece, box
from depthlm_ros.scenes.world.sample import sample_scene


@pytest.fixture(scope="module")
def pictures():
    return random_pictures()


def test_plate_under_a_lamp_casts_a_shadow():
    plate = alone(box((4.0, 5.0, 1.5), (1.0, 1.0, 0.05), GREY))
    pose = along_y(-0.5)
    lit, dark = render(scene_with(), pose, SMALL), render(scene_with(plate), pose, SMALL)
    floor = world_points(dark, SMALL)
    below = (dark.object_id < 0) & (np.abs(floor - (4.0, 5.0, 0.0)) < (0.4, 0.4, 0.01)).all(-1)
    aside = (dark.object_id < 0) & (np.abs(floor - (6.0, 5.0, 0.0)) < (0.4, 0.4, 0.01)).all(-1)
    assert below.sum() > 10 and aside.sum() > 10
    assert dark.rgb[below].mean() < 0.7 * lit.rgb[below].mean()
    assert abs(dark.rgb[aside].mean() / lit.rgb[aside].mean() - 1) < 0.02


def test_polished_floor_reflects_the_objects_on_it():
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
    # The pole's foot is 4 m away; its mirror image is closer, directly below it.
    below = floor & (np.abs(world_points(dull, SMALL)[..., 0] - 4.0) < 0.1) & (dull.depth_m > 2.8)
    aside = floor & (np.abs(world_points(dull, SMALL)[..., 0] - 4.9) < 0.1) & (dull.depth_m > 2.8)
    assert below.sum() > 10 and gain[below].mean() > 2 * gain[aside].mean()


@pytest.mark.parametrize("colour", colours.NAMED_COLOURS)
@pytest.mark.parametrize("kind", SIMPLE_KINDS)
def test_every_named_object_is_found_with_its_hue(colour, kind):
    piece = clutter.coloured_object(Dice(np.random.default_rng(1)), kind, colour, 0.8)
    scene = scene_with(PlacedPiece(piece, (4.0, 3.8, 0.0), 0.3))
    rendered = render(scene, along_y(-0.4), SMALL)
    (seen,) = find_sightings(scene, rendered, SMALL)
    assert seen.thing.name == f"{colour} {kind}" and seen.is_complete
    # The same shape in grey gives the light; divided by it, the picture gives the paint.
    grey = Piece("thing", "", tuple(part._replace(paint=GREY) for part in piece.parts), piece.size_m)
    light = render(scene_with(PlacedPiece(grey, (4.0, 3.8, 0.0), 0.3)), along_y(-0.4), SMALL).rgb / 0.5
    inside = rendered.object_id == seen.thing.object_id
    paint = (rendered.rgb[inside] / light[inside]).mean(0)
    named = {name: np.array(rgb) for name, rgb in colours.NAMED_COLOURS.items()}
    assert min(named, key=lambda name: _colour_distance(paint, named[name])) == colour


def _colour_distance(a, b):
    return np.linalg.norm(a / a.sum() - b / b.sum()) + 0.1 * abs(math.log(a.max() / b.max()))


def test_seed_determines_the_picture():
    def picture(seed):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        rendered = render(scene, sample_pose(rng, scene), SMALL)
        return rendered, photograph(rng, rendered), sample_questions(rng, scene, rendered, SMALL, 8)

    (one, photo, asked), (two, photo2, asked2), (three, *_) = picture(7), picture(7), picture(8)
    assert np.array_equal(one.depth_m, two.depth_m) and np.array_equal(one.rgb, two.rgb)
    assert np.array_equal(photo, photo2) and repr(asked) == repr(asked2)
    assert not np.array_equal(one.depth_m, three.depth_m)


def test_photograph_is_uint8_and_well_exposed(pictures):
    for seed, (_, rendered) in enumerate(pictures):
        photo = photograph(np.random.default_rng(seed), rendered)
        assert photo.dtype == np.uint8 and photo.shape == (96, 128, 3)
        assert 25 < photo.mean() < 230


def test_jitter_tones_keeps_shapes_and_the_order_of_values(pictures):
    changed = 0
    for seed, (_, rendered) in enumerate(pictures):
        photo = photograph(np.random.default_rng(seed), rendered)
        kept = photo.copy()
        other = jitter_tones(np.random.default_rng(seed), photo)
        assert np.array_equal(photo, kept) and other.dtype == np.uint8 and other.shape == photo.shape
        for channel in range(3):
            order = np.argsort(photo[..., channel], axis=None)
            assert (np.diff(other[..., channel].ravel()[order].astype(int)) >= 0).all()
        changed += not np.array_equal(other, photo)
    assert 0.3 < changed / len(pictures) < 0.7


def test_recolour_keeps_shapes_and_changes_colours(pictures):
    shapes, tints = [], []
    for seed, (_, rendered) in enumerate(pictures):
        photo = photograph(np.random.default_rng(seed), rendered)
        kept = photo.copy()
        other = recolour(np.random.default_rng(seed), photo, rendered.object_id)
        assert np.array_equal(photo, kept) and other.dtype == np.uint8 and other.shape == photo.shape
        both = [image.astype(float) for image in (photo, other)]
        shapes.append(_correlation(*(image.mean(2) for image in both)))
        tints.append(_correlation(*(image[..., 0] - image[..., 1] for image in both)))
    assert np.median(shapes) > 0.8
    assert np.median(tints) < 0.5


def _correlation(a, b):
    """Returns the correlation, 0 for a constant array."""
    return np.corrcoef(a.ravel(), b.ravel())[0, 1] if a.std() > 0 and b.std() > 0 else 0.0


def test_compiled_kernels_are_renewed_after_an_edit_of_a_function_they_call(tmp_path):
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

    def count_listed():
        return int(subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True).stdout)

    before = count_listed()
    assert 0 < before == count_listed()
    raycast = copy / "scenes" / "renderer" / "raycast.py"
    source = raycast.read_text()
    edited = source.replace("return near if (near <= far)", "return near if (near > far)")
    assert edited != source
    raycast.write_text(edited)
    assert count_listed() != before


def test_cache_digest_changes_with_every_source_file(tmp_path):
    scenes = tmp_path / "scenes"
    shutil.copytree(Path(depthlm_ros.scenes.__file__).parent, scenes, ignore=shutil.ignore_patterns("__pycache__"))
    digests = {DIGEST}
    assert digest_of_sources(scenes) == DIGEST
    sources = sorted(scenes.rglob("*.py"))
    assert {path.parent.name for path in sources} == {"scenes", "camera", "questions", "renderer", "world"}
    for path in sources:
        path.write_text(path.read_text() + "# edited\n")
        digests.add(digest_of_sources(scenes))
    sources[0].rename(scenes / "renamed.py")
    digests.add(digest_of_sources(scenes))
    assert len(digests) == len(sources) + 2
