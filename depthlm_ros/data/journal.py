"""An append-only file of lines that survives being killed: what is in it belongs to whole items, listed in a journal.

NAME.jsonl.part grows item by item; after each, NAME.journal gets one line with the item, the length of the file up to
there, and what was wrong. Whatever is beyond the last such length was cut off and is cut away at the next start; so is
a line whose length the file has not reached, which only a loss of power can leave. When all is done the file is renamed
to NAME.jsonl, at once.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlm_ros.data.problems import EXAMPLES, Problem, count_by_reason
from depthlm_ros.errors import BadInput

# The disk is made to keep what is written at least this often; a killed process loses nothing in between.
SYNC_S = 5.0


@dataclass(frozen=True)
class ItemResult:
    """What one item gave: its lines, without line ends, and what was left out of it."""

    lines: tuple[str, ...]
    points: int
    problems: tuple[Problem, ...] = ()


class Journal:
    """Open it with the header that says what is being made; the same header continues, another one is refused."""

    def __init__(self, folder: Path, name: str, header: Mapping[str, object]) -> None:
        self.path = folder / f"{name}.jsonl"
        self._part = folder / f"{name}.jsonl.part"
        self._journal = folder / f"{name}.journal"
        self._header = dict(header)
        self._entries: list[dict[str, Any]] = []
        self.finished = False
        self.records = 0
        self._synced_s = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._read()

    @property
    def done(self) -> set[str]:
        """Items that are written whole."""
        return {entry["item"] for entry in self._entries}

    def append(self, item: str, result: ItemResult) -> None:
        """Add an item. Raises OSError if the disk is full, say; what was written before stays whole."""
        data = "".join(line + "\n" for line in result.lines).encode()
        end = self._end + len(data)
        entry = {
            "item": item,
            "end": end,
            "records": len(result.lines),
            "points": result.points,
            "problems": count_by_reason(result.problems),
            "examples": _examples(result.problems),
        }
        journal_end = self._journal.stat().st_size
        sync = time.monotonic() - self._synced_s > SYNC_S
        try:
            _append(self._part, data, sync)
            _append(self._journal, _line(entry), sync)
        except OSError:
            _cut(self._part, self._end)
            _cut(self._journal, journal_end)
            raise
        self._synced_s = time.monotonic() if sync else self._synced_s
        self._entries.append(entry)
        self.records += len(result.lines)

    def finish(self) -> None:
        """Give the file its name."""
        if not self.finished:
            _append(self._part, b"", sync=True)
            self._part.replace(self.path)
            _append(self._journal, _line({"finished": True}), sync=True)
            self.finished = True

    def summary(self) -> dict[str, Any]:
        """Items, records, points, problems by reason and examples of them, over all runs."""
        problems: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for entry in self._entries:
            problems.update(entry["problems"])
            for reason, messages in entry["examples"].items():
                examples[reason] = [*examples.get(reason, []), *messages][:EXAMPLES]
        totals = {key: sum(entry[key] for entry in self._entries) for key in ("records", "points")}
        return {"items": len(self._entries), **totals, "problems": dict(problems), "examples": examples}

    @property
    def _end(self) -> int:
        return int(self._entries[-1]["end"]) if self._entries else 0

    def _read(self) -> None:
        if not self._journal.exists():
            if self.path.exists():
                raise BadInput(f"{self.path} is there already, and was not made here: name another folder.")
            _append(self._journal, _line(self._header), sync=True)
        header, *rest = self._whole_lines()
        if header != self._header:
            was = ", ".join(f"{key} {header.get(key)!r}" for key in header if header.get(key) != self._header.get(key))
            raise BadInput(f"{self._journal.parent} holds another run ({was}): name another folder, or empty this one.")
        self._entries = [entry for entry in rest if "item" in entry]
        self.finished = any(entry.get("finished") for entry in rest) or self._renamed()
        if not self.finished:
            self._forget_lost_lines()
            _cut(self._part, self._end)
        self.records = sum(entry["records"] for entry in self._entries)

    def _forget_lost_lines(self) -> None:
        size = self._part.stat().st_size if self._part.exists() else 0
        kept = [entry for entry in self._entries if entry["end"] <= size]
        if len(kept) < len(self._entries):
            self._entries = kept
            again = self._journal.with_suffix(".again")
            again.write_bytes(b"".join(_line(entry) for entry in (self._header, *kept)))
            again.replace(self._journal)

    def _whole_lines(self) -> list[dict[str, Any]]:
        """The journal's lines; a last one that was cut off is cut away."""
        data = self._journal.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            _cut(self._journal, len(whole))
        lines = [json.loads(line) for line in whole.splitlines()]
        if lines:
            return lines
        _append(self._journal, _line(self._header), sync=True)
        return [self._header]

    def _renamed(self) -> bool:
        """Whether the run was killed after the last step but one."""
        return self.path.exists() and not self._part.exists() and self.path.stat().st_size == self._end


def _examples(problems: Sequence[Problem]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in problems:
        found.setdefault(problem.reason, []).append(str(problem))
    return {reason: messages[:EXAMPLES] for reason, messages in found.items()}


def _line(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _append(path: Path, data: bytes, sync: bool) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _cut(path: Path, size: int) -> None:
    """Shorten a file to this size, if it is longer."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)
