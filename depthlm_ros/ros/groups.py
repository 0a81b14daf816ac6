"""Which of a node's callbacks may run at the same time."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.callback_groups import CallbackGroup


class OneOfEach(CallbackGroup):
    """Every service or subscription of the group by itself one call at a time, different ones at the same time.

    For the services of a life cycle: get_state answers while change_state loads a model or builds an engine, and a
    second transition waits for the first, as it does in other nodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def can_execute(self, entity: Any) -> bool:
        """Whether it is not running."""
        return id(entity) not in self._running

    def beginning_execution(self, entity: Any) -> bool:
        """Called by the executor; False if it is running already."""
        with self._lock:
            if id(entity) in self._running:
                return False
            self._running.add(id(entity))
            return True

    def ending_execution(self, entity: Any) -> None:
        """Called by the executor."""
        with self._lock:
            self._running.discard(id(entity))
