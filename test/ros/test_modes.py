# SPDX-License-Identifier: Apache-2.0
"""A mode that a model cannot serve is refused, and the message names a mode that it can serve."""

from types import SimpleNamespace

import pytest

from depthlm_ros.errors import SetupError
from depthlm_ros.families.registry import family_named
from depthlm_ros.model_files.spec_yaml import find_spec
from depthlm_ros.ros.parameters import MODES, check_mode

CAN = {
    "tiny": {"dense", "sparse", "questions"},
    "depthvlm-4b": {"dense", "sparse", "questions"},
    "depthlm-12b": {"sparse", "questions"},
    "vlm3-depth": {"sparse", "questions"},
    "vlm3-corr": {"questions"},
    "vlm3-pose": {"questions"},
    "vlm3-object": {"questions"},
}


@pytest.mark.parametrize("name", CAN)
def test_mode_is_accepted_if_the_model_can_serve_it_and_refused_with_advice_otherwise(name):
    # A model without weights: check_mode reads only these.
    spec = find_spec(name)
    model = SimpleNamespace(name=name, spec=spec, family=family_named(spec.family))
    for mode in CAN[name]:
        check_mode(model, mode)
    for mode in set(MODES) - CAN[name]:
        with pytest.raises(SetupError, match=f"mode {mode} is impossible") as caught:
            check_mode(model, mode)
        advised = str(caught.value).partition("`mode: ")[2].partition("`")[0]
        assert advised in CAN[name] and name in str(caught.value)
