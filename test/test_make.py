# SPDX-License-Identifier: Apache-2.0
"""`make test`: its exit code for the results of the two environments."""

import os
import shutil
import subprocess

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make_test(folder, ros, torch, args=""):
    """Runs `make test` with scripts in place of pytest, which print their arguments and exit with these statuses."""
    for name, status in (("python", ros), ("torch", torch)):
        script = folder / name
        script.write_text(f'#!/bin/sh\necho "{name} autoload=$PYTEST_DISABLE_PLUGIN_AUTOLOAD $*"\nexit {status}\n')
        script.chmod(0o755)
    return subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-o",
            "setup",
            "-o",
            "setup-torch",
            "test",
            "ENTER=",
            f"TORCH={folder / 'torch'}",
            f"ARGS={args}",
        ],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("ros", "torch", "passes"), [(0, 0, True), (0, 5, True), (5, 0, True), (5, 5, False), (1, 5, False), (0, 1, False)]
)
def test_selected_tests_can_all_belong_to_one_environment(tmp_path, ros, torch, passes):
    done = make_test(tmp_path, ros, torch, "test/test_x.py -k 'one or two'")
    assert (done.returncode == 0) == passes, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["python", "torch"]
    assert all("test/test_x.py -k one or two" in line for line in done.stdout.splitlines())


@pytest.mark.parametrize(("ros", "torch"), [(0, 5), (5, 0), (2, 0)])
def test_full_run_fails_if_an_environment_has_no_tests(tmp_path, ros, torch):
    assert make_test(tmp_path, 0, 0).returncode == 0
    assert make_test(tmp_path, ros, torch).returncode != 0


def test_pytest_plugins_of_a_distribution_are_not_loaded(tmp_path):
    assert make_test(tmp_path, 0, 0).stdout.count("autoload=1") == 2
