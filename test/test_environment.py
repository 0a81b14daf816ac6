"""env.sh: what a shell has after it, and what it says where nothing was set up."""

import shutil
import subprocess

import pytest
from support.paths import ROOT


def shell(words, folder):
    return subprocess.run(["bash", "-euc", words], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("which", "remedy"), [("", "setup'"), ("torch", "setup-torch'")])
def test_what_is_not_set_up_is_said_with_what_sets_it_up(tmp_path, which, remedy):
    shutil.copy(ROOT / "env.sh", tmp_path)
    done = shell(f". ./env.sh {which}; echo went on", tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert f"run 'make -C {tmp_path} {remedy} first" in done.stderr


@pytest.mark.torch
@pytest.mark.parametrize("before", ["", ". ./env.sh;"])
def test_a_shell_for_torch_trains_this_source_tree(before):
    if not (ROOT / ".venv-torch" / ".stamp").is_file():
        pytest.skip("torch is here, but was not set up by make setup-torch")
    if before and not (ROOT / "install" / "setup.bash").is_file():
        pytest.skip("ROS 2 is not set up here: make setup")
    where = "import depthlm_ros, torch; print(depthlm_ros.__file__)"
    done = shell(f'{before} . ./env.sh torch; python -c "{where}"; depthlm train --recipe none.yaml', ROOT)
    assert done.stdout.strip() == str(ROOT / "depthlm_ros" / "__init__.py"), done.stderr
    assert done.returncode == 1 and "none.yaml" in done.stderr  # it has got as far as its recipe
