"""Labelled images for evaluation: the points of a JSONL file (depthlm_ros/data/reading.py), all along the optical axis.

What is wrong with one line costs that line, or those of its points; it is counted by reason and never fatal unless
nothing is left.
"""

from __future__ import annotations

from pathlib import Path

from depthlm_ros.data.read import RecordSet as LabelSet
from depthlm_ros.data.read import Roots, iter_records
from depthlm_ros.data.records import BadRecord, Problem, Record, count_by_reason, inside_image, nothing_usable

__all__ = ["BadRecord", "LabelSet", "Problem", "Record", "count_by_reason", "inside_image", "read_records"]


def read_records(path: Path, roots: Roots | None = None) -> LabelSet:
    """Read a JSONL file of labels; every record has points, z in metres.

    Raises BadInput if it cannot be read, is empty, or holds no usable record.
    """
    problems: list[Problem] = []
    records = []
    for record in iter_records(path, problems, roots):
        if len(record.uv_px):
            records.append(record.as_z())
        else:
            problems.append(
                Problem(record.where, "record without a usable point", "it has no points, only a depth map")
            )
    if not records:
        raise nothing_usable(path, problems)
    return LabelSet(path, tuple(records), tuple(problems))
