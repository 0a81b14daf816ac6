# SPDX-License-Identifier: Apache-2.0
"""A signal ends the wait of the main thread, whatever line it interrupts."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

# Raises a signal in the n-th line that waiting executes (in this package or in the standard library), for each n.
CODE = """
import signal, sys
from depthlm_ros.ros.node import StopSignal

def strike_at(line):
    passed = 0

    def trace(frame, event, arg):
        nonlocal passed
        if event == "line":
            passed += 1
            if passed == line:
                signal.raise_signal(signal.SIGTERM)
        return trace

    stop = StopSignal()
    sys.settrace(trace)
    stopped = stop.wait(0.05)
    sys.settrace(None)
    return stopped, passed >= line

line = 1
while True:
    stopped, struck = strike_at(line)
    if not struck:
        break
    assert stopped, line
    line += 1
print("lines:", line)
"""


def test_signal_ends_the_wait_whatever_line_it_interrupts():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.removeprefix("lines:")) > 3
