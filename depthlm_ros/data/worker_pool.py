# SPDX-License-Identifier: Apache-2.0
"""Runs a function on many items in parallel processes and yields the results in the order of the items.

`map_in_order` is the function to call; it yields one `WorkerResult` per item, even if a worker process is killed.
`Workers` says how many processes there are, and whether they are on this machine or on a Ray cluster (ray_cluster.py).

When a worker process is killed (for example by the kernel because memory ran out), its pool breaks and all items that
were in progress are lost. Each of these items is then run again, one at a time, so that it is known which item killed
the worker. An item that kills its worker again and again is given up; the others continue.

The function and the items are pickled. What a function loads once for each process, it keeps in a cache of its module.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Generic, TypeVar

from depthlm_ros.data.ray_cluster import MOST_KILLS, Cluster, map_on_cluster

T = TypeVar("T")
ItemT = TypeVar("ItemT")
# Number of items per worker that are in progress at once: enough to keep all workers busy while one item is slow.
ITEMS_AHEAD = 2
# Reason and message of the problem of an item that was given up.
GIVEN_UP = ("worker killed twice", "it killed its worker process each time that it was tried: left out")
# Number of this process among the local workers of its pool, from 0.
_worker_index = 0


@dataclass(frozen=True)
class Workers:
    """How many processes work, and where.

    count: processes on this machine, 1 or fewer for this process itself. On a Ray cluster, 0 means one for each GPU or,
    without GPUs, one for each node. cluster: None for this machine.
    """

    count: int = 1
    cluster: Cluster | None = None

    @property
    def in_this_process(self) -> bool:
        """Whether there are no other processes."""
        return self.cluster is None and self.count <= 1


@dataclass(frozen=True)
class WorkerResult(Generic[ItemT, T]):
    """The result of one item.

    result: what the function returned; None if the item was given up. kills: 0 for an undisturbed item, more if a
    worker was killed while the item was in progress, at least MOST_KILLS if the item was given up.
    """

    item: ItemT
    result: T | None
    kills: int = 0


def map_in_order(
    function: Callable[[ItemT], T], items: Sequence[ItemT], workers: int | Workers
) -> Iterator[WorkerResult[ItemT, T]]:
    """Calls `function` on every item in other processes, or in this one if there is only one worker.

    workers: or their number on this machine. Exceptions of `function` are raised here. Raises SetupError if the Ray
    cluster cannot be reached or is lost.
    """
    workers = Workers(workers) if isinstance(workers, int) else workers
    if workers.cluster:
        outcomes = map_on_cluster(function, items, workers.cluster, workers.count, end_with_parent)
        yield from (WorkerResult(item, result, kills) for item, (result, kills) in zip(items, outcomes, strict=True))
        return
    if workers.in_this_process:
        yield from (WorkerResult(item, function(item)) for item in items)
        return
    waiting = deque(items)
    while waiting:
        yield from _run_until_broken(function, waiting, min(workers.count, len(waiting)))


def worker_index() -> int:
    """Returns the number of this process among the local workers, from 0, to choose one of several devices."""
    return _worker_index


def _run_until_broken(
    function: Callable[[ItemT], T], waiting: deque[ItemT], workers: int
) -> Iterator[WorkerResult[ItemT, T]]:
    """Empties `waiting` with one pool. If the pool breaks, runs the items in progress again and returns."""
    running: deque[tuple[ItemT, Future[T]]] = deque()
    pool = _start_pool(workers)
    try:
        while waiting or running:
            while waiting and len(running) < ITEMS_AHEAD * workers:
                running.append((waiting[0], pool.submit(function, waiting[0])))
                waiting.popleft()
            item, future = running[0]
            result = future.result()
            running.popleft()
            yield WorkerResult(item, result)
    except BrokenProcessPool:
        yield from _run_again(function, running)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run_again(
    function: Callable[[ItemT], T], running: Iterable[tuple[ItemT, Future[T]]]
) -> Iterator[WorkerResult[ItemT, T]]:
    """Yields the results of items whose pool broke. Items without a result are run again, one at a time."""
    lone_worker = _start_pool(1)
    try:
        for item, future in running:
            if future.done() and not isinstance(future.exception(), BrokenProcessPool):
                yield WorkerResult(item, future.result())
                continue
            outcome: WorkerResult[ItemT, T] = WorkerResult(item, None, kills=MOST_KILLS)
            for _ in range(MOST_KILLS):
                try:
                    outcome = WorkerResult(item, lone_worker.submit(function, item).result(), kills=1)
                    break
                except BrokenProcessPool:
                    lone_worker.shutdown(wait=False)
                    lone_worker = _start_pool(1)
            yield outcome
    finally:
        lone_worker.shutdown(wait=False, cancel_futures=True)


def _start_pool(workers: int) -> ProcessPoolExecutor:
    # Processes are spawned, not forked, because OpenCV and Arrow keep threads of their own.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(context.Value("i", 0),))


def _begin_worker(started: Synchronized[int]) -> None:
    """Numbers a new worker process. started: number of processes of its pool before it."""
    global _worker_index
    with started:
        _worker_index, started.value = started.value, started.value + 1
    # The workers' threads share the cores. One that waits for another (OpenMP) must not keep a core busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    end_with_parent()


def end_with_parent() -> None:
    """Makes a worker process end when the process that started it ends, however that happens.

    Otherwise the worker would wait for work forever and could write beside a run that was started again.
    """
    # Ctrl-C reaches all processes of a terminal; only the process that was started there handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
