# SPDX-License-Identifier: Apache-2.0
"""The command line with words, files and readers that are not what they seem: one line each, and no traceback."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room
from support.command_line import depthlm, start
from support.paths import TINY, needs_tiny

INTRINSICS = ["--intrinsics", "280", "282", "161", "118.5"]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "room.png"
    cv2.imwrite(str(path), render_room()[0][..., ::-1])
    return path


def one_line(done, *texts: str) -> None:
    """Checks that a command was refused in one short line that holds these texts."""
    assert done.returncode in (1, 2) and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("depthlm: ") and len(done.stderr) < 1000, done.stderr
    for text in texts:
        assert text in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["models"], ["models", "--json"], ["--help"]])
def test_a_reader_that_goes_away_ends_the_command_without_a_word(command, unbuffered):
    process = start(*command, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    process.stdout.close()  # before the command has written anything
    assert process.stderr.read() == ""
    assert process.wait() in (0, 141)


def test_a_full_disk_is_not_mistaken_for_a_reader_that_went_away():
    with Path("/dev/full").open("w") as full:
        done = depthlm("models", stdout=full)
    assert done.returncode == 2 and "No space left" in done.stderr


def test_the_content_of_an_image_in_the_place_of_its_path_is_refused_in_a_short_line(tmp_path):
    one_line(depthlm("depth", "data:image/png;base64," + "A" * 5000, *INTRINSICS, "--out", tmp_path / "x.npy"), "image")


@pytest.mark.parametrize("question", [b"How far is the \xff chair?", b"\xed\xa0\x80"])
def test_a_question_that_is_not_utf_8_is_refused(image, question):
    one_line(depthlm("ask", image, os.fsdecode(question), *INTRINSICS), "half a character")


def test_a_point_that_is_not_marked_is_asked_for(image):
    one_line(depthlm("ask", image, "How far is this point?", *INTRINSICS), "'this point'", "mark")


@needs_tiny
def test_names_that_are_not_utf_8_can_be_given_and_printed(image, tmp_path):
    strange, out = (tmp_path / os.fsdecode(name) for name in (b"\xff.png", b"\xfe.npy"))
    image.rename(strange)
    done = depthlm("depth", strange, *INTRINSICS, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.is_file() and "320 x 240" in done.stdout


@needs_tiny
def test_a_picture_whose_name_is_not_utf_8_costs_only_itself(image, tmp_path):
    (tmp_path / "in").mkdir()
    for name in (b"\xff.png", b"good.png"):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(image.read_bytes())
    done = depthlm("label", tmp_path / "in", "--out", tmp_path / "out", "--focal", 280, "--workers", 1)
    assert done.returncode == 0 and "1 of" in done.stdout and "not UTF-8: rename" in done.stdout, done


@needs_tiny
def test_a_model_in_a_folder_that_the_locale_cannot_name_is_refused_with_the_variable_to_set(image, tmp_path):
    (tmp_path / "modèle").symlink_to(TINY)
    words = ["depth", image, *INTRINSICS, "--model", tmp_path / "modèle", "--out", tmp_path / "x.npy"]
    one_line(depthlm(*words, env=os.environ | ASCII), "PYTHONUTF8=1", "ascii")
    assert depthlm("models", "check", tmp_path / "modèle", env=os.environ | ASCII).returncode == 1
    assert depthlm(*words, env=os.environ | {"PYTHONUTF8": "1"}).returncode == 0


@needs_tiny
def test_a_question_in_utf_8_is_read_in_every_locale(image):
    asked = [
        depthlm("ask", image, "How far is the café table?", *INTRINSICS, env=os.environ | locale)
        for locale in (ASCII, {"PYTHONUTF8": "1"})
    ]
    assert [done.returncode for done in asked] == [0, 0] and asked[0].stdout == asked[1].stdout


def damaged_png() -> bytes:
    content = bytearray(cv2.imencode(".png", render_room()[0])[1].tobytes())
    content[100] ^= 0xFF
    return bytes(content)


PICTURES = {
    "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(3000), "HEIC picture"),
    "a.jpg": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(3000), "convert it to JPEG"),
    "a.png": (damaged_png(), "its part IDAT does not have its checksum"),
    "b.png": (damaged_png()[:16] + b"\0\0\xff\xff" * 2 + damaged_png()[24:], "it promises 65535 x 65535 pixels"),
    "a.tif": (b"II*\0\x08\0\0\0\xff\xff" + bytes(range(200)), "not an image"),
    "a.gif": (b"GIF89a" + bytes(200), "not an image"),
    "a.bmp": (b"BM" + bytes(200), "not an image"),
    "a.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200), "not an image"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_that_is_no_picture_is_told_of_in_one_line_and_not_by_the_decoder(name, tmp_path):
    content, text = PICTURES[name]
    (tmp_path / name).write_bytes(content)
    one_line(depthlm("depth", tmp_path / name, *INTRINSICS, "--out", tmp_path / "x.npy"), text, name)


@pytest.mark.parametrize(
    ("focal", "unit"),
    [("3.6", "Millimetres"), pytest.param("0.9", "shares of the image", marks=pytest.mark.slow)],
)
@needs_tiny
def test_intrinsics_in_another_unit_are_doubted_by_every_verb(image, tmp_path, focal, unit):
    typed = ["--intrinsics", focal, focal, "160", "120"]
    line = {"image": image.name, "intrinsics": [float(focal)] * 2 + [160, 120, 320, 240]}
    line |= {"pixel_coords": [[10, 10]], "depth": [2.0]}
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps(line) + "\n")
    for words in (
        ["depth", image, *typed, "--out", tmp_path / "x.npy"],
        ["ask", image, "How far is the chair?", *typed],
        ["eval", labels],
        ["data", "show", labels],
    ):
        done = depthlm(*words)
        assert done.returncode == 0 and unit in done.stderr + done.stdout, (words, done)


def test_pictures_of_a_cropped_and_of_a_whole_file_have_the_same_focal_length(tmp_path):
    from support.exif import jpeg_bytes

    from depthlm_ros.geometry.focal_estimation import focal_from_exif

    full = np.zeros((300, 400, 3), np.uint8)
    for name, rgb in {"whole": full, "crop": full[50:200, 100:160], "small": full[::2, ::2]}.items():
        (tmp_path / name).write_bytes(jpeg_bytes(rgb, film_mm=28, taken_px=(400, 300)))
    whole_px = focal_from_exif(tmp_path / "whole", (400, 300))
    assert whole_px == pytest.approx(28 * 500 / np.hypot(36, 24))
    assert focal_from_exif(tmp_path / "crop", (60, 150)) == pytest.approx(whole_px)
    assert focal_from_exif(tmp_path / "small", (200, 150)) == pytest.approx(whole_px / 2)
