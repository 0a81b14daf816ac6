"""A mode that a model cannot serve is refused with the one that it can."""

import pytest

from depthlm_ros.errors import SetupError
from depthlm_ros.model_files.spec_yaml import spec_named
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
def test_what_a_model_can_serve_is_accepted_and_the_rest_is_refused_with_a_mode_that_is(name):
    spec = spec_named(name)
    for mode in CAN[name]:
        check_mode(spec, mode)
    for mode in set(MODES) - CAN[name]:
        with pytest.raises(SetupError, match=f"mode {mode} is impossible") as caught:
            check_mode(spec, mode)
        advised = str(caught.value).partition("`mode: ")[2].partition("`")[0]
        assert advised in CAN[name] and name in str(caught.value)
