# SPDX-License-Identifier: Apache-2.0
"""The package finds its data wherever an installation has put them."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support.paths import ROOT

from depthlm_ros.errors import SetupError
from depthlm_ros.model_files.install_paths import (
    MANIFEST,
    default_engine_root,
    engine_roots,
    installed_bundle,
    installed_bundle_names,
    package_share_file,
    package_share_folders,
)

RECIPE = "config/train/tiny.yaml"
SHOW = f"from depthlm_ros.model_files.install_paths import package_share_file; print(package_share_file({RECIPE!r}))"


def install(code, share):
    """Makes the part of an installation that matters here: some code, and one data file."""
    for name in ("__init__.py", "errors.py", "model_files/__init__.py", "model_files/install_paths.py"):
        copied = code / "depthlm_ros" / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "depthlm_ros" / name, copied)
    (share / RECIPE).parent.mkdir(parents=True)
    (share / RECIPE).write_text("")
    return share / RECIPE


def found_by(code, **environment):
    """Returns what the code installed there prints, in a process that does not see any other copy."""
    rest = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "AMENT_PREFIX_PATH")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=code,
        env=rest | {"PYTHONPATH": str(code)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip() or done.stderr


def test_source_tree_is_its_own_share_folder():
    assert package_share_folders()[0] == ROOT
    assert package_share_file(RECIPE) == ROOT / RECIPE


@pytest.mark.parametrize(
    "code",
    [
        "venv/lib/python3.12/site-packages",
        ".local/lib/python3.10/site-packages",
        "usr/local/lib/python3.10/dist-packages",
        "usr/lib/python3/dist-packages",
        "target",
    ],
)
def test_data_of_a_pip_installation_are_found_from_its_code(tmp_path, code):
    prefix = tmp_path / code.split("/lib/")[0]
    recipe = install(tmp_path / code, prefix / "share" / "depthlm_ros")
    assert found_by(tmp_path / code) == str(recipe)


def test_data_of_the_running_code_take_precedence_over_another_prefix(tmp_path):
    code = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    own = install(code, tmp_path / "venv" / "share" / "depthlm_ros")
    overlay = install(tmp_path / "other", tmp_path / "overlay" / "share" / "depthlm_ros")
    environment = {"AMENT_PREFIX_PATH": f"{tmp_path / 'none'}{os.pathsep}{tmp_path / 'overlay'}"}
    assert found_by(code, **environment) == str(own)
    own.unlink()
    assert found_by(code, **environment) == str(overlay)


def test_error_for_a_missing_file_names_the_searched_folders():
    with pytest.raises(SetupError, match=re.escape(f"config/none.yaml is not installed (looked in {ROOT}")):
        package_share_file("config/none.yaml")


def make_engine(root, name):
    (root / name).mkdir(parents=True)
    (root / name / MANIFEST).touch()
    return root / name


def test_engines_are_found_in_the_named_folders_before_the_users_own(tmp_path, monkeypatch):
    first, own = tmp_path / "first", tmp_path / "data" / "depthlm" / "engines"
    monkeypatch.setenv("DEPTHLM_ENGINES", os.pathsep.join([str(first), str(tmp_path / "none"), ""]))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    engine = make_engine(first, "mine")
    make_engine(own, "mine")
    other = make_engine(own, "other")
    (first / "no_manifest").mkdir()
    assert (engine_roots()[0], engine_roots()[-1]) == (first, own)
    assert (installed_bundle("mine"), installed_bundle("other")) == (engine, other)
    assert installed_bundle("no_manifest") is installed_bundle("") is installed_bundle("../first/mine") is None
    assert {"mine", "other"} <= set(installed_bundle_names()) and "no_manifest" not in installed_bundle_names()


def test_engines_are_built_into_the_first_named_folder_or_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("DEPTHLM_ENGINES", "")
    assert default_engine_root() == tmp_path / "data" / "depthlm" / "engines"
    monkeypatch.setenv("DEPTHLM_ENGINES", os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert default_engine_root() == tmp_path / "a"
