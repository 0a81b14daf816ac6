# SPDX-License-Identifier: Apache-2.0
"""YAML files become dataclasses, and an error names the file, the field, its value and what is allowed."""

import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from support.paths import ROOT

from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.model_files.yaml_dataclass import apply_change, build_dataclass, check_limits, read_yaml


@dataclass(frozen=True)
class Optics:
    focal_px: float | None
    size_px: tuple[int, int] = (4, 3)
    canvases: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Camera:
    name: str
    optics: Optics
    rate: float = 1.0
    steps: int = 1
    fast: bool = False
    mode: str = "a"
    weights: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None

    def __post_init__(self):
        check_limits(self, {"rate": (0.0, 10.0)})


RULES = {"choices": {"mode": ("a", "b")}, "limits": {"steps": (1, math.inf), "optics.focal_px": (1.0, 100.0)}}
LEAST = {"name": "left", "optics": {"focal_px": 7}}


def read(tmp_path, text):
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    return build_dataclass(Camera, read_yaml(path, "camera"), str(path), **RULES)


def test_every_kind_of_field_is_read(tmp_path):
    camera = read(
        tmp_path,
        """
        name: left
        optics: {focal_px: null, size_px: [6, 5], canvases: [[1, 2], [3, 4]]}
        rate: 2
        fast: true
        mode: b
        weights: {x: 1, y: 0.5}
        note: null
        """,
    )
    optics = Optics(None, (6, 5), ((1, 2), (3, 4)))
    assert camera == Camera("left", optics, 2.0, 1, True, "b", {"x": 1.0, "y": 0.5}, None)
    assert isinstance(camera.rate, float)


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "3.0e-4", "+.3e-3", "0.0003", "3.e-4"])
def test_every_form_of_a_float_is_a_number(tmp_path, text):
    assert read(tmp_path, f"{{name: a, optics: {{focal_px: 7}}, rate: {text}}}").rate == pytest.approx(3e-4)


def test_text_that_looks_like_a_number_stays_text(tmp_path):
    assert read(tmp_path, "{name: 3e4, optics: {focal_px: 7}}").name == "3e4"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"nmae": "x"}, "camera.yaml: there is no field nmae; there are name, optics, rate"),
        ({"optics": {"focal_px": 7, "size": 3}}, "there is no field optics.size; there are focal_px, size_px"),
        ({"optics": {}}, "optics.focal_px is missing: a number from 1.0 to 100.0 (or null) is needed"),
        ({"optics": 3}, "optics is 3: a group of fields is needed"),
        ({"optics": None}, "optics is None: a group of fields is needed"),
        ({"optics": {"focal_px": 0}}, "optics.focal_px is 0: a number from 1.0 to 100.0 (or null) is needed"),
        ({"optics": {"focal_px": 7, "size_px": [1]}}, "optics.size_px is [1]: a list of 2 whole numbers is needed"),
        ({"optics": {"focal_px": 7, "canvases": [[1]]}}, "canvases is [[1]]: a list of lists of 2 whole numbers is"),
        ({"name": 3}, "name is 3: a text is needed"),
        ({"fast": "yes"}, "fast is 'yes': true or false is needed"),
        ({"fast": 1}, "fast is 1: true or false is needed"),
        ({"steps": 0}, "steps is 0: a whole number of at least 1 is needed"),
        ({"steps": 1.5}, "steps is 1.5: a whole number of at least 1"),
        ({"steps": True}, "steps is True: a whole number"),
        ({"mode": "c"}, "mode is 'c': 'a' or 'b' is needed"),
        ({"weights": [1]}, "weights is [1]: a group of names with numbers is needed"),
        ({"weights": {"x": "much"}}, "weights is {'x': 'much'}: a group of names with numbers is needed"),
        ({"note": 3}, "note is 3: a text (or null) is needed"),
        ({"rate": math.inf}, "rate is inf: a number is needed"),
        ({"rate": math.nan}, "rate is nan: a number is needed"),
        ({"rate": 10**400}, ": a number is needed"),
        ({"rate": "many"}, "rate is 'many': a number is needed"),
        ({"rate": 11}, "camera.yaml: rate is 11.0: a number from 0.0 to 10.0 is needed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(change, error):
    with pytest.raises(SetupError, match=re.escape(error)):
        build_dataclass(Camera, LEAST | change, "camera.yaml", **RULES)


def test_an_unknown_field_is_an_unknown_name():
    with pytest.raises(UnknownName):
        build_dataclass(Camera, LEAST | {"nmae": "x"}, "camera.yaml")


def test_default_limits_hold_for_every_other_number():
    limits = {"limits": {"steps": (-5, 5)}, "default_limits": (0, math.inf)}
    assert build_dataclass(Camera, LEAST | {"steps": -1}, "camera.yaml", **limits).steps == -1
    with pytest.raises(
        SetupError, match=re.escape("optics.size_px is [4, -3]: a list of 2 whole numbers of at least 0")
    ):
        build_dataclass(Camera, LEAST | {"optics": {"focal_px": 7, "size_px": [4, -3]}}, "camera.yaml", **limits)


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "1: 2", "!!python/object/apply:os.getcwd []", "\x00", "2001-99-99"]
)
def test_a_file_without_fields_is_refused_by_name(tmp_path, text):
    with pytest.raises(SetupError, match=r"camera .*camera\.yaml is unusable"):
        read(tmp_path, text)


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path):
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for name in ("none.yaml", "image.yaml"):
        with pytest.raises(SetupError, match=f"{name} is unusable"):
            read_yaml(tmp_path / name)


def test_a_change_sets_a_field_of_a_group():
    values = {"a": 1}
    for change in ("b.c=[1, 2]", "b.d=3e-4", "a="):
        apply_change(values, change, "--set")
    assert values == {"a": None, "b": {"c": [1, 2], "d": "3e-4"}}


@pytest.mark.parametrize(
    ("change", "error"),
    [("a", "write it as group.field=value"), ("a.b=1", "a is a value"), ("b=[", "the value cannot be read")],
)
def test_a_change_that_cannot_be_made_is_reported(change, error):
    with pytest.raises(SetupError, match=f"--set {re.escape(change)}: {error}"):
        apply_change({"a": 1}, change, "--set")


def test_reading_yaml_does_not_load_torch():
    code = "import sys, depthlm_ros.model_files.yaml_dataclass; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
