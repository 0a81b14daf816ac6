"""Items worked on in parallel processes, results in the order of the items, whatever happens to a process.

Where a worker is killed (by the kernel for want of memory, say), the pool is lost with all it was working on. Each item
that was under way is then done again, by itself, so that it is known which one it was; one that so kills its worker
twice is given up, and the others go on. A worker ends with the process that started it, however that was ended: else it
would wait for work forever, and go on writing beside a run that was started again.
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
# So many items for each worker are under way at once: enough to keep all busy while one is slow.
AHEAD = 2
# So often an item is tried by itself.
ALONE = 2


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """result: what the work gave; None if the item killed its worker twice. kills: 0, 1 (it was under way when a worker
    was killed) or 2 (given up)."""

    item: str
    result: T | None
    kills: int = 0


def in_order(work: Callable[[str], T], items: Sequence[str], workers: int) -> Iterator[Outcome[T]]:
    """Work on all items, in so many processes (1: in this one). Whatever `work` raises is raised here."""
    if workers <= 1:
        yield from (Outcome(item, work(item)) for item in items)
        return
    waiting = deque(items)
    while waiting:
        yield from _until_broken(work, waiting, workers)


def _until_broken(work: Callable[[str], T], waiting: deque[str], workers: int) -> Iterator[Outcome[T]]:
    """Work off `waiting` with one pool; if that breaks, see to what was under way and return."""
    running: deque[tuple[str, Future[T]]] = deque()
    pool = _pool(workers)
    try:
        while waiting or running:
            while waiting and len(running) < AHEAD * workers:
                running.append((waiting[0], pool.submit(work, waiting[0])))
                waiting.popleft()
            item, future = running[0]
            result = future.result()
            running.popleft()
            yield Outcome(item, result)
    except BrokenProcessPool:
        yield from _again(work, running)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _again(work: Callable[[str], T], running: Iterable[tuple[str, Future[T]]]) -> Iterator[Outcome[T]]:
    """Items whose pool broke: their results if they were there already, else done once more, one after the other."""
    lone = _pool(1)
    try:
        for item, future in running:
            if future.done() and not isinstance(future.exception(), BrokenProcessPool):
                yield Outcome(item, future.result())
                continue
            outcome: Outcome[T] = Outcome(item, None, kills=ALONE)
            for _ in range(ALONE):
                try:
                    outcome = Outcome(item, lone.submit(work, item).result(), kills=1)
                    break
                except BrokenProcessPool:
                    lone.shutdown(wait=False)
                    lone = _pool(1)
            yield outcome
    finally:
        lone.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: OpenCV and Arrow keep threads of their own.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    # Ctrl-C reaches all processes of a terminal: it is for the one that was started there.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
