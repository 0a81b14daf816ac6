# SPDX-License-Identifier: Apache-2.0
"""A TensorRT plan is loaded only if it is complete, on the machine and for the files that it was built for."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.paths import ROOT

from depthlm_ros.backends.tensorrt.plan_file import (
    Machine,
    PlanKey,
    check_plan,
    key_path,
    plan_differences,
    read_key,
    write_plan,
)
from depthlm_ros.errors import BackendFailed, BadBundle

FILES = {"look.onnx": "aa" * 32, "model.safetensors": "bb" * 32}
HERE = Machine("10.3.0", "Orin", "8.7", "CUDA 12.6")
KEY = PlanKey(
    files=FILES,
    machine=HERE,
    precision="fp16",
    shapes=({"ids": ((1, 1), (16, 32), (32, 64))}, {}),
    flags=("STRONGLY_TYPED", "optimization level 3"),
)


@pytest.fixture
def plan(tmp_path):
    write_plan(tmp_path / "look.plan", b"a plan" * 100, KEY)
    return tmp_path / "look.plan"


def check(plan, machine=HERE, files=FILES):
    return check_plan(plan, machine, files, "depthlm engine build --model tiny")


def test_a_written_plan_is_read_back(plan):
    assert read_key(key_path(plan)) == KEY
    assert check(plan) == KEY
    assert plan.read_bytes() == b"a plan" * 100
    assert sorted(path.name for path in plan.parent.iterdir()) == ["look.plan", "look.plan.json"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tensorrt", "10.13.3", r"TensorRT is 10\.13\.3, but the plan was built for 10\.3\.0"),
        ("gpu", "Thor", "GPU is Thor, but the plan was built for Orin"),
        ("sm", "11.0", r"compute capability is 11\.0"),
        ("driver", "CUDA 13.0", r"driver is CUDA 13\.0"),
    ],
)
def test_another_machine_is_refused_with_the_field_and_the_command(plan, field, value, said):
    with pytest.raises(BadBundle, match=f"{said}.*depthlm engine build --model tiny"):
        check(plan, replace(HERE, **{field: value}))


def test_all_differences_are_in_one_message(plan):
    with pytest.raises(BadBundle) as error:
        check(plan, Machine("11.4", "H200", "9.0", "CUDA 13.3"))
    assert all(word in str(error.value) for word in ("TensorRT", "GPU", "compute capability", "driver"))


def test_a_changed_or_missing_graph_is_named(plan):
    with pytest.raises(BadBundle, match=r"look\.onnx has changed"):
        check(plan, files=FILES | {"look.onnx": "cc" * 32})
    with pytest.raises(BadBundle, match=r"model\.safetensors, from which the plan was built, is gone"):
        check(plan, files={"look.onnx": "aa" * 32})
    assert check(plan, files=FILES | {"step.onnx": "dd" * 32}) == KEY


def test_two_keys_are_compared_field_by_field(plan):
    assert plan_differences(key_path(plan), KEY) == []
    wanted = replace(KEY, precision="bf16", shapes=({},), flags=())
    fields = [text.split(" is ")[0] for text in plan_differences(key_path(plan), wanted)]
    assert fields == ["precision", "shapes", "builder flags"]


def test_a_truncated_or_changed_plan_is_refused(plan):
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-1])
    with pytest.raises(BadBundle, match="599 bytes instead of 600"):
        check(plan)
    plan.write_bytes(b"b" + whole[1:])
    with pytest.raises(BadBundle, match="changed after it was built"):
        check(plan)
    plan.unlink()
    with pytest.raises(BadBundle, match="cannot be read"):
        check(plan)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "key": {}, "plan": {}}'])
def test_a_damaged_description_is_refused(plan, text):
    key_path(plan).write_text(text)
    with pytest.raises(BadBundle, match=r"look\.plan\.json"):
        check(plan)


def test_an_edited_description_is_refused(plan):
    content = json.loads(key_path(plan).read_text())
    content["key"]["machine"]["gpu"] = 5
    key_path(plan).write_text(json.dumps(content))
    with pytest.raises(BadBundle, match="5 is not a text"):
        check(plan)


def test_a_plan_without_a_description_is_incomplete(plan):
    key_path(plan).unlink()
    with pytest.raises(BadBundle, match="the plan is incomplete"):
        check(plan)


KILLED = """
import os, signal, sys
from pathlib import Path
from depthlm_ros.backends.tensorrt import plan_file as plan
from test_plan_file import KEY
replace = Path.replace
def killed(self, target):
    if str(target).endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = killed
plan.write_plan(Path(sys.argv[1]), b"new" * 100, KEY)
"""


@pytest.mark.parametrize("while_writing", [".plan", ".json"])
def test_a_killed_build_leaves_no_plan_that_loads(plan, while_writing):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, ROOT / "test", ROOT)))}
    done = subprocess.run([sys.executable, "-c", KILLED, plan, while_writing], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(BadBundle):
        check(plan)
    write_plan(plan, b"again", KEY)
    assert check(plan) == KEY


def test_a_full_disk_is_reported_and_leaves_no_files(tmp_path):
    """A limit of the file size stands for a full disk: both stop the writing with an error of the system."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from depthlm_ros.backends.tensorrt.plan_file import write_engine_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_engine_file(Path(sys.argv[1]), b'x' * 5000)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "look.plan"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "cannot write" in done.stderr and "BackendFailed" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_reported(tmp_path):
    (tmp_path / "engines").write_text("")
    with pytest.raises(BackendFailed, match=r"engines.*name another folder"):
        write_plan(tmp_path / "engines" / "look.plan", b"", KEY)
