"""Words held against geometry: an answer is what the model said, what the depth map says, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from depthlm_ros.core import Answer, DepthMap, Measurement, Region
from depthlm_ros.families.base import Reply
from depthlm_ros.geometry.canonical_view import centres, in_frame
from depthlm_ros.geometry.pinhole import backproject
from depthlm_ros.measure import measure

UNITS = {"m": "meters"}


def judged(
    reply: Reply,
    std: float,
    confidence: float,
    depth: DepthMap,
    uv_px: np.ndarray,
    regions: Sequence[Region],
    relative_std: float,
) -> Answer:
    """The answer to a question about pixels (N, 2) or regions of the depth map's camera.

    std: standard deviation of the reply's number; relative_std: of the map's depths. Where the number and the map
    differ by more than both uncertainties together, the text says so and the difference is the uncertainty.
    points_m: at the pixels, else in the middle of the regions.
    """
    measurements = measure(depth, regions, uv_px, relative_std)
    at_px = uv_px if len(uv_px) else centres(regions)
    at_px = at_px[in_frame(at_px, depth.intrinsics.size_px)]
    u, v = np.rint(at_px).astype(int).T
    points_m = backproject(at_px, depth.depth_m[v, u], depth.intrinsics)
    text, std = reply.text, std
    against = counterpart(reply, measurements)
    if against is not None and abs(reply.value - against.value) > math.hypot(std, against.std):
        std = abs(reply.value - against.value)
        text += f" But the depth map says {against.value:.2f} {UNITS.get(against.unit, against.unit)}."
    return Answer(
        text, reply.status, reply.value, reply.unit, std, points_m, tuple(regions), confidence, tuple(measurements)
    )


def counterpart(reply: Reply, measurements: Sequence[Measurement]) -> Measurement | None:
    """The measurement of the quantity that the reply's number is about; None if nothing can be compared."""
    for measurement in measurements:
        same = measurement.quantity == reply.quantity and measurement.unit == reply.unit
        if same and math.isfinite(measurement.value) and math.isfinite(reply.value):
            return measurement
    return None
