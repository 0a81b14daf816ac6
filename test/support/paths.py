# SPDX-License-Identifier: Apache-2.0
"""Folders of the repository, for tests in any folder."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "engines" / "tiny"

needs_tiny = pytest.mark.skipif(not TINY.is_dir(), reason="engines/tiny is not here: `make train` makes it")
