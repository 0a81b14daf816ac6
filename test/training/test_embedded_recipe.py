# SPDX-License-Identifier: Apache-2.0
"""Recipes of the embedded training: their settings, and what is wrong in them."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.paths import ROOT  # noqa: E402

from depthlm_ros.cli.finetune import recipe_names  # noqa: E402
from depthlm_ros.errors import SetupError, UnknownName  # noqa: E402
from depthlm_ros.training.embedded.names import NAMES  # noqa: E402
from depthlm_ros.training.embedded.recipe import EmbeddedRecipe, read_embedded_recipe  # noqa: E402
from depthlm_ros.training.finetune.recipe import read_finetune_recipe  # noqa: E402

pytestmark = pytest.mark.torch
HEADER = ("name: mine", "licence: Apache-2.0", "seed: 3")
FINETUNE = ("task: depthlm", "model: depthlm-3b", "base: qwen2.5-vl-3b")
FINETUNE_TRAIN = "batch: 8, batch_per_device: 1, samples: 8"


def write(folder, *lines):
    path = folder / "recipe.yaml"
    path.write_text("\n".join(lines))
    return path


def test_the_recipe_of_the_embedded_model_fits_itself():
    recipe = read_embedded_recipe(ROOT / "config" / "train" / "tiny.yaml")
    assert recipe.name == "tiny" and recipe.model.names == len(NAMES)


def test_a_recipe_without_settings_has_sizes_that_fit_each_other(tmp_path):
    assert read_embedded_recipe(write(tmp_path, *HEADER)) == EmbeddedRecipe("mine", "Apache-2.0", 3)


def test_the_command_line_changes_a_field(tmp_path):
    changes = ["depth.shares.photos=0.25", "words.learning_rate=3e-4"]
    recipe = read_embedded_recipe(write(tmp_path, *HEADER), changes)
    assert (recipe.depth.shares.photos, recipe.words.learning_rate) == (0.25, 3e-4)


@pytest.mark.parametrize(
    ("text", "error"),
    [("\n".join([*HEADER, "model: {depths: 3}"]), UnknownName), ("seed: [", SetupError), ("", SetupError)],
)
def test_an_unusable_recipe_is_reported_by_its_file(tmp_path, text, error):
    with pytest.raises(error, match=r"recipe\.yaml"):
        read_embedded_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("depth: {learning_rate: .nan}", "depth.learning_rate is nan: a number is needed"),
        ("words: {learning_rate: 11}", "words.learning_rate is 11.0: a number from 1e-09 to 10.0 is needed"),
        ("depth: {learning_rate: fast}", "depth.learning_rate is 'fast': a number is needed"),
        ("depth: {warmup_steps: 0}", "depth.warmup_steps is 0: a whole number from 1"),
        ("depth: {steps: 10.5}", "depth.steps is 10.5: a whole number"),
        ("words: {batch: true}", "words.batch is True"),
        ("words: {ema: 1.5}", "words.ema is 1.5: a number from 0.0 to 1.0"),
        ("depth: {shares: {photos: -1}}", "depth.shares.photos is -1.0"),
        ("depth: {shares: {rendered: 0}}", "depth.shares.rendered, far, close, photos, frames, streets are all 0"),
        ("words: {shares: {pairs: 0.1}}", "there is no field words.shares.pairs; there are rendered, far"),
        ("pictures: {recoloured_share: 7}", "pictures.recoloured_share is 7.0: a number from 0.0 to 1.0"),
        ("pictures: {canvases: [[128]]}", "pictures.canvases is .*: a list of lists of 2 whole numbers is needed"),
        ("pictures: {canvases: []}", r"pictures.canvases is \[\]"),
        (
            "pictures: {canvases: [[100, 64]], canvas_shares: [1]}",
            "pictures.canvases has 100 x 64: sides must be",
        ),
        ("pictures: {canvas_shares: [1]}", r"pictures.canvas_shares is \[1.0\]: one share for each of 3 canvases"),
        (
            "pictures: {frame_zoom: [2, 1]}",
            r"pictures.frame_zoom is \[2.0, 1.0\]: two positive numbers in rising",
        ),
        ("pictures: {focal_px: 100}", "model.depth.focal_px is 204.0 and pictures.focal_px 100.0: one focal length"),
        ("depth_weights: {bins: -1}", "depth_weights.bins is -1.0"),
        ("seed: 1.5", "seed is 1.5: a whole number"),
        ("seed: -1", "seed is -1: a whole number from 0"),
        ("task: depthlm", "there is no field task; there are name, licence"),
        ("pictures: {mixture: weights}", "there is no field pictures.mixture; there are focal_px"),
    ],
)
def test_a_wrong_setting_is_reported_with_file_value_and_limits(tmp_path, text, error):
    with pytest.raises(SetupError, match=f"recipe.yaml: {error}"):
        read_embedded_recipe(write(tmp_path, *HEADER, text))


@pytest.mark.parametrize("missing", [line.partition(":")[0] for line in HEADER])
def test_a_missing_field_of_a_recipe_is_named(tmp_path, missing):
    with pytest.raises(SetupError, match=f"recipe.yaml: {missing} is missing"):
        read_embedded_recipe(write(tmp_path, *(line for line in HEADER if not line.startswith(missing))))


# ---- what both trainings have in common


def test_each_training_has_a_folder_of_recipes_of_its_own():
    files = {name: sorted((ROOT / "config" / name).iterdir()) for name in ("train", "finetune")}
    assert [path.name for path in files["train"]] == ["tiny.yaml"]
    assert [path.stem for path in files["finetune"]] == recipe_names()
    with pytest.raises(UnknownName, match="there is no field name; there are task"):
        read_finetune_recipe(files["train"][0])
    for path in files["finetune"]:
        read_finetune_recipe(path)
        with pytest.raises(UnknownName, match="there is no field task; there are name, licence"):
            read_embedded_recipe(path)


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003"])
def test_both_trainings_read_a_learning_rate_in_every_form(tmp_path, text):
    path = write(tmp_path, *HEADER, f"depth: {{learning_rate: {text}}}")
    assert read_embedded_recipe(path).depth.learning_rate == pytest.approx(3e-4)
    path = write(tmp_path, *FINETUNE, f"train: {{learning_rate: {text}, {FINETUNE_TRAIN}}}")
    assert read_finetune_recipe(path).train.learning_rate == pytest.approx(3e-4)


def test_both_trainings_name_an_unknown_field_with_the_known_ones(tmp_path):
    path = write(tmp_path, *HEADER, "depth: {learning_speed: 1}")
    with pytest.raises(UnknownName, match=r"recipe\.yaml: there is no field depth\.learning_speed; there are steps"):
        read_embedded_recipe(path)
    path = write(tmp_path, *FINETUNE, f"train: {{learning_speed: 1, {FINETUNE_TRAIN}}}")
    with pytest.raises(
        UnknownName, match=r"recipe\.yaml: there is no field train\.learning_speed; there are learning_rate"
    ):
        read_finetune_recipe(path)
