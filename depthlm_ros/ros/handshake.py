"""A client and a server that have not met yet: what is asked too early is done, but its response is lost.

A client knows when it has found the server. The server may find the client's reader of responses later than its writer
of requests, and answers into the void then (rmw_fastrtps: "client will not receive response"). Only an answer proves
that both have met.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# An answer to the first may take as long on a busy machine; a repetition does no harm.
REPEAT_S = 1.0


def handshake(client: Any, harmless: Any) -> Callable[[], bool]:
    """To be called again and again: whether the server has answered `harmless`, which is sent until it has.

    client: an rclpy Client whose node is being spun. harmless: a request that changes nothing, however often it comes.
    """
    sent: list[Any] = []
    last_s = -REPEAT_S

    def has_met() -> bool:
        nonlocal last_s
        if client.service_is_ready() and time.monotonic() - last_s >= REPEAT_S:
            last_s = time.monotonic()
            sent.append(client.call_async(harmless))
        return any(future.done() for future in sent)

    return has_met
