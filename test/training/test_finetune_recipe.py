# SPDX-License-Identifier: Apache-2.0
"""Recipes of fine-tuning: their settings, errors, focal lengths, division of batches, and rewards."""

import struct
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from accelerate import FullyShardedDataParallelPlugin  # noqa: E402
from support.line_drawing import drawing  # noqa: E402
from support.training_files import (  # noqa: E402
    CAMERA,
    point_line,
    write_image,
)

from depthlm_ros.cli.finetune import recipe_file, recipe_names  # noqa: E402
from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.errors import BadBundle, SetupError, UnknownName  # noqa: E402
from depthlm_ros.geometry import focal_estimation  # noqa: E402
from depthlm_ros.geometry.focal_estimation import FocalSettings, make_estimator  # noqa: E402
from depthlm_ros.image_io import write_rgb  # noqa: E402
from depthlm_ros.model_files.spec_yaml import find_spec  # noqa: E402
from depthlm_ros.training.finetune.grpo import REWARDS  # noqa: E402
from depthlm_ros.training.finetune.model import find_base  # noqa: E402
from depthlm_ros.training.finetune.recipe import read_finetune_recipe  # noqa: E402
from depthlm_ros.training.finetune.trainer import (  # noqa: E402
    TrainingPlan,
    plan_training,
    scaled_learning_rate,
    supervised_arguments,
)

pytestmark = pytest.mark.torch


# ---- recipes


def test_every_recipe_is_complete_and_gives_the_source_of_every_value():
    for name in recipe_names():
        text = recipe_file(name).read_text()
        recipe = read_finetune_recipe(recipe_file(name))
        assert find_spec(recipe.model).architecture
        for line in text.partition("train:")[2].splitlines():
            assert not line.strip() or "#" in line, f"{name}: {line}"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("train.batch=many", "train.batch is 'many'"),
        ("train.size=3", "no field train.size; there are learning_rate, batch"),
        ("task=depth", "task is 'depth': 'depthlm' or 'depthvlm' or"),
        ("train.batch", "group.field=value"),
        ("train.samples=0", "either train.samples or train.epochs"),
        ("train.trains=[ears]", "ears"),
        ("train.attention=flash_attention_2", "layout: turns"),
        ("data.crop_height_px=[1]", "data.crop_height_px"),
        ("train.schedule=stairs", "train.schedule is 'stairs': 'cosine' or 'linear'"),
        ("train.batch=0", "train.batch is 0: a whole number of at least 1 is needed"),
        ("train.learning_rate=-1e-5", "train.learning_rate is '-1e-5': a number of at least 0 is needed"),
        ("train.learning_rate=.nan", "train.learning_rate is nan: a number of at least 0"),
        ("data.questions=0", "data.questions is 0"),
        ("seed=-1", "seed is -1"),
        ("train.save_every=0", "train.save_every is 0"),
    ],
)
def test_a_wrong_setting_is_reported_with_its_value_and_what_is_allowed(change, error):
    with pytest.raises(SetupError, match=error):
        read_finetune_recipe(recipe_file("depthlm-3b"), [change])


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(UnknownName, match="vlm3-pose"):
        recipe_file("depthlm-300b")


def test_a_base_of_another_architecture_is_refused(bases):
    recipe = read_finetune_recipe(recipe_file("depthlm-3b"))
    with pytest.raises(BadBundle, match="qwen3_vl"):
        find_base(recipe, f"qwen3-vl-4b={bases['qwen3_vl']}")


def test_a_plan_divides_batches_over_processes(monkeypatch):
    train = read_finetune_recipe(recipe_file("vlm3-depth")).train
    plan = plan_training(train, epoch_samples=1, steps=None)
    assert (plan.steps, plan.per_device, plan.accumulate) == (23810, 42, 32)
    monkeypatch.setenv("WORLD_SIZE", "32")
    assert plan_training(train, epoch_samples=1, steps=None).accumulate == 1
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(SetupError, match="multiple of 210"):
        plan_training(train, epoch_samples=1, steps=None)
    with pytest.raises(SetupError, match="--steps is 0"):
        plan_training(train, epoch_samples=1, steps=0)


@pytest.mark.parametrize(("name", "replicas"), [("depthvlm-stage2", None), ("vlm3-depth", 2)])
def test_processes_share_the_weights_in_float32(tmp_path, monkeypatch, name, replicas):
    """full: over all processes; hybrid: within each of two machines."""
    recipe = read_finetune_recipe(recipe_file(name), ["train.bf16=true"])
    one, four = (TrainingPlan(1, 8, 1, 8 // processes, processes) for processes in (1, 4))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not supervised_arguments(recipe, one, tmp_path).fsdp_plugin_args
    given = supervised_arguments(recipe, four, tmp_path)
    plugin = FullyShardedDataParallelPlugin(**given.fsdp_plugin_args)
    plugin.set_mixed_precision("bf16")  # as accelerate does
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward
    assert plugin.mixed_precision_policy.param_dtype is None and plugin.mixed_precision_policy.output_dtype is None
    mesh = given.parallelism_config
    assert (mesh and (mesh.dp_replicate_size, mesh.dp_shard_size)) == (replicas and (replicas, 2))
    assert supervised_arguments(recipe_without_sharding(recipe), four, tmp_path).fsdp_plugin_args is None


def recipe_without_sharding(recipe):
    return replace(recipe, train=replace(recipe.train, fsdp="none"))


def test_the_learning_rate_can_follow_the_square_root_of_the_batch():
    train = read_finetune_recipe(recipe_file("depthlm-3b")).train
    assert scaled_learning_rate(train) == 1e-5
    assert scaled_learning_rate(replace(train, batch=400, learning_rate_batch=100)) == pytest.approx(2e-5)


# ---- focal length


def jpeg_with(tags):
    """A JPEG file's first bytes with Exif tags {tag: value}, a pair for a fraction."""
    entries, extra, at = b"", b"", 8 + 2 + 12 + 4
    at += 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        if isinstance(value, tuple):
            entries += struct.pack("<HHII", tag, 5, 1, at + len(extra))
            extra += struct.pack("<II", *value)
        else:
            entries += struct.pack("<HHIHH", tag, 3, 1, value, 0)
    pointer = struct.pack("<H", 1) + struct.pack("<HHII", focal_estimation.EXIF_IFD, 4, 1, 8 + 2 + 12 + 4) + bytes(4)
    tiff = b"II*\0" + struct.pack("<I", 8) + pointer + struct.pack("<H", len(tags)) + entries + bytes(4) + extra
    segment = b"Exif\0\0" + tiff
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xda"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({focal_estimation.FOCAL_LENGTH_35MM: 26}, 26 * 5000 / 43.26661530556787),
        (
            {
                focal_estimation.FOCAL_LENGTH_MM: (50, 10),
                focal_estimation.PLANE_X_RESOLUTION: (20000, 1),
                focal_estimation.PLANE_UNIT: 3,
            },
            5 * 20000 / 10,
        ),
        ({focal_estimation.FOCAL_LENGTH_MM: (50, 10)}, None),
        ({focal_estimation.FOCAL_LENGTH_35MM: 0}, None),
    ],
)
def test_the_focal_length_of_a_camera_is_read_from_its_photo(tmp_path, tags, expected):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg_with(tags))
    found = focal_estimation.focal_from_exif(path, (4000, 3000))
    assert found is None if expected is None else found == pytest.approx(expected)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\x89PNG", jpeg_with({0xA405: 26})[:40], b"\xff\xd8\xff\xe1\0\x08Exif"]
)
def test_files_without_or_with_cut_off_tags_have_no_focal_length(tmp_path, content):
    (tmp_path / "photo.jpg").write_bytes(content)
    assert focal_estimation.focal_from_exif(tmp_path / "photo.jpg", (40, 30)) is None


def test_without_a_focal_length_a_field_of_view_is_assumed_with_a_warning(tmp_path):
    write_image(tmp_path / "0.png")
    for name in ("auto", "exif"):
        estimator = make_estimator(FocalSettings(estimator=name, fallback_fov_deg=90.0))
        with pytest.warns(UserWarning, match="field of view of 90 degrees"):
            assert estimator.focal_px(tmp_path / "0.png", (96, 64)) == pytest.approx(48.0)


def test_a_focal_length_is_estimated_from_the_lines_of_an_image(tmp_path):
    write_rgb(tmp_path / "room.png", drawing(480.0, 35, -10))
    estimator = make_estimator(FocalSettings())
    assert estimator.focal_px(tmp_path / "room.png", (640, 480)) == pytest.approx(480.0, rel=0.05)


class Fixed:
    """An estimator of a user."""

    def focal_px(self, image, size_px):
        return 1000.0


def test_a_recipe_can_name_another_estimator(make_dataset):
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.0])
    del line["intrinsics"]
    made = make_dataset("depthlm-3b", [line], "focal.estimator=test_finetune_recipe:Fixed")
    assert made.files[0][0][0].intrinsics == Intrinsics(*CAMERA)
    for wrong in ("nowhere:Nothing", "json:loads", "collections:Counter"):
        with pytest.raises(SetupError, match="estimator"):
            make_estimator(FocalSettings(estimator=wrong))


# ---- rewards


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        ("l1", "<answer> 2.5 </answer>", -0.5),
        ("l1", "no idea", -10.0),
        ("l1", "<answer> 900 </answer>", -10.0),
        ("absrel", "<answer> 2.5 </answer>", -0.25),
        ("delta1", "<answer> 2.4 </answer>", 1.0),
        ("delta1", "<answer> 2.5 </answer>", 0.0),
        ("delta1", "no idea", 0.0),
    ],
)
def test_rewards(name, reply, expected):
    assert REWARDS[name](reply, 2.0, 10.0) == pytest.approx(expected)
