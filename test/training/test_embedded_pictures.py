# SPDX-License-Identifier: Apache-2.0
"""Pictures of the embedded training: where photographs and frames lie on a canvas, their depth, what is unusable."""

import json
import math

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.embedded_training import FOCAL_PX, PICTURES, make_photo, write_frames, write_photos  # noqa: E402

from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.data.photo_labels import PhotoBox, encode  # noqa: E402
from depthlm_ros.data.webdataset import write_shard  # noqa: E402
from depthlm_ros.errors import BadInput, SetupError  # noqa: E402
from depthlm_ros.geometry.camera_model import UNSEEN_GREY  # noqa: E402
from depthlm_ros.geometry.pinhole import centred_camera  # noqa: E402
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.training.embedded.names import ABSENT, INDEX, NAMES, PRESENT, UNKNOWN  # noqa: E402
from depthlm_ros.training.embedded.pictures import (  # noqa: E402
    SCENES,
    PictureSources,
    Placement,
    draw_frame,
    draw_photo,
    draw_rendered,
    group_places,
    mask_outside,
    quarter_depth,
)
from depthlm_ros.training.embedded.recipe import SourceShares  # noqa: E402

pytestmark = pytest.mark.torch
CANVAS = centred_camera((96, 64), FOCAL_PX)


def bright_square(size_px, left, top, right, bottom):
    """Returns an image with a bright rectangle, its labels at a quarter of the size, and its box."""
    width, height = size_px
    rgb = np.full((height, width, 3), 20, np.uint8)
    rgb[top:bottom, left:right] = 250
    labels = np.zeros((height // 4, width // 4), np.float32)
    labels[top // 4 : bottom // 4, left // 4 : right // 4] = 7.0
    return rgb, labels, PhotoBox("chair", 0.9, left / width, top / height, right / width, bottom / height)


def centre(mask, cell_px):
    """Returns the centre (u, v) in pixel edges of the canvas of what a mask of cells shows."""
    v, u = np.nonzero(mask)
    return np.array([u.mean() + 0.5, v.mean() + 0.5]) * cell_px


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.9])
@pytest.mark.parametrize("shift_px", [(0.0, 0.0), (6.0, -3.5)])
def test_image_labels_and_box_of_a_placed_photograph_lie_where_its_camera_says(mirrored, zoom, shift_px):
    """`zoom` is the size on the canvas per size in the photograph; both principal points may be off centre."""
    focal_px = FOCAL_PX / zoom
    own = Intrinsics(focal_px, 1.1 * focal_px, 75.0, 60.0, 160, 128)
    canvas = Intrinsics(FOCAL_PX, FOCAL_PX, 47.5 + shift_px[0], 31.5 + shift_px[1], 96, 64)
    rgb, labels, box = bright_square((160, 128), 72, 48, 88, 68)
    placement = Placement(own, canvas, mirrored)
    # The true centre of the rectangle, through its ray.
    x, y = (79.5 - own.cx_px) / own.fx_px, (57.5 - own.cy_px) / own.fy_px
    expected = np.array([canvas.cx_px + 0.5 + (-x if mirrored else x) * FOCAL_PX, canvas.cy_px + 0.5 + y * FOCAL_PX])
    image, grid, placed = placement.image(rgb), placement.labels(labels, np.nan), placement.box(box)
    assert image.shape == (64, 96, 3) and grid.shape == (16, 24)
    np.testing.assert_allclose(centre(image[:, :, 0] > 128, 1), expected, atol=0.6)
    np.testing.assert_allclose(centre(grid == 7.0, 4), expected, atol=2.5)
    np.testing.assert_allclose([(placed.x0 + placed.x1) / 2, (placed.y0 + placed.y1) / 2], expected, atol=1e-6)
    np.testing.assert_allclose([placed.x1 - placed.x0, placed.y1 - placed.y0], [16 * zoom, 20 * zoom / 1.1], atol=1e-6)


def test_what_a_photograph_does_not_cover_is_grey_and_unknown():
    own = centred_camera((40, 32), FOCAL_PX)
    placement = Placement(own, CANVAS, False)
    image = placement.image(np.full((32, 40, 3), 250, np.uint8))
    grid = placement.labels(np.ones((8, 10), np.float32), np.nan)
    assert (image[:, :20] == UNSEEN_GREY).all() and (image[24:40, 36:60] == 250).all()
    assert np.isnan(grid[:, :5]).all() and (grid[5:11, 8:16] == 1).all()


def test_a_box_that_the_canvas_mostly_cuts_is_left_out_and_another_one_is_cut():
    own = centred_camera((192, 64), FOCAL_PX)
    placement = Placement(own, CANVAS, False)
    assert placement.box(PhotoBox("chair", 0.9, 0.0, 0.2, 0.3, 0.8)) is None
    cut = placement.box(PhotoBox("chair", 0.9, 0.2, 0.2, 0.5, 0.8))
    assert (cut.x0, cut.x1) == (0.0, 48.0)


def test_the_depth_of_a_photograph_belongs_to_the_focal_length_that_is_drawn():
    """The same photograph with a longer lens shows the same things farther away."""
    ratios = set()
    for seed in range(12):
        photo = make_photo(
            depth_m=np.full((12, 16), 2.0, np.float32), boxes=(PhotoBox("chair", 0.9, 0.4, 0.4, 0.6, 0.6),)
        )
        picture = draw_photo(np.random.default_rng(seed), PICTURES, CANVAS, photo)
        depth_m = picture.depth_m[np.isfinite(picture.depth_m)]
        assert np.ptp(depth_m) == 0
        # The width of the box on the canvas tells which focal length was drawn: 0.2 * width * canvas / own.
        (box,) = picture.boxes
        fx_over_width = 0.2 * FOCAL_PX / (box.x1 - box.x0)
        assert 0.66 <= fx_over_width <= 1.0
        assert depth_m[0] == pytest.approx(2.0 * fx_over_width / 0.888, rel=1e-4)
        ratios.add(round(fx_over_width, 3))
    assert len(ratios) == 12


def test_the_labels_of_a_photograph_are_mirrored_with_it():
    shares = set()
    for seed in range(8):
        photo = make_photo(boxes=(PhotoBox("chair", 0.9, 0.05, 0.2, 0.5, 0.95),))
        picture = draw_photo(np.random.default_rng(seed), PICTURES, CANVAS, photo)
        (box,) = picture.boxes
        rows, columns = np.nonzero(picture.names.reshape(4, 6, len(NAMES))[:, :, INDEX["chair"]] == PRESENT)
        assert len(rows)
        assert ((16 * columns + 8 > box.x0) & (16 * columns + 8 < box.x1)).all()
        assert ((16 * rows + 8 > box.y0) & (16 * rows + 8 < box.y1)).all()
        shares.add((box.x0 + box.x1) / 2 < 48)
        assert not (picture.names[:, INDEX["sofa"]] == ABSENT).any(), "a sofa may be there"
    assert shares == {True, False}


def test_the_zoom_of_a_frame_changes_its_size_and_its_depth_by_one_factor():
    camera, zooms = Intrinsics(100.0, 100.0, 159.5, 119.5, 320, 240), []
    rgb = np.full((240, 320, 3), 20, np.uint8)
    rgb[:, 110:210] = 250
    true_m = np.full((120, 160), 3.0, np.float32)
    true_m[:40] = np.nan
    for seed in range(8):
        picture = draw_frame(np.random.default_rng(seed), PICTURES, CANVAS, (rgb, true_m, camera))
        (depth_m,) = np.unique(picture.depth_m[np.isfinite(picture.depth_m)])
        brightness = picture.image.mean((0, 2))
        bright_px = (brightness > (brightness.min() + brightness.max()) / 2).sum()
        assert depth_m / 3.0 == pytest.approx(FOCAL_PX / bright_px, rel=0.05), "farther things are smaller"
        assert np.isnan(picture.depth_m).any() and (picture.names == UNKNOWN).all()
        zooms.append(depth_m / 3.0)
    assert 0.8 <= min(zooms) < 0.95 and 1.05 < max(zooms) <= 1.25


@pytest.mark.parametrize("kind", SCENES)
def test_a_rendered_picture_has_depth_and_names_only_inside_its_rectangle(kind):
    picture = draw_rendered(np.random.default_rng(4), PICTURES, CANVAS, kind)
    assert picture.image.shape == (64, 96, 3) and picture.depth_m.shape == (16, 24)
    assert np.isfinite(picture.depth_m).mean() > 0.3
    np.testing.assert_array_equal(picture.depth_m, quarter_depth(picture.rendered.depth_m))
    assert picture.names.shape == (24, len(NAMES))


def test_outside_of_the_rectangle_nothing_is_known():
    rng = np.random.default_rng(5)
    rendered = render(*sample_scene_and_pose(rng), CANVAS)
    masked = [mask_outside(np.random.default_rng(seed), rendered) for seed in range(20)]
    for kept, outside in masked:
        assert np.isnan(kept.depth_m[outside]).all() and (kept.object_id[outside] == -1).all()
        np.testing.assert_array_equal(kept.depth_m[~outside], rendered.depth_m[~outside])
    assert 8 <= sum(outside.any() for _, outside in masked) <= 19


def test_the_depth_of_a_quarter_is_the_geometric_mean_of_the_middle_pixels():
    depth_m = np.full((8, 8), 50.0, np.float32)
    depth_m[1:3, 1:3] = [[1.0, 2.0], [4.0, 8.0]]
    depth_m[1, 5] = np.nan
    quarter_m = quarter_depth(depth_m)
    assert quarter_m.shape == (2, 2)
    assert quarter_m[0, 0] == pytest.approx(math.sqrt(8.0))
    assert np.isnan(quarter_m[0, 1]) and quarter_m[1, 1] == pytest.approx(50.0)


# ---- sources


def test_photographs_without_labels_are_an_error_that_says_what_is_missing(tmp_path):
    write_shard(tmp_path / "a.tar", [("p0", {"jpg": b"x"})])
    with pytest.raises(
        BadInput, match=r"a\.tar: 1 samples do not have depth\.png and jpg and json.*No sample is usable"
    ):
        PictureSources(photos=tmp_path)


def test_a_folder_without_photographs_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="holds no shards"):
        PictureSources(photos=tmp_path)


def test_of_a_shard_that_was_cut_short_the_whole_samples_are_used(tmp_path):
    shard = write_photos(tmp_path) / "photos-00.tar"
    shard.write_bytes(shard.read_bytes()[: -shard.stat().st_size // 3])
    sources = PictureSources(photos=tmp_path)
    assert 0 < len(sources) < 5
    assert any("cut short" in str(problem) for problem in sources.problems)
    assert sources.draw_photo(np.random.default_rng(0)).rgb.shape == (48, 64, 3)


def test_an_unreadable_photograph_is_skipped_and_told_once_it_is_found(tmp_path):
    members = [(f"p{index}", encode(make_photo())) for index in range(4)]
    members[2][1]["jpg"] = b"no jpeg"
    write_shard(tmp_path / "a.tar", members)
    sources, rng = PictureSources(photos=tmp_path), np.random.default_rng(0)
    for _ in range(20):
        sources.draw_photo(rng)
    found = sources.take_problems()
    assert found and {problem.reason for problem in found} == {"picture unreadable"}
    assert all("a.tar: sample p2" in str(problem) for problem in found)
    assert sources.take_problems() == () and sources.problems == []


def test_boxes_outside_of_a_photograph_are_dropped_and_counted(tmp_path):
    boxes = (PhotoBox("chair", 0.9, 1.1, 0.1, 1.4, 0.3), PhotoBox("bed", 0.9, 0.4, 0.5, 0.4, 0.6), *make_photo().boxes)
    sources = PictureSources(photos=write_photos(tmp_path, make_photo(boxes=boxes)))
    assert [box.name for box in sources.draw_photo(np.random.default_rng(0)).boxes] == ["chair"]
    (problem,) = sources.take_problems()
    assert problem.count == 2 and "p0: 2 boxes lie outside of the photograph or are empty" in str(problem)


def test_only_photographs_that_cannot_be_read_are_an_error(tmp_path):
    members = {**encode(make_photo()), "jpg": b"no jpeg"}
    write_shard(tmp_path / "a.tar", [("p0", members)])
    with pytest.raises(BadInput, match=r"50 photographs in a row cannot be read; the last one: .*p0"):
        PictureSources(photos=tmp_path).draw_photo(np.random.default_rng(0))


def test_infinite_and_zero_depths_of_a_frame_are_unknown(tmp_path):
    folder = write_frames(tmp_path, depth="depth.npy", depth_scale=1.0)
    depth_m = np.full((120, 160), 2.0, np.float32)
    depth_m[:30], depth_m[30:60], depth_m[60:90] = np.inf, 0.0, np.nan
    np.save(folder / "depth.npy", depth_m)
    rgb, true_m, camera = PictureSources(frames=folder).draw_frame(np.random.default_rng(0))
    assert np.isnan(true_m[:90]).all() and (true_m[90:] == 2.0).all()
    picture = draw_frame(np.random.default_rng(1), PICTURES, CANVAS, (rgb, true_m, camera))
    assert set(np.isfinite(np.unique(picture.depth_m))) == {True, False} and not np.isinf(picture.depth_m).any()


def test_a_frame_that_cannot_be_read_is_skipped(tmp_path):
    folder = write_frames(tmp_path, ("train", "train"))
    lines = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    lines[1]["image"] = "broken.png"
    (folder / "broken.png").write_bytes(b"none")
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sources, rng = PictureSources(frames=folder), np.random.default_rng(0)
    for _ in range(10):
        sources.draw_frame(rng)
    assert any("broken.png" in str(problem) for problem in sources.take_problems())


def test_only_frames_for_training_are_drawn(tmp_path):
    folder = write_frames(tmp_path, ("train", "evaluate", "evaluate"))
    assert len(PictureSources(frames=folder)) == 1
    with pytest.raises(BadInput, match="no frame of use 'train'"):
        PictureSources(frames=write_frames(tmp_path / "other", ("evaluate",)))


def test_frames_of_one_place_are_one_group(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("home_0001", "home_0001_part2", "kitchen_0002"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), rng.integers(0, 255, (8, 8, 3), np.uint8))
    folder = write_frames(tmp_path / "frames", ("train",))
    (record,) = PictureSources(frames=folder)._places[0]
    from dataclasses import replace

    records = [replace(record, image=path) for path in sorted(tmp_path.glob("*_*/a.png"))]
    assert [len(place) for place in group_places(records)] == [2, 1]


@pytest.mark.parametrize("name", ["photos", "frames"])
def test_a_share_of_pictures_without_a_folder_is_an_error(name):
    with pytest.raises(SetupError, match=f"--{name}, or set shares.{name} to 0"):
        PictureSources().check_shares(SourceShares(**{name: 0.5}))
    PictureSources().check_shares(SourceShares())
