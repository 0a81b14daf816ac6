# SPDX-License-Identifier: Apache-2.0
"""Child processes: a failure is reported with the log, and no process is left behind."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from depthlm_ros.errors import SetupError
from depthlm_ros.ros.child_process import ChildProcess, graph_environment
from depthlm_ros.ros.fastdds import USER_SETTINGS, use_large_shared_memory

READY = "print('ready', flush=True)\n"


def start(tmp_path, code):
    return ChildProcess("helper", [sys.executable, "-c", code], tmp_path / "helper.log", dict(os.environ))


def wait_for(condition):
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"


def test_failed_process_is_reported_with_exit_code_and_end_of_log(tmp_path):
    with start(tmp_path, "import sys\nfor i in range(99): print('line', i)\nsys.exit(7)") as process:
        wait_for(lambda: process.ended)
        with pytest.raises(SetupError, match=r"(?s)the helper ended with exit code 7.*helper\.log.*line 98") as caught:
            process.check()
    assert "line 50" not in str(caught.value)


def test_running_or_successful_process_raises_nothing(tmp_path):
    with start(tmp_path, READY + "import time; time.sleep(60)") as process:
        process.check()
    with start(tmp_path, "pass") as process:
        wait_for(lambda: process.ended)
        process.check()


def test_stopped_process_can_clean_up_first(tmp_path):
    code = READY + "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('cleaned up')"
    with start(tmp_path, code) as process:
        wait_for(lambda: "ready" in process.log_tail())
        assert process.stop() == 0
    assert "cleaned up" in process.log_tail()


def test_process_that_ignores_signals_is_killed_with_its_child(tmp_path):
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)\n"
        "time.sleep(60)"
    )
    process = start(tmp_path, code)
    wait_for(lambda: process.log_tail().strip().isdigit())
    child_pid = int(process.log_tail())
    assert process.stop(patience_s=0.3) == -9
    wait_for(lambda: not is_alive(child_pid))


def test_graph_environment_keeps_a_set_domain_and_stays_on_this_machine(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "42")
    assert graph_environment()["ROS_DOMAIN_ID"] == "42"
    monkeypatch.delenv("ROS_DOMAIN_ID")
    env = graph_environment()
    assert 10 <= int(env["ROS_DOMAIN_ID"]) <= 99
    assert env["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


@pytest.mark.parametrize("distribution", ["humble", "jazzy", "kilted"])
def test_graph_environment_sets_the_transport_that_processes_choose_themselves(distribution, monkeypatch):
    for name in USER_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_DISTRO", distribution)
    expected = {"ROS_DISTRO": distribution}
    use_large_shared_memory(expected)
    env = graph_environment()
    assert {name: env[name] for name in (*USER_SETTINGS, "ROS_DISTRO") if name in env} == expected


def test_graph_environment_keeps_the_transport_that_the_user_chose(monkeypatch):
    for name in USER_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    assert [name for name in USER_SETTINGS if name in graph_environment()] == ["FASTDDS_BUILTIN_TRANSPORTS"]


@pytest.mark.ros
def test_deferred_signal_is_handled_after_the_block():
    pytest.importorskip("rclpy")
    from depthlm_ros.ros.tools.process_graph import deferred_signals

    done = []
    with pytest.raises(KeyboardInterrupt), deferred_signals(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        done.append("started")
    assert done == ["started"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
