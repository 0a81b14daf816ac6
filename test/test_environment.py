# SPDX-License-Identifier: Apache-2.0
"""env.sh: the environment that it gives a shell, and its message where nothing is set up."""

import shutil
import subprocess

import pytest
from support.paths import ROOT


def shell(words, folder):
    return subprocess.run(["bash", "-euc", words], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("which", "remedy"), [("", "setup'"), ("torch", "setup-torch'")])
def test_missing_set_up_is_reported_with_its_make_target(tmp_path, which, remedy):
    shutil.copy(ROOT / "env.sh", tmp_path)
    done = shell(f". ./env.sh {which}; echo went on", tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert f"run 'make -C {tmp_path} {remedy} first" in done.stderr


@pytest.mark.torch
@pytest.mark.parametrize("before", ["", ". ./env.sh;"])
def test_torch_shell_uses_this_source_tree(before):
    if not (ROOT / ".venv-torch" / ".stamp").is_file():
        pytest.skip("torch is installed, but not by make setup-torch")
    if before and not (ROOT / "install" / "setup.bash").is_file():
        pytest.skip("ROS 2 is not set up here: make setup")
    where = "import depthlm_ros, torch; print(depthlm_ros.__file__)"
    done = shell(f'{before} . ./env.sh torch; python -c "{where}"; depthlm train --recipe none.yaml', ROOT)
    assert done.stdout.strip() == str(ROOT / "depthlm_ros" / "__init__.py"), done.stderr
    assert done.returncode == 1 and "none.yaml" in done.stderr  # the command ran up to its recipe
