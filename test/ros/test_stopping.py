# SPDX-License-Identifier: Apache-2.0
"""A signal ends the wait of the main thread, whatever line it interrupts, and a thread that executes callbacks can
always be ended."""

import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

import rclpy  # noqa: E402
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor  # noqa: E402

from depthlm_ros.ros.ros_process import Spinner  # noqa: E402

# Raises a signal in the n-th line that waiting executes (in this package or in the standard library), for each n.
CODE = """
import signal, sys
from depthlm_ros.ros.ros_process import StopSignal

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


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("spun", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize("kind", [MultiThreadedExecutor, SingleThreadedExecutor])
def test_spinner_ends_although_it_was_just_about_to_wait(node, kind):
    about_to_wait, is_ending = threading.Event(), threading.Event()

    class Hesitant(kind):
        def get_nodes(self):
            nodes = super().get_nodes()
            about_to_wait.set()
            if is_ending.wait(10):
                time.sleep(0.2)  # the end begins before the wait
            return nodes

    executor = Hesitant(context=node.context)
    executor.add_node(node)
    spinner = Spinner(executor, print)
    spinner.start()
    assert about_to_wait.wait(10)
    ending = threading.Thread(target=spinner.end, daemon=True)
    ending.start()
    is_ending.set()
    ending.join(10)
    assert not ending.is_alive() and not spinner.is_alive()


def test_spinner_goes_on_after_a_callback_that_fails_and_says_when_ros_is_shut_down(node):
    reports, ended, calls = [], threading.Event(), []

    def fail_at_first():
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("of the first call")

    node.create_timer(0.01, fail_at_first)
    executor = MultiThreadedExecutor(2, context=node.context)
    executor.add_node(node)
    spinner = Spinner(executor, lambda *report: reports.append(report), ended.set)
    spinner.start()
    until_s = time.monotonic() + 10
    while not (len(calls) > 3 and reports) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert len(calls) > 3
    assert [reason for reason, message in reports] == ["internal error"] and "of the first call" in reports[0][1]
    node.context.shutdown()
    assert ended.wait(10)
    spinner.end()
