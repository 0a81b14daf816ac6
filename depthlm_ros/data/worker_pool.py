"""Runs a function on many items in parallel processes and yields the results in the order of the items.

`map_in_order` is the function to call; it yields one `WorkerResult` per item, even if a worker process is killed.

When a worker process is killed (for example by the kernel because memory ran out), its pool breaks and all items that
were in progress are lost. Each of these items is then run again, one at a time, so that it is known which item killed
the worker. An item that kills its worker again and again is given up; the others continue.
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
from typing import Generic, TypeVar

T = TypeVar("T")
# Number of items per worker that are in progress at once: enough to keep all workers busy while one item is slow.
ITEMS_AHEAD = 2
# How often an item is tried alone before it is given up.
ATTEMPTS_ALONE = 2


@dataclass(frozen=True)
class WorkerResult(Generic[T]):
    """The result of one item.

    result: what the function returned; None if the item was given up. kills: 0 for an undisturbed item, 1 if a worker
    was killed while the item was in progress, 2 if the item was given up.
    """

    item: str
    result: T | None
    kills: int = 0


def map_in_order(function: Callable[[str], T], items: Sequence[str], workers: int) -> Iterator[WorkerResult[T]]:
    """Calls `function` on every item in `workers` processes; 1 or fewer means in this process.

    Exceptions of `function` are raised here.
    """
    if workers <= 1:
        yield from (WorkerResult(item, function(item)) for item in items)
        return
    waiting = deque(items)
    while waiting:
        yield from _run_until_broken(function, waiting, workers)


def _run_until_broken(function: Callable[[str], T], waiting: deque[str], workers: int) -> Iterator[WorkerResult[T]]:
    """Empties `waiting` with one pool. If the pool breaks, runs the items in progress again and returns."""
    running: deque[tuple[str, Future[T]]] = deque()
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


def _run_again(function: Callable[[str], T], running: Iterable[tuple[str, Future[T]]]) -> Iterator[WorkerResult[T]]:
    """Yields the results of items whose pool broke. Items without a result are run again, one at a time."""
    lone_worker = _start_pool(1)
    try:
        for item, future in running:
            if future.done() and not isinstance(future.exception(), BrokenProcessPool):
                yield WorkerResult(item, future.result())
                continue
            outcome: WorkerResult[T] = WorkerResult(item, None, kills=ATTEMPTS_ALONE)
            for _ in range(ATTEMPTS_ALONE):
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
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
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
