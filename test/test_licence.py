# SPDX-License-Identifier: Apache-2.0
"""Every source file says its licence in one line, as tools for licences read it."""

import subprocess

import pytest
from support.paths import ROOT

LINE = "SPDX-License-Identifier: Apache-2.0"
ENDINGS = (".py", ".sh", ".msg", ".srv", ".action", ".cpp", ".hpp")
NAMED = {"CMakeLists.txt", "Makefile"}


def source_files() -> list[str]:
    """Returns the files of the repository that hold code."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this folder is no git repository")
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    is_program = [name for name in files if name.startswith("scripts/") and "." not in name]
    return [name for name in files if name.endswith(ENDINGS) or name in NAMED] + is_program


def test_every_source_file_begins_with_its_licence():
    files = source_files()
    assert len(files) > 100
    # In the second line where the first one names the interpreter.
    assert not [name for name in files if not any(LINE in line for line in (ROOT / name).read_text().splitlines()[:2])]
