"""Builds in every precision and for every machine, and what happens in the middle of one: killed, a second one beside
it, a full disk. Real processes, on the embedded model."""

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

from depthlm_ros.backends.torch_backend import TorchBackend, loader  # noqa: E402
from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BadBundle, BadQuestion, UnknownName  # noqa: E402
from depthlm_ros.export.parity import sample_image  # noqa: E402
from depthlm_ros.export.trt_support import check_onnx  # noqa: E402
from depthlm_ros.model import Model, load_model  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SMALL = ("build", "--model", "tiny", "--size", "64x48", "--depth-only")
HERE = (*SMALL, "--backend", "onnxruntime")
CAMERA = Intrinsics(96.0, 96.0, 31.5, 23.5, 64, 48)


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    with own_engines(tmp_path_factory.mktemp("engines")) as folder:
        yield folder


process = partial(start, "engine")


def ended(started, code=0):
    out, err = started.communicate(timeout=900)
    assert started.returncode == code and "Traceback" not in err, err
    return out, err


def depth_m(model):
    return model.look(Frame(sample_image(CAMERA.size_px)[0], CAMERA)).depth().depth_m


@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.002), ("int8", 0.1)])
def test_rounded_engines_see_nearly_the_same(precision, most):
    ended(process(*HERE, "--precision", precision))
    engine = load_model(f"tiny-64x48-f96-{precision}-depth", threads=1)
    tiny = load_bundle(find_bundle("tiny"))
    torch = TorchBackend(loader(tiny), (tiny.before, tiny.between, tiny.after), 1, "cpu")
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
def test_graphs_for_another_machine_are_in_its_opset(target, opset, versions, root):
    out, _ = ended(process(*SMALL, "--target", target))
    name = f"tiny-64x48-f96-bf16-{target}-depth"
    assert f"run there: depthlm engine build --model {name} --backend tensorrt" in out
    manifest = json.loads((root / name / "manifest.json").read_text())
    assert (manifest["target"], manifest["opset"], manifest["backend"]) == (target, opset, "tensorrt")
    assert manifest["precision"] == {"backbone": "bf16", "head": "fp16"}
    assert "no bf16" in manifest["parity"]["not_measured"]
    (graph,) = (root / name).glob("*.onnx")
    assert onnx.load(graph, load_external_data=False).opset_import[0].version == opset
    for version in versions:
        assert [str(problem) for problem in check_onnx(graph, version)] == []
    load_bundle(root / name)


def test_where_tensorrt_is_one_command_makes_graphs_and_plans(root, tmp_path, monkeypatch):
    """TensorRT is a double here (tensorrt_double.py)."""
    tensorrt_double.install_for_processes(monkeypatch, tmp_path / "double")
    order = (*SMALL, "--precision", "fp16")
    name = "tiny-64x48-f96-fp16-jetpack6-depth"
    out, err = ended(process(*order))
    assert f"engine     {name} in" in out and "look_64x48.plan: built in" in out
    assert "differs from torch" in out and "export look_64x48.onnx: done in" in err
    assert "look_64x48.plan: TensorRT 10.3.0" in ended(process("inspect", name))[0]
    assert "fits as it is" in ended(process("build", "--model", name, "--backend", "tensorrt"))[0]
    tensorrt_double.install(monkeypatch)
    ours, onnx_runtime = load_model(name), load_model(name, backend="onnxruntime", threads=1)
    assert ours.backend_name == "tensorrt"
    np.testing.assert_allclose(depth_m(ours), depth_m(onnx_runtime), rtol=1e-2)


def test_a_killed_build_leaves_nothing_that_loads_and_the_next_one_works(tmp_path):
    folder = tmp_path / "engine"
    builder = process(*HERE, "--out", folder)
    work = folder / ".export"
    wait_for(lambda: work.is_dir() and (work / "weights.data").is_file(), builder)
    builder.kill()
    builder.communicate()
    assert work.is_dir()
    with pytest.raises(BadBundle):
        load_model(str(folder))
    ended(process(*HERE, "--out", folder))
    assert load_model(str(folder), threads=1).spec.name == "engine" and not work.exists()
    # Killed while there is an engine already, that one stays whole.
    before = contents(folder)
    builder = process(*HERE, "--out", folder)
    wait_for(lambda: (work / "weights.data").is_file(), builder)
    builder.kill()
    builder.communicate()
    load_bundle(folder)
    out, _ = ended(process("clean", folder))
    assert f"removing {work}" in out and contents(folder) == before


def test_two_builders_at_once_both_end_with_an_engine(root):
    builders = [process(*HERE), process(*HERE)]
    told = [ended(builder) for builder in builders]
    assert sum("waiting until it is done" in err for _, err in told) == 1
    assert all("differs from torch" in out for out, _ in told)
    load_model("tiny-64x48-f96-fp32-depth", threads=1)
    assert not list((root / "tiny-64x48-f96-fp32-depth").glob(".export"))


def test_a_full_disk_is_told_and_the_earlier_engine_stays_whole(tmp_path):
    folder = tmp_path / "engine"
    ended(process(*HERE, "--out", folder))
    before = contents(folder)
    # tiny's weights are 33 MB.
    _, err = ended(process(*HERE, "--out", folder, most_bytes=4_000_000), code=1)
    assert f"no space is left in {folder}" in err and "free some, or name another folder with --out" in err
    assert contents(folder) == before
    load_model(str(folder), threads=1)


def test_a_full_disk_leaves_no_folder_behind(tmp_path):
    folder = tmp_path / "engine"
    _, err = ended(process(*HERE, "--out", folder, most_bytes=1000), code=1)
    assert f"no space is left in {folder}" in err
    assert not folder.exists()
    with pytest.raises(UnknownName):
        load_model(str(folder))


def wait_for(happened, builder, most_s=600):
    until_s = time.monotonic() + most_s
    while not happened():
        assert builder.poll() is None and time.monotonic() < until_s, builder.communicate()
        time.sleep(0.02)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".building"}
