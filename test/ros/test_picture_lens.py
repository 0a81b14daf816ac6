# SPDX-License-Identifier: Apache-2.0
"""The lens of pictures: given, from Exif data, from the lines in them, or assumed; and which files are pictures."""

import argparse
import math

import cv2
import numpy as np
import pytest
from support.exif import jpeg_bytes
from support.line_drawing import drawing

from depthlm_ros.errors import BadImage, BadInput, BadIntrinsics
from depthlm_ros.ros.tools.picture_lens import (
    KnownLens,
    add_lens_options,
    find_lens,
    known_lens,
    picture_files,
)

pytestmark = pytest.mark.ros

GREY = np.full((480, 640, 3), 128, np.uint8)
FILM_DIAGONAL_MM = math.hypot(36, 24)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    path.mkdir()
    return path


def write(folder, name, rgb, **exif):
    (folder / name).write_bytes(jpeg_bytes(rgb, **exif))


class TestGivenLens:
    def test_fx_alone_gives_equal_focal_lengths_and_the_middle_in_both_orientations(self, folder):
        write(folder, "a.jpg", GREY)
        lens = find_lens(folder, KnownLens(525.0))
        assert list(vars(lens.intrinsics_of("a.jpg", (640, 480))).values()) == [525, 525, 319.5, 239.5, 640, 480]
        assert list(vars(lens.intrinsics_of("b.jpg", (480, 640))).values()) == [525, 525, 239.5, 319.5, 480, 640]
        assert lens.text == "focal length: 525 px, as given."

    def test_fx_belongs_to_the_size_of_most_pictures(self, folder):
        for name, rgb in {"a.jpg": GREY[:100], "b.jpg": GREY, "c.jpg": GREY}.items():
            write(folder, name, rgb)
        lens = find_lens(folder, KnownLens(525.0))
        with pytest.raises(BadImage, match=r"a\.jpg: is 640 x 100.*640 x 480"):
            lens.intrinsics_of("a.jpg", (640, 100))

    def test_principal_point_belongs_to_one_orientation(self, folder):
        write(folder, "a.jpg", GREY)
        lens = find_lens(folder, KnownLens(525.0, cx_px=300.0))
        camera = lens.intrinsics_of("a.jpg", (640, 480))
        assert (camera.fy_px, camera.cx_px, camera.cy_px) == (525.0, 300.0, 239.5)
        with pytest.raises(BadImage, match="480 x 640"):
            lens.intrinsics_of("a.jpg", (480, 640))

    def test_field_of_view_is_along_the_longer_side_of_any_size(self, folder):
        write(folder, "a.jpg", GREY)
        lens = find_lens(folder, KnownLens(fov_deg=90.0))
        assert lens.intrinsics_of("a.jpg", (640, 480)).fx_px == pytest.approx(320.0)
        assert lens.intrinsics_of("b.jpg", (300, 1000)).fx_px == pytest.approx(500.0)
        assert "90 degrees" in lens.text

    @pytest.mark.parametrize("known", [{"fx_px": 1.0, "fov_deg": 70.0}, {"cx_px": 1.0}, {"fy_px": 5.0}])
    def test_values_that_do_not_go_together_are_refused(self, known):
        with pytest.raises(BadIntrinsics, match="FX"):
            KnownLens(**known)

    @pytest.mark.parametrize("known", [KnownLens(), KnownLens(1 / 3 + 500, cy_px=-3.0), KnownLens(fov_deg=70.0)])
    def test_options_survive_the_way_to_another_process(self, known):
        parser = argparse.ArgumentParser()
        add_lens_options(parser)
        assert known_lens(parser.parse_args(known.options())) == known


class TestUnknownLens:
    def test_each_picture_has_the_focal_length_of_its_exif_data(self, folder):
        write(folder, "a.jpg", GREY, film_mm=26)
        write(folder, "b.jpg", GREY, film_mm=52)
        lens = find_lens(folder, KnownLens())
        per_mm = 800 / FILM_DIAGONAL_MM
        assert lens.intrinsics_of("a.jpg", (640, 480)).fx_px == pytest.approx(26 * per_mm)
        assert lens.intrinsics_of("b.jpg", (480, 640)).fx_px == pytest.approx(52 * per_mm)
        assert "481 to 961 px, from the Exif data of all 2 pictures, usually right to 5 %" in lens.text
        assert "give FX (pixels) or FOV (degrees)" in lens.text

    def test_lines_tell_the_focal_length_of_pictures_without_exif_data(self, folder):
        write(folder, "a.jpg", drawing(480.0, 35, -10))
        write(folder, "b.jpg", drawing(480.0, 20, -25))
        write(folder, "c.jpg", GREY)
        lens = find_lens(folder, KnownLens())
        for name in ("a.jpg", "c.jpg"):
            assert lens.intrinsics_of(name, (640, 480)).fx_px == pytest.approx(480.0, rel=0.05)
        assert "estimated from the lines in 2 of 3 pictures, right to about 8 %" in lens.text

    def test_stated_uncertainty_grows_with_the_spread_of_the_estimates(self, folder):
        write(folder, "a.jpg", drawing(350.0, 35, -10))
        write(folder, "b.jpg", drawing(700.0, 35, -10))
        text = find_lens(folder, KnownLens()).text
        assert int(text.split("right to about ")[1].split(" %")[0]) > 50

    @pytest.mark.parametrize("exif", [{}, {"film_mm": 0}, {"film_mm": 65535}])
    def test_without_exif_data_and_lines_a_usual_focal_length_is_assumed(self, folder, exif):
        write(folder, "a.jpg", GREY, **exif)
        lens = find_lens(folder, KnownLens())
        assert lens.intrinsics_of("a.jpg", (640, 480)).fx_px == pytest.approx(512.0)
        assert "512 px, assumed" in lens.text and "wrong by a third" in lens.text

    def test_exif_data_of_some_pictures_are_not_used_for_the_others(self, folder):
        write(folder, "a.jpg", GREY, film_mm=26)
        write(folder, "b.jpg", drawing(480.0, 35, -10))
        lens = find_lens(folder, KnownLens())
        assert lens.intrinsics_of("b.jpg", (640, 480)).fx_px == pytest.approx(480.0, rel=0.05)
        assert "Exif data of 1 of 2 pictures" in lens.text and "estimated from the lines in the picture" in lens.text
        assert "\n" not in lens.text

    def test_lens_of_a_video_is_estimated_from_its_frames(self, tmp_path):
        path = tmp_path / "film.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (640, 480))
        for yaw_deg in (30, 35, 40):
            writer.write(drawing(480.0, yaw_deg, -10))
        writer.release()
        if not path.exists():
            pytest.skip("this OpenCV writes no video")
        lens = find_lens(path, KnownLens())
        assert lens.intrinsics_of("frame 0", (640, 480)).fx_px == pytest.approx(480.0, rel=0.08)
        assert "estimated from the lines" in lens.text


class TestFiles:
    def test_pictures_that_cannot_be_read_are_named_with_a_remedy(self, folder):
        write(folder, "a.jpg", GREY)
        for name in ("notes.txt", "._a.jpg", "film.mov", *(f"{i}.HEIC" for i in range(8))):
            (folder / name).write_bytes(b"x")
        warnings = []
        assert [file.name for file in picture_files(folder, warnings.append)] == ["a.jpg"]
        assert warnings == [
            "left out: 0.HEIC, 1.HEIC, 2.HEIC, 3.HEIC, 4.HEIC and 3 more (save as JPEG or PNG).",
            "left out: film.mov (a video is shown alone: give its path).",
        ]

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("nowhere", "does not exist"),
            ("empty", "holds no images"),
            ("notes.txt", "neither"),
            ("b.heic", "save as JPEG"),
        ],
    )
    def test_nothing_to_show_is_said_by_name(self, tmp_path, name, words):
        (tmp_path / "empty").mkdir()
        for file in ("notes.txt", "b.heic"):
            (tmp_path / file).write_text("no picture")
        with pytest.raises(BadInput, match=f"{name}.*{words}"):
            find_lens(tmp_path / name, KnownLens(500.0))

    def test_folder_of_unreadable_kinds_names_them(self, folder):
        (folder / "b.heic").write_bytes(b"x")
        with pytest.raises(BadInput, match=r"holds no images.*b\.heic \(save as JPEG or PNG\)"):
            find_lens(folder, KnownLens())
