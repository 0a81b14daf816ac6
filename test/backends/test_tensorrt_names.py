# SPDX-License-Identifier: Apache-2.0
"""Every name, enum member and keyword of TensorRT and CUDA that our code uses exists in the real Python bindings.

The oldest and the newest supported version are checked, and one between them. THIS CHECKS NAMES ONLY: the bindings are
real, but the libraries behind them are empty, and nothing is built or run. extension_names.py derives the names from
our source, so that there is no list to maintain.
"""

import json
import os
import shutil
import subprocess
import sys
import types

import pytest
from support.extension_names import Names, ast
from support.paths import ROOT

# The bindings are downloaded once; `make clean` removes them.
CACHE = ROOT / "build" / "bindings"
FINDER = ROOT / "test" / "support" / "extension_names.py"
SOURCES = [
    ROOT / "depthlm_ros" / name
    for name in (
        "export/trt_builder.py",
        "export/build_progress.py",
        "backends/tensorrt/runtime.py",
        "backends/tensorrt/backend.py",
    )
]
# (package, version, major number of the libraries)
TENSORRT = [
    ("tensorrt-cu12-bindings", "10.3.0", 10),
    ("tensorrt-cu12-bindings", "10.16.1.11", 10),
    ("tensorrt-cu13-bindings", "11.4.0.106", 11),
]
# The functions that the bindings look for in each library; here every function returns nothing.
LIBRARIES = {
    "nvinfer": (
        "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL getBuilderPluginRegistry "
        "getPluginRegistry"
    ),
    "nvinfer_plugin": "initLibNvInferPlugins",
    "nvonnxparser": "createNvOnnxParser_INTERNAL createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion",
}


def installed(*requirements):
    """Returns a folder with packages of these versions, from the cache or by pip. Skips if pip cannot get them."""
    folder = CACHE / "+".join(requirements).replace("==", "-")
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--retries=1", "--timeout=30", "--target", str(part), *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            pytest.skip(f"{' '.join(requirements)} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
        part.rename(folder)
    return folder


def empty_libraries(folder, major):
    """Compiles empty libraries with the names that the bindings load."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    for name, functions in LIBRARIES.items():
        source = folder / f"{name}.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions.split()))
        library = f"lib{name}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
        subprocess.run(command, check=True)


def in_bindings(packages, libraries, *arguments):
    """Returns the output of a Python process that has these packages and libraries."""
    environment = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "LD_LIBRARY_PATH": str(libraries)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=TENSORRT, ids=lambda given: f"{given[1]}")
def tensorrt(request, tmp_path):
    """Gives (folder of the packages, folder of the libraries) of one version."""
    package, version, major = request.param
    packages = installed(f"{package}=={version}")
    empty_libraries(tmp_path, major)
    return packages, tmp_path


def test_every_name_of_tensorrt_that_we_use_exists(tensorrt):
    output = in_bindings(*tensorrt, FINDER, "tensorrt_bindings", "trt", *SOURCES)
    found = json.loads(output)
    assert found["missing"] == []
    # These names are found only if every kind of syntax is followed; fewer names would mean that some were missed.
    assert len(found["used"]) > 60
    assert {
        "DataType.BF16",
        "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.execute_async_v3",
        "IBuilderConfig.set_timing_cache",
        "ParserError.desc",
        "IProgressMonitor.step_complete",
        "ITensor.shape",
    } <= set(found["used"])


STARTING = """
import io, sys, tempfile
from pathlib import Path
import tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
from depthlm_ros.backends.tensorrt.runtime import LoadedPlan, MessageLog, load_tensorrt
from depthlm_ros.errors import BackendFailed
assert load_tensorrt() is trt
log = MessageLog(trt)
log.logger.log(trt.ILogger.Severity.WARNING, "one"), log.logger.log(trt.ILogger.Severity.VERBOSE, "two")
assert log.recent() == "one", log.recent()
class Device:
    pass
with tempfile.NamedTemporaryFile() as plan:
    plan.write(b"plan"), plan.flush()
    try:
        LoadedPlan(trt, Device(), Path(plan.name))
    except BackendFailed as exc:
        print(exc)
"""


def test_tensorrt_takes_our_logger_and_a_failed_start_is_reported(tensorrt):
    assert "does not start" in in_bindings(*tensorrt, "-c", STARTING)


MONITORING = """
import io
import tensorrt_bindings as trt
from depthlm_ros.export.build_progress import BuildProgress, make_progress_monitor
monitor = make_progress_monitor(trt, BuildProgress(io.StringIO()))
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start("a", None, 2)
print(monitor.step_complete("a", 0))
"""


@pytest.mark.torch
def test_tensorrt_takes_our_progress_monitor(tensorrt):
    pytest.importorskip("onnx")
    assert in_bindings(*tensorrt, "-c", MONITORING) == "True\n"


@pytest.mark.slow
@pytest.mark.parametrize("version", ["12.9.2", "13.5.0"])
def test_every_name_of_cuda_python_that_we_use_exists(version, tmp_path):
    packages = installed(f"cuda-bindings=={version}", "cuda-pathfinder")
    source = ROOT / "depthlm_ros" / "backends" / "tensorrt" / "cuda_device.py"
    found = json.loads(in_bindings(packages, tmp_path, FINDER, "cuda.bindings.runtime", "-", source))
    assert found["missing"] == []
    assert {"cudaGraphLaunch", "cudaMemcpyKind.cudaMemcpyDeviceToDevice"} <= set(found["used"])


class Builder:
    def __init__(self, logger):
        """__init__(self: trt.Builder, logger: trt.ILogger) -> None"""

    def create_network(self, flags=0):
        """create_network(self: trt.Builder, flags: int = 0) -> trt.INetworkDefinition"""


class INetworkDefinition:
    num_inputs = 0


LIBRARY = types.SimpleNamespace(Builder=Builder, INetworkDefinition=INetworkDefinition, Flag=type("Flag", (), {"A": 1}))


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("trt.Builder(log).create_network(flags=1)", set()),
        ("trt.Bulider(log)", {"Bulider"}),
        ("trt.Flag.B", {"Flag.B"}),
        ("flags = trt.Flag\n    {flags.A: 1, flags.C: 2}", {"Flag.C"}),
        ("trt.Builder(log).make_network(1)", {"Builder.make_network"}),
        ("trt.Builder(log).create_network(flag=1)", {"create_network(flag=)"}),
        ("trt.Builder(log).create_network(1, 2)", {"create_network(_, _)"}),
        (
            "builder = trt.Builder(log)\n    network = builder.create_network(1)\n    network.inputs",
            {"INetworkDefinition.inputs"},
        ),
        ("[b.create_network(1).outputs for b in [trt.Builder(log)]]", set()),  # lists are not followed, calls are
        ("for i in range(3):\n        if i:\n            trt.Flag.D", {"Flag.D"}),
        ("with open(trt.Flag.E):\n        pass", {"Flag.E"}),
        ("class Own(trt.Builder):\n        def destroy_network(self): pass", {"Builder.destroy_network"}),
    ],
)
def test_the_derivation_finds_names_that_do_not_exist(code, missing):
    names = Names(LIBRARY, "trt")
    names.read([ast.parse(f"def function(trt, log):\n    {code}\n")])
    assert names.missing == missing


def test_the_derivation_follows_attributes_methods_and_functions():
    code = """
def load():
    import tensorrt
    return tensorrt

class Build:
    def __init__(self):
        self._trt, self.other = load(), 1
        self._builder = self._trt.Builder(None)

    def network(self):
        network = self._builder.create_network(0)
        return network

class User:
    def run(self, build: Build):
        made = build.network()
        made.num_outputs = 3
        return made.num_inputs
"""
    names = Names(LIBRARY, "trt")
    names.read([ast.parse(code)])
    assert names.missing == {"INetworkDefinition.num_outputs"}
    assert "INetworkDefinition.num_inputs" in names.used
