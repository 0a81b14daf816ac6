# SPDX-License-Identifier: Apache-2.0
"""Labels of one picture: points that a model tells in words, maps that PNG cannot hold, pictures without depth."""

import json

import numpy as np
import pytest
from support.checkered_room import CAMERA, write_labels
from support.paths import needs_tiny
from support.scripted_backend import scripted_model

from depthlm_ros.cli.ask import answer_dict
from depthlm_ros.core import DepthMap
from depthlm_ros.data.frame_labels import FrameLabeller, LabelOptions
from depthlm_ros.data.picture_source import CameraRule, list_pictures
from depthlm_ros.data.read import Roots, parse_record
from depthlm_ros.data.records import BadRecord
from depthlm_ros.errors import BackendFailed


class FixedView:
    """A view with a fixed depth map."""

    def __init__(self, frame, depth_m):
        self.frame, self.depth_m = frame, depth_m

    def depth(self, with_std=True):
        return DepthMap(self.depth_m, self.frame.intrinsics)


class FixedModel:
    def __init__(self, depth_m):
        self.depth_m = depth_m

    def look(self, frame):
        return FixedView(frame, self.depth_m)


def label(tmp_path, model, **changes):
    """Returns the labels of the first room."""
    fields = {"depth": "png", "dense": True, "std": True, "points": 8, "seed": 1, "questions": ()}
    options = LabelOptions(tmp_path / "out", **{**fields, "teacher": ("name", "licence"), **changes})
    picture = list_pictures(write_labels(tmp_path, images=1)).pictures[0]
    return FrameLabeller(lambda: model, answer_dict, CameraRule(), options)(picture)


def test_depth_beyond_what_png_holds_is_unknown_and_counted(tmp_path):
    depth_m = np.full((240, 320), 3.0, np.float32)
    depth_m[0, :5], depth_m[1, :7], depth_m[2, :9] = 70.0, np.inf, np.nan
    labels = label(tmp_path, FixedModel(depth_m))
    (note,) = labels.notes
    assert note.count == 5 and note.reason == "depth beyond what PNG holds" and "--depth npy holds all" in note.message
    assert "depth_std_path" not in labels.line, "this model tells no standard deviation"
    whole = label(tmp_path, FixedModel(depth_m), depth="npy")
    assert not whole.notes
    (content,) = whole.files.values()
    (tmp_path / "map.npy").write_bytes(content)
    stored_m = np.load(tmp_path / "map.npy")
    assert np.array_equal(np.isnan(stored_m), ~np.isfinite(depth_m)) and stored_m[0, 0] == 70.0


def test_a_picture_without_any_known_depth_is_left_out(tmp_path):
    with pytest.raises(BadRecord, match="0 pixels have a depth"):
        label(tmp_path, FixedModel(np.full((240, 320), np.nan, np.float32)))


@needs_tiny
def test_a_model_of_words_is_asked_about_points(tmp_path):
    reply = "3.50 meters away from the camera. </think>\n\n<answer> 3.50 </answer>"
    model = scripted_model("vlm3-depth", lambda prompt: reply)
    labels = label(tmp_path, model, depth="none", dense=False)
    line = json.dumps({**labels.line, "image": "room_0.png"})
    record, problems = parse_record(line, "here", Roots(tmp_path, tmp_path))
    assert record.intrinsics == CAMERA and len(record.uv_px) == 8 and not problems and not labels.files
    assert labels.line["depth_type"] == "z" and (record.depth_m > 2).all() and (record.depth_m <= 3.5).all()
    again = label(tmp_path, model, depth="none", dense=False)
    assert again.line == labels.line, "the points depend on the picture and the seed only"
    mute = scripted_model("vlm3-depth", lambda prompt: "I cannot tell.")
    with pytest.raises(BadRecord, match="none of 8 replies tells a depth"):
        label(tmp_path, mute, depth="none", dense=False)


def test_a_failure_of_the_backend_is_not_hidden(tmp_path):
    class Broken:
        def look(self, frame):
            raise BackendFailed("no memory")

    with pytest.raises(BackendFailed, match="no memory"):
        label(tmp_path, Broken())
