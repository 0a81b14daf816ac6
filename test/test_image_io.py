# SPDX-License-Identifier: Apache-2.0
"""Tests of image files: truncated ones are refused, because decoders would fill the rest with invented pixels."""

import cv2
import numpy as np
import pytest

from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import DepthFile
from depthlm_ros.errors import BadImage
from depthlm_ros.image_io import is_truncated, read_rgb

NOISE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def encoded(suffix: str, image: np.ndarray = NOISE) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def with_thumbnail(jpeg: bytes) -> bytes:
    """Returns the same JPEG with a thumbnail in an application segment, as cameras write it."""
    inner = b"Exif\x00\x00" + encoded(".jpg", NOISE[:16, :16])
    return jpeg[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + jpeg[2:]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_a_complete_file_is_read_with_any_bytes_after_its_end(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for appended in (b"", bytes(5000), b"\xff\xda a film of the moment"):
        path.write_bytes(encoded(suffix) + appended)
        assert read_rgb(path).shape == NOISE.shape


def test_the_end_marker_of_a_thumbnail_does_not_count_as_the_end_of_the_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    whole = with_thumbnail(encoded(".jpg"))
    path.write_bytes(whole)
    assert read_rgb(path).shape == NOISE.shape
    for kept in (20, 300, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:kept])
        with pytest.raises(BadImage, match="cut short"):
            read_rgb(path)


def test_bytes_between_two_segments_are_accepted():
    whole = encoded(".jpg")
    first = 4 + int.from_bytes(whole[4:6], "big")
    assert not is_truncated(np.frombuffer(whole[:first] + b"\x00\x00" + whole[first:], np.uint8))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_refused_with_its_size(tmp_path, suffix, kept):
    whole = encoded(suffix)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(BadImage, match=f"ends after {path.stat().st_size} bytes.*cut short"):
        read_rgb(path)


SEQUENTIAL = {
    "plain": [],
    "restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    "tables of its own": [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
    "colour of every pixel": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
}


@pytest.mark.parametrize("options", SEQUENTIAL.values(), ids=SEQUENTIAL.keys())
@pytest.mark.parametrize("image", [NOISE, NOISE[:89, :123, 0]], ids=["colours", "grey"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_the_same_picture(options, image, tmp_path, capfd):
    whole = cv2.imencode(".jpg", image, options)[1].tobytes()
    paths = [tmp_path / "whole.jpg", tmp_path / "endless.jpg"]
    for path, content in zip(paths, (whole, whole[:-2]), strict=True):
        path.write_bytes(content)
    assert np.array_equal(read_rgb(paths[0]), read_rgb(paths[1]))
    for lost in (1, 2):  # half of the marker, all of it
        assert not is_truncated(np.frombuffer(whole[:-lost], np.uint8))
    assert capfd.readouterr().err == ""  # libjpeg has nothing to complain of
    for lost in (12, 50, len(whole) // 30, len(whole) // 2):
        assert is_truncated(np.frombuffer(whole[:-lost], np.uint8)), lost


def test_a_jpeg_in_several_scans_without_its_end_is_truncated():
    whole = np.frombuffer(encoded(".jpg"), np.uint8).copy()
    scan = whole.tobytes().find(b"\xff\xda")
    whole[scan + 4] = 1  # the scan says that it holds one component of three
    assert is_truncated(whole[:-2])


def test_a_progressive_jpeg_is_refused_only_if_it_is_truncated():
    whole = cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]
    assert not is_truncated(whole)
    assert is_truncated(whole[:-2])


def test_a_truncated_depth_map_is_refused(tmp_path):
    path = tmp_path / "depth.png"
    whole = encoded(".png", np.random.default_rng(1).integers(500, 6000, (96, 128)).astype(np.uint16))
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(BadImage, match="cut short"):
        read_depth(DepthFile(path, 1000.0))
