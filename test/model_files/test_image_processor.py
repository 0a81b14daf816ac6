# SPDX-License-Identifier: Apache-2.0
"""The sizes of a checkpoint's image processor are read in every form, and impossible sizes are refused."""

import re

import pytest
from support.checkpoint_folders import PIXTRAL, QWEN3, QWEN25, checkpoint, write_json

from depthlm_ros.errors import BadBundle
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model_files.checkpoint import find_model
from depthlm_ros.model_files.image_processor import SizeRule, apply_size_rule, read_size_rule


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        (QWEN3, SizeRule(True, 32, 65536, 16777216)),
        (QWEN25, SizeRule(True, 28, 3136, 12845056)),
        (QWEN25 | {"size": {"shortest_edge": 1, "longest_edge": 2}}, SizeRule(True, 28, 3136, 12845056)),
        ({"image_processor_type": "Qwen2VLImageProcessor"}, SizeRule(True, 28, 3136, 1003520)),
        (
            {"image_processor_type": "Qwen2VLImageProcessor", "size": {"min_pixels": 5000, "max_pixels": 9000}},
            SizeRule(True, 28, 5000, 9000),
        ),
        (QWEN3 | {"do_resize": False}, SizeRule(False, 32)),
        (PIXTRAL, SizeRule(True, 16, most_px=1024)),
        (PIXTRAL | {"patch_size": 14, "size": 1540}, SizeRule(True, 14, most_px=1540)),
        (PIXTRAL | {"do_resize": False, "do_rescale": False}, SizeRule(False, 16)),
        (QWEN3 | {"resample": 3}, SizeRule(True, 32, 65536, 16777216)),
        (QWEN3 | {"resample": 2}, SizeRule(True, 32, 65536, 16777216, filter="bilinear")),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_sizes_are_read_in_every_form_that_transformers_writes(tmp_path, facts, rule, nested):
    if nested:
        write_json(tmp_path / "processor_config.json", {"processor_class": "X", "image_processor": facts})
        write_json(tmp_path / "preprocessor_config.json", QWEN3 | {"patch_size": 99})
    else:
        write_json(tmp_path / "processor_config.json", {"processor_class": "X", "patch_size": 99})
        write_json(tmp_path / "preprocessor_config.json", facts)
    assert read_size_rule(tmp_path) == rule


@pytest.mark.parametrize(
    "change",
    [
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": None},
        {"patch_size": 0},
        {"patch_size": "a"},
        {"patch_size": float("inf")},
        {"patch_size": {"height": 16, "width": 14}},
        {"patch_size": {}},
        {"merge_size": None},
        {"size": None},
        {"size": {"shortest_edge": 65536}},
        {"size": {"shortest_edge": 2000, "longest_edge": 1000}},
        {"size": {"shortest_edge": -5, "longest_edge": 1000}},
        {"resample": 0},
        {"resample": "bicubic"},
        {"resample": None},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(tmp_path, change):
    write_json(tmp_path / "preprocessor_config.json", QWEN3 | change)
    with pytest.raises(BadBundle, match=re.escape(str(tmp_path / "preprocessor_config.json"))):
        read_size_rule(tmp_path)


def test_sizes_are_those_of_the_checkpoint_and_a_yaml_file_can_only_limit_them_further(tmp_path):
    folder = checkpoint(tmp_path / "VLM3-depth")
    write_json(folder / "preprocessor_config.json", QWEN3 | {"size": {"shortest_edge": 1024, "longest_edge": 99999}})
    canvas = find_model(str(folder)).spec.canvas
    assert (canvas.least_pixels, canvas.most_pixels, canvas.focal_px) == (1024, 99999, 1000.0)
    (folder / "depthlm.yaml").write_text("{like: vlm3-depth, canvas: {most_pixels: 50000}}")
    assert find_model(str(folder)).spec.canvas.most_pixels == 50000


def test_pixtral_is_cropped_only_if_its_processor_does_not_resize():
    rule = CanvasRule(750.0, multiple_px=16, multiple_by="up", canonical_filter="bilinear")
    assert apply_size_rule(rule, SizeRule(False, 16)).multiple_by == "crop"
    resized = apply_size_rule(rule, SizeRule(True, 16, most_px=1024))
    assert (resized.multiple_by, resized.most_px) == ("up", 1024)
    assert (resized.canonical_filter, resized.processor_filter) == ("bilinear", "bicubic")


def test_every_checkpoint_is_resized_by_its_processors_filter():
    """Also one of a model of your own, whose YAML file names no filter."""
    rule = apply_size_rule(CanvasRule(500.0), SizeRule(True, 32, 65536, 16777216, filter="bilinear"))
    assert (rule.canonical_filter, rule.snap_filter, rule.processor_filter) == ("bicubic", "bicubic", "bilinear")
