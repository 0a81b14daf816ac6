# SPDX-License-Identifier: Apache-2.0
"""Building plans: the calls to TensorRT, the files on disk, and the error messages.

TensorRT and CUDA are replaced by doubles (tensorrt_double.py). test_rtx_builder.py builds with NVIDIA's own parser and
builder, without a GPU; test_tensorrt.py on a GPU.
"""

import io
import json
import os
import re
import subprocess
import sys
import threading
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

from depthlm_ros.backends.onnx_runtime import pick_most_probable  # noqa: E402
from depthlm_ros.backends.tensorrt.cuda_device import DeviceFacts, open_device  # noqa: E402
from depthlm_ros.backends.tensorrt.plan_file import key_path, machine_of, plan_differences, read_key  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadBundle, OutOfMemory, SetupError  # noqa: E402
from depthlm_ros.export.build_progress import BuildProgress  # noqa: E402
from depthlm_ros.export.engine_store import build_lock  # noqa: E402
from depthlm_ros.export.onnx_rewrites import cast_bytes_first, choose_tokens, depth_only, file_digests, graph_files  # noqa: E402
from depthlm_ros.export.trt_builder import (  # noqa: E402
    PlanRequest,
    StepLimits,
    build_plan,
    default_workspace,
    plan_key,
    plan_requests,
    step_profiles,
    timing_cache_path,
)
from depthlm_ros.export.trt_support import check_model  # noqa: E402

pytestmark = pytest.mark.torch
HERE = machine_of(DeviceFacts("Double GPU", "8.7", "CUDA 12.6", 1 << 30, 1 << 31), "10.3.0")


@pytest.fixture
def double(monkeypatch):
    return tensorrt_double.install(monkeypatch)[0]


@pytest.fixture
def graph(tmp_path):
    """Writes a matrix product with its weights in a separate file, and returns the path of the graph."""
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([product], "g", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "graph" / "g.onnx"
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location="g.data", size_threshold=0)
    return path


SHAPES = {"x": ((1, 8), (4, 8), (16, 8))}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def request_for(graph, **changes):
    request = PlanRequest(graph, graph.parent.parent / "plans" / "g.plan", "fp16", 1 << 28, (SHAPES,))
    return replace(request, **changes)


def build(request, machine=HERE, progress=None):
    timings = request.plan.parent / "timings.cache"
    return build_plan(request, machine, timings, progress or BuildProgress(io.StringIO()), [].append)


def test_plan_and_its_key_are_written(graph, double):
    report = build(request_for(graph))
    assert report.built and report.plan_bytes == report.plan.stat().st_size and report.layers == 1
    key = read_key(key_path(report.plan))
    assert set(key.files) == {"g.onnx", "g.data"}
    assert (key.machine.tensorrt, key.machine.gpu, key.machine.sm) == ("10.3.0", "Double GPU", "8.7")
    assert key.precision == "fp16" and key.shapes == (SHAPES,)
    assert sorted(path.name for path in report.plan.parent.iterdir()) == [
        ".building",
        "g.plan",
        "g.plan.json",
        "timings.cache",
    ]


def test_plan_that_is_up_to_date_is_not_built_again(graph, double):
    assert build(request_for(graph)).built
    assert not build(request_for(graph)).built
    assert len(double.built) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"precision": "bf16"}, "precision"),
        ({"profiles": ({"x": ((1, 8), (4, 8), (32, 8))},)}, "shapes"),
        ({"optimization_level": 1}, "builder flags"),
        ({"prepare": (cast_bytes_first,)}, "builder flags"),
    ],
)
def test_plan_is_built_again_if_the_request_changes(graph, double, change, field):
    build(request_for(graph))
    key = plan_key(request_for(graph, **change), HERE)
    assert [text.split(" is ")[0] for text in plan_differences(key_path(request_for(graph).plan), key)] == [field]
    assert build(request_for(graph, **change)).built


def test_plan_is_built_again_for_changed_weights_another_gpu_or_a_damaged_plan(graph, double):
    plan = build(request_for(graph)).plan
    data = graph.parent / "g.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert build(request_for(graph)).built
    assert build(request_for(graph), replace(HERE, gpu="Other GPU")).built
    plan.write_bytes(plan.read_bytes()[:-1])
    assert build(request_for(graph), replace(HERE, gpu="Other GPU")).built
    key_path(plan).write_text("{")
    assert build(request_for(graph)).built


def test_timings_are_kept_and_a_damaged_timing_file_is_replaced(graph, double):
    build(request_for(graph))
    timings = request_for(graph).plan.parent / "timings.cache"
    build(request_for(graph, precision="fp32"))
    assert double.built[1].timings.content == timings.read_bytes() == b"timings"
    timings.write_bytes(b"damaged")
    build(request_for(graph))
    assert double.built[2].timings.content == b"" and timings.read_bytes() == b"timings"
    assert timing_cache_path(Path("a"), HERE).name == "timings-10.3.0-Double-GPU.cache"


def test_unsupported_operator_is_reported_before_tensorrt_parses_the_graph(graph, double):
    model = onnx.load(graph, load_external_data=False)
    model.graph.node[0].op_type, model.graph.node[0].name = "Bernoulli", "/dice"
    del model.graph.node[0].input[1:]
    onnx.save(model, graph)
    with pytest.raises(BadBundle, match=r"does not support .*Bernoulli '/dice'"):
        build(request_for(graph))


def test_failed_build_reports_tensorrts_last_messages(graph, double):
    double.refusal = "could not find any implementation for node MatMul"
    with pytest.raises(BackendFailed, match=r"g\.onnx with 0\.3 GB of workspace: could not find any implementation"):
        build(request_for(graph))
    double.refusal = "Requested amount of GPU memory failed: CUDA out of memory"
    with pytest.raises(OutOfMemory, match="--depth-only"):
        build(request_for(graph))
    assert not request_for(graph).plan.parent.exists()


@pytest.mark.parametrize(("precision", "sm"), [("bf16", "7.2"), ("fp16", "5.2")])
def test_precision_that_the_gpu_lacks_is_refused(graph, double, precision, sm):
    with pytest.raises(SetupError, match=rf"{precision} needs .* {sm}: export with --precision"):
        build(request_for(graph, precision=precision), replace(HERE, sm=sm))


def test_unknown_precision_lists_the_known_ones(graph, double):
    with pytest.raises(SetupError, match="'int3' is not one of fp32, fp16, bf16"):
        build(request_for(graph, precision="int3"))


def test_missing_or_short_weights_are_named(graph, double):
    data = graph.parent / "g.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BadBundle, match=r"g\.data has 255 bytes, but g\.onnx needs 256"):
        build(request_for(graph))
    data.unlink()
    with pytest.raises(BadBundle, match=r"keeps its weights in g\.data, which is not in"):
        build(request_for(graph))


def test_weights_outside_the_graphs_folder_are_refused(graph):
    model = onnx.load(graph, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../../secret"
    onnx.save(model, graph)
    with pytest.raises(BadBundle, match="not a file beside it"):
        graph_files(graph)


SECOND_BUILDER = """
import sys
from pathlib import Path
from depthlm_ros.export.engine_store import build_lock
with build_lock(Path(sys.argv[1]), lambda text: print(text, flush=True)):
    print("locked", flush=True)
"""


def test_second_builder_reports_that_it_waits_for_the_first(tmp_path):
    with build_lock(tmp_path, print):
        (tmp_path / "partial-look.plan").write_text("half")
        command = [sys.executable, "-c", SECOND_BUILDER, str(tmp_path)]
        second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert f"process {os.getpid()} is building" in second.stdout.readline()
        assert second.poll() is None and (tmp_path / "partial-look.plan").exists()
    assert second.stdout.readline() == "locked\n"
    assert second.wait(60) == 0
    # The leftover of the killed builder was removed.
    assert not (tmp_path / "partial-look.plan").exists()


def test_lock_of_a_killed_builder_is_free(tmp_path):
    code = SECOND_BUILDER + "\n    import time; time.sleep(600)"
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "locked\n"
    first.kill()
    first.wait(60)
    messages = []
    with build_lock(tmp_path, messages.append):
        assert messages == []


def test_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendFailed, match="cannot build in"), build_lock(tmp_path / "file" / "plans", print):
        pass


def test_builder_gets_half_of_the_free_memory(double):
    assert default_workspace(open_device().facts()) == 1 << 32


def report_nested_phases(out):
    progress = BuildProgress(out)
    progress.begin("Building", None, 4)
    progress.begin("Tactics", "Building", 2)
    time.sleep(0.12)
    progress.step("Tactics", 0)
    progress.end("Tactics")
    progress.step("unknown", 1)
    progress.end("unknown")
    progress.end("Building")
    return out.getvalue()


def test_progress_without_a_terminal_is_one_line_per_phase():
    lines = report_nested_phases(io.StringIO()).splitlines()
    assert [line.split(":")[0] for line in lines] == ["  Tactics", "Building"]


def test_progress_on_a_terminal_is_a_bar_per_phase_and_the_outer_bar_stays():
    drawn = report_nested_phases(Terminal())
    assert re.search(r"  Tactics: .* 1/2 ", drawn) and re.search(r"Building: .* 0/4 ", drawn)
    # The last line that is not empty is the outer phase; the row of the inner one was cleared.
    assert drawn.endswith("\n") and "Building" in drawn.rstrip().rpartition("\r")[2]


def test_interrupted_drawing_does_not_keep_the_lock_of_the_progress_bars():
    class InterruptedOnce(Terminal):
        interrupts = 1

        def write(self, text):
            if self.interrupts:
                self.interrupts = 0
                raise KeyboardInterrupt
            return super().write(text)

    progress = BuildProgress(InterruptedOnce())
    with pytest.raises(KeyboardInterrupt):
        progress.begin("Building", None, 2)
    other_thread = threading.Thread(target=progress.begin, args=("Tactics", None, 2), daemon=True)
    other_thread.start()
    other_thread.join(20)
    assert not other_thread.is_alive()


def test_every_graph_of_a_bundle_gets_a_plan_request(random_bundle, tmp_path):
    single = replace(random_bundle, pairs=False)
    requests = plan_requests(single, tmp_path, "fp16", 5, StepLimits(rows=4, tokens=24, slots=40, watched=8))
    looks, reads = ([f"{kind}_{size}.plan" for size in ("64x64", "96x64")] for kind in ("look", "read"))
    assert [request.plan.name for request in requests] == [*looks, *reads, "step.plan"]
    assert all(not request.profiles for request in requests[:-1])
    text, decode = requests[-1].profiles
    assert text["ids"] == ((1, 1), (4, 24), (4, 24)) and decode["ids"] == ((1, 1), (4, 1), (4, 1))
    assert text["own_mask"][2] == (4, 40) and text["watched"][2] == (8,)
    # From the prefix of the small canvas to that of the large one.
    words = len(single.before) + len(single.after)
    assert [shape[3] for shape in text["prefix_keys"]] == [words + 16, words + 24, words + 24]
    only_depth = plan_requests(random_bundle, tmp_path, "fp16", 5, only_depth=True)
    assert [request.plan.name for request in only_depth] == looks


def test_unknown_dimension_is_reported(random_bundle, tmp_path):
    model = onnx.load(random_bundle.step_path, load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    onnx.save(model, tmp_path / "step.onnx")
    with pytest.raises(BadBundle, match="unknown dimension rows"):
        step_profiles(tmp_path / "step.onnx", [54], StepLimits())


@pytest.mark.parametrize("version", [(10, 3), (10, 13), (10, 16), (11, 4)])
@pytest.mark.parametrize("only_depth", [False, True])
def test_every_graph_of_the_embedded_model_is_supported_by_every_parser(random_bundle, version, only_depth, tmp_path):
    for request in plan_requests(random_bundle, tmp_path, "fp16", 5, only_depth=only_depth):
        model = onnx.load(request.graph, load_external_data=False)
        for change in request.prepare:
            change(model)
        assert [str(problem) for problem in check_model(model, version)] == []


def test_tokens_chosen_in_the_graph_are_those_of_the_host():
    """The logits are far above the range of an exponential."""
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
    host = pick_most_probable(logits, watched)
    np.testing.assert_array_equal(chosen, host.chosen)
    np.testing.assert_allclose(log_probability, host.log_probability, atol=1e-4)
    np.testing.assert_allclose(watched_log, host.watched, atol=1e-3)
    assert np.isfinite(watched_log).all() and log_probability.max() > -1e-3
    with pytest.raises(BadBundle, match="no logits"):
        choose_tokens(model)


@pytest.mark.parametrize("change", [cast_bytes_first, depth_only])
def test_rewritten_look_graph_gives_the_same_depth(random_bundle, change):
    path = random_bundle.look_path((96, 64))
    model = onnx.load(path)
    change(model)
    outputs = [output.name for output in model.graph.output]
    assert outputs == ["depth_m", "relative_std", *(["features"] if change is cast_bytes_first else [])]
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    depths_m = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(["depth_m"], {"image": image})[0]
        for graph in (str(path), model.SerializeToString())
    ]
    np.testing.assert_allclose(depths_m[0], depths_m[1], rtol=1e-6)


def test_model_without_a_depth_head_is_not_built_for_depth_only(random_bundle):
    """Its look graphs give only keys and values, as read graphs do."""
    model = onnx.load(random_bundle.read_path((96, 64)), load_external_data=False)
    with pytest.raises(BadBundle, match="no depth"):
        depth_only(model)


def test_file_digests_agree_with_the_manifest(random_bundle):
    manifest = json.loads((random_bundle.folder / "manifest.json").read_text())["files"]
    for path in random_bundle.graphs:
        digests = file_digests(path)
        assert set(digests) == {path.name, "model.safetensors"}
        assert digests.items() <= manifest.items()
