# SPDX-License-Identifier: Apache-2.0
"""Models in YAML files: every file of the package is right, and an error names the file, the field and its value."""

import re

import pytest
import yaml
from support.paths import ROOT

from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.families.registry import TEMPLATES, chat_named, family_named
from depthlm_ros.model_files import install_paths
from depthlm_ros.model_files.bundle import load_bundle
from depthlm_ros.model_files.spec import CHATS
from depthlm_ros.model_files.spec_yaml import find_spec, list_spec_files, read_known_specs, read_spec

PUBLISHED = {
    "depthlm-12b": ("facebook/DepthLM", "llava", 750, "FAIR Noncommercial Research License"),
    "depthlm-3b": ("", "qwen2_5_vl", 1000, "CC-BY-NC"),
    "depthlm-7b": ("", "qwen2_5_vl", 1000, "CC-BY-NC"),
    "depthvlm-4b": ("JonnyYu828/DepthVLM-4B", "qwen3_vl", 1000, "Apache-2.0"),
    "depthvlm-8b": ("", "qwen3_vl", 1000, "Apache-2.0"),
    "vlm3-depth": ("facebook/VLM3-depth", "qwen3_vl", 1000, "CC-BY-NC"),
    "vlm3-object": ("facebook/VLM3-object", "qwen3_vl", 1000, "CC-BY-NC"),
    "vlm3-corr": ("facebook/VLM3-corr", "qwen3_vl", None, "CC-BY-NC"),
    "vlm3-pose": ("facebook/VLM3-pose", "qwen3_vl", 750, "CC-BY-NC"),
    "qwen3-vl-4b": ("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", None, "Apache-2.0"),
    "qwen2.5-vl-3b": ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", None, "Qwen Research"),
}
SYSTEM = {"depthlm-12b": "", "depthlm-7b": "You are a helpful assistant.", "vlm3-depth": "", "qwen3-vl-4b": ""}
WHOLE = {
    "family": "vlm3-depth",
    "architecture": "qwen3_vl",
    "chat": "qwen",
    "pixels_per_token": 32,
    "canvas": {"focal_px": 1000},
}


def write(path, fields):
    path.write_text(yaml.safe_dump(fields) if isinstance(fields, dict) else fields, encoding="utf-8")
    return path


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder that replaces config/models of the installation."""
    folder = tmp_path / "config" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setattr("depthlm_ros.model_files.spec_yaml.package_share_folders", lambda: [tmp_path])
    return folder


# ---- the files that come with the package


def test_every_published_model_is_known_with_its_repository_and_licence():
    specs = read_known_specs()
    for name, (hub, architecture, focal_px, licence) in PUBLISHED.items():
        spec = specs[name]
        assert (spec.name, spec.hub, spec.architecture, spec.canvas.focal_px) == (name, hub, architecture, focal_px)
        assert licence in spec.licence and spec.title
        assert spec.hub or spec.note, f"{name}: nothing says where its weights are"
    assert {name: specs[name].system for name in SYSTEM} == SYSTEM


def test_metres_of_depthlm_are_z_and_range_is_one_line(tmp_path):
    """Measured with the real weights: as z the answers of DepthLM-12B are right more often."""
    assert read_known_specs()["depthlm-12b"].depth_type == "z"
    assert read_known_specs()["depthlm-3b"].depth_type == read_known_specs()["vlm3-depth"].depth_type == "range"
    path = write(tmp_path / "range.yaml", {"like": "depthlm-12b", "depth_type": "range"})
    assert find_spec(str(path)).depth_type == "range"


def test_measured_commit_is_pinned_and_only_where_it_is_one():
    pinned = {name: spec.revision for name, spec in read_known_specs().items() if spec.revision}
    assert pinned == {"depthvlm-4b": "2b2d02fcfe0c89c8aa7d541055e5a078930077c9"}


def test_every_model_has_a_family_and_a_chat_that_exist():
    assert set(CHATS) == set(TEMPLATES)
    for spec in read_known_specs().values():
        assert family_named(spec.family).name == spec.family
        assert chat_named(spec.chat, spec.system).end


def test_every_file_in_the_folder_is_a_model_and_nothing_else():
    files = sorted((ROOT / "config" / "models").iterdir())
    assert {path.stem for path in files} == set(list_spec_files()) and {path.suffix for path in files} == {".yaml"}
    assert install_paths.package_share_folders()[0] == ROOT


def test_canvas_sides_are_whole_tokens():
    for spec in read_known_specs().values():
        assert spec.canvas.canvases_px or spec.canvas.multiple_px == spec.pixels_per_token


@pytest.mark.skipif(not (ROOT / "engines" / "tiny").is_dir(), reason="engines/tiny is not here: `make train`")
def test_embedded_model_agrees_with_its_yaml_file():
    written, exported = find_spec("tiny"), load_bundle(ROOT / "engines" / "tiny").spec
    for name in ("family", "architecture", "chat", "system", "head", "pixels_per_token", "licence", "depth_type"):
        assert getattr(written, name) == getattr(exported, name), name
    assert (written.canvas.focal_px, written.canvas.canvases_px) == (
        exported.canvas.focal_px,
        exported.canvas.canvases_px,
    )


# ---- models of the user


def test_model_is_named_after_its_file(tmp_path):
    spec = read_spec(write(tmp_path / "mine.yaml", WHOLE))
    assert (spec.name, spec.canvas.focal_px, spec.depth_type) == ("mine", 1000.0, "z")
    assert find_spec(str(tmp_path / "mine.yaml")) == spec


def test_model_of_a_file_beside_weights_is_named_after_the_folder(tmp_path):
    assert read_spec(write(tmp_path / "depthlm.yaml", WHOLE)).name == tmp_path.name


def test_model_like_a_known_one_changes_only_the_given_fields(tmp_path):
    own = {"like": "vlm3-depth", "depth_type": "z", "canvas": {"scale_by": "each"}}
    spec, base = read_spec(write(tmp_path / "mine.yaml", own)), find_spec("vlm3-depth")
    assert (spec.depth_type, spec.canvas.scale_by) == ("z", "each") != (base.depth_type, base.canvas.scale_by)
    assert (spec.hub, spec.canvas.focal_px, spec.canvas.multiple_px) == (base.hub, 1000.0, 32)


def test_canvases_calibration_and_null_are_read(tmp_path):
    own = WHOLE | {"canvas": {"focal_px": None, "canvases_px": [[128, 96]]}, "calibration": {"dense_relative": 1}}
    spec = read_spec(write(tmp_path / "mine.yaml", own))
    assert (spec.canvas.focal_px, spec.canvas.canvases_px) == (None, ((128, 96),))
    assert (spec.calibration.dense_relative, spec.calibration.words_spread) == (1.0, 1.0)


def test_error_for_an_unknown_name_lists_the_known_ones(models):
    write(models / "one.yaml", WHOLE)
    assert list(read_known_specs()) == ["one"]
    with pytest.raises(UnknownName, match="model 'two' is not one of one"):
        find_spec("two")
    with pytest.raises(UnknownName, match=r"model 'none\.yaml' is not one of one"):
        find_spec("none.yaml")


def test_wrong_file_does_not_hide_the_others(models):
    write(models / "good.yaml", WHOLE)
    write(models / "wrong.yaml", "][")
    assert find_spec("good").name == "good"
    with pytest.raises(SetupError, match=r"wrong\.yaml"):
        read_known_specs()


def test_number_in_exponent_form_is_read(tmp_path):
    text = yaml.safe_dump(WHOLE) + "calibration: {dense_relative: 3e-4}\n"
    assert read_spec(write(tmp_path / "mine.yaml", text)).calibration.dense_relative == 3e-4


# ---- errors in a file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"famly": "x"}, "there is no field famly; there are name, family"),
        ({"canvas": {"focal_px": 1000, "focal": 3}}, "there is no field canvas.focal; there are focal_px"),
        (
            {"architecture": "qwen4"},
            "architecture is 'qwen4': 'qwen3_vl' or 'qwen2_5_vl' or 'llava' or 'depth_first' is needed",
        ),
        ({"depth_type": "ray"}, "depth_type is 'ray': 'z' or 'range' is needed"),
        ({"head": None}, "head is None: '' or 'dpt' or 'mlp' or 'bins' is needed"),
        ({"canvas": {"focal_px": 1000, "scale_by": "fy"}}, "canvas.scale_by is 'fy': 'fx' or 'each' is needed"),
        ({"canvas": {"focal_px": 0}}, "canvas.focal_px is 0: a number from 1.0 to 100000.0 (or null) is needed"),
        ({"canvas": {"focal_px": float("nan")}}, "canvas.focal_px is nan"),
        ({"canvas": {"focal_px": "1000"}}, "canvas.focal_px is '1000'"),
        ({"canvas": {"focal_px": 1000, "multiple_px": 1.5}}, "canvas.multiple_px is 1.5: a whole number from 1"),
        ({"canvas": {"focal_px": 1000, "least_pixels": -1}}, "canvas.least_pixels is -1"),
        ({"canvas": {"focal_px": 1000, "snap_px": True}}, "canvas.snap_px is True"),
        (
            {"canvas": {"focal_px": 1000, "canvases_px": [[128]]}},
            "canvas.canvases_px is [[128]]: a list of lists of 2",
        ),
        ({"canvas": {"focal_px": 96, "canvases_px": [[100, 96]]}}, "100 x 96: sides must be multiples"),
        ({"canvas": {}}, "canvas.focal_px is missing: a number"),
        ({"canvas": 1000}, "canvas is 1000: a group of fields is needed"),
        ({"family": ["vlm3"]}, "family is ['vlm3']: a text is needed"),
        ({"most_coordinate": 1000}, "most_coordinate is 1000: a whole number from 1999 to 2000"),
        ({"calibration": {"dense_spread": 1e9}}, "calibration.dense_spread is 1000000000.0"),
        ({"like": 3}, "like is 3"),
        ({"like": "nobody"}, "model 'nobody' is not one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_field_is_named_with_its_value_and_what_is_allowed(tmp_path, change, said):
    path = write(tmp_path / "mine.yaml", WHOLE | change)
    with pytest.raises(SetupError, match=re.escape(said)) as raised:
        read_spec(path)
    assert isinstance(raised.value, UnknownName) or str(path) in str(raised.value)


@pytest.mark.parametrize("missing", WHOLE)
def test_missing_field_is_named(tmp_path, missing):
    fields = {key: value for key, value in WHOLE.items() if key != missing}
    with pytest.raises(SetupError, match=f"mine.yaml: {missing} is missing"):
        read_spec(write(tmp_path / "mine.yaml", fields))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "1: 2", "!!python/object/apply:os.getcwd []", "\x00"])
def test_file_without_fields_is_refused(tmp_path, text):
    with pytest.raises(SetupError, match=r"mine\.yaml"):
        read_spec(write(tmp_path / "mine.yaml", text))


def test_file_that_is_missing_or_not_text_is_named(tmp_path):
    with pytest.raises(SetupError, match=r"none\.yaml is unusable"):
        read_spec(tmp_path / "none.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SetupError, match=r"image\.yaml is unusable"):
        read_spec(tmp_path / "image.yaml")


def test_models_that_are_like_each_other_are_refused(models):
    write(models / "one.yaml", {"like": "two"})
    write(models / "two.yaml", {"like": "one"})
    with pytest.raises(SetupError, match=r"same file: one\.yaml -> two\.yaml -> one\.yaml"):
        find_spec("one")
