# SPDX-License-Identifier: Apache-2.0
"""`make test`: its exit code for the results of the two environments."""

import os
import shutil
import subprocess

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make_test(folder, ros, torch, args="", target="test"):
    """Runs `make test` with scripts in place of pytest, which print their arguments and exit with these statuses."""
    for name in ("Makefile", "scripts/test.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "env.sh").write_text(f'PATH="{folder}/bin:$PATH"\n')
    for name, place, status in (("ros", "bin", ros), ("torch", ".venv-torch/bin", torch)):
        script = folder / place / "python"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "{name} autoload=$PYTEST_DISABLE_PLUGIN_AUTOLOAD $*"\nexit {status}\n')
        script.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", "setup", "-o", "setup-torch", target, f"ARGS={args}"],
        cwd=folder,
        env=os.environ | {"MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, [line for line in done.stdout.splitlines() if "autoload" in line], done.stderr


@pytest.mark.parametrize("target", ["test", "test-all"])
@pytest.mark.parametrize(
    ("ros", "torch", "passes"), [(0, 0, True), (0, 5, True), (5, 0, True), (5, 5, False), (1, 5, False), (0, 1, False)]
)
def test_selected_tests_can_all_belong_to_one_environment(tmp_path, ros, torch, passes, target):
    status, lines, errors = make_test(tmp_path, ros, torch, "test/test_x.py -k 'one or two'", target)
    assert (status == 0) == passes, errors
    assert [line.split()[0] for line in lines] == ["ros", "torch"]
    assert all("test/test_x.py -k one or two" in line for line in lines)


@pytest.mark.parametrize(("ros", "torch"), [(0, 5), (5, 0), (2, 0)])
def test_full_run_fails_if_an_environment_has_no_tests(tmp_path, ros, torch):
    assert make_test(tmp_path, 0, 0)[0] == 0
    assert make_test(tmp_path, ros, torch)[0] != 0


def test_pytest_plugins_of_a_distribution_are_not_loaded(tmp_path):
    _, lines, _ = make_test(tmp_path, 0, 0)
    assert all("autoload=1" in line for line in lines) and len(lines) == 2
