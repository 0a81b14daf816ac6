# SPDX-License-Identifier: Apache-2.0
"""Photographs with teachers' labels: the format of a sample, and the depth that teachers agree on."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room
from support.paths import ROOT

from depthlm_ros.data.photo_labels import (
    SEGMENT_CLASSES,
    UNKNOWN_SEGMENT,
    PhotoBox,
    PhotoLabels,
    TeacherNote,
    decode,
    decode_depth,
    encode,
    encode_depth,
    fit_photo,
    label_photo,
    reference_camera,
)
from depthlm_ros.data.webdataset import ShardIndex, write_shard
from depthlm_ros.errors import BadImage, BadInput

PHOTOS = Path(os.environ.get("DEPTHLM_DATA", ROOT.parent / "shared" / "data")) / "photos"
CAMERA = reference_camera((64, 48))


def make_labels(**changes):
    """Returns labels of a rendered room, whose depth is exact."""
    rgb, depth_m = render_room(CAMERA)
    depth_m = depth_m[::4, ::4].astype(np.float32)
    depth_m[0, 0] = np.nan
    segments = np.full(depth_m.shape, SEGMENT_CLASSES.index("floor"), np.uint8)
    segments[:3] = UNKNOWN_SEGMENT
    given = {"boxes": (PhotoBox("sink", 0.5, 0.1, 0.2, 0.3, 0.4),), "maybe": frozenset({"tv", "bed"}), "room": "hall"}
    return PhotoLabels(rgb, depth_m, segments, **given | changes)


def as_sample(members):
    """Returns the sample that a shard with these files holds."""
    return {"__key__": "7", "__url__": "a.tar", **members, "json": json.loads(members["json"])}


def test_labels_come_back_from_a_shard(tmp_path):
    labels = make_labels(source="a/b.jpg", teachers=(TeacherNote("tiny", "Apache-2.0"),), fx_over_width=0.7)
    write_shard(tmp_path / "a.tar", [("7", encode(labels))])
    found = decode(ShardIndex(tmp_path)[0])
    np.testing.assert_allclose(found.depth_m, labels.depth_m, rtol=0.0087)  # half a step; NaN stays NaN
    np.testing.assert_array_equal(found.segments, labels.segments)
    assert np.abs(found.rgb.astype(int) - labels.rgb).mean() < 6
    for name in ("boxes", "maybe", "has_boxes", "dropped_boxes", "fx_over_width", "room", "source", "teachers"):
        assert getattr(found, name) == getattr(labels, name), name
    again = decode(as_sample(encode(found)))
    np.testing.assert_array_equal(again.depth_m, found.depth_m)


def test_only_another_focal_length_than_the_reference_is_written():
    assert "fx_over_width" not in json.loads(encode(make_labels())["json"])
    assert decode(as_sample(encode(make_labels()))).fx_over_width == 0.888


def test_a_sample_that_no_detector_saw_differs_from_one_without_objects():
    unseen = decode(as_sample(encode(make_labels(boxes=(), maybe=frozenset(), has_boxes=False))))
    empty = decode(as_sample(encode(make_labels(boxes=(), maybe=frozenset()))))
    assert not unseen.has_boxes and empty.has_boxes and unseen.boxes == empty.boxes == ()


def test_depth_codes_are_those_of_the_published_formula():
    codes = np.arange(256, dtype=np.uint8)
    depth_m = decode_depth(codes)
    assert np.isnan(depth_m[0]) and depth_m[255] == 20.0 and depth_m[1] == pytest.approx(0.25 * 80 ** (1 / 255))
    np.testing.assert_array_equal(encode_depth(depth_m), codes)
    outside = np.array([0.0, -1.0, np.nan, np.inf, 0.2, 21.0, 1e9], np.float32)
    assert not encode_depth(outside).any()


def test_boxes_are_cut_at_the_edges_and_empty_ones_are_counted():
    members = encode(make_labels())
    fields = json.loads(members["json"]) | {
        "boxes": [["sofa", 0.9, -0.1, 0.5, 0.4, 1.2], ["tv", 0.8, 1.1, 0.1, 1.3, 0.2], ["bed", 0.7, 0.2, 0.4, 0.2, 0.9]]
    }
    found = decode({**as_sample(members), "json": fields})
    assert found.boxes == (PhotoBox("sofa", 0.9, 0.0, 0.5, 0.4, 1.0),) and found.dropped_boxes == 2


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("jpg", b"torn", "not an image"),
        ("jpg", encode(make_labels())["jpg"][:-20], "cut short"),
        ("jpg", None, "has no jpg"),
        ("depth.png", b"torn", "depth.png: its 4 bytes are not an image"),
        ("depth.png", b"", "depth.png: its 0 bytes"),
        ("depth.png", cv2.imencode(".png", np.zeros((12, 16), np.uint16))[1].tobytes(), "expected one byte a pixel"),
        ("seg.png", cv2.imencode(".png", np.zeros((6, 8), np.uint8))[1].tobytes(), "both need one size"),
        ("seg.png", cv2.imencode(".png", np.full((12, 16), 32, np.uint8))[1].tobytes(), "class 32"),
        ("json", {"boxes": [["sofa", 0.9, 0.1]]}, "json malformed"),
        ("json", {"boxes": 3}, "json malformed"),
        ("json", {"fx_over_width": -1}, "json malformed"),
        ("json", [1, 2], "json malformed"),
    ],
)
def test_a_damaged_sample_is_an_error_with_shard_key_and_reason(suffix, content, message):
    sample = as_sample(encode(make_labels())) | {suffix: content}
    if content is None:
        del sample[suffix]
    with pytest.raises((BadImage, BadInput), match=message) as error:
        decode(sample)
    assert str(error.value).startswith("a.tar: sample 7")


def test_photograph_is_cut_in_the_middle_and_resized():
    wide = np.zeros((60, 200, 3), np.uint8)
    wide[:, 60:140] = 255  # the middle 4:3
    assert (fit_photo(wide, (64, 48)) == 255).all()
    tall = wide.transpose(1, 0, 2)
    tall = np.where(np.arange(200)[:, None, None] // 45 == 2, 255, 0).astype(np.uint8) * np.ones_like(tall)
    assert fit_photo(tall, (64, 48)).shape == (48, 64, 3)
    assert fit_photo(np.full((3, 4, 3), 9, np.uint8), (64, 48)).shape == (48, 64, 3)


def test_depth_of_a_teacher_is_reduced_to_a_quarter_and_unknown_squares_stay_unknown():
    rgb, depth_m = render_room(CAMERA)
    depth_m[5, 6] = np.nan
    found = label_photo(rgb, [lambda _: depth_m])
    assert found.shape == (12, 16) and found.dtype == np.float32 and np.argwhere(np.isnan(found)).tolist() == [[1, 1]]
    np.testing.assert_allclose(found[-1], render_room(CAMERA)[1][-4:].mean(axis=0)[::4], rtol=0.01)


def test_two_teachers_give_their_mean_at_the_scale_of_the_first_where_they_agree():
    rgb, first_m = render_room(CAMERA)
    second_m = 3 * first_m
    second_m[:4, :4] *= 1.2
    second_m[:4, 4:8] *= 1.4
    found = label_photo(rgb, [lambda _: first_m, lambda _: second_m])
    alone = label_photo(rgb, [lambda _: first_m])
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 1]]
    assert found[0, 0] == pytest.approx(alone[0, 0] * 1.2 ** (1 / 3), rel=1e-4)
    np.testing.assert_allclose(found[1:], alone[1:], rtol=1e-5)
    assert np.isfinite(label_photo(rgb, [lambda _: first_m, lambda _: second_m], most_disagreement_ln=0.4)).all()
    assert np.isnan(label_photo(rgb, [lambda _: first_m, lambda _: np.full_like(first_m, np.nan)])).all()


def test_flip_averages_with_the_depth_of_the_mirrored_photograph():
    rgb = render_room(CAMERA)[0]
    ramp_m = np.broadcast_to(np.linspace(1, 4, 64), (48, 64))
    found = label_photo(rgb, [lambda _: ramp_m], flip=True)  # a teacher that does not see the mirroring
    np.testing.assert_allclose(found, found[:, ::-1], rtol=1e-5)
    np.testing.assert_allclose(
        label_photo(rgb, [lambda seen: seen[..., 0] + 1.0], flip=True)[-1],
        label_photo(rgb, [lambda seen: seen[..., 0] + 1.0])[-1],
        rtol=1e-5,
    )


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="shared/data/photos is not here")
def test_the_photographs_that_we_have_are_read():
    index = ShardIndex(PHOTOS, required=("jpg", "depth.png", "json"))
    assert len(index) == 9875 and not index.problems
    for number in range(0, len(index), 500):
        labels = decode(index[number])
        assert labels.rgb.shape == (192, 256, 3) and labels.depth_m.shape == (48, 64) and labels.has_boxes
        assert 0.25 < np.nanmedian(labels.depth_m) < 20 and labels.dropped_boxes == 0
        assert np.isfinite(labels.depth_m).mean() == pytest.approx(index[number]["json"]["agree"], abs=0.006)
