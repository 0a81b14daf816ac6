# SPDX-License-Identifier: Apache-2.0
"""Compares the time of one look in torch and in ONNX Runtime, on the same model and image; and measures the export of a
model with four billion weights.

  python bench/engines.py                 tiny (depth; images read for questions; text), and a random Qwen3-VL with
                                          12 + 12 layers
  python bench/engines.py --model FOLDER  another bundle of the embedded architecture instead of tiny
  python bench/engines.py --int8          also tiny with its linear layers in int8: its speed, and its accuracy on
                                          rendered scenes; with --pictures FOLDER also its convolutions
  python bench/engines.py --export-4b     only: time and memory for the export of Qwen3-VL-4B's structure with a DPT
                                          head, 36 layers, random weights in bfloat16 (11 GB of memory, 10 GB of disk)
  python bench/engines.py --export-4b --target rtx          the same, and its graphs parsed by TensorRT for RTX, which
                                          needs no GPU; with --build also built
  python bench/engines.py --plans FOLDER  only: the graphs of an engine parsed by TensorRT for RTX; with --build built

The last line is JSON: NAME_ratio = seconds of torch / seconds of ONNX Runtime for a look, each the smallest of the
repeats; in tiny also NAME_read_s, NAME_question_s (12 tokens) and NAME_token_s of ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import Qwen3VLConfig

from depthlm_ros.backends.base import Backend, Look, StepInput
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.backends.tensorrt.flavour import TENSORRT_RTX
from depthlm_ros.backends.tensorrt.plan_file import portable_machine
from depthlm_ros.backends.tensorrt.runtime import load_tensorrt
from depthlm_ros.backends.torch_backend import TorchBackend
from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.eval.rendered_scenes import validate
from depthlm_ros.export.build_progress import BuildProgress
from depthlm_ros.export.parity import sample_image
from depthlm_ros.export.precision import Precision, set_precision
from depthlm_ros.export.static_int8 import read_canvases
from depthlm_ros.export.trt_builder import build_plan, count_layers, plan_requests
from depthlm_ros.export.write_bundle import ExportOptions, write_engine
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model import load_model
from depthlm_ros.model_files.bundle import ModelBundle, find_bundle, load_bundle
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.depth_first import load_checkpoint
from depthlm_ros.nets.depth_heads import DptConfig
from depthlm_ros.nets.loading import rebuild_frequencies
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.scenes.camera.photo import photographs

# Sizes of a Qwen3-VL. vision, text: layers, width, feed-forward width, heads. heads_kv: heads of keys and values.
# vocab: entries of the vocabulary.
SMALL = {"vision": (12, 192, 768, 6), "text": (12, 256, 768, 8), "heads_kv": 4, "head_dim": 32, "vocab": 2048}
FOUR_B = {"vision": (24, 1024, 4096, 16), "text": (36, 2560, 9728, 32), "heads_kv": 8, "head_dim": 128, "vocab": 151936}
# Images on which the accuracy of int8 is measured.
RENDERED_IMAGES = 150
# Tokens of the question whose time is measured, and of question and reply.
QUESTION_TOKENS, SLOTS = 12, 32
SMALL_CANVAS, FOUR_B_CANVAS = (448, 320), (1152, 864)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def random_model(sizes: dict, head: DptConfig, dtype: torch.dtype) -> Qwen3VLDepth:
    """Returns a model of these sizes with random weights, which are made in place, so that it is in memory once."""
    layers, width, feed, heads = sizes["vision"]
    depth, hidden, inner, text_heads = sizes["text"]
    third = sizes["head_dim"] // 6
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": sizes["vocab"],
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": depth,
            "num_attention_heads": text_heads,
            "num_key_value_heads": sizes["heads_kv"],
            "head_dim": sizes["head_dim"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [sizes["head_dim"] // 2 - 2 * third, third, third],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": layers,
            "hidden_size": width,
            "intermediate_size": feed,
            "num_heads": heads,
            "out_hidden_size": hidden,
            "deepstack_visual_indexes": [layers // 4, layers // 2, 3 * layers // 4],
        },
        image_token_id=1,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = Qwen3VLDepth(config, head)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        module, _, last = name.rpartition(".")
        values = torch.empty(parameter.shape, dtype=dtype).uniform_(-0.05, 0.05, generator=generator)
        values += float("norm" in name and last == "weight")
        setattr(model.get_submodule(module), last, torch.nn.Parameter(values, requires_grad=False))
    model.vlm.lm_head.weight = model.vlm.get_input_embeddings().weight
    rebuild_frequencies(model)
    return model.eval()


def export(
    model: Backbone, size_px: tuple[int, int], folder: Path, precision: Precision, opset: int = 20
) -> ModelBundle:
    """Exports the model as an engine for images of this size (width, height)."""
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(CONTROL_TOKENS)}, merges=[]))
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    canvas = CanvasRule(1000.0, (size_px,))
    spec = ModelSpec("bench", "depthvlm", "qwen3_vl", "qwen", canvas, model.pixels_per_token, head="dpt")
    options = ExportOptions(spec, opset, precision=set_precision(model, precision))
    write_engine(model, tokenizer, options, folder, lambda bundle: {}, lambda stage, done, total: None)
    return load_bundle(folder)


def compare(name: str, bundle: ModelBundle, model: Backbone, threads: int, repeats: int) -> dict[str, float]:
    """Times a bundle and the same model in torch on every canvas. The second canvas is called NAME_large."""
    texts = (bundle.before, bundle.between, bundle.after)
    backends = OnnxRuntimeBackend(bundle, threads, "cpu"), TorchBackend(lambda _: model, texts, threads, "cpu")
    result: dict[str, float] = {}
    for label, size_px in zip((name, f"{name}_large"), bundle.canvases_px, strict=False):
        image = sample_image(size_px)
        result |= compare_looks_at(label, bundle, image, *backends, repeats)
        if bundle.depth_first:
            result |= time_words(label, backends[0], image, repeats)
    return result


def compare_looks_at(
    label: str, bundle: ModelBundle, image: np.ndarray, exported: Backend, reference: Backend, repeats: int
) -> dict[str, float]:
    """Times both looks in turns. Ends the program if their depths differ in fp32."""
    looks = [backend.look([image]).depth_m for backend in (reference, exported)]
    difference = float((np.abs(looks[1] - looks[0]) / looks[0]).max())
    torch_s, ours_s = time_in_turns([lambda: reference.look([image]), lambda: exported.look([image])], repeats)
    print(
        f"{label:10} {image.shape[2]} x {image.shape[1]}, {bundle.precision}: torch {1e3 * torch_s:7.2f} ms, ONNX "
        f"Runtime {1e3 * ours_s:7.2f} ms, {torch_s / ours_s:.2f} x; depths differ by at most {difference:.1e}",
        flush=True,
    )
    if bundle.precision == "fp32" and difference > 1e-3:
        raise SystemExit(f"{label}: torch and ONNX Runtime do not compute the same depth")
    return {f"{label}_torch_s": torch_s, f"{label}_ours_s": ours_s, f"{label}_ratio": round(torch_s / ours_s, 3)}


def time_words(label: str, backend: Backend, image: np.ndarray, repeats: int) -> dict[str, float]:
    """Times what questions cost after a look: to read the image, a question, and each token of its reply."""
    one = backend.look([image])
    read = backend.read(one)
    cache = backend.cache(read, 1, SLOTS)
    question, token = (text_after(read, *place) for place in ((0, QUESTION_TOKENS), (QUESTION_TOKENS, 1)))
    works = {
        "read": lambda: backend.read(one),
        "question": lambda: backend.step(cache, question),
        "token": lambda: backend.step(cache, token),
    }
    seconds = dict(zip(works, time_in_turns(list(works.values()), repeats), strict=True))
    print(f"{label:10} " + ", ".join(f"{work} {1e3 * took_s:.2f} ms" for work, took_s in seconds.items()), flush=True)
    return {f"{label}_{work}_s": took_s for work, took_s in seconds.items()}


def text_after(look: Look, first_slot: int, tokens: int) -> StepInput:
    """Returns arbitrary tokens as the text of one row behind an image and first_slot earlier tokens."""
    mask = np.full((1, SLOTS), -np.inf, np.float32)
    mask[:, :first_slot] = 0
    ids, places = np.full((1, tokens), 5), np.arange(first_slot, first_slot + tokens)[None]
    return StepInput(ids, look.next_position + places, np.array([tokens - 1]), mask, first_slot, np.array([3]))


def time_in_turns(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Returns the smallest seconds of each function. They run in turns, so that a disturbance affects all of them."""
    least = [float("inf")] * len(works)
    for _ in range(repeats):
        for index, work in enumerate(works):
            began_s = time.perf_counter()
            work()
            least[index] = min(least[index], time.perf_counter() - began_s)
    return least


def time_loading(name: str, repeats: int) -> dict[str, float]:
    """Times how long a model takes to load, with all hashes and the step graph, and how long until the first look is
    done, which loads the graph of its canvas."""
    load_s, first_look_s = float("inf"), float("inf")
    image = sample_image((640, 480))[0]
    frame = Frame(image, Intrinsics(560.0, 560.0, 319.5, 239.5, 640, 480))
    for _ in range(repeats):
        began_s = time.perf_counter()
        model = load_model(name, backend=OnnxRuntimeBackend.name)
        loaded_s = time.perf_counter()
        model.look(frame)
        load_s = min(load_s, loaded_s - began_s)
        first_look_s = min(first_look_s, time.perf_counter() - began_s)
    print(f"tiny       loads in {load_s:.2f} s; its first look ends after {first_look_s:.2f} s", flush=True)
    return {"tiny_load_s": load_s, "tiny_first_look_s": first_look_s}


def compare_looks(embedded: str, threads: int, repeats: int, int8: bool, pictures: Path | None) -> dict[str, float]:
    """Compares torch with ONNX Runtime on the embedded model, on a random one and, with int8, on the first in int8."""
    tiny = load_bundle(find_bundle(embedded))
    model = load_checkpoint(tiny.folder).eval()
    result = time_loading(embedded, 5) | compare("tiny", tiny, model, threads, repeats)
    with tempfile.TemporaryDirectory() as name:
        random = random_model(SMALL, DptConfig(SMALL["text"][1], (32, 48, 64, 96), 64), torch.float32)
        bundle = export(random, SMALL_CANVAS, Path(name) / "random", Precision())
        result |= compare("layers12", bundle, random, threads, repeats)
        if int8:
            result |= compare("tiny_int8", export_in_int8(tiny, Path(name) / "int8", pictures), model, threads, repeats)
            for label, engine in (("tiny", tiny.folder), ("tiny_int8", Path(name) / "int8")):
                result |= measure_accuracy(label, engine)
    return result


def export_in_int8(tiny: ModelBundle, folder: Path, pictures: Path | None) -> ModelBundle:
    """Exports tiny for its own canvases, in the way of `depthlm engine build --precision int8 --pictures FOLDER`."""
    model, canvases, rule = load_checkpoint(tiny.folder).eval(), [], tiny.spec.canvas
    for width, height in tiny.canvases_px if pictures else ():
        # A camera whose image fills the canvas at the canonical focal length.
        camera = centred_camera((2 * width, 2 * height), 2 * float(rule.focal_px or 0.0))
        canvases += read_canvases(pictures, camera, replace(rule, canvases_px=((width, height),)), photographs)
    options = ExportOptions(tiny.spec, 20, precision=set_precision(model, Precision("int8")), canvases=canvases)
    tokenizer = Tokenizer.from_file(str(tiny.tokenizer_path))
    write_engine(model, tokenizer, options, folder, lambda bundle: {}, lambda stage, done, total: None)
    return load_bundle(folder)


def measure_accuracy(label: str, folder: Path) -> dict[str, float]:
    """Measures delta1 on rendered scenes, of the depth map and of depths in words."""
    report = validate(load_model(str(folder), backend=OnnxRuntimeBackend.name), RENDERED_IMAGES)
    print(f"{label:10} delta1 {report.dense.delta1:.4f}, in words {report.words.delta1:.4f}", flush=True)
    return {f"{label}_delta1": report.dense.delta1, f"{label}_words_delta1": report.words.delta1}


def export_4b(folder: Path, layers: int) -> dict[str, float]:
    """Measures the seconds and the peak memory of an export, and prints them beside the size of the weights."""
    sizes = {**FOUR_B, "text": (layers, *FOUR_B["text"][1:])}
    model = random_model(sizes, DptConfig(FOUR_B["text"][1]), torch.bfloat16)
    precision = Precision("bf16", "fp16")
    set_precision(model, precision)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    before = peak_bytes()
    print(f"weights {weights / 1e9:.2f} GB; peak memory before the export {before / 1e9:.2f} GB", flush=True)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    bundle = export(model, FOUR_B_CANVAS, folder, precision, 23)
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    for path in sorted(bundle.folder.iterdir()):
        print(f"  {path.name:24} {path.stat().st_size / 1e9:8.3f} GB")
    peak = peak_bytes()
    print(
        f"{layers} layers exported in {seconds:.0f} s ({cpu_s:.0f} s of CPU), peak memory {peak / 1e9:.2f} GB = "
        f"{peak / weights:.2f} times the weights"
    )
    return {
        "layers": layers,
        "weights_gb": weights / 1e9,
        "export_s": seconds,
        "peak_gb": peak / 1e9,
        "memory_over_weights": peak / weights,
    }


def measure_plans(folder: Path, is_built: bool) -> dict[str, float]:
    """Measures what it takes to parse the graphs of an engine with TensorRT for RTX, and to build them.

    Peak memory is that of this process, so that of an export must have been another one.
    """
    bundle, version = load_bundle(folder), str(load_tensorrt(TENSORRT_RTX).__version__)
    machine, result = portable_machine(version, TENSORRT_RTX), {"plans_gb": 0.0}
    for request in plan_requests(bundle, folder, bundle.precision, None):
        began_s = time.perf_counter()
        layers = count_layers(request, machine)
        parse_s = result[f"{request.graph.stem}_parse_s"] = time.perf_counter() - began_s
        print(
            f"  {request.graph.name}: {layers} layers parsed by {machine.title} in {parse_s:.0f} s, peak memory "
            f"{peak_bytes() / 1e9:.2f} GB",
            flush=True,
        )
        if is_built:
            report = build_plan(request, machine, None, BuildProgress(), print)
            result[f"{request.graph.stem}_build_s"] = report.seconds
            result["plans_gb"] += report.plan_bytes / 1e9
            print(
                f"  {request.plan.name}: {report.plan_bytes / 1e9:.2f} GB built in {report.seconds:.0f} s, peak memory "
                f"{peak_bytes() / 1e9:.2f} GB",
                flush=True,
            )
    return result | {"plans_peak_gb": peak_bytes() / 1e9}


def measure_plans_apart(folder: Path, is_built: bool) -> dict[str, float]:
    """Does the same in a process of its own, whose memory is not that of the export."""
    command = [sys.executable, __file__, "--plans", str(folder), *(["--build"] if is_built else [])]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout or ():
            if last:
                print(last, flush=True)
            last = line.rstrip()
    if child.returncode:
        print(last)
        raise SystemExit(f"parsing or building ended with {child.returncode} (-9: out of memory, see dmesg)")
    return json.loads(last)


def peak_bytes() -> int:
    """Returns the most memory that this process has had in use, without that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="the embedded model: a name or a folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of both runtimes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=40, help="looks of each (default: %(default)s)")
    parser.add_argument("--int8", action="store_true", help="also compare tiny in int8")
    parser.add_argument("--pictures", type=Path, help="with --int8: folder of pictures for the ranges of activations")
    parser.add_argument("--export-4b", action="store_true", help="only export a model with four billion weights")
    parser.add_argument(
        "--layers", type=int, default=FOUR_B["text"][0], help="layers of the language model in --export-4b"
    )
    parser.add_argument(
        "--folder", type=Path, help="folder into which --export-4b writes (default: the system's temporary folder)"
    )
    parser.add_argument("--target", choices=("rtx",), help="with --export-4b: also parse the graphs for this target")
    parser.add_argument("--build", action="store_true", help="with --target or --plans: build the plans too")
    parser.add_argument("--plans", type=Path, metavar="FOLDER", help="only parse the graphs of this engine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.plans:
        print(json.dumps(measure_plans(args.plans, args.build)))
        return
    if not args.export_4b:
        print(
            json.dumps(
                {"threads": args.threads}
                | compare_looks(args.model, args.threads, args.repeats, args.int8, args.pictures)
            )
        )
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name) / "bench"
        result = export_4b(folder, args.layers)
        print(json.dumps(result | (measure_plans_apart(folder, args.build) if args.target else {})))


if __name__ == "__main__":
    main()
