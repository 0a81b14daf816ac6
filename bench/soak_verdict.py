# SPDX-License-Identifier: Apache-2.0
"""What bench/soak.py measures of a node, and its verdict: does anything leak, slow down or fail?"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MOST_GROWTH_MB, MOST_LATENCY_RATIO = 30.0, 1.2


@dataclass(frozen=True)
class Sample:
    """The state of one node at one moment of a settled, active phase."""

    at_s: float
    memory_mb: float
    threads: int
    descriptors: int


@dataclass
class Measured:
    """What is measured of one node. latencies: (moment, seconds from image to depth, both received here)."""

    samples: list[Sample] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    answers: list[tuple[float, float]] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


def verdict(measured: Measured, log_path: Path, from_s: float) -> dict[str, Any]:
    """Returns the numbers of one node after the warm-up, and what of them is not kept ("broken").

    log_path: the node's log. from_s: when the warm-up ended.
    """
    samples = [sample for sample in measured.samples if sample.at_s >= from_s]
    latencies = [latency for latency in measured.latencies if latency[0] >= from_s]
    broken = list(dict.fromkeys(measured.errors))
    log = log_path.read_text(encoding="utf-8", errors="replace")
    if "Traceback" in log:
        broken.append("traceback: " + log[log.index("Traceback") :][:1000])
    numbers: dict[str, Any] = {
        "events": dict(measured.events),
        "requests": len(measured.answers),
        "statuses": dict(measured.statuses),
        "frames": len(measured.latencies),
        "answer_p99_s": percentile([seconds for _, seconds in measured.answers]),
    }
    if len(samples) < 9 or len(latencies) < 9:
        return numbers | {"broken": [*broken, "too few samples after the warm-up: run it for longer"]}
    first, last = ends(samples, len(samples) // 10 or 1)
    growth_mb = statistics.median(s.memory_mb for s in last) - statistics.median(s.memory_mb for s in first)
    thirds = ends(samples, len(samples) // 3)
    p99_s = [percentile([seconds for _, seconds in third]) for third in ends(latencies, len(latencies) // 3)]
    numbers |= {
        "memory_mb": [round(statistics.median(s.memory_mb for s in end), 1) for end in (first, last)],
        "memory_growth_mb": round(growth_mb, 1),
        "threads": [min(s.threads for s in third) for third in thirds],
        "descriptors": [min(s.descriptors for s in third) for third in thirds],
        "latency_p99_s": p99_s,
        "latency_ratio": round(p99_s[1] / p99_s[0], 3),
    }
    if growth_mb > MOST_GROWTH_MB:
        broken.append(f"memory +{growth_mb:.1f} MB")
    broken += [f"{name} {numbers[name]}" for name in ("threads", "descriptors") if numbers[name][1] > numbers[name][0]]
    if numbers["latency_ratio"] > MOST_LATENCY_RATIO:
        broken.append(f"latency x {numbers['latency_ratio']}")
    return numbers | {"broken": broken}


def ends(items: list[Any], size: int) -> tuple[list[Any], list[Any]]:
    """Returns the first and the last items, in the order of time."""
    return items[:size], items[-size:]


def percentile(seconds: list[float]) -> float:
    """Returns the 99th percentile; NaN of nothing."""
    return round(float(np.percentile(seconds, 99)), 4) if seconds else math.nan
