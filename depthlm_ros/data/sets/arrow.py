# SPDX-License-Identifier: Apache-2.0
"""Reads Arrow and Parquet files, the formats of Argoverse 2 and Waymo; needs pyarrow (extra "data")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from depthlm_ros.data.records import BadRecord
from depthlm_ros.errors import SetupError

# A row of a table: a value or an array for each column.
Row: TypeAlias = dict[str, Any]
INSTALL_HINT = "this data set is stored as {kind} files, which need pyarrow: pip install 'depthlm_ros[data]'."


def read_feather(path: Path, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns columns of a feather file. Raises BadRecord if it is missing, damaged or lacks a column."""
    try:
        from pyarrow import ArrowException
        from pyarrow import feather as arrow_feather
    except ModuleNotFoundError as exc:
        raise SetupError(INSTALL_HINT.format(kind="Arrow feather")) from exc
    try:
        table = arrow_feather.read_table(path, columns=list(columns), memory_map=False)
        return {name: table[name].to_numpy() for name in columns}
    except (OSError, KeyError, ArrowException) as exc:
        raise BadRecord("table unreadable", f"{path}: cannot be read ({exc}).") from exc


def iter_parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a Parquet file one by one, with lists as arrays.

    The file is never read as a whole, because it may have gigabytes. Raises BadRecord if it is missing or damaged, or
    if it lacks a column.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow import parquet as arrow_parquet
    except ModuleNotFoundError as exc:
        raise SetupError(INSTALL_HINT.format(kind="Parquet")) from exc
    try:
        with arrow_parquet.ParquetFile(path) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise BadRecord("table unreadable", f"{path}: the table has no column {', '.join(sorted(missing))}.")
            for batch in file.iter_batches(batch_size=4, columns=list(columns)):
                for row in range(batch.num_rows):
                    yield {name: _to_python(batch.column(name)[row]) for name in columns}
    except (OSError, ArrowException) as exc:
        raise BadRecord("table unreadable", f"{path}: cannot be read ({exc}).") from exc


def _to_python(scalar: Any) -> object:
    """Returns the array of an Arrow list, without a detour over Python numbers, or the plain value of other types."""
    values = getattr(scalar, "values", None)
    return scalar.as_py() if values is None else values.to_numpy(zero_copy_only=False)
