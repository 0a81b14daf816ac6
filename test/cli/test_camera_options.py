# SPDX-License-Identifier: Apache-2.0
"""The camera of an image on the command line: given in one of three forms, estimated, doubted, turned."""

import math
import os
from argparse import ArgumentParser

import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room
from support.exif import TURNED_RIGHT, jpeg_bytes
from support.line_drawing import drawing

from depthlm_ros.cli.common import CameraOptions, add_pair_options, camera_options, check_output, read_frame, read_pair
from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadInput, BadIntrinsics, SetupError
from depthlm_ros.geometry.calibration_file import read_camera
from depthlm_ros.geometry.rectify import Rectifier
from depthlm_ros.image_io import read_rgb, write_rgb

LENS = (280.0, 282.0, 161.0, 118.5)
CALIBRATION = """
image_width: 320
image_height: 240
camera_name: bent
camera_matrix: {rows: 3, cols: 3, data: [280, 0, 161, 0, 282, 118.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.2, 0.03, 0, 0, 0]}
"""


@pytest.fixture
def room(tmp_path):
    write_rgb(tmp_path / "room.png", render_room()[0])
    return tmp_path / "room.png"


@pytest.fixture
def notes(capsys):
    """Returns what was said on stderr since the last call."""
    return lambda: capsys.readouterr().err


def parse(*words):
    parser = ArgumentParser()
    add_pair_options(parser, "tiny")
    return parser.parse_args(["a.png", "b.png", *map(str, words)])


def test_three_forms_of_a_camera_are_read_and_exclude_each_other(room, tmp_path, notes):
    (tmp_path / "bent.yaml").write_text(CALIBRATION)
    assert read_frame(room, camera_options(parse("--intrinsics", *LENS))).intrinsics == CAMERA
    centred = read_frame(room, camera_options(parse("--focal", 280))).intrinsics
    assert centred == Intrinsics(280, 280, 159.5, 119.5, 320, 240)
    assert notes() == ""
    frame = read_frame(room, camera_options(parse("--camera", tmp_path / "bent.yaml")))
    rectifier = Rectifier(read_camera(tmp_path / "bent.yaml"), rectified=False)
    assert np.array_equal(frame.rgb, rectifier.rectify(read_rgb(room))) and not np.array_equal(
        frame.rgb, read_rgb(room)
    )
    assert frame.intrinsics == rectifier.intrinsics and "distortion is removed" in notes()
    with pytest.raises(SystemExit):
        parse("--focal", 280, "--intrinsics", *LENS)


def test_calibration_of_another_size_is_refused(tmp_path):
    (tmp_path / "bent.yaml").write_text(CALIBRATION)
    write_rgb(tmp_path / "small.png", np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(BadIntrinsics, match="80 x 60"):
        read_frame(tmp_path / "small.png", CameraOptions(calibration=tmp_path / "bent.yaml"))


def test_missing_camera_is_taken_from_exif_data_and_said_with_its_uncertainty(tmp_path, notes):
    (tmp_path / "photo.jpg").write_bytes(jpeg_bytes(render_room()[0], film_mm=26))
    camera = read_frame(tmp_path / "photo.jpg", CameraOptions()).intrinsics
    assert camera.fx_px == camera.fy_px == pytest.approx(26 * 400 / math.hypot(36, 24))
    assert (camera.cx_px, camera.cy_px) == (159.5, 119.5)
    said = notes()
    assert said.count("\n") == 1 and all(text in said for text in ("Exif", "about 5 %", "240 pixels", "67 degrees"))


def test_missing_camera_is_estimated_from_lines_else_assumed(tmp_path, room, notes):
    write_rgb(tmp_path / "drawn.png", drawing(480.0, 35, -10))
    assert read_frame(tmp_path / "drawn.png", CameraOptions()).intrinsics.fx_px == pytest.approx(480, rel=0.05)
    assert "lines in the image, right to about 8 %" in notes()
    assert read_frame(room, CameraOptions()).intrinsics.fx_px == pytest.approx(160 / math.tan(math.radians(30)))
    assert "assumed field of view of 60 degrees" in (said := notes()) and "about 33 %" in said


class Known:
    """An estimator of a user."""

    def focal_px(self, image, size_px):
        return 311.0


class Wrong(Known):
    """An estimator that fails."""

    def focal_px(self, image, size_px):
        return math.nan


class Broken(Known):
    """An estimator that raises anything."""

    def focal_px(self, image, size_px):
        raise KeyError("no weights")


class Unmade(Known):
    """An estimator that cannot be made."""

    def __init__(self):
        raise KeyError("no weights")


def test_named_estimator_is_used_and_its_unknown_error_is_said(room, notes):
    assert read_frame(room, CameraOptions(estimator=f"{__name__}:Known")).intrinsics.fx_px == 311.0
    assert "the estimator Known, its error is unknown" in notes()
    with pytest.raises(BadIntrinsics, match=r"Wrong gives the focal length nan: give --intrinsics"):
        read_frame(room, CameraOptions(estimator=f"{__name__}:Wrong"))
    with pytest.raises(SetupError, match="nowhere:Nothing"):
        read_frame(room, CameraOptions(estimator="nowhere:Nothing"))
    for name in ("Broken", "Unmade"):
        with pytest.raises(SetupError, match="no weights"):
            read_frame(room, CameraOptions(estimator=f"{__name__}:{name}"))


@pytest.mark.parametrize(
    ("lens", "text"),
    [
        ((0.875, 0.875, 0.5, 0.5), "field of view of 179 degrees"),
        ((4.2, 4.2, 161, 118), "Millimetres are multiplied by 320"),
        ((280, 161, 282, 118), "is the order FX FY CX CY"),
        ((840, 846, 483, 355), "of this resolution"),
        ((280, 282, 161, 118), ""),
        ((90, 90, 161, 118), ""),
    ],
)
def test_intrinsics_that_are_no_pixels_of_this_image_are_doubted(room, notes, lens, text):
    assert read_frame(room, CameraOptions(lens)).intrinsics.fx_px == lens[0]
    said = notes()
    assert text in said and said.count("\n") == bool(text)


@pytest.mark.parametrize("orientation", [3, TURNED_RIGHT, 8])
def test_turned_photo_is_warned_about_and_turned_with_its_camera(tmp_path, notes, orientation):
    """A pixel keeps its ray: the turned image, seen through the turned camera, shows the same scene."""
    photo = tmp_path / "photo.jpg"
    stored = render_room()[0]
    photo.write_bytes(jpeg_bytes(stored, orientation=orientation))
    assert read_frame(photo, CameraOptions(LENS)).intrinsics == CAMERA
    said = notes()
    assert said.count("\n") == 1 and f"orientation {orientation}" in said and "--turn" in said
    frame = read_frame(photo, CameraOptions(LENS, turn=True))
    assert notes() == ""
    turns = {3: 2, TURNED_RIGHT: 3, 8: 1}[orientation]
    kept = read_rgb(photo)
    assert np.array_equal(frame.rgb, np.rot90(kept, turns))
    # Where a pixel of the stored image went, and its ray turned by the same angle.
    places = np.rot90(np.arange(stored.shape[0] * stored.shape[1]).reshape(stored.shape[:2]), turns)
    u, v = 40, 200
    (new_v,), (new_u,) = np.nonzero(places == v * stored.shape[1] + u)
    old, new = CAMERA, frame.intrinsics
    x, y = (u - old.cx_px) / old.fx_px, (v - old.cy_px) / old.fy_px
    angle = math.radians(-90 * turns)  # The axes of the image are x right, y down.
    expected = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    assert ((new_u - new.cx_px) / new.fx_px, (new_v - new.cy_px) / new.fy_px) == pytest.approx(expected)


def test_mirrored_photo_is_warned_about_and_left_alone(tmp_path, notes):
    (tmp_path / "photo.jpg").write_bytes(jpeg_bytes(render_room()[0], orientation=2))
    frame = read_frame(tmp_path / "photo.jpg", CameraOptions(LENS, turn=True))
    assert frame.intrinsics == CAMERA and "mirrored" in notes()


def test_pair_without_cameras_shares_the_better_estimate(tmp_path, room, notes):
    write_rgb(tmp_path / "large.png", drawing(480.0, 35, -10))
    write_rgb(tmp_path / "flat.png", np.full((480, 640, 3), 128, np.uint8))
    one, two = read_pair(tmp_path / "flat.png", tmp_path / "large.png", parse())
    assert one.intrinsics == two.intrinsics and one.intrinsics.fx_px == pytest.approx(480, rel=0.05)
    assert notes().count("\n") == 1
    one, two = read_pair(room, tmp_path / "large.png", parse())
    assert one.intrinsics.size_px == (320, 240) and two.intrinsics.fx_px == pytest.approx(480, rel=0.05)
    assert notes().count("\n") == 2


def test_pair_of_one_given_and_one_other_camera(tmp_path, room):
    write_rgb(tmp_path / "large.png", np.full((480, 640, 3), 128, np.uint8))
    args = parse("--intrinsics", *LENS, "--intrinsics-second", 500, 501, 320, 240)
    one, two = read_pair(room, tmp_path / "large.png", args)
    assert one.intrinsics == CAMERA and two.intrinsics == Intrinsics(500, 501, 320, 240, 640, 480)
    with pytest.raises(BadIntrinsics, match="--intrinsics-second"):
        read_pair(room, tmp_path / "large.png", parse("--intrinsics", *LENS))
    with pytest.raises(BadIntrinsics, match="--intrinsics-second"):
        read_pair(room, tmp_path / "large.png", parse("--focal", 280))


def test_output_that_cannot_be_written_is_refused(tmp_path):
    check_output("--out", tmp_path / "new.npy")
    check_output("--out", None)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none" / "d.npy", tmp_path / "pipe"):
        with pytest.raises(BadInput, match="existing folder"):
            check_output("--out", path)
    with pytest.raises(BadInput, match=r"must end in \.ply"):
        check_output("--cloud", tmp_path / "cloud.txt", (".ply",))
    (tmp_path / "old.ply").touch()
    check_output("--cloud", tmp_path / "old.ply", taken={"the image": tmp_path / "new.png", "the truth": None})
    with pytest.raises(BadInput, match=r"old\.ply is the image itself: name another file"):
        check_output("--cloud", tmp_path / "old.ply", taken={"the image": tmp_path / "a" / ".." / "old.ply"})
