"""The package finds its data wherever an installation has put it."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support.paths import ROOT

from depthlm_ros.errors import SetupError
from depthlm_ros.model_files.install_paths import share_folders, shared_file

RECIPE = "config/train/tiny.yaml"
SHOW = f"from depthlm_ros.model_files.install_paths import shared_file; print(shared_file({RECIPE!r}))"


def install(code, share):
    """What an installation consists of, as far as it matters here."""
    for name in ("__init__.py", "errors.py", "model_files/__init__.py", "model_files/install_paths.py"):
        copied = code / "depthlm_ros" / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "depthlm_ros" / name, copied)
    (share / RECIPE).parent.mkdir(parents=True)
    (share / RECIPE).write_text("")
    return share / RECIPE


def found_by(code, **environment):
    """What the code installed there prints, in a process that knows of no other copy."""
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


def test_the_source_tree_is_its_own_share_folder():
    assert share_folders()[0] == ROOT
    assert shared_file(RECIPE) == ROOT / RECIPE


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
def test_pip_s_data_are_found_from_where_pip_put_the_code(tmp_path, code):
    prefix = tmp_path / code.split("/lib/")[0]
    recipe = install(tmp_path / code, prefix / "share" / "depthlm_ros")
    assert found_by(tmp_path / code) == str(recipe)


def test_the_data_of_the_code_that_runs_come_before_those_of_another_prefix(tmp_path):
    code = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    own = install(code, tmp_path / "venv" / "share" / "depthlm_ros")
    overlay = install(tmp_path / "other", tmp_path / "overlay" / "share" / "depthlm_ros")
    environment = {"AMENT_PREFIX_PATH": f"{tmp_path / 'none'}{os.pathsep}{tmp_path / 'overlay'}"}
    assert found_by(code, **environment) == str(own)
    own.unlink()
    assert found_by(code, **environment) == str(overlay)


def test_a_missing_file_is_an_error_that_names_where_it_was_looked_for():
    with pytest.raises(SetupError, match=re.escape(f"config/none.yaml is not installed (looked in {ROOT}")):
        shared_file("config/none.yaml")
