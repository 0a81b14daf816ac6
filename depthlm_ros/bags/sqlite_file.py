# SPDX-License-Identifier: Apache-2.0
"""Reads the sqlite3 database of a rosbag2 row by row, also one that was cut short or has damaged pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from depthlm_ros.bags.bag_messages import BagMessage, Place, Report, problem
from depthlm_ros.errors import BadInput

MAGIC = b"SQLite format 3\x00"
# After a damaged row, later rows are tried one by one until so many in a row cannot be read.
MOST_LOST_IN_A_ROW = 2000
ROWS_AFTER = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
ONE_ROW = "SELECT id, topic_id, timestamp, data FROM messages WHERE id = ?"


def read_messages(path: Path, report: Report) -> Iterator[BagMessage]:
    """Yields the messages in the order in which they were recorded.

    Raises BadInput if not even the list of topics can be read.
    """
    with closing(_open(path)) as database:
        try:
            found = database.execute("SELECT id, name, type FROM topics")
            topics = {number: (str(name), str(type_name)) for number, name, type_name in found}
        except sqlite3.Error as exc:
            raise BadInput(f"{path}: its list of topics cannot be read ({exc}): nothing of it can be used.") from exc
        for row, topic, time_ns, data in _rows(database, path, report):
            if topic in topics and isinstance(data, bytes) and isinstance(time_ns, int):
                name, type_name = topics[topic]
                yield BagMessage(name, type_name, time_ns, Place(path, row, 0), data)
            else:
                report(problem(path, "part of the bag damaged", f"row {row} has no topic, time or bytes."))


def read_row(place: Place) -> bytes:
    """Returns the bytes of a message. Raises OSError if they cannot be read."""
    try:
        with closing(_open(place.file)) as database:
            found = database.execute(ONE_ROW, (place.at,)).fetchone()
    except sqlite3.Error as exc:
        raise OSError(f"{place.file}: row {place.at} cannot be read: {exc}") from exc
    if found is None:
        raise OSError(f"{place.file}: row {place.at} is missing")
    return bytes(found[3])


def _open(path: Path) -> sqlite3.Connection:
    # Without its log of unfinished writing, the file cannot change, and its folder need not be writable.
    log = path.with_name(path.name + "-wal")
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    database = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True)
    # Otherwise SQLite refuses all of a file that is shorter than its head says. The mode forbids any writing.
    database.execute("PRAGMA writable_schema = ON")
    return database


def _rows(database: sqlite3.Connection, path: Path, report: Report) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields the rows that can be read, and reports the others."""
    last = 0
    while True:
        try:
            for row in database.execute(ROWS_AFTER, (last,)):
                last = row[0]
                yield row
            return
        except sqlite3.Error as exc:
            following = _next_readable(database, last)
            if following is None:
                report(problem(path, "bag damaged", f"nothing can be read after row {last}: {exc}."))
                return
            message = f"{following - last - 1} rows from {last + 1} on cannot be read: {exc}."
            report(problem(path, "part of the bag damaged", message, following - last - 1))
            last = following - 1


def _next_readable(database: sqlite3.Connection, last: int) -> int | None:
    """Returns the next row that can be read alone, after the damaged one."""
    for number in range(last + 2, last + 2 + MOST_LOST_IN_A_ROW):
        try:
            if database.execute(ONE_ROW, (number,)).fetchone() is not None:
                return number
        except sqlite3.Error:
            continue
    return None
