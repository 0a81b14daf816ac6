"""Recipes of the training on rendered scenes: their settings, and what is wrong in them."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.paths import ROOT  # noqa: E402

from depthlm_ros.cli.finetune import recipe_names  # noqa: E402
from depthlm_ros.errors import SetupError, UnknownName  # noqa: E402
from depthlm_ros.training.finetune.recipe import read_finetune_recipe  # noqa: E402
from depthlm_ros.training.synthetic.recipe import SyntheticRecipe, read_synthetic_recipe  # noqa: E402

pytestmark = pytest.mark.torch
HEADER = ("name: mine", "family: tiny", "licence: Apache-2.0", "seed: 3")
FINETUNE = ("task: depthlm", "model: depthlm-3b", "base: qwen2.5-vl-3b")
FINETUNE_TRAIN = "batch: 8, batch_per_device: 1, samples: 8"


def test_the_recipe_of_the_embedded_model_can_be_read():
    for file in ("tiny.yaml", "tiny-gpu.yaml"):
        assert read_synthetic_recipe(ROOT / "config" / "train" / file).name == "tiny"


@pytest.mark.parametrize(
    ("text", "error"),
    [("\n".join([*HEADER, "model: {layers: 3}"]), UnknownName), ("seed: [", SetupError), ("", SetupError)],
)
def test_an_unusable_recipe_is_reported_by_its_file(tmp_path, text, error):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(error, match=r"recipe\.yaml"):
        read_synthetic_recipe(path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("train: {learning_rate: .nan}", "train.learning_rate is nan: a number is needed"),
        ("train: {learning_rate: 11}", "train.learning_rate is 11.0: a number from 1e-09 to 10.0 is needed"),
        ("train: {learning_rate: fast}", "train.learning_rate is 'fast': a number is needed"),
        ("train: {warmup_steps: 0}", "train.warmup_steps is 0: a whole number from 1"),
        ("train: {steps: 10.5}", "train.steps is 10.5: a whole number"),
        ("train: {replays: true}", "train.replays is True"),
        ("data: {recoloured_share: 7}", "data.recoloured_share is 7.0: a number from 0.0 to 1.0"),
        ("data: {batch: 0}", "data.batch is 0"),
        ("data: {canvases: [[128]]}", "data.canvases is .*: a list of lists of 2 whole numbers is needed"),
        ("seed: 1.5", "seed is 1.5: a whole number"),
        ("task: depthlm", "there is no field task; there are name, family"),
        ("data: {mixture: weights}", "there is no field data.mixture; there are focal_px"),
    ],
)
def test_a_wrong_setting_is_reported_with_file_value_and_limits(tmp_path, text, error):
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*HEADER, text]))
    with pytest.raises(SetupError, match=f"recipe.yaml: {error}"):
        read_synthetic_recipe(path)


@pytest.mark.parametrize("missing", [line.partition(":")[0] for line in HEADER])
def test_a_missing_field_of_a_recipe_is_named(tmp_path, missing):
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(line for line in HEADER if not line.startswith(missing)))
    with pytest.raises(SetupError, match=f"recipe.yaml: {missing} is missing"):
        read_synthetic_recipe(path)


def test_a_learning_rate_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*HEADER, "train: {learning_rate: 3e-4}"]))
    assert read_synthetic_recipe(path).train.learning_rate == 3e-4


def test_older_names_of_settings_are_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    older = "train: {gaze_weight: 0.1, naming_weight: 0.2, placing_weight: 0.4, again: 2, memory: 9}\ndata: {whats: 5}"
    path.write_text("\n".join([*HEADER, older]))
    recipe = read_synthetic_recipe(path)
    train = recipe.train
    assert (train.attention_weight, train.word_weight, train.geometry_weight) == (0.1, 0.2, 0.4)
    assert (train.replays, train.replay_buffer_size, recipe.data.pixel_questions) == (2, 9, 5)


@pytest.mark.parametrize("seed", [-1, 1.5, "seven", None])
def test_an_impossible_seed_is_named(seed):
    with pytest.raises(SetupError, match=f"seed is {seed!r}"):
        SyntheticRecipe("mine", "tiny", "Apache-2.0", seed)


# ---- what both trainings have in common


def test_each_training_has_a_folder_of_recipes_of_its_own():
    files = {name: sorted((ROOT / "config" / name).iterdir()) for name in ("train", "finetune")}
    assert [path.name for path in files["train"]] == ["tiny-gpu.yaml", "tiny.yaml"]
    assert [path.stem for path in files["finetune"]] == recipe_names()
    for path in files["train"]:
        read_synthetic_recipe(path)
        with pytest.raises(UnknownName, match="there is no field name; there are task"):
            read_finetune_recipe(path)
    for path in files["finetune"]:
        read_finetune_recipe(path)
        with pytest.raises(UnknownName, match="there is no field task; there are name, family"):
            read_synthetic_recipe(path)


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003"])
def test_both_trainings_read_a_learning_rate_in_every_form(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*HEADER, f"train: {{learning_rate: {text}}}"]))
    assert read_synthetic_recipe(path).train.learning_rate == pytest.approx(3e-4)
    path.write_text("\n".join([*FINETUNE, f"train: {{learning_rate: {text}, {FINETUNE_TRAIN}}}"]))
    assert read_finetune_recipe(path).train.learning_rate == pytest.approx(3e-4)


def test_both_trainings_name_an_unknown_field_with_the_known_ones(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*HEADER, "train: {learning_speed: 1}"]))
    with pytest.raises(UnknownName, match=r"recipe\.yaml: there is no field train\.learning_speed; there are steps"):
        read_synthetic_recipe(path)
    path.write_text("\n".join([*FINETUNE, f"train: {{learning_speed: 1, {FINETUNE_TRAIN}}}"]))
    with pytest.raises(
        UnknownName, match=r"recipe\.yaml: there is no field train\.learning_speed; there are learning_rate"
    ):
        read_finetune_recipe(path)
