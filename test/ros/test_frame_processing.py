# SPDX-License-Identifier: Apache-2.0
"""Frame processing: a camera is computed once, bad input costs one frame, and unseen pixels have no depth."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from support.paths import TINY

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadImage, BadIntrinsics, BadQuestion
from depthlm_ros.model import load_model
from depthlm_ros.model_files.bundle import MANIFEST, manifest_text, read_manifest
from depthlm_ros.ros.camera_info_sync import CameraImage
from depthlm_ros.ros.frame_processing import FrameProcessor, cached_cloud_builder, grid_px, sparse_points
from depthlm_ros.ros.statistics import ProblemLog

WIDTH, HEIGHT = 160, 120


@pytest.fixture(scope="module")
def model():
    if not TINY.is_dir():
        pytest.skip("engines/tiny is not here: `make train` makes it")
    return load_model("tiny", threads=1)


@pytest.fixture
def problems():
    return ProblemLog(lambda line: None)


def info(fx: float = 150.0, d: tuple = (0.0,) * 5, frame_id: str = "camera", **fields) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    k = np.array([fx, 0, (WIDTH - 1) / 2, 0, fx, (HEIGHT - 1) / 2, 0, 0, 1])
    values = {"width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "d": d, "k": k, "r": np.eye(3).ravel()}
    values |= {"p": np.zeros(12), "binning_x": 0, "binning_y": 0, "roi": roi}
    return SimpleNamespace(header=SimpleNamespace(frame_id=frame_id), **{**values, **fields})


def image_with(
    calibration: SimpleNamespace | None, rgb: np.ndarray | None = None, other: str = "", **fields
) -> CameraImage:
    rgb = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) if rgb is None else rgb
    header = SimpleNamespace(frame_id="camera", stamp=SimpleNamespace(sec=1, nanosec=2))
    values = {"encoding": "rgb8", "width": WIDTH, "height": HEIGHT, "step": 3 * WIDTH, "is_bigendian": 0}
    message = SimpleNamespace(header=header, **{**values, "data": bytearray(rgb.tobytes()), **fields})
    return CameraImage(message, 1_000_000_002, 0, 0, 1, calibration, other)


def test_result_belongs_to_the_rectified_camera_and_keeps_the_header(model, problems):
    calibration = info(p=np.array([140.0, 0, 70, 0, 0, 141, 50, 0, 0, 0, 1, 0]))
    result = FrameProcessor(model, False, False, problems).process(image_with(calibration))
    assert result.view.frame.intrinsics == Intrinsics(140.0, 141.0, 70.0, 50.0, WIDTH, HEIGHT)
    assert result.image.message.header.stamp.nanosec == 2 and result.view.frame.stamp_ns == 1_000_000_002
    depth_m = result.view.depth().depth_m
    assert depth_m.shape == (HEIGHT, WIDTH) and depth_m.dtype == np.float32
    assert {"decode", "rectify", "look"} <= set(result.stopwatch.stages_ms)


def test_same_camera_is_computed_once_and_a_new_one_is_reported(model, problems):
    processor = FrameProcessor(model, False, False, problems)
    first = processor.process(image_with(info())).view.frame.intrinsics
    assert processor.process(image_with(info())).view.frame.intrinsics is first
    assert problems.counts == {}
    assert processor.process(image_with(info(fx=151.0))).view.frame.intrinsics.fx_px == 151.0
    assert problems.counts == {"intrinsics changed": 1}
    assert "fx 150" in problems.last_message and "fx 151" in problems.last_message


def test_camera_with_a_too_wide_view_is_reported_once(model, problems):
    processor = FrameProcessor(model, False, False, problems)
    for _ in range(3):
        processor.process(image_with(info(fx=40.0)))
    share = model.coverage(Intrinsics(40.0, 40.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT))
    assert problems.counts == {"narrow view": 1} and share < 0.9
    for part in (f"sees {100 * share:.3g} %", "fx 40", "127 degrees"):
        assert part in problems.last_message
    processor.process(image_with(info(fx=0.8)))  # in units of the image's width
    assert problems.counts["narrow view"] == 2 and "fx 0.8" in problems.last_message


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    """An engine like one of `depthlm engine build` for a camera that covers 249 x 187 pixels: it has one canvas."""
    folder = tmp_path_factory.mktemp("engine") / "tiny-640x480-f525-fp32"
    shutil.copytree(TINY, folder)
    command = "depthlm engine build --model tiny --precision fp32"
    changes = {"canvases_px": [[256, 192]], "built_by": command, "rebuild": f"{command} --size 640x480 --focal 525"}
    (folder / MANIFEST).write_text(manifest_text(read_manifest(folder) | changes))
    return load_model(str(folder), threads=1)


@pytest.mark.parametrize("fx", [525 / 4, 143.0])  # 249 x 187 pixels, and 228 x 171, which need the same canvas
def test_camera_that_an_engine_was_built_for_is_not_reported(engine, problems, fx):
    FrameProcessor(engine, False, False, problems).process(image_with(info(fx=fx)))
    assert problems.counts == {}


@pytest.mark.parametrize(
    ("fx", "share", "words"),
    [
        (200.0, 1.0, "sees 100 %, on 164 x 124 of these"),  # a long lens: much of the canvas stays empty
        (122.3, 0.93, "sees 93 %, on 256 x 192 of these"),  # a little too wide
    ],
)
def test_other_camera_that_an_engine_can_serve_is_reported_once_with_sizes_and_command(
    engine, model, problems, fx, share, words
):
    processor = FrameProcessor(engine, False, False, problems)
    for _ in range(3):
        depth_m = processor.process(image_with(info(fx=fx))).view.depth().depth_m
    assert problems.counts == {"engine of another camera": 1}
    command = f"--precision fp32 --size 160x120 --focal {fx:g}"
    for part in ("seen as 256 x 192", "160 x 120 with fx", words, command):
        assert part in problems.last_message, problems.last_message
    assert np.isfinite(depth_m).mean() == pytest.approx(share, abs=0.02)
    if share == 1.0:
        model_view = FrameProcessor(model, False, False, problems).process(image_with(info(fx=fx))).view
        model_depth_m = model_view.depth().depth_m
        np.testing.assert_allclose(depth_m, model_depth_m, rtol=1e-4)


def test_camera_that_an_engine_cannot_serve_loses_its_frames(engine, problems):
    processor = FrameProcessor(engine, False, False, problems)
    for _ in range(2):
        with pytest.raises(BadIntrinsics, match=r"544 x 408 .* seen as 256 x 192.*--size 160x120 --focal 60$"):
            processor.process(image_with(info(fx=60.0)))
    with pytest.raises(BadIntrinsics, match=r"engine build .* --camera CALIBRATION\.yaml$"):
        processor.process(image_with(info(k=np.array([60.0, 0, 79.5, 0, 80.0, 59.5, 0, 0, 1]))))
    assert np.isfinite(processor.process(image_with(info(fx=525 / 4))).view.depth().depth_m).all()


def test_frame_ids_that_differ_are_reported_once(model, problems):
    processor = FrameProcessor(model, False, False, problems)
    for _ in range(3):
        assert np.isfinite(processor.process(image_with(info(frame_id="optical"))).view.depth().depth_m).any()
    assert problems.counts == {"frame ids differ": 1}
    for part in ("'camera'", "'optical'", "strict_frame_ids"):
        assert part in problems.last_message
    processor.process(image_with(info(frame_id="/camera")))
    assert problems.counts == {"frame ids differ": 1}


def test_a_black_picture_is_reported_with_the_bit_depth_only_where_that_may_help(model, problems):
    values = np.random.default_rng(0).integers(0, 1024, (HEIGHT, WIDTH)).astype("<u2")
    fields = {"encoding": "mono16", "step": 2 * WIDTH, "data": bytearray(values.tobytes())}
    FrameProcessor(model, False, False, problems).process(image_with(info(), **fields))
    assert problems.counts == {"black image": 1} and "image_bit_depth" in problems.last_message
    FrameProcessor(model, False, False, problems, bit_depth=10).process(image_with(info(), **fields))
    assert problems.counts == {"black image": 1}
    FrameProcessor(model, False, False, problems).process(image_with(info(), np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    assert problems.counts == {"black image": 2}
    assert "image_bit_depth" not in problems.last_message and "covered" in problems.last_message


def test_a_calibration_that_belongs_to_no_camera_points_at_the_parameter_for_rectified_images(model, problems):
    calibration = info(k=np.eye(3).ravel(), p=np.array([150.0, 0, 80, 0, 0, 150, 60, 0, 0, 0, 1, 0]))
    with pytest.raises(BadIntrinsics, match="rectified_input"):
        FrameProcessor(model, False, False, problems).process(image_with(calibration))
    result = FrameProcessor(model, False, True, problems).process(image_with(calibration))
    assert result.view.frame.intrinsics.fx_px == 150.0


def test_bad_calibration_or_image_costs_one_frame(model, problems):
    processor = FrameProcessor(model, False, False, problems)
    with pytest.raises(BadIntrinsics, match=r"fx = 0\.0"):
        processor.process(image_with(info(fx=0.0)))
    with pytest.raises(BadIntrinsics, match="another camera"):
        processor.process(image_with(None, other="left"))
    with pytest.raises(BadIntrinsics, match="320 x 240"):
        processor.process(image_with(info(width=320, height=240)))
    with pytest.raises(BadImage, match="rgb99"):
        processor.process(image_with(info(), encoding="rgb99"))
    assert np.isfinite(processor.process(image_with(info())).view.depth().depth_m).any()


def test_pixels_that_the_camera_did_not_see_have_no_depth(model, problems):
    # A strong barrel lens with P as wide as K: the corners of the rectified image lie outside the raw one.
    view = FrameProcessor(model, False, False, problems).process(image_with(info(d=(0.4, 0.0, 0.0, 0.0, 0.0)))).view
    in_frame = view.frame.seen
    assert in_frame is not None and not in_frame[0, 0] and in_frame[HEIGHT // 2, WIDTH // 2]
    assert np.isnan(view.depth().depth_m[~in_frame]).all()
    uv_px = np.array([[0.0, 0.0], [WIDTH / 2, HEIGHT / 2]])
    for depths in (view.depth_at(uv_px), view.tell_depth_at(uv_px)):
        assert np.isnan(depths.depth_m[0]) and np.isnan(depths.std_m[0])
    assert np.isfinite(view.depth_at(uv_px).depth_m[1])
    with pytest.raises(BadQuestion, match="does not see"):
        view.ask("How far is this point?", uv_px[:1])


def test_rectified_image_is_not_rectified_again(model, problems):
    rgb = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    calibration = info(d=(0.4, 0.0, 0.0, 0.0, 0.0))
    already_rectified, raw = (FrameProcessor(model, False, is_rectified, problems) for is_rectified in (True, False))
    assert np.array_equal(already_rectified.process(image_with(calibration, rgb)).view.frame.rgb, rgb)
    assert not np.array_equal(raw.process(image_with(calibration, rgb)).view.frame.rgb, rgb)


def test_grid_covers_the_image_with_equal_cells():
    grid = grid_px(Intrinsics(1.0, 1.0, 0.0, 0.0, 8, 6), rows=3, columns=4)
    assert grid[0].tolist() == [0.5, 0.5] and grid[-1].tolist() == [6.5, 4.5]
    assert grid[1].tolist() == [2.5, 0.5] and len(grid) == 12


def test_sparse_points_are_the_depths_that_the_model_tells_in_words(model, problems):
    view = FrameProcessor(model, False, False, problems).process(image_with(info())).view
    depths = view.tell_depth_at(grid_px(view.frame.intrinsics, 2, 3))
    points = sparse_points(view, 2, 3, 0.0, 1000.0)
    assert points.shape == (2, 3, 4)
    assert np.array_equal(points[..., 2].ravel(), depths.depth_m, equal_nan=True)
    known = np.isfinite(depths.depth_m)
    assert np.isnan(sparse_points(view, 2, 3, 2000.0, 3000.0)).all()
    assert np.array_equal(np.isfinite(points[..., 3]).ravel(), known & np.isfinite(depths.std_m))


def test_cloud_builder_is_kept_for_one_camera():
    camera = Intrinsics(100.0, 100.0, 5.0, 5.0, 11, 11)
    assert cached_cloud_builder(camera, 2, 0.0, 9.0) is cached_cloud_builder(camera, 2, 0.0, 9.0)
    assert cached_cloud_builder(camera, 1, 0.0, 9.0) is not cached_cloud_builder(camera, 2, 0.0, 9.0)
