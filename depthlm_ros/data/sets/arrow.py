"""Arrow and Parquet files, which Argoverse 2 and Waymo come as; needs pyarrow (the extra "data")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthlm_ros.data.records import BadRecord
from depthlm_ros.errors import SetupError

HINT = "is stored as {kind} files, which need pyarrow: pip install 'depthlm_ros[data]'."


def feather(path: Path, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a feather file as arrays. Raises BadRecord if it is missing, damaged or lacks a column."""
    try:
        from pyarrow import ArrowException
        from pyarrow import feather as arrow_feather
    except ModuleNotFoundError as exc:
        raise SetupError(f"this data set {HINT.format(kind='Arrow feather')}") from exc
    try:
        table = arrow_feather.read_table(path, columns=list(columns), memory_map=False)
        return {name: table[name].to_numpy() for name in columns}
    except (OSError, KeyError, ArrowException) as exc:
        raise BadRecord("table unreadable", f"{path}: cannot be read ({exc}).") from exc


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file one by one, lists as arrays: a file of gigabytes is never read whole.

    Raises BadRecord if it is missing, damaged or lacks a column.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow import parquet as arrow_parquet
    except ModuleNotFoundError as exc:
        raise SetupError(f"this data set {HINT.format(kind='Parquet')}") from exc
    try:
        with arrow_parquet.ParquetFile(path) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise BadRecord("table unreadable", f"{path}: has no column {', '.join(sorted(missing))}.")
            for batch in file.iter_batches(batch_size=4, columns=list(columns)):
                for row in range(batch.num_rows):
                    yield {name: _value(batch.column(name)[row]) for name in columns}
    except (OSError, ArrowException) as exc:
        raise BadRecord("table unreadable", f"{path}: cannot be read ({exc}).") from exc


def _value(scalar: Any) -> Any:
    """A list without a detour over Python numbers; anything else as a plain value."""
    values = getattr(scalar, "values", None)
    return scalar.as_py() if values is None else values.to_numpy(zero_copy_only=False)
