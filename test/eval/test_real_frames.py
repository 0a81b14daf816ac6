# SPDX-License-Identifier: Apache-2.0
"""Real images with measured depth: which frames are read, and which of their pixels are scored."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.checkered_room import CAMERA, render_room, write_labels
from support.paths import ROOT

from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.data.records import Record
from depthlm_ros.errors import BadInput
from depthlm_ros.eval.judges import SAMPLE_PIXELS, model_predictor
from depthlm_ros.eval.real_depth import (
    ROOMS_WITHIN,
    STD_CENTRE_M,
    STD_GROWTH,
    STD_UPPER,
    calibrate_on_rooms,
    is_trained_on_elsewhere,
    predict_scenes,
    read_evaluation_frames,
    read_photographs,
    thin_scenes,
)
from depthlm_ros.model import Model, load_model
from depthlm_ros.model_files.spec import ErrorCalibration

FRAMES = Path(os.environ.get("DEPTHLM_DATA", ROOT.parent / "shared" / "data")) / "real_frames"


def write_frames(folder, *changes, depth_m=None):
    """Writes one frame of the room for each dict of changed fields; the depth map has half the size of the image."""
    rgb, room_m = render_room()
    cv2.imwrite(str(folder / "room.png"), rgb[..., ::-1])
    write_depth(folder / "depth.png", room_m[::2, ::2] if depth_m is None else depth_m, 1000)
    line = {
        "image": "room.png",
        "depth": "depth.png",
        "depth_scale": 0.001,
        "intrinsics": list(vars(CAMERA).values()),
        "intrinsics_from": "given",
        "scene": "house/room",
        "kind": "room",
        "use": "evaluate",
    }
    text = "\n".join(json.dumps(line | changed) for changed in changes)
    (folder / "labels.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


def test_frames_of_training_and_of_other_kinds_are_not_read(tmp_path):
    folder = write_frames(tmp_path, {"use": "train"}, {"kind": "driving"}, {"scene": "wanted"})
    assert [frame.record.scene for frame in read_evaluation_frames(folder, ("room",))] == ["wanted"]


def test_a_folder_without_a_frame_to_evaluate_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="no frame of use 'evaluate' and kind tabletop"):
        read_evaluation_frames(write_frames(tmp_path, {}), ("tabletop",))


def test_points_of_a_smaller_depth_map_lie_on_the_image_with_their_depth(tmp_path):
    (frame,) = read_evaluation_frames(write_frames(tmp_path, {}))
    record = frame.record
    assert len(record.uv_px) == SAMPLE_PIXELS
    assert len(np.unique(record.uv_px, axis=0)) == SAMPLE_PIXELS
    # The map's pixel (0, 0) covers the image's pixels 0 and 1, so its centre is at 0.5.
    map_px = (record.uv_px - 0.5) / 2
    assert np.array_equal(map_px, np.rint(map_px))
    u, v = map_px.astype(int).T
    assert np.allclose(record.depth_m, render_room()[1][::2, ::2][v, u], atol=0.001)


def test_the_same_points_are_drawn_in_every_run(tmp_path):
    first, second = (read_evaluation_frames(write_frames(tmp_path, {}))[0].record for _ in range(2))
    assert np.array_equal(first.uv_px, second.uv_px)


def test_unknown_depth_is_not_scored_and_an_empty_map_is_left_out(tmp_path):
    depth_m = np.full((120, 160), np.nan)
    problems = []
    with pytest.raises(BadInput):
        read_evaluation_frames(write_frames(tmp_path, {}, depth_m=depth_m), problems=problems)
    assert [problem.reason for problem in problems] == ["depth map without a known depth"]
    depth_m[3, 5] = 2.0
    (frame,) = read_evaluation_frames(write_frames(tmp_path, {}, depth_m=depth_m))
    assert (frame.record.uv_px.tolist(), frame.record.depth_m.tolist()) == ([[10.5, 6.5]], [2.0])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"image": "missing.png"}, "image missing"),
        ({"depth_scale": 0}, "depth_scale malformed"),
        ({"intrinsics": [1, 2, 3]}, "intrinsics malformed"),
    ],
)
def test_a_bad_line_costs_only_itself(tmp_path, changed, reason):
    problems = []
    frames = read_evaluation_frames(write_frames(tmp_path, changed, {}), problems=problems)
    assert len(frames) == 1 and [problem.reason for problem in problems] == [reason]


@pytest.mark.parametrize(
    ("scene", "known"),
    [
        ("nyu_slambook/cafe", True),
        ("rooms_mixed/nyu_hha", True),
        ("rooms_mixed/sun_o3d", True),
        ("rooms_mixed/sun3d_studyroom", False),
        ("lingbot/ex0", False),
    ],
)
def test_scenes_of_nyu_and_sun_are_recognised(tmp_path, scene, known):
    (frame,) = read_evaluation_frames(write_frames(tmp_path, {"scene": scene, "intrinsics_from": "assumed"}))
    assert (is_trained_on_elsewhere(frame), frame.intrinsics_given) == (known, False)


def test_every_photograph_is_a_scene_of_its_own(tmp_path):
    write_labels(tmp_path)
    assert [record.scene for record in read_photographs(tmp_path)] == ["room_0", "room_1"]


def test_scenes_are_thinned_evenly():
    records = [Record(f"labels:{i}", Path("a.png"), CAMERA, scene="long" if i < 9 else "short") for i in range(11)]
    assert [record.where for record in thin_scenes(records, 3)] == [f"labels:{i}" for i in (0, 4, 8, 9, 10)]
    assert thin_scenes(records, 20) == records


def test_the_map_is_calibrated_on_every_other_room_with_given_intrinsics(tmp_path):
    write_depth(tmp_path / "wrong.png", np.full((120, 160), 60.0), 1000)
    others = [{"scene": "b", "depth": "wrong.png"}, {"scene": "a2", "depth": "wrong.png", "intrinsics_from": "assumed"}]
    write_frames(tmp_path, {"scene": "a"}, *others, {"scene": "c"})
    tiny, before = load_model("tiny"), ErrorCalibration(words_relative=0.3)
    found = calibrate_on_rooms(tiny, tmp_path, before)
    shape = {"map_std_growth": STD_GROWTH, "map_std_centre_m": STD_CENTRE_M, "map_std_upper": STD_UPPER}
    assert found == replace(before, map_std_factor=found.map_std_factor, **shape)
    model = Model(replace(tiny.spec, calibration=found), tiny.family, tiny.chat, tiny.backend, tiny.tokenizer)
    right = [frame.record for frame in read_evaluation_frames(tmp_path) if frame.record.scene in ("a", "c")]
    assert predict_scenes(model_predictor(model), right).scores().within_std == pytest.approx(ROOMS_WITHIN, abs=0.01)


@pytest.mark.skipif(not FRAMES.is_dir(), reason="shared/data/real_frames is not here")
def test_the_shared_rooms_are_38_scenes_of_which_22_have_given_intrinsics():
    frames = read_evaluation_frames(FRAMES, ("room",))
    scenes = {frame.record.scene: frame for frame in frames}
    assert Counter(frame.intrinsics_given for frame in scenes.values()) == {True: 22, False: 16}
    assert sum(not is_trained_on_elsewhere(frame) for frame in scenes.values()) == 29
