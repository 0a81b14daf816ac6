# SPDX-License-Identifier: Apache-2.0
"""Both ways to resize as Pillow does."""

import pytest

from depthlm_ros.geometry import antialiased_resize


@pytest.fixture(params=["compiled", "matrices"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in which a test resizes: with numba's kernel or with products of matrices."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        assert antialiased_resize.compiled_kernel() is not None
    else:
        monkeypatch.setattr(antialiased_resize, "compiled_kernel", lambda: None)
    return request.param
