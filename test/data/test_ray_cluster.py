# SPDX-License-Identifier: Apache-2.0
"""Workers on a Ray cluster of two nodes on this machine: killed workers, items that kill, errors, a lost cluster."""

import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.checkered_room import write_labels
from support.command_line import depthlm, start
from support.paths import needs_tiny

from depthlm_ros.data.ray_cluster import Cluster
from depthlm_ros.data.worker_pool import Workers, map_in_order
from depthlm_ros.errors import BadInput, SetupError

# Ray reads these when it is imported. A busy machine needs longer than Ray's 10 s to start a node.
os.environ |= {"RAY_raylet_start_wait_time_s": "45", "RAY_USAGE_STATS_ENABLED": "0"}
pytest.importorskip("ray.data", reason="Ray Data is not here: pip install -r requirements/scale.txt")
pytestmark = pytest.mark.slow
STARTS = 3


@dataclass(frozen=True)
class Doubling:
    """Doubles numbers, and notes every call. It kills its process at `killers`, at `once` only the first time."""

    notes: Path
    killers: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    bad: tuple[int, ...] = ()

    def __call__(self, item: int) -> int:
        with (self.notes / "calls").open("a") as file:
            file.write(f"{item} {os.getpid()}\n")
        if item in self.killers or (item in self.once and not (self.notes / f"killed{item}").exists()):
            (self.notes / f"killed{item}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.bad:
            raise BadInput(f"{item} is a bad number")
        time.sleep(0.05)
        return 2 * item

    def calls(self) -> Counter[int]:
        return Counter(int(line.split()[0]) for line in (self.notes / "calls").read_text().splitlines())

    def processes(self) -> set[str]:
        return {line.split()[1] for line in (self.notes / "calls").read_text().splitlines()}


@pytest.fixture(scope="module")
def cluster():
    made = start_cluster()
    yield made
    made.shutdown()


def start_cluster():
    """Starts two nodes. A node gives up if its helper processes need longer than 15 s, as on a very busy machine."""
    from ray.cluster_utils import Cluster as LocalCluster

    made = LocalCluster()
    for _ in range(2):
        for attempt in range(1, STARTS + 1):
            try:
                made.add_node(num_cpus=1, include_dashboard=False, no_monitor=True, include_log_monitor=False)
                break
            except Exception as exc:  # Ray raises plain Exception
                if attempt == STARTS:
                    pytest.skip(f"this machine is too busy to start a node of Ray ({exc})")
    return made


def test_every_item_gives_one_result_in_order_though_workers_are_killed(cluster, tmp_path):
    double = Doubling(tmp_path, killers=(13,), once=(4, 20))
    results = list(map_in_order(double, range(40), Workers(2, Cluster(cluster.address))))
    assert [one.item for one in results] == list(range(40))
    assert [one.result for one in results] == [None if item == 13 else 2 * item for item in range(40)]
    assert {one.item for one in results if one.kills} >= {4, 13, 20}
    assert len(double.processes()) >= 2 + 2, "there were two workers, and new ones after they were killed"
    calls = double.calls()
    assert calls[13] == 3 and set(calls) == set(range(40))


def test_the_first_error_of_the_function_is_raised_here(cluster, tmp_path):
    results = map_in_order(Doubling(tmp_path, bad=(3,)), range(20), Workers(0, Cluster(cluster.address)))
    with pytest.raises(BadInput, match="3 is a bad number"):
        for _ in results:
            pass


def test_a_node_that_does_not_see_a_shared_folder_is_named(cluster, tmp_path):
    workers = Workers(1, Cluster(cluster.address, shared=(tmp_path / "none",)))
    with pytest.raises(SetupError, match=r"node .* does not see .*none: it must be on a file system"):
        list(map_in_order(Doubling(tmp_path), [1], workers))


def test_a_cluster_that_dies_is_one_error_and_the_results_before_it_are_there(tmp_path):
    cluster = start_cluster()
    results, found = map_in_order(Doubling(tmp_path), range(400), Workers(2, Cluster(cluster.address))), []
    with pytest.raises(SetupError, match=r"the Ray cluster .* was lost .*What was written so far is kept"):
        for one in results:
            found.append(one.result)
            if len(found) == 20:
                cluster.head_node.kill_gcs_server()
                for node in cluster.list_all_nodes():
                    node.kill_raylet()
    cluster.shutdown()
    assert found == [2 * item for item in range(len(found))] and 20 <= len(found) < 400


def test_a_cluster_that_cannot_be_reached_is_one_error(tmp_path):
    with pytest.raises(SetupError, match=r"the Ray cluster '127.0.0.1:9' cannot be reached .*refused"):
        list(map_in_order(Doubling(tmp_path), [1], Workers(1, Cluster("127.0.0.1:9"))))


@needs_tiny
def test_labels_of_a_cluster_are_those_of_one_process_though_the_command_and_a_worker_are_killed(cluster, tmp_path):
    labels, out = write_labels(tmp_path, images=24), tmp_path / "out"
    (tmp_path / "room_7.png").write_bytes(b"torn")
    command = ("label", labels, "--out", out, "--ray", cluster.address, "--workers", 2, "--no-std")
    process, journal = start(*command), out / "labels.journal"
    end_s = time.monotonic() + 400
    while not (journal.exists() and len(journal.read_text().splitlines()) > 3):
        assert process.poll() is None and time.monotonic() < end_s, process.stderr.read()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    finished = len(journal.read_text().splitlines()) - 1
    of_the_killed_command = set(workers())
    again = start(*command)
    kill_a_worker(again, of_the_killed_command)
    stdout, stderr = again.communicate(timeout=600)
    assert again.returncode == 0, stderr
    assert f"{finished} of 24 items were finished by an earlier run" in stderr
    assert "23 of 24 pictures" in stdout and "1 x image unusable" in stdout
    assert "Traceback" not in stderr and "(raylet)" not in stderr
    alone = depthlm("label", labels, "--out", tmp_path / "alone", "--no-std")
    assert alone.returncode == 0, alone.stderr
    assert (out / "labels.jsonl").read_bytes() == (tmp_path / "alone" / "labels.jsonl").read_bytes()
    maps = sorted(path.name for path in (out / "depth").iterdir())
    assert maps == sorted(path.name for path in (tmp_path / "alone" / "depth").iterdir()) and len(maps) == 23
    assert all((out / "depth" / name).read_bytes() == (tmp_path / "alone/depth" / name).read_bytes() for name in maps)


def workers():
    """Yields the process ids of the actors of Ray Data."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"MapWorker" in title:
            yield int(process.name)


def kill_a_worker(command, others, timeout_s=300):
    """Kills an actor of Ray Data that is none of the others as soon as there is one, while the command runs."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s and command.poll() is None:
        for process in workers():
            if process not in others:
                time.sleep(0.3)
                os.kill(process, signal.SIGKILL)
                return
        time.sleep(0.05)
    pytest.fail("there was no worker to kill")


@needs_tiny
def test_scores_of_a_cluster_are_those_of_one_process_to_the_last_digit(cluster, tmp_path):
    labels, scores = write_labels(tmp_path, images=6), []
    for options in ((), ("--ray", cluster.address, "--workers", 2)):
        done = depthlm("eval", labels, "--model", "tiny", "--json", tmp_path / "scores.json", *options)
        assert done.returncode == 0, done.stderr
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
        assert scores[-1].pop("seconds_per_image") > 0
    assert scores[0] == scores[1]
