"""Which points of which images are scored, and what the headline of the scores is.

plain: every labelled point; delta1 over all points.
depthlm: one point per sample; sample i is image i mod N and a random point of it, drawn with Python's random.sample
    from seed 42; the first 128 samples unless told otherwise (DepthLM's eval.py as first released; its paper scores
    8,192). A later revision of that file takes image i // points per image instead, which scores two images only.
depthvlm-sparse: every labelled point; delta1 is the unweighted mean over images, one without a valid point scoring 0.
dense: every pixel of the depth map; the same mean.

As released (--as-released), which published numbers need and nothing else does: see released.py.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from depthlm_ros.data.read import RecordSet
from depthlm_ros.data.records import Record
from depthlm_ros.errors import BadInput

PLAIN, DEPTHLM, DEPTHVLM_SPARSE, DENSE = "plain", "depthlm", "depthvlm-sparse", "dense"
PROTOCOLS = (PLAIN, DEPTHLM, DEPTHVLM_SPARSE, DENSE)
# Their delta1 is that of images, not of points.
BY_IMAGE = {DEPTHVLM_SPARSE, DENSE}
DEPTHLM_SAMPLES, SEED = 128, 42

# Whether a point (record, index) may be asked about.
Allowed = Callable[[Record, int], bool]


def limited(labels: RecordSet, limit: int | None, seed: int | None) -> RecordSet:
    """The first `limit` records, or as many drawn at random if there is a seed; in the file's order, all if None."""
    count = len(labels.records)
    if limit is None or limit >= count:
        return labels
    chosen = range(limit) if seed is None else sorted(random.Random(seed).sample(range(count), limit))
    return replace(labels, records=tuple(labels.records[index] for index in chosen))


def depthlm_samples(
    labels: RecordSet, samples: int = DEPTHLM_SAMPLES, seed: int = SEED, allowed: Allowed | None = None
) -> RecordSet:
    """The records with only the points that DepthLM's protocol draws, in the order of the samples.

    allowed: a sample that is not is replaced by the next one that is, which may then be scored twice, as released.
    """
    records = labels.records
    slots = len(records[0].uv_px)
    total = slots * len(records)
    rng = random.Random(seed)
    drawn = [rng.sample(range(slots), 1)[0] for _ in range(total)]
    chosen: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(min(samples, total)):
        image, point = _next_allowed(records, drawn, index, allowed)
        chosen[image].append(point)
    kept = (_only(records[image], points) for image, points in sorted(chosen.items()))
    return replace(labels, records=tuple(kept))


def _next_allowed(
    records: Sequence[Record], drawn: Sequence[int], index: int, allowed: Allowed | None
) -> tuple[int, int]:
    for step in range(len(drawn)):
        sample = (index + step) % len(drawn)
        image = sample % len(records)
        # A record may have lost unusable points, which the release would not have noticed.
        point = drawn[sample] % len(records[image].uv_px)
        if allowed is None or allowed(records[image], point):
            return image, point
    raise BadInput("no labelled point keeps off the image's border: score without --as-released.")


def _only(record: Record, points: Sequence[int]) -> Record:
    index = list(points)
    return replace(record, uv_px=record.uv_px[index], depth_m=record.depth_m[index])
