# SPDX-License-Identifier: Apache-2.0
"""Files that survive a crash: atomic writes, JSON Lines files that only grow, and values that JSON can hold.

`parse_json` reads JSON that somebody else wrote: whatever it holds, it is read or refused with one kind of error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and renames it to `path` at the end of the block.

    Creates the parent folders. After an error or a crash, `path` holds what it held before. sync: wait until the disk
    has the content, so that this is true after a loss of power, too; False for one of many small files. Raises OSError,
    also for a device or a folder in the place of the file: root could replace even /dev/null.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: a device or a folder cannot be replaced by a file: name another one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    try:
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes | memoryview, sync: bool = True) -> None:
    """Replaces a file in one step: after a crash it holds the old or the new content, never a part.

    sync: see `replacing`. Raises OSError.
    """
    with replacing(path, sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text. Raises json.JSONDecodeError, also for JSON that Python does not take.

    Python's own errors for lists that are nested too deep and for a number of thousands of digits are of other kinds.
    """
    try:
        return json.loads(text)
    except RecursionError as exc:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from exc
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as exc:
        raise json.JSONDecodeError("it is not UTF-8", "", exc.start) from exc
    except ValueError as exc:
        raise json.JSONDecodeError(f"a number is too long ({exc})", "", 0) from exc


def to_json_value(value: Any) -> Any:
    """Converts a value to what JSON can hold: arrays become lists, NaN and infinity become None."""
    if hasattr(value, "tolist"):
        return to_json_value(value.tolist())
    if isinstance(value, Mapping):
        return {key: to_json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonLinesFile:
    """A JSON Lines file that only grows. A line that a crash cut off is removed when the file is opened again.

    lines: the decoded lines of the file, in order. Raises OSError, and ValueError for a line that is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        whole, _, torn = self._file.read().rpartition(b"\n")
        self._size = len(whole) + 1 if whole else 0
        if torn:
            self._file.truncate(self._size)
        try:
            self.lines: list[Any] = [parse_json(line) for line in whole.splitlines()]
        except ValueError:
            self._file.close()
            raise

    def append(self, entry: Mapping[str, object], sync: bool = False) -> None:
        """Appends one line. sync: wait until the disk has it. After an OSError the file is as it was before."""
        data = json.dumps(entry).encode() + b"\n"
        try:
            self._file.write(data)
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
        except OSError:
            # Python keeps unwritten bytes in a buffer and would write them when the file is closed.
            with suppress(OSError):
                self._file.close()
            if self.path.stat().st_size > self._size:
                os.truncate(self.path, self._size)
            raise
        self._size += len(data)
        self.lines.append(dict(entry))

    def fileno(self) -> int:
        """Returns the file descriptor, for locks."""
        return self._file.fileno()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
