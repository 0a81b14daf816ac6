# SPDX-License-Identifier: Apache-2.0
"""Many rounds of deactivate, cleanup, configure and activate under load: models go, nothing piles up."""

import json
import subprocess
import sys

import pytest
from support.paths import ROOT, TINY

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")

from depthlm_ros.ros.child_process import graph_environment  # noqa: E402

if not TINY.is_dir():
    pytest.skip("engines/tiny is not here: `make train` makes it", allow_module_level=True)

MAX_GROWTH_MB = 30.0
ROUND_TIMEOUT_S = 60


@pytest.mark.parametrize("rounds", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_rounds_of_the_life_cycle_leave_nothing_behind(rounds):
    program = str(ROOT / "test" / "support" / "life_rounds.py")
    env = graph_environment() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, program, str(rounds)],
        capture_output=True,
        text=True,
        timeout=ROUND_TIMEOUT_S * rounds,
        env=env,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in output, output
    states = json.loads(done.stdout.splitlines()[-1])
    assert all(states["model_is_gone"]) and len(states["model_is_gone"]) == rounds
    assert max(states["memory_mb"][2:]) - states["memory_mb"][1] < MAX_GROWTH_MB, states["memory_mb"]
    for kind in ("threads", "descriptors"):  # one more may exist for a moment
        assert min(states[kind][-3:]) <= max(states[kind][:2]), states[kind]
