# SPDX-License-Identifier: Apache-2.0
"""FastDepth, a published network, through the command line: its scores on photographs are those that were measured with
ONNX Runtime alone."""

import json

import numpy as np
import pytest
import yaml
from support.command_line import depthlm
from support.depth_networks import FASTDEPTH, PHOTOGRAPHS, TEACHER, write_network

needs_teacher = pytest.mark.skipif(not TEACHER.is_file(), reason="fastdepth.onnx is not here")
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.is_file(), reason="the 40 photographs of iBims-1 are not here")
CAMERA = ("--intrinsics", 40, 40, 31.5, 23.5)


@pytest.fixture
def fastdepth(tmp_path):
    folder = tmp_path / "fastdepth"
    folder.mkdir()
    (folder / "fastdepth.onnx").symlink_to(TEACHER)
    (folder / "depth_map.yaml").write_text(yaml.safe_dump(FASTDEPTH))
    return folder


@needs_teacher
@needs_photographs
def test_scores_on_photographs_are_those_that_were_measured_without_this_package(tmp_path, fastdepth):
    done = depthlm("eval", PHOTOGRAPHS, "--model", fastdepth, "--json", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["n"] == 4000 and scores["delta1"] == pytest.approx(0.579, abs=0.002)
    scaled = next(line for line in done.stdout.splitlines() if line.startswith("scaled by medians"))
    assert float(scaled.split()[3]) == pytest.approx(0.716, abs=0.002)


def test_depth_verb_writes_metres_and_ask_is_refused(tmp_path):
    from depthlm_ros.image_io import write_rgb

    write_rgb(tmp_path / "grey.png", np.full((48, 64, 3), 51, np.uint8))
    fields = {
        "image": {"input": "image", "fit": "squeeze", "size_px": [32, 32]},
        "depth": {"output": "depth", "kind": "metres"},
    }
    folder = write_network(tmp_path / "own", fields, offset=1.0)
    done = depthlm("depth", tmp_path / "grey.png", *CAMERA, "--model", folder, "--out", tmp_path / "depth.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "depth.npy"), np.full((48, 64), 1.2), rtol=1e-5)
    done = depthlm("ask", tmp_path / "grey.png", "How far is it?", *CAMERA, "--model", folder)
    assert done.returncode != 0 and "a network for depth alone" in done.stderr and "Traceback" not in done.stderr
