# SPDX-License-Identifier: Apache-2.0
"""Files survive a crash, a torn line and a full disk; JSON values hold no NaN."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from support.paths import ROOT

from depthlm_ros.file_io import JsonLinesFile, replacing, to_json_value, write_atomically


def test_an_error_while_writing_leaves_the_old_content(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError, match="interrupted"), replacing(path) as partial:
        partial.write_text("half of the n")
        raise RuntimeError("interrupted")
    assert path.read_text() == "old"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_a_device_or_a_folder_is_never_replaced(tmp_path):
    """The super-user could rename a file over /dev/null; here a named pipe stands for the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"{name}: a device or a folder cannot be replaced"):
            write_atomically(tmp_path / name, "new")
    assert (tmp_path / "pipe").is_fifo() and sorted(each.name for each in tmp_path.iterdir()) == ["folder", "pipe"]


def test_text_and_bytes_are_written_whole(tmp_path):
    write_atomically(tmp_path / "text", "ä\n")
    write_atomically(tmp_path / "bytes", memoryview(b"\x00\xff"))
    assert (tmp_path / "text").read_bytes() == "ä\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_a_torn_last_line_is_removed_and_later_lines_follow_the_whole_ones(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 2')
    lines = JsonLinesFile(path)
    assert lines.lines == [{"a": 1}]
    lines.append({"c": 3}, sync=True)
    lines.close()
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'
    assert JsonLinesFile(path).lines == [{"a": 1}, {"c": 3}]


def test_a_file_that_is_only_a_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"a": ')
    assert JsonLinesFile(path).lines == []
    assert path.read_bytes() == b""


def test_a_line_that_is_not_json_is_an_error(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"not json\n")
    with pytest.raises(ValueError, match="Expecting value"):
        JsonLinesFile(path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from depthlm_ros.file_io import JsonLinesFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lines = JsonLinesFile(Path(sys.argv[1]))
lines.append({"short": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    lines.append({"long": "x" * 5000})
except OSError as error:
    print("refused", error.errno)
"""


def test_a_full_disk_costs_only_the_new_line(tmp_path):
    """A limit on the size of files stands for a full disk."""
    path = tmp_path / "results.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("refused"), done.stderr
    assert path.read_bytes() == b'{"short": 1}\n'


def test_values_that_json_cannot_hold_become_null_and_lists():
    value = {"a": np.array([1.0, math.nan]), "b": (math.inf, np.float32(0.5)), "c": "text"}
    plain = to_json_value(value)
    assert plain == {"a": [1.0, None], "b": [None, 0.5], "c": "text"}
    json.dumps(plain, allow_nan=False)
