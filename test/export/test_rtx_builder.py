# SPDX-License-Identifier: Apache-2.0
"""Every graph that this package exports is read and built by NVIDIA's own parser and builder.

TensorRT for RTX builds plans without a GPU. It shares the parser with the ordinary TensorRT. Where its wheel is not
installed, these tests are skipped. Sizes and layers are written into log/rtx_plans.txt.
"""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("transformers")
trt = pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT for RTX is not installed here: .venv-torch/bin/pip install tensorrt-rtx-cu12"
)

from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402
from support.depth_first_bundle import write_one_pass_bundle  # noqa: E402
from support.paths import ROOT  # noqa: E402

from depthlm_ros.backends.tensorrt.flavour import TENSORRT_RTX  # noqa: E402
from depthlm_ros.backends.tensorrt.plan_file import check_plan, key_path, portable_machine, read_key  # noqa: E402
from depthlm_ros.backends.tensorrt.runtime import MessageLog  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadBundle, BadPlans, SetupError  # noqa: E402
from depthlm_ros.export.build_progress import BuildProgress  # noqa: E402
from depthlm_ros.export.precision import Precision  # noqa: E402
from depthlm_ros.export.trt_builder import (  # noqa: E402
    BuilderOptions,
    PlanRequest,
    StepLimits,
    build_plan,
    build_plans,
    count_layers,
    plan_requests,
)
from depthlm_ros.export.trt_support import check_model  # noqa: E402
from depthlm_ros.export.trt_support_table import TARGETS, target_named  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402

pytestmark = pytest.mark.torch
HERE = portable_machine(trt.__version__, TENSORRT_RTX)
LIMITS = StepLimits(rows=2, tokens=8, slots=16, watched=4)
slow = pytest.mark.slow


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Interrupted(Terminal):
    """Ctrl-C comes while it is written to."""

    def write(self, text):
        raise KeyboardInterrupt


def requests_of(bundle, folder, only_depth=False):
    return plan_requests(bundle, folder, bundle.precision, None, LIMITS, only_depth or bundle.only_depth)


def build(request, machine=HERE, progress=None):
    return build_plan(request, machine, None, progress or BuildProgress(io.StringIO()), print)


@pytest.fixture(scope="module")
def report():
    """Collects one line for each plan or graph, and writes all of them at the end."""
    lines = []
    yield lambda name, layers, size=0: lines.append(f"{name:60} {layers:6} layers {size / 1e6:8.2f} MB")
    (ROOT / "log").mkdir(exist_ok=True)
    (ROOT / "log" / "rtx_plans.txt").write_text("\n".join([f"TensorRT for RTX {trt.__version__}", *lines, ""]))


@pytest.fixture(scope="module")
def bundles(exported, random_bundle, tmp_path_factory):
    """Functions that return an engine of each kind: depth first; depth, keys and values in one pass, of one and of two
    images; both heads of DepthVLM; without a head; for depth only."""
    return {
        "tiny": lambda: load_bundle(find_bundle("tiny")),
        "random": lambda: random_bundle,
        "pairs": lambda: write_one_pass_bundle(tmp_path_factory.mktemp("pairs") / "pairs"),
        "qwen3 dpt": lambda: exported(sizes=2)[0],
        "qwen3 mlp": lambda: exported(head="mlp", only_depth=True)[0],
        "qwen2.5": lambda: exported("qwen2_5_vl", head="")[0],
        "qwen3 depth only": lambda: exported(only_depth=True)[0],
    }


def test_parser_reads_every_graph_of_every_kind(bundles, report, tmp_path):
    for kind, make in bundles.items():
        for request in requests_of(make(), tmp_path):
            layers = count_layers(request, HERE)
            assert layers > 5
            report(f"{kind} {request.graph.name}, opset {opset_of(request.graph)}, parsed", layers)


def opset_of(graph):
    return onnx.load(graph, load_external_data=False).opset_import[0].version


@pytest.mark.parametrize(
    ("kind", "graph"),
    [
        ("random", "look_64x64"),
        ("random", "read_64x64"),
        ("random", "step"),
        ("pairs", "pair_64x32"),
        ("qwen3 dpt", "look_128x96"),
        ("qwen3 mlp", "look_128x96"),
        ("qwen2.5", "look_140x112"),
        ("qwen3 depth only", "look_128x96"),
    ],
)
def test_builder_builds_a_graph_of_every_kind_and_reports_progress(bundles, report, tmp_path, kind, graph):
    (request,) = (r for r in requests_of(bundles[kind](), tmp_path) if r.graph.stem == graph)
    shown = io.StringIO()
    built = build(request, progress=BuildProgress(shown))
    assert built.built and built.layers > 5 and built.plan_bytes == request.plan.stat().st_size > 1000
    key = read_key(key_path(request.plan))
    assert (key.machine.gpu, key.machine.sm) == ("", "8.0 and later") and key.machine.flavour == "tensorrt_rtx"
    # Both ways of using the step graph have their sizes.
    assert len(key.shapes) == (2 if graph == "step" else 0)
    assert re.search(r"Building engine: done in", shown.getvalue())
    report(f"{kind} {graph}, opset {opset_of(request.graph)}, built", built.layers, built.plan_bytes)


PRECISIONS = ("fp32", "fp16", "bf16")
OPSETS = sorted({target.opset for target in TARGETS.values()})
KINDS = {
    "dpt": {"head": "dpt"},
    "mlp": {"head": "mlp"},
    "no head": {"head": ""},
    "qwen2.5": {"architecture": "qwen2_5_vl", "head": ""},
}


@slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_built_in_every_precision_and_opset(exported, report, tmp_path, kind, precision, opset):
    bundle, _, _ = exported(**KINDS[kind], precision=Precision.of(precision), opset=opset)
    build_all(bundle, report, tmp_path, f"{kind} {precision} opset {opset}")


@slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_embedded_model_is_built_in_every_precision_and_opset(report, tmp_path, precision, opset):
    from support.embedded_bundles import embedded_spec, random_embedded_model, tiny_tokenizer

    from depthlm_ros.export.precision import set_precision
    from depthlm_ros.export.write_bundle import ExportOptions, write_engine

    model, spec = random_embedded_model(), embedded_spec("engine", ((96, 64),))
    options = ExportOptions(spec, opset, precision=set_precision(model, Precision.of(precision)))
    write_engine(model, tiny_tokenizer(), options, tmp_path / "e", lambda bundle: {}, lambda stage, done, total: None)
    build_all(load_bundle(tmp_path / "e"), report, tmp_path, f"embedded {precision} opset {opset}")


def build_all(bundle, report, folder, name):
    for only_depth in (False, True) if bundle.spec.head else (False,):
        for request in requests_of(bundle, folder / f"only-depth-{only_depth}", only_depth):
            built = build(request)
            report(f"{name} {request.graph.name}{' depth' * only_depth}", built.layers, built.plan_bytes)


@slow
def test_all_plans_of_tiny_are_built_by_one_call(tmp_path, report):
    """With the sizes of text that users get."""
    import shutil

    tiny = find_bundle("tiny")
    shutil.copytree(tiny, tmp_path / "tiny")
    bundle = load_bundle(tmp_path / "tiny")
    options = BuilderOptions(flavour=TENSORRT_RTX)
    for built in build_plans(bundle, options, BuildProgress(io.StringIO()), print):
        assert built.built
        report(f"tiny {built.plan.name} fp32", built.layers, built.plan_bytes)
    assert not any(again.built for again in build_plans(bundle, BuilderOptions(), BuildProgress(io.StringIO()), print))


@pytest.fixture
def product(tmp_path):
    """A request for a product with weights in a file of their own."""
    return PlanRequest(write_product(tmp_path), tmp_path / "plans" / "g.plan", "fp16", None, (SIZES,))


SIZES = {"x": ((1, 8), (4, 8), (16, 8))}


def write_product(folder, operator="MatMul", rows=8):
    weights = numpy_helper.from_array(np.eye(rows, dtype=np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x", "w"], ["y"], name="/odd")], "g", values[:1], values[1:])
    graph.initializer.append(weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "g.onnx", save_as_external_data=True, location="g.data", size_threshold=0)
    return folder / "g.onnx"


def test_plan_is_portable_and_built_again_for_other_capabilities(product):
    assert build(product).built and not build(product).built
    names = sorted(path.name for path in product.plan.parent.iterdir())
    assert names == [".building", "g.plan", "g.plan.json"]  # no timings, for which TensorRT would need a GPU
    default = product.plan.read_bytes()
    assert build(product, replace(HERE, sm="8.6 8.9")).built
    # The header of the plan says for which GPUs it is.
    assert product.plan.read_bytes()[:64] != default[:64]


def test_capability_that_this_tensorrt_does_not_know_is_refused(product):
    with pytest.raises(SetupError, match=r"does not build for compute capability 8\.8"):
        build(product, replace(HERE, sm="8.6 8.8"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_that_the_oldest_named_gpu_lacks_is_refused(product, precision):
    with pytest.raises(
        SetupError, match=rf"{precision} needs .* 8\.0; one that was named has 7\.5: .*--precision fp16"
    ):
        build(replace(product, precision=precision), replace(HERE, sm="7.5 8.6"))


def test_truncated_or_changed_plan_is_refused_before_tensorrt_sees_it(product):
    build(product)
    files = read_key(key_path(product.plan)).files
    gpu = replace(HERE, gpu="RTX", sm="8.9", driver="CUDA 13.0")
    assert check_plan(product.plan, gpu, files, "build").machine == HERE
    product.plan.write_bytes(product.plan.read_bytes()[:-1])
    with pytest.raises(BadPlans, match="cut short"):
        check_plan(product.plan, gpu, files, "build")


def test_engine_validity_accepts_a_plan_and_refuses_a_truncated_header(product):
    """TensorRT asks the driver which GPU there is, so it can say this only where there is one."""
    build(product)
    log = MessageLog(trt)
    runtime = trt.Runtime(log.logger)
    content = product.plan.read_bytes()
    validity, _ = runtime.get_engine_validity(content)
    if "CUDA driver" in log.recent():
        pytest.skip(f"no GPU here: {log.recent()[:120]}")
    assert validity != trt.EngineValidity.INVALID
    assert runtime.get_engine_validity(content[: runtime.engine_header_size // 2])[0] == trt.EngineValidity.INVALID


def test_ctrl_c_ends_a_build_and_leaves_no_plan(product):
    with pytest.raises(KeyboardInterrupt):
        build(product, progress=BuildProgress(Interrupted()))
    assert not product.plan.exists()


def test_closed_terminal_does_not_end_a_build(product):
    terminal = Terminal()
    progress = BuildProgress(terminal)
    terminal.close()
    assert build(product, progress=progress).built


def test_graph_that_the_parser_refuses_is_named_with_the_parsers_words(product):
    write_product(product.graph.parent, rows=3)
    with pytest.raises(
        BackendFailed, match=r"TensorRT for RTX 1.* does not read .*g\.onnx: MatMul '/odd': \w+"
    ) as error:
        build(product)
    write_product(product.graph.parent, operator="Bernoulli")
    with pytest.raises(BackendFailed, match=r"g\.onnx: Bernoulli '/odd'"):
        build(product)
    assert "it gave no reason" not in str(error.value) and not product.plan.exists()


def test_damaged_graph_is_refused_by_name(product):
    content = product.graph.read_bytes()
    product.graph.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadBundle, match=r"g\.onnx cannot be read as an ONNX graph"):
        build(product)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"z": SIZES["x"]}, r"\['x'\] vary in size, but sizes are given for \['z'\]"),
        ({"x": ((4, 8), (1, 8), (16, 8))}, "refuses the sizes|cannot build"),
    ],
)
def test_sizes_that_do_not_fit_the_inputs_are_refused(product, sizes, words):
    with pytest.raises((BackendFailed, ValueError), match=words):
        build(replace(product, profiles=(sizes,)))


def test_every_log_gets_the_messages_though_tensorrt_keeps_only_its_first_logger():
    first, second = MessageLog(trt), MessageLog(trt)
    for log in (first, second):
        builder = trt.Builder(log.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "output" in first.recent() and "output" in second.recent()
    assert "differs from one already registered" not in second.recent()


def test_builder_gets_its_limits(product, monkeypatch):
    seen = {}

    def look_at(builder, network, config):
        seen.update(workspace=config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE))
        seen.update(level=config.builder_optimization_level, tf32=config.get_flag(trt.BuilderFlag.TF32))
        seen.update(profiles=config.num_optimization_profiles, capabilities=config.num_compute_capabilities)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", look_at)
    with pytest.raises(BackendFailed, match=r"cannot build g\.onnx with 0\.3 GB of workspace"):
        build(replace(product, workspace_bytes=1 << 28, optimization_level=5, profiles=(SIZES, SIZES)))
    assert seen == {"workspace": 1 << 28, "level": 5, "tf32": True, "profiles": 2, "capabilities": 0}
    with pytest.raises(BackendFailed, match=r"cannot build g\.onnx: "):
        build(replace(product, precision="fp32"), replace(HERE, sm="8.6 8.9"))
    assert not seen["tf32"] and seen["capabilities"] == 2


def test_every_name_of_tensorrt_for_rtx_that_we_use_exists():
    """Names that only it has too. The tool runs in a process of its own."""
    names = ("export/trt_builder", "export/trt_newer", "export/build_progress", "backends/tensorrt/runtime")
    sources = [ROOT / "depthlm_ros" / f"{name}.py" for name in (*names, "backends/tensorrt/kernel_cache")]
    command = [sys.executable, str(ROOT / "test" / "support" / "extension_names.py"), "tensorrt_rtx", "trt", *sources]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == [] and len(found["used"]) > 60


def real_verdict(model):
    """Returns whether the parser reads a model."""
    log = MessageLog(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return trt.OnnxParser(network, log.logger).parse(model.SerializeToString())


# What the table refuses and this parser reads, with the reason why the table stays as it is.
STRICTER = {
    "attention of 3-D tensors": "documented for 4-D only; no graph here has it",
    "opset 8": "documented from 9 on",
    "a cumulative sum over a computed axis": "the parser reads it, but the builder needs a constant",
    "a tensor without elements": "read and built here; refused at run time by versions before 11",
    "uint8 cast to bfloat16": "documented for fp32 and fp16 only",
    "double precision": "computed in fp32 without a word",
    "a convolution in bfloat16": "ONNX itself has it from opset 22 on, so that no other runtime reads the graph",
    "cubic resizing": "documented for nearest and linear only",
    "5-D grid sampling": "TensorRT has it from 11.2 on, this target counts as 11.0, which lacks DFT as it does",
    "a TopK with a large k": "the parser reads it, but the builder refuses it",
}


def test_table_of_operators_agrees_with_the_real_parser():
    from test_trt_support import CASES

    stricter = set()
    for case, (text, opset, *_) in CASES.items():
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>\n{text}')
        table, real = not list(check_model(model, target_named("rtx").tensorrt)), real_verdict(model)
        assert real or not table, f"{case}: the table takes what the parser refuses"
        stricter |= {case} if real and not table else set()
    assert stricter == set(STRICTER)


def test_table_knows_every_operator_of_the_real_parser():
    from depthlm_ros.export.trt_support_table import OPERATORS

    log = MessageLog(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    real = trt.OnnxParser(network, log.logger)
    assert {name for name in OPERATORS if not real.supports_operator(name)} == {"DeformConv", "DFT"}  # not in RTX
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    newer = {name for name in standard if real.supports_operator(name)} - set(OPERATORS)
    assert newer <= {"CausalConvWithState", "LinearAttention"}  # of opsets that no target here has
