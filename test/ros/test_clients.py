# SPDX-License-Identifier: Apache-2.0
"""The clients of docs/CLIENTS.md ask a running node, and need no more than the interfaces."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT, needs_tiny

pytestmark = [pytest.mark.ros, needs_tiny]
pytest.importorskip("rclpy")

from geometry_msgs.msg import Point  # noqa: E402
from support.ros_rig import new_rig  # noqa: E402

from depthlm_ros.srv import SpatialQuery  # noqa: E402

NONSENSE = "colourless green ideas"
ANSWERED = [
    "asked: How far?",
    "value: 1.50 m, standard deviation 0.25",
    "at x=0.00 y=0.00 z=1.50 m in camera",
]
BUILD_S = 560


def program(language: str, folder: Path) -> Path:
    """Writes the one program of the page in a language to a file, and returns its path."""
    (code,) = re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "CLIENTS.md").read_text(), re.DOTALL | re.MULTILINE
    )
    path = folder / f"ask.{'py' if language == 'python' else language}"
    path.write_text(code)
    return path


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """A rig with a node that has processed an image."""
    with new_rig(tmp_path_factory.mktemp("clients")) as rig:
        rig.start()
        rig.shoot_until("depth/image")
        yield rig


def ask(script: Path, question: str, namespace: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, str(script), question, "--ros-args", "-r", f"__ns:={namespace}"]
    return subprocess.run(command, env=env, cwd=script.parent, capture_output=True, text=True, timeout=60)


def check_client(rig, script: Path, env: dict[str, str]) -> None:
    """Asserts that the client prints an answer of a service, and why the node refuses a question."""

    def answer(request, response):
        response.success, response.status = True, SpatialQuery.Response.OK
        response.answer, response.value, response.unit, response.std = f"asked: {request.question}", 1.5, "m", 0.25
        response.points, response.header.frame_id = [Point(z=1.5)], "camera"
        return response

    service = rig.node.create_service(SpatialQuery, "other/spatial_query", answer)
    done = ask(script, "How far?", f"{rig.namespace}/other", env)
    rig.node.destroy_service(service)
    assert (done.returncode, done.stdout.splitlines()) == (0, ANSWERED), done.stderr
    refused = ask(script, NONSENSE, rig.namespace, env)
    assert refused.returncode == 1
    assert f"status {SpatialQuery.Response.NOT_UNDERSTOOD}: " in refused.stderr


def test_the_python_client_prints_answer_and_refusal_of_a_running_node(rig, tmp_path):
    check_client(rig, program("python", tmp_path), dict(os.environ))


@pytest.mark.slow
def test_the_python_client_needs_only_a_build_of_the_interfaces(rig, tmp_path):
    workspace = build_interfaces(tmp_path)
    installed = workspace / "depthlm_ros"
    assert not [
        path
        for path in ("lib/depthlm_ros/depth_node", "bin", "share/depthlm_ros/engines")
        if (installed / path).exists()
    ]
    (modules,) = installed.glob("lib/python3*/site-packages/depthlm_ros")
    assert not (modules / "core.py").exists()
    libraries = [str(installed / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    env = dict(os.environ) | {"PYTHONPATH": str(modules.parent), "LD_LIBRARY_PATH": ":".join(libraries)}
    env["AMENT_PREFIX_PATH"] = f"{installed}:{os.environ['AMENT_PREFIX_PATH'].split(':')[-1]}"
    check_client(rig, program("python", tmp_path), env)


def build_interfaces(folder: Path) -> Path:
    """Builds this package with DEPTHLM_INTERFACES_ONLY, and returns the folder into which it was installed."""
    install = folder / "install"
    places = ["--build-base", str(folder / "build"), "--install-base", str(install)]
    done = subprocess.run(
        [str(ROOT / "scripts" / "build.sh"), "-DDEPTHLM_INTERFACES_ONLY=ON", *places],
        capture_output=True,
        text=True,
        timeout=BUILD_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return install


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_cpp_client_compiles_with_the_generated_interfaces(tmp_path):
    """rclcpp is in no wheel: a double of the calls that the client makes stands for it."""
    prefixes = [Path(path) for path in os.environ["AMENT_PREFIX_PATH"].split(":")]
    includes = [folder for prefix in prefixes for folder in (prefix / "include").glob("*") if folder.is_dir()]
    options = [f"-I{folder}" for folder in (ROOT / "test" / "support" / "cpp", *includes)]
    source, binary = program("cpp", tmp_path), tmp_path / "ask"
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", *options, str(source), "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S)
    assert done.returncode == 0, done.stderr
    answered = subprocess.run([binary, "How far?"], capture_output=True, text=True, timeout=30)
    assert answered.stdout.splitlines() == ANSWERED
    refused = subprocess.run([binary, "nothing"], capture_output=True, text=True, timeout=30)
    assert (refused.returncode, refused.stderr) == (1, f"status {SpatialQuery.Response.NO_IMAGE}: no image yet\n")
