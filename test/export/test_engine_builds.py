# SPDX-License-Identifier: Apache-2.0
"""Engine builds in every precision and for every target, and builds that are killed, that run at the same time, or that
fill the disk. They run as real processes, on a random model of the embedded architecture."""

import importlib.util
import json
import time
from functools import partial

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from support import tensorrt_double  # noqa: E402
from support.command_line import own_engines, start  # noqa: E402

from depthlm_ros.backends.torch_backend import TorchBackend, backbone_loader  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BadBundle, BadQuestion, UnknownName  # noqa: E402
from depthlm_ros.export.parity import sample_image  # noqa: E402
from depthlm_ros.export.trt_support import check_onnx  # noqa: E402
from depthlm_ros.model import Model, load_model  # noqa: E402
from depthlm_ros.model_files.bundle import load_bundle  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SMALL = ("build", "--model", "random", "--size", "64x48", "--depth-only")
HERE = (*SMALL, "--backend", "onnxruntime")
CAMERA = Intrinsics(96.0, 96.0, 31.5, 23.5, 64, 48)


@pytest.fixture(scope="module", autouse=True)
def engine_root(random_bundle, tmp_path_factory):
    """The engine folder, in which the model `random` is."""
    with own_engines(tmp_path_factory.mktemp("engines")) as folder:
        (folder / random_bundle.name).symlink_to(random_bundle.folder)
        yield folder


start_engine_command = partial(start, "engine")


def finish(process, code=0):
    """Waits for a process, checks its exit code and returns its stdout and stderr."""
    out, err = process.communicate(timeout=900)
    assert process.returncode == code and "Traceback" not in err, err
    return out, err


def depth_m(model):
    return model.look(Frame(sample_image(CAMERA.size_px)[0], CAMERA)).depth().depth_m


@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.01), ("int8", 0.1)])
def test_depth_of_engines_in_low_precision_is_close_to_torch(random_bundle, precision, most):
    finish(start_engine_command(*HERE, "--precision", precision))
    engine = load_model(f"random-64x48-f96-{precision}-depth", threads=1)
    texts = (random_bundle.before, random_bundle.between, random_bundle.after)
    torch = TorchBackend(backbone_loader(random_bundle), texts, 1, "cpu")
    expected_m = depth_m(Model(engine.spec, engine.family, engine.chat, torch, engine.tokenizer))
    assert 0 < (np.abs(depth_m(engine) - expected_m) / expected_m).mean() <= most
    with pytest.raises(BadQuestion, match="built for depth only"):
        engine.look(Frame(sample_image(CAMERA.size_px)[0], CAMERA)).ask("How far is the red box?")


@pytest.mark.parametrize(
    ("target", "opset", "versions"),
    [
        ("jetpack6", 20, ["10.3"]),
        ("jetpack7.1", 22, ["10.13"]),
        ("jetpack7.2", 23, ["10.16"]),
        ("desktop", 23, ["11.4"]),
    ],
)
def test_graphs_for_another_machine_have_its_opset(target, opset, versions, engine_root):
    out, _ = finish(start_engine_command(*SMALL, "--target", target))
    name = f"random-64x48-f96-bf16-{target}-depth"
    assert f"run there: depthlm engine build --model {name} --backend tensorrt" in out
    manifest = json.loads((engine_root / name / "manifest.json").read_text())
    assert (manifest["target"], manifest["opset"], manifest["backend"]) == (target, opset, "tensorrt")
    assert manifest["precision"] == {"backbone": "bf16", "head": "fp16"}
    assert "no bf16" in manifest["parity"]["not_measured"]
    (graph,) = (engine_root / name).glob("*.onnx")
    assert onnx.load(graph, load_external_data=False).opset_import[0].version == opset
    for version in versions:
        assert [str(problem) for problem in check_onnx(graph, version)] == []
    load_bundle(engine_root / name)


def test_one_command_makes_graphs_and_plans_if_tensorrt_is_installed(engine_root, tmp_path, monkeypatch):
    """TensorRT is a double here (tensorrt_double.py)."""
    tensorrt_double.install_for_processes(monkeypatch, tmp_path / "double")
    words = (*SMALL, "--precision", "fp16")
    name = "random-64x48-f96-fp16-jetpack6-depth"
    out, err = finish(start_engine_command(*words))
    assert f"engine     {name} in" in out and "look_64x64.plan: built in" in out
    assert "differs from torch" in out and "export look_64x64.onnx: done in" in err
    assert "look_64x64.plan: TensorRT 10.3.0" in finish(start_engine_command("inspect", name))[0]
    assert "is up to date" in finish(start_engine_command("build", "--model", name, "--backend", "tensorrt"))[0]
    tensorrt_double.install(monkeypatch)
    ours, onnx_runtime = load_model(name), load_model(name, backend="onnxruntime", threads=1)
    assert ours.backend_name == "tensorrt"
    np.testing.assert_allclose(depth_m(ours), depth_m(onnx_runtime), rtol=1e-2)


needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed here"
)


@needs_rtx
def test_one_command_makes_plans_for_rtx_gpus_without_a_gpu(engine_root):
    words = (*SMALL, "--target", "rtx", "--compute-capability", "8.6", "12.0")
    name = "random-64x48-f96-bf16-rtx-depth"
    out, err = finish(start_engine_command(*words))
    assert "look_64x64.plan: built in" in out and "Building engine: done in" in err
    manifest = json.loads((engine_root / name / "manifest.json").read_text())
    assert (manifest["target"], manifest["compute_capabilities"]) == ("rtx", "8.6 12.0")
    assert "--target rtx --compute-capability 8.6 12.0" in manifest["rebuild"]
    inspected = finish(start_engine_command("inspect", name))[0]
    version = manifest["versions"]["tensorrt_rtx"]
    assert f"look_64x64.plan: TensorRT for RTX {version}, compute capability 8.6 12.0" in inspected
    again = ("build", "--model", name, "--backend", "tensorrt")
    assert "is up to date" in finish(start_engine_command(*again))[0]
    # Two builders at once, for other GPUs: the second one waits and then finds the plan.
    builders = [start_engine_command(*again, "--target", "rtx", "--compute-capability", "8.9") for _ in range(2)]
    outputs = [finish(builder) for builder in builders]
    assert sorted("is up to date" in out for out, _ in outputs) == [False, True]
    # A full disk: what is left is no plan, because it has no description.
    _, err = finish(start_engine_command(*again, "--target", "rtx", max_file_bytes=2000), code=1)
    assert "cannot write" in err and "Free some space" in err
    assert "TensorRT for RTX 1" not in finish(start_engine_command("inspect", name))[0]


def test_killed_build_leaves_nothing_that_loads_and_the_next_build_works(tmp_path):
    folder = tmp_path / "engine"
    builder = start_engine_command(*HERE, "--out", folder)
    work = folder / ".export"
    wait_for(lambda: work.is_dir() and (work / "weights.data").is_file(), builder)
    builder.kill()
    builder.communicate()
    assert work.is_dir()
    with pytest.raises(BadBundle):
        load_model(str(folder))
    finish(start_engine_command(*HERE, "--out", folder))
    assert load_model(str(folder), threads=1).spec.name == "engine" and not work.exists()
    # If a second build is killed, the engine of the first one stays complete.
    before = contents(folder)
    builder = start_engine_command(*HERE, "--out", folder)
    wait_for(lambda: (work / "weights.data").is_file(), builder)
    builder.kill()
    builder.communicate()
    load_bundle(folder)
    out, _ = finish(start_engine_command("clean", folder))
    assert f"removing {work}" in out and contents(folder) == before


def test_two_builds_at_the_same_time_both_end_with_an_engine(engine_root):
    builders = [start_engine_command(*HERE), start_engine_command(*HERE)]
    outputs = [finish(builder) for builder in builders]
    assert sum("waiting until it is done" in err for _, err in outputs) == 1
    assert all("differs from torch" in out for out, _ in outputs)
    load_model("random-64x48-f96-fp32-depth", threads=1)
    assert not list((engine_root / "random-64x48-f96-fp32-depth").glob(".export"))


def test_full_disk_is_reported_and_the_earlier_engine_stays_complete(tmp_path):
    folder = tmp_path / "engine"
    finish(start_engine_command(*HERE, "--out", folder))
    before = contents(folder)
    # The weights are larger.
    _, err = finish(start_engine_command(*HERE, "--out", folder, max_file_bytes=4_000_000), code=1)
    assert f"no space is left in {folder}" in err and "free some space, or name another folder with --out" in err
    assert contents(folder) == before
    load_model(str(folder), threads=1)


def test_full_disk_leaves_no_folder_behind(tmp_path):
    folder = tmp_path / "engine"
    _, err = finish(start_engine_command(*HERE, "--out", folder, max_file_bytes=1000), code=1)
    assert f"no space is left in {folder}" in err
    assert not folder.exists()
    with pytest.raises(UnknownName):
        load_model(str(folder))


def wait_for(condition, builder, timeout_s=600):
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert builder.poll() is None and time.monotonic() < until_s, builder.communicate()
        time.sleep(0.02)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".building"}
