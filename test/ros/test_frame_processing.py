"""From a message and a calibration to a look: a camera is computed once, and what it did not see has no depth."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from support.paths import TINY

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage, BadIntrinsics, BadQuestion
from depthlm_ros.model import load_model
from depthlm_ros.model_files.bundle import MANIFEST, manifest_text, read_manifest
from depthlm_ros.ros.camera_info_sync import Arrival, Pair
from depthlm_ros.ros.frame_processing import Eye, cloud_builder, grid_px, told_grid, within_range
from depthlm_ros.ros.statistics import Troubles

WIDTH, HEIGHT = 160, 120


@pytest.fixture(scope="module")
def model():
    if not TINY.is_dir():
        pytest.skip("engines/tiny is not here: `make train` makes it")
    return load_model("tiny", threads=1)


@pytest.fixture
def troubles():
    return Troubles(lambda line: None)


def info(fx: float = 150.0, d: tuple = (0.0,) * 5, frame_id: str = "camera", **fields) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    k = np.array([fx, 0, (WIDTH - 1) / 2, 0, fx, (HEIGHT - 1) / 2, 0, 0, 1])
    values = {"width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "d": d, "k": k, "r": np.eye(3).ravel()}
    values |= {"p": np.zeros(12), "binning_x": 0, "binning_y": 0, "roi": roi}
    return SimpleNamespace(header=SimpleNamespace(frame_id=frame_id), **{**values, **fields})


def pair(calibration: SimpleNamespace | None, rgb: np.ndarray | None = None, other: str = "", **fields) -> Pair:
    rgb = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) if rgb is None else rgb
    header = SimpleNamespace(frame_id="camera", stamp=SimpleNamespace(sec=1, nanosec=2))
    values = {"encoding": "rgb8", "width": WIDTH, "height": HEIGHT, "step": 3 * WIDTH, "is_bigendian": 0}
    message = SimpleNamespace(header=header, **{**values, "data": bytearray(rgb.tobytes()), **fields})
    return Pair(Arrival(message, 1_000_000_002, 0, 0, 1), calibration, other)


def test_a_look_is_of_the_rectified_camera_and_carries_the_header(model, troubles):
    calibration = info(p=np.array([140.0, 0, 70, 0, 0, 141, 50, 0, 0, 0, 1, 0]))
    seen = Eye(model, False, False, troubles).look(pair(calibration))
    assert seen.camera == Intrinsics(140.0, 141.0, 70.0, 50.0, WIDTH, HEIGHT)
    assert seen.header.stamp.nanosec == 2 and seen.view.frame.stamp_ns == 1_000_000_002
    depth_m = seen.view.depth().depth_m
    assert depth_m.shape == (HEIGHT, WIDTH) and depth_m.dtype == np.float32
    assert {"decode", "rectify", "look"} <= set(seen.watch.stages_ms)


def test_the_same_camera_is_not_computed_twice_and_a_new_one_is_said(model, troubles):
    eye = Eye(model, False, False, troubles)
    first = eye.look(pair(info())).camera
    assert eye.look(pair(info())).camera is first
    assert troubles.counts == {}
    assert eye.look(pair(info(fx=151.0))).camera.fx_px == 151.0
    assert troubles.counts == {"intrinsics changed": 1} and "fx 150" in troubles.last and "fx 151" in troubles.last


def test_a_camera_of_which_the_model_sees_too_little_is_told_once(model, troubles):
    eye = Eye(model, False, False, troubles)
    for _ in range(3):
        eye.look(pair(info(fx=40.0)))
    share = model.coverage(Intrinsics(40.0, 40.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT))
    assert troubles.counts == {"narrow view": 1} and share < 0.9
    assert f"sees {100 * share:.3g} %" in troubles.last and "fx 40" in troubles.last and "127 degrees" in troubles.last
    eye.look(pair(info(fx=0.8)))  # in units of the image's width
    assert troubles.counts["narrow view"] == 2 and "fx 0.8" in troubles.last


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    """What `depthlm engine build` makes for a camera that is seen on 117 x 88 pixels: one canvas, and its command."""
    folder = tmp_path_factory.mktemp("engine") / "tiny-640x480-f525-fp32"
    shutil.copytree(TINY, folder)
    command = "depthlm engine build --model tiny --precision fp32"
    changes = {"canvases_px": [[128, 96]], "built_by": command, "rebuild": f"{command} --size 640x480 --focal 525"}
    (folder / MANIFEST).write_text(manifest_text(read_manifest(folder) | changes))
    return load_model(str(folder), threads=1)


def test_an_engine_s_own_camera_is_taken_without_a_word(engine, troubles):
    Eye(engine, False, False, troubles).look(pair(info(fx=525 / 4)))
    assert troubles.counts == {}


@pytest.mark.parametrize(
    ("fx", "share", "told"),
    [
        (200.0, 1.0, "sees 100 %, on 78 x 58 of these"),  # a long lens: much of the canvas stays empty
        (115.0, 0.93, "sees 93 %, on 128 x 96 of these"),  # a little too wide
    ],
)
def test_another_camera_that_an_engine_can_serve_is_told_once_with_both_sizes_and_the_command(
    engine, model, troubles, fx, share, told
):
    eye = Eye(engine, False, False, troubles)
    for _ in range(3):
        depth_m = eye.look(pair(info(fx=fx))).view.depth().depth_m
    assert troubles.counts == {"engine of another camera": 1}
    for words in ("seen as 128 x 96", "160 x 120 with fx", told, f"--precision fp32 --size 160x120 --focal {fx:g}"):
        assert words in troubles.last, troubles.last
    assert np.isfinite(depth_m).mean() == pytest.approx(share, abs=0.02)
    if share == 1.0:
        theirs_m = Eye(model, False, False, troubles).look(pair(info(fx=fx))).view.depth().depth_m
        np.testing.assert_allclose(depth_m, theirs_m, rtol=1e-4)


def test_a_camera_that_an_engine_cannot_serve_costs_its_frames(engine, troubles):
    eye = Eye(engine, False, False, troubles)
    for _ in range(2):
        with pytest.raises(BadIntrinsics, match=r"256 x 192 .* seen as 128 x 96.*--size 160x120 --focal 60$"):
            eye.look(pair(info(fx=60.0)))
    with pytest.raises(BadIntrinsics, match=r"engine build .* --camera CALIBRATION\.yaml$"):
        eye.look(pair(info(k=np.array([60.0, 0, 79.5, 0, 80.0, 59.5, 0, 0, 1]))))
    assert np.isfinite(eye.look(pair(info(fx=525 / 4))).view.depth().depth_m).all()


def test_a_bad_calibration_or_image_costs_one_frame(model, troubles):
    eye = Eye(model, False, False, troubles)
    with pytest.raises(BadIntrinsics, match=r"fx = 0\.0"):
        eye.look(pair(info(fx=0.0)))
    with pytest.raises(BadIntrinsics, match="another camera"):
        eye.look(pair(None, other="left"))
    with pytest.raises(BadIntrinsics, match="320 x 240"):
        eye.look(pair(info(width=320, height=240)))
    with pytest.raises(BadImage, match="rgb99"):
        eye.look(pair(info(), encoding="rgb99"))
    assert np.isfinite(eye.look(pair(info())).view.depth().depth_m).any()


def test_pixels_that_the_camera_did_not_see_have_no_depth(model, troubles):
    # A strong barrel lens with P as wide as K: the corners of the rectified image lie outside the raw one.
    seen = Eye(model, False, False, troubles).look(pair(info(d=(0.4, 0.0, 0.0, 0.0, 0.0))))
    view, in_frame = seen.view, seen.view.frame.seen
    assert in_frame is not None and not in_frame[0, 0] and in_frame[HEIGHT // 2, WIDTH // 2]
    assert np.isnan(view.depth().depth_m[~in_frame]).all()
    uv_px = np.array([[0.0, 0.0], [WIDTH / 2, HEIGHT / 2]])
    for told in (view.depth_at(uv_px), view.tell_depth_at(uv_px)):
        assert np.isnan(told.depth_m[0]) and np.isnan(told.std_m[0])
    assert np.isfinite(view.depth_at(uv_px).depth_m[1])
    with pytest.raises(BadQuestion, match="does not see"):
        view.ask("How far is this point?", uv_px[:1])


def test_an_image_that_is_rectified_already_is_not_bent_again(model, troubles):
    rgb = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    bent = info(d=(0.4, 0.0, 0.0, 0.0, 0.0))
    assert np.array_equal(Eye(model, False, True, troubles).look(pair(bent, rgb)).view.frame.rgb, rgb)
    assert not np.array_equal(Eye(model, False, False, troubles).look(pair(bent, rgb)).view.frame.rgb, rgb)


def test_depths_out_of_range_are_infinite_and_the_model_s_own_map_stays_as_it_was():
    depth_m = np.array([[0.1, 1.0, 9.0, np.nan]], np.float32)
    ranged = within_range(depth_m, 0.5, 5.0)
    assert np.array_equal(ranged, np.array([[-np.inf, 1.0, np.inf, np.nan]], np.float32), equal_nan=True)
    assert depth_m[0, 0] == np.float32(0.1) and ranged.dtype == np.float32


def test_a_grid_covers_the_image_with_equal_cells():
    grid = grid_px(Intrinsics(1.0, 1.0, 0.0, 0.0, 8, 6), rows=3, columns=4)
    assert grid[0].tolist() == [0.5, 0.5] and grid[-1].tolist() == [6.5, 4.5]
    assert grid[1].tolist() == [2.5, 0.5] and len(grid) == 12


def test_the_told_grid_is_the_model_s_words_as_points(model, troubles):
    seen = Eye(model, False, False, troubles).look(pair(info()))
    told = seen.view.tell_depth_at(grid_px(seen.camera, 2, 3))
    cloud = told_grid(seen, 2, 3, 0.0, 1000.0)
    assert cloud.shape == (2, 3, 4)
    assert np.array_equal(cloud[..., 2].ravel(), told.depth_m, equal_nan=True)
    known = np.isfinite(told.depth_m)
    assert np.isnan(told_grid(seen, 2, 3, 2000.0, 3000.0)).all()
    assert np.array_equal(np.isfinite(cloud[..., 3]).ravel(), known & np.isfinite(told.std_m))


def test_rays_are_kept_for_one_camera():
    camera = Intrinsics(100.0, 100.0, 5.0, 5.0, 11, 11)
    assert cloud_builder(camera, 2, 0.0, 9.0) is cloud_builder(camera, 2, 0.0, 9.0)
    assert cloud_builder(camera, 1, 0.0, 9.0) is not cloud_builder(camera, 2, 0.0, 9.0)
