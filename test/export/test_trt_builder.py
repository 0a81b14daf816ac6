"""Building plans: what is asked of TensorRT, what is kept on disk, and what is said when it goes wrong.

TensorRT and CUDA are doubles here (tensorrt_double.py); a build with the real ones is in test_tensorrt.py.
"""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from support import tensorrt_double  # noqa: E402
from support.paths import ROOT  # noqa: E402

from depthlm_ros.backends.onnx_runtime import most_probable  # noqa: E402
from depthlm_ros.backends.tensorrt.cuda_device import DeviceFacts, open_device  # noqa: E402
from depthlm_ros.backends.tensorrt.plan_file import key_path, read_key, stale  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadBundle, OutOfMemory, SetupError  # noqa: E402
from depthlm_ros.export.engine_store import building  # noqa: E402
from depthlm_ros.export.onnx_rewrites import cast_bytes_first, choose_tokens, depth_only, file_digests, graph_files  # noqa: E402  # noqa: E402
from depthlm_ros.export.progress import Bars  # noqa: E402
from depthlm_ros.export.trt_builder import (  # noqa: E402
    Limits,
    PlanOrder,
    build_plan,
    default_workspace,
    plan_key,
    plan_orders,
    step_profiles,
    timing_cache_path,
)
from depthlm_ros.export.trt_support import check_model  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402

pytestmark = pytest.mark.torch
BUNDLE = load_bundle(find_bundle("tiny"))
FACTS = DeviceFacts("Double GPU", "8.7", "CUDA 12.6", 1 << 30, 1 << 31)


@pytest.fixture
def double(monkeypatch):
    return tensorrt_double.install(monkeypatch)[0]


@pytest.fixture
def graph(tmp_path):
    """A matrix product whose weights lie in a file of their own."""
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    made = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "graph" / "g.onnx"
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location="g.data", size_threshold=0)
    return path


SPAN = {"x": ((1, 8), (4, 8), (16, 8))}


def order(graph, **changes):
    given = PlanOrder(graph, graph.parent.parent / "plans" / "g.plan", "fp16", 1 << 28, (SPAN,))
    return replace(given, **changes)


def build(given, facts=FACTS, said=None, bars=None):
    timings = given.plan.parent / "timings.cache"
    return build_plan(given, facts, timings, bars or Bars(io.StringIO()), (said or []).append)


def test_a_plan_and_what_it_was_built_for_are_put_down(graph, double):
    report = build(order(graph))
    assert report.built and report.plan_bytes == report.plan.stat().st_size and report.layers == 1
    key = read_key(key_path(report.plan))
    assert set(key.files) == {"g.onnx", "g.data"}
    assert (key.machine.tensorrt, key.machine.gpu, key.machine.sm) == ("10.3.0", "Double GPU", "8.7")
    assert key.precision == "fp16" and key.shapes == (SPAN,)
    assert sorted(path.name for path in report.plan.parent.iterdir()) == [
        ".building",
        "g.plan",
        "g.plan.json",
        "timings.cache",
    ]


def test_the_builder_is_told_its_limits(graph, double):
    build(order(graph, optimization_level=5))
    build(order(graph, precision="fp32"))
    first, second = double.built
    assert first.pools == {double.MemoryPoolType.WORKSPACE: 1 << 28}
    assert (first.builder_optimization_level, second.builder_optimization_level) == (5, 3)
    assert (first.cleared, second.cleared) == ([], [double.BuilderFlag.TF32])
    assert first.profiles == [{"x": list(SPAN["x"])}]


def test_a_plan_that_fits_is_not_built_again(graph, double):
    assert build(order(graph)).built
    assert not build(order(graph)).built
    assert len(double.built) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "bf16"}, "precision"),
        ({"profiles": ({"x": ((1, 8), (4, 8), (32, 8))},)}, "shapes"),
        ({"optimization_level": 1}, "builder flags"),
        ({"prepare": (cast_bytes_first,)}, "builder flags"),
    ],
)
def test_another_order_builds_anew(graph, double, change, said):
    build(order(graph))
    wanted = plan_key(order(graph, **change), FACTS, "10.3.0")
    assert [text.split(" is ")[0] for text in stale(key_path(order(graph).plan), wanted)] == [said]
    assert build(order(graph, **change)).built


def test_changed_weights_another_gpu_and_a_cut_plan_build_anew(graph, double):
    plan = build(order(graph)).plan
    data = graph.parent / "g.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert build(order(graph)).built
    assert build(order(graph), replace(FACTS, name="Other GPU")).built
    plan.write_bytes(plan.read_bytes()[:-1])
    assert build(order(graph), replace(FACTS, name="Other GPU")).built
    key_path(plan).write_text("{")
    assert build(order(graph)).built


def test_timings_are_kept_and_a_damaged_file_of_them_is_started_anew(graph, double):
    build(order(graph))
    timings = order(graph).plan.parent / "timings.cache"
    build(order(graph, precision="fp32"))
    assert double.built[1].timings.content == timings.read_bytes() == b"timings"
    timings.write_bytes(b"damaged")
    build(order(graph))
    assert double.built[2].timings.content == b"" and timings.read_bytes() == b"timings"
    assert timing_cache_path(Path("a"), FACTS, "10.3.0").name == "timings-10.3.0-Double-GPU.cache"


def test_a_refused_graph_names_every_node_that_the_parser_named(graph, double):
    double.parser_errors = [("Foo", "/a/foo", "no importer"), ("Bar", "/b/bar", "bad type")]
    with pytest.raises(
        BackendFailed, match=r"10\.3\.0 does not read .*Foo '/a/foo': no importer; Bar '/b/bar': bad type"
    ):
        build(order(graph))
    assert not order(graph).plan.exists()


def test_what_the_table_does_not_allow_is_told_before_tensorrt_is_asked(graph, double):
    model = onnx.load(graph, load_external_data=False)
    model.graph.node[0].op_type, model.graph.node[0].name = "Bernoulli", "/dice"
    del model.graph.node[0].input[1:]
    onnx.save(model, graph)
    with pytest.raises(BadBundle, match=r"does not take .*Bernoulli '/dice'"):
        build(order(graph))


def test_a_failed_build_tells_tensorrts_last_words(graph, double):
    double.refusal = "could not find any implementation for node MatMul"
    with pytest.raises(BackendFailed, match=r"g\.onnx with 0\.3 GB of workspace: could not find any implementation"):
        build(order(graph))
    double.refusal = "Requested amount of GPU memory failed: CUDA out of memory"
    with pytest.raises(OutOfMemory, match="--depth-only"):
        build(order(graph))
    assert not order(graph).plan.parent.exists()


def test_sizes_must_be_given_for_exactly_what_varies(graph, double):
    with pytest.raises(BackendFailed, match=r"\['x'\] vary in size, but sizes are given for \['z'\]"):
        build(order(graph, profiles=({"z": SPAN["x"]},)))


@pytest.mark.parametrize(("precision", "sm"), [("bf16", "7.2"), ("fp16", "5.2")])
def test_a_precision_that_the_gpu_lacks_is_refused(graph, double, precision, sm):
    with pytest.raises(SetupError, match=rf"{precision} needs .* {sm}: export with --precision"):
        build(order(graph, precision=precision), replace(FACTS, sm=sm))


def test_an_unknown_precision_lists_the_known(graph, double):
    with pytest.raises(SetupError, match="'int3' is not one of fp32, fp16, bf16"):
        build(order(graph, precision="int3"))


def test_missing_weights_are_named(graph, double):
    data = graph.parent / "g.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BadBundle, match=r"g\.data has 255 bytes, but g\.onnx needs 256"):
        build(order(graph))
    data.unlink()
    with pytest.raises(BadBundle, match=r"keeps its weights in g\.data, which is not in"):
        build(order(graph))


def test_weights_outside_the_folder_are_refused(graph):
    model = onnx.load(graph, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../../secret"
    onnx.save(model, graph)
    with pytest.raises(BadBundle, match="not a file beside it"):
        graph_files(graph)


def test_ctrl_c_ends_a_build_and_leaves_no_plan(graph, double):
    class Interrupted(io.StringIO):
        def write(self, text):
            raise KeyboardInterrupt

        def isatty(self):
            return True

    with pytest.raises(KeyboardInterrupt):
        build(order(graph), bars=Bars(Interrupted()))
    assert not order(graph).plan.exists()


def test_a_closed_terminal_does_not_end_a_build(graph, double):
    gone = io.StringIO()
    bars = Bars(gone)
    gone.close()
    assert build(order(graph), bars=bars).built


SECOND = """
import sys
from pathlib import Path
from depthlm_ros.export.engine_store import building
with building(Path(sys.argv[1]), lambda text: print(text, flush=True)):
    print("mine", flush=True)
"""


def test_a_second_builder_says_so_and_waits_for_the_first(tmp_path):
    with building(tmp_path, print):
        (tmp_path / ".look.plan.abc.part").write_text("half")
        command = [sys.executable, "-c", SECOND, str(tmp_path)]
        second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert f"process {os.getpid()} is building" in second.stdout.readline()
        assert second.poll() is None and (tmp_path / ".look.plan.abc.part").exists()
    assert second.stdout.readline() == "mine\n"
    assert second.wait(60) == 0
    # What a killed builder left is gone.
    assert not (tmp_path / ".look.plan.abc.part").exists()


def test_a_killed_builder_locks_nobody_out(tmp_path):
    code = SECOND + "\n    import time; time.sleep(600)"
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "mine\n"
    first.kill()
    first.wait(60)
    said = []
    with building(tmp_path, said.append):
        assert said == []


def test_a_folder_where_nothing_can_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendFailed, match="cannot build in"), building(tmp_path / "file" / "plans", print):
        pass


def test_half_of_the_free_memory_is_the_builders(double):
    assert default_workspace(open_device().facts()) == 1 << 32


def test_bars_are_redrawn_on_a_terminal_and_one_line_a_phase_elsewhere():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    drawn = {}
    for name, out in (("file", io.StringIO()), ("terminal", Terminal())):
        bars = Bars(out)
        bars.begin("Building", None, 4)
        bars.begin("Tactics", "Building", 2)
        time.sleep(0.12)
        bars.step("Tactics", 0)
        bars.end("Tactics")
        bars.step("unknown", 1)
        bars.end("unknown")
        bars.end("Building")
        drawn[name] = out.getvalue()
    assert [line.split(":")[0] for line in drawn["file"].splitlines()] == ["  Tactics", "Building"]
    assert "Tactics [############............] 1/2" in drawn["terminal"]
    assert drawn["terminal"].count("\n") == 1


def test_every_graph_of_a_bundle_is_ordered(tmp_path):
    single = replace(BUNDLE, pairs=False)
    orders = plan_orders(single, tmp_path, "fp16", 5, Limits(rows=4, tokens=24, slots=40, watched=8))
    assert [given.plan.name for given in orders] == ["look_128x96.plan", "look_192x128.plan", "step.plan"]
    text, decode = orders[2].profiles
    assert text["ids"] == ((1, 1), (4, 24), (4, 24)) and decode["ids"] == ((1, 1), (4, 1), (4, 1))
    assert text["own_mask"][2] == (4, 40) and text["watched"][2] == (8,)
    # Prefixes of both canvases, and what lies between.
    assert [shape[3] for shape in text["prefix_keys"]] == [54, 102, 102]
    only_depth = plan_orders(single, tmp_path, "fp16", 5, only_depth=True)
    assert [given.plan.name for given in only_depth] == ["look_128x96.plan", "look_192x128.plan"]


def test_an_unknown_dimension_is_told(tmp_path):
    model = onnx.load(BUNDLE.step_path, load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    onnx.save(model, tmp_path / "step.onnx")
    with pytest.raises(BadBundle, match="unknown dimension rows"):
        step_profiles(tmp_path / "step.onnx", [54], Limits())


@pytest.mark.parametrize("version", [(10, 3), (10, 13), (10, 16), (11, 4)])
@pytest.mark.parametrize("only_depth", [False, True])
def test_every_plan_of_the_embedded_model_is_taken_by_every_parser(version, only_depth, tmp_path):
    for given in plan_orders(BUNDLE, tmp_path, "fp16", 5, only_depth=only_depth):
        model = onnx.load(given.graph, load_external_data=False)
        for change in given.prepare:
            change(model)
        assert [str(problem) for problem in check_model(model, version)] == []


def test_the_choice_in_the_graph_is_that_of_the_host():
    """Logits far above what an exponential holds."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 300, (5, 64)).astype(np.float32)
    watched = np.array([3, 63, 0])
    value = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 64])
    node = helper.make_node("Identity", ["x"], ["logits"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])
    model = helper.make_model(
        helper.make_graph([node], "g", [given], [value]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    choose_tokens(model)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = ["chosen", "log_probability", "watched_log_probability"]
    chosen, log_probability, watched_log = session.run(names, {"x": logits, "watched": watched})
    host = most_probable(logits, watched)
    np.testing.assert_array_equal(chosen, host.chosen)
    np.testing.assert_allclose(log_probability, host.log_probability, atol=1e-4)
    np.testing.assert_allclose(watched_log, host.watched, atol=1e-3)
    assert np.isfinite(watched_log).all() and log_probability.max() > -1e-3
    with pytest.raises(BadBundle, match="no logits"):
        choose_tokens(model)


@pytest.mark.parametrize("change", [cast_bytes_first, depth_only])
def test_a_rewritten_look_tells_the_same_depth(change):
    path = BUNDLE.look_path(BUNDLE.canvases_px[0])
    model = onnx.load(path)
    change(model)
    image = np.random.default_rng(1).integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)
    depths_m = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(["depth_m"], {"image": image})[0]
        for graph in (str(path), model.SerializeToString())
    ]
    np.testing.assert_allclose(depths_m[0], depths_m[1], rtol=1e-6)


def test_a_model_without_a_depth_head_is_not_built_for_depth_only():
    model = onnx.load(BUNDLE.look_path(BUNDLE.canvases_px[0]), load_external_data=False)
    del model.graph.output[0]
    with pytest.raises(BadBundle, match="no depth"):
        depth_only(model)


def test_digests_are_those_of_the_manifest():
    manifest = json.loads((BUNDLE.folder / "manifest.json").read_text())["files"]
    for path in (BUNDLE.step_path, BUNDLE.look_path(BUNDLE.canvases_px[0])):
        digests = file_digests(path)
        assert set(digests) == {path.name, "model.safetensors"}
        assert digests.items() <= manifest.items()
