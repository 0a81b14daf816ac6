# SPDX-License-Identifier: Apache-2.0
"""Runs a function on many items on a Ray cluster, with Ray Data's pool of actors: `map_on_cluster`.

The program that asks Ray (its driver) is a process of its own. Ray ends the driver when the cluster is lost, and it
writes to the driver's outputs; neither may happen to the process that keeps the results. What the driver writes goes to
a file, which is named if something fails.

Ray starts a killed actor again and repeats its task, so that nothing is lost, and gives every result once. An item that
kills its actor would be repeated for ever: the `_Board`, an actor beside the driver, counts how often each item was
begun without being finished, and a worker gives such an item up.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from depthlm_ros.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    from ray.actor import ActorHandle
    from ray.data import Dataset

T = TypeVar("T")
ItemT = TypeVar("ItemT")
# An item is given up that kills its worker once more after so many kills.
MOST_KILLS = 2
# A block of items is one task of Ray Data. A killed task is repeated as a whole, and its results come together.
MOST_ITEMS_OF_BLOCK, BLOCKS_OF_WORKER = 16, 4
# How long the driver may take to leave the cluster at the end.
LEAVE_S = 20.0
CONNECT_S = 10.0
THREADS = "OMP_NUM_THREADS"
# The line of a trace that names the error.
ERROR_LINE = re.compile(r"[\w.]+(Error|Exception): ")
MOST_CAUSE_CHARS = 300
KEPT_HINT = "What was written so far is kept: repeat the command, and it continues from there."

# What a worker returns, pickled: (result, exception of the function or None, how often its worker was killed before).
_Outcome: TypeAlias = tuple[object, "BaseException | None", int]


class _ClusterFailed(SetupError):
    """The cluster is lost or failed; the log of the driver is kept."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster.

    address: "auto" for the one that Ray finds by itself (RAY_ADDRESS, one that was started on this machine, else a new
    one on this machine). uses_gpu: whether a worker takes a GPU where there are any. shared: files or folders that
    every node must see under the same path.
    """

    address: str = "auto"
    uses_gpu: bool = False
    shared: tuple[Path, ...] = ()


def map_on_cluster(
    function: Callable[[ItemT], T],
    items: Sequence[ItemT],
    cluster: Cluster,
    workers: int,
    begin: Callable[[], None],
) -> Iterator[tuple[T | None, int]]:
    """Yields (result of an item, number of times that its worker was killed), in the order of the items.

    workers: number of actors; 0 for one for each GPU or, without GPUs, for each node. begin: is called in the driver,
    which must end when this process ends. The result is None for an item that was given up. Exceptions of `function`
    are raised here. Raises SetupError if Ray is not installed, or if the cluster cannot be reached or is lost.
    """
    _require_ray()
    if not items:
        return
    _require_reachable(cluster.address)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    log_file, log_name = tempfile.mkstemp(prefix="depthlm-ray-", suffix=".log")
    os.close(log_file)
    # Pickled here, because multiprocessing's own message about something that cannot be pickled names no cause.
    job = pickle.dumps((function, list(items), cluster, workers))
    driver = context.Process(target=_drive, args=(sender, job, log_name, begin), daemon=True)
    driver.start()
    sender.close()
    keeps_log = False
    try:
        for _ in items:
            outcome, error, kills = _receive(receiver, driver, cluster.address, log_name)
            if error is not None:
                raise error
            # What the function returned for this item; its type was lost on the way.
            yield outcome, kills  # type: ignore[misc]
    except _ClusterFailed:
        keeps_log = True
        raise
    finally:
        receiver.close()
        driver.join(LEAVE_S)
        driver.kill()
        if not keeps_log:
            Path(log_name).unlink(missing_ok=True)


def _require_ray() -> None:
    missing = [name for name in ("ray", "pandas", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"--ray needs the Python package '{missing[0]}' (Ray Data): pip install 'depthlm_ros[scale]' here and on "
            "every node of the cluster, or leave out --ray and use --workers."
        )


def _require_reachable(address: str) -> None:
    """Raises SetupError if nobody listens at HOST:PORT. Ray itself would say so only after minutes."""
    match = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address)
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        raise SetupError(
            f"the Ray cluster '{address}' cannot be reached ({exc}): `ray start --head` prints its address on the "
            "first node; --ray without an address finds a cluster of this machine."
        ) from exc


def _receive(receiver: Connection, driver: BaseProcess, address: str, log_name: str) -> _Outcome:
    """Returns the outcome of the next item. Raises SetupError if the driver tells or shows that the cluster is lost."""
    try:
        message = receiver.recv_bytes()
    except EOFError as exc:
        driver.join(LEAVE_S)
        ended = f"it ended its driver with status {driver.exitcode}"
        raise _ClusterFailed(
            f"the Ray cluster '{address}' was lost ({ended}; its log: {log_name}). {KEPT_HINT}"
        ) from exc
    content = pickle.loads(message)
    if isinstance(content, str):
        raise _ClusterFailed(f"the Ray cluster '{address}' failed: {content} (its log: {log_name}). {KEPT_HINT}")
    return content


def _drive(sender: Connection, job: bytes, log_name: str, begin: Callable[[], None]) -> None:
    """Runs a job on the cluster and sends pickled outcomes, or one text that says what failed. A process of its own."""
    begin()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log_file = os.open(log_name, os.O_WRONLY | os.O_APPEND)
    os.dup2(log_file, 1)
    os.dup2(log_file, 2)
    function, items, cluster, workers = pickle.loads(job)
    try:
        _join_cluster(cluster.address)
        for message in _run(function, items, cluster, workers):
            sender.send_bytes(message)
    except BrokenPipeError:
        pass  # The other end was closed: nobody wants further results.
    except Exception as exc:  # Ray raises many kinds, some of them from code of the user's own choice
        with suppress(OSError):
            sender.send_bytes(pickle.dumps(_cause(exc)))
    finally:
        _leave_cluster()
        sender.close()


def _join_cluster(address: str) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(None if address == "auto" else address, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


def _leave_cluster() -> None:
    import ray

    ray.shutdown()


def _run(
    function: Callable[[object], object], items: Sequence[object], cluster: Cluster, workers: int
) -> Iterator[bytes]:
    """Yields the pickled outcome of each item, in order."""
    import ray

    gpus, nodes = int(ray.cluster_resources().get("GPU", 0)), sum(node["Alive"] for node in ray.nodes())
    takes_gpu = cluster.uses_gpu and gpus > 0
    count = min(workers or (gpus if takes_gpu else nodes), len(items))
    on_this_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=on_this_node).remote(list(items))
    per_block = max(1, min(MOST_ITEMS_OF_BLOCK, len(items) // (BLOCKS_OF_WORKER * count)))
    places: Dataset = ray.data.range(len(items), override_num_blocks=-(-len(items) // per_block))
    outcomes = places.map_batches(
        _RayWorker,
        fn_constructor_args=(board, pickle.dumps(function), cluster.shared, _Surroundings.of_this_process()),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=1,
        num_gpus=1 if takes_gpu else 0,
    )
    for row in outcomes.iter_rows():
        yield row["outcome"]


class _Board:
    """Holds the items, and counts how often each was begun without being finished. An actor beside the driver."""

    def __init__(self, items: Sequence[object]) -> None:
        self._items, self._begun = items, dict[int, int]()

    def begin(self, index: int, finished: int | None) -> tuple[object, int]:
        """Returns an item and how often it was begun before. finished: the item that its worker has just finished."""
        if finished is not None:
            self._begun.pop(finished, None)
        before = self._begun.get(index, 0)
        self._begun[index] = before + 1
        return self._items[index], before


@dataclass(frozen=True)
class _Surroundings:
    """What a worker shares with the command that was called.

    folder: the working folder, which relative paths are relative to. module_path: sys.path. threads: value of
    OMP_NUM_THREADS, None if it is not set. Ray sets it to 1 in its workers, which changes the last digits of results.
    """

    folder: str
    module_path: tuple[str, ...]
    threads: str | None

    @classmethod
    def of_this_process(cls) -> _Surroundings:
        """Returns those of this process."""
        return cls(str(Path.cwd()), tuple(sys.path), os.environ.get(THREADS))

    def enter(self) -> None:
        """Makes them those of this process. A folder that is not on this node is left out."""
        sys.path.extend(path for path in self.module_path if path not in sys.path)
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        os.environ.pop(THREADS, None)
        if self.threads is not None:
            os.environ[THREADS] = self.threads


class _RayWorker:
    """Calls the function on blocks of items: Ray Data's callable class, of which every actor has one.

    board: handle of the _Board. function: pickled. shared: what a node must see.
    """

    def __init__(
        self, board: ActorHandle, function: bytes, shared: Sequence[Path], surroundings: _Surroundings
    ) -> None:
        surroundings.enter()
        self._board = board
        self._finished: int | None = None
        self._error = _find_missing(shared)
        self._function: Callable[[object], object] = pickle.loads(function)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, object]:
        """Returns the pickled outcomes of the items whose numbers the batch holds."""
        return {"outcome": [self._outcome(int(index)) for index in batch["id"]]}

    def _outcome(self, index: int) -> bytes:
        import ray

        item, kills = ray.get(self._board.begin.remote(index, self._finished))
        outcome: _Outcome = (None, self._error, kills)
        if self._error is None and kills <= MOST_KILLS:
            try:
                outcome = (self._function(item), None, kills)
            except Exception as exc:  # raised again where the results are kept
                outcome = (None, exc, kills)
        self._finished = index
        return _pickled(outcome)


def _find_missing(shared: Sequence[Path]) -> SetupError | None:
    """Returns an error if this node does not see one of the paths."""
    missing = [path for path in shared if not path.exists()]
    if not missing:
        return None
    return SetupError(
        f"node {os.uname().nodename} of the Ray cluster does not see {missing[0]}: it must be on a file system that "
        "all nodes share, under the same path."
    )


def _pickled(outcome: _Outcome) -> bytes:
    try:
        message = pickle.dumps(outcome)
        if outcome[1] is not None:
            pickle.loads(message)
    except Exception as exc:  # an exception that holds something of its process, or that cannot be made from its text
        error = SetupError(f"a worker failed with {outcome[1]!r}, which cannot be sent ({exc}).")
        return pickle.dumps((None, error, outcome[2]))
    return message


def _cause(exc: BaseException) -> str:
    """Returns what an exception says: the innermost error of those that Ray wraps around each other."""
    chain = [exc]
    while isinstance(inner := getattr(chain[-1], "cause", None) or chain[-1].__cause__, BaseException):
        chain.append(inner)
    innermost = [one for one in chain if str(one).strip()][-1:] or [exc]
    lines = [line.strip() for line in str(innermost[0]).splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINE.match(line)]
    text = errors[-1] if errors else f"{type(innermost[0]).__name__}: {lines[0] if lines else 'no reason is given'}"
    return text[:MOST_CAUSE_CHARS]
