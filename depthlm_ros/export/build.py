"""A checkpoint -> graphs for one camera -> TensorRT plans, as one build.

From a camera to the canvas that an engine is built for.
"""

from __future__ import annotations

import importlib.metadata
import math
import resource
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics, SetupError
from depthlm_ros.export.engine_store import CHECKPOINT_FILE, building, check_place
from depthlm_ros.export.parity import can_measure, measure_parity
from depthlm_ros.export.progress import Bars
from depthlm_ros.export.trt_support_table import Target
from depthlm_ros.model import believable_view
from depthlm_ros.model_files.bundle import TOKENIZER_FILE, Bundle, build_root, read_manifest
from depthlm_ros.model_files.checkpoint import Checkpoint, find_model
from depthlm_ros.model_files.spec import ModelSpec

if TYPE_CHECKING:
    from depthlm_ros.export.precision import Precision
    from depthlm_ros.nets.backbone import Backbone

# What the exported graph of text takes as a prefix, less some text.
MOST_TOKENS = 16000


def camera_of_size(size_px: tuple[int, int], focal_px: float | None, spec: ModelSpec) -> Intrinsics:
    """A camera (width, height) with its principal point in the middle. focal_px None: the model's canonical one, at
    which the image is neither enlarged nor shrunk."""
    width, height = size_px
    focal_px = focal_px or spec.canvas.focal_px or float(max(size_px))
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def fitted_spec(spec: ModelSpec, camera: Intrinsics, name: str) -> ModelSpec:
    """The spec of an engine of that name for a (rectified) camera.

    A model with canvases of its own gets one of whole tokens that shows all of the camera's image at the canonical
    focal length; a published one the size to which its rule resizes the camera's image. Raises BadIntrinsics for a
    camera that is absurd, or whose view would be more tokens than a graph takes.
    """
    rule, token_px = spec.canvas, spec.pixels_per_token
    if rule.canvases_px:
        size_px = _covering(camera, rule.focal_px or camera.fx_px, token_px)
        fitted = replace(rule, canvases_px=(size_px,), built_px=())
        believable_view(camera, fitted)
    else:
        size_px = believable_view(camera, replace(rule, built_px=())).canvas_size_px
        fitted = replace(rule, built_px=(size_px,))
    tokens = math.prod(size_px) // token_px**2
    if tokens > MOST_TOKENS:
        raise BadIntrinsics(
            f"a camera of {camera.width_px} x {camera.height_px} with fx = {camera.fx_px:g} would be seen as "
            f"{size_px[0]} x {size_px[1]} pixels, {tokens} tokens; at most {MOST_TOKENS} are possible: check the "
            "calibration, or let the camera send smaller images."
        )
    return replace(spec, name=name, canvas=fitted)


def _covering(camera: Intrinsics, focal_px: float, token_px: int) -> tuple[int, int]:
    """Sides of whole tokens around the camera's image, scaled to the canonical focal length."""
    sides_px = (camera.width_px * focal_px / camera.fx_px, camera.height_px * focal_px / camera.fy_px)
    # An image that is a hair larger than whole tokens needs no further one.
    width, height = (max(1, math.ceil(side / token_px - 1e-6)) * token_px for side in sides_px)
    return width, height


# Above this, running the model once more on the CPU takes minutes and as much memory again.
MOST_BYTES_TO_CHECK = 2e9
RUNS_ON = {"tensorrt": ("fp32", "fp16", "bf16"), "onnxruntime": ("fp32", "fp16", "int8")}
EXPORTERS = ("torch", "transformers", "onnxscript", "onnx", "onnxruntime")


@dataclass(frozen=True)
class EngineOrder:
    """What is to be built.

    model: as load_model takes it. camera: of the rectified image. precision: of the backbone; head: of the DPT head, ""
    for what suits the backbone. backend: "onnxruntime" or "tensorrt". opset: of the graphs. check: compare with torch,
    None: if the model is small. command: what builds the same again, less camera_options and --out.
    """

    model: str
    camera: Intrinsics
    precision: str
    backend: str
    opset: int
    head: str = ""
    target: Target | None = None
    only_depth: bool = False
    out: Path | None = None
    check: bool | None = None
    command: str = ""
    camera_options: str = ""


@dataclass(frozen=True)
class BuildReport:
    """manifest: of the new engine. seconds: by stage. weight_bytes: of the model as it was exported. peak_bytes: most
    memory that this process had in use."""

    folder: Path
    manifest: dict[str, Any]
    seconds: dict[str, float]
    weight_bytes: int
    peak_bytes: int


def build_graphs(order: EngineOrder, bars: Bars, say: Callable[[str], None]) -> BuildReport:
    """Exports the model for the order's camera into a folder of its own, from which it can be loaded by name.

    Raises UnknownName, BadBundle for a model that is not here, BadIntrinsics for an absurd camera, SetupError for what
    cannot be built, BackendFailed for a full disk or for graphs that are not what torch computes.
    """
    from depthlm_ros.export.precision import Precision, set_precision
    from depthlm_ros.export.write_bundle import Wanted, write_engine

    check_order(order)
    source = find_model(order.model)
    check_source(order, source)
    folder = order.out or build_root() / engine_name(order, source.spec.name)
    check_place(folder)
    spec = fitted_spec(source.spec, order.camera, folder.name)
    watch, seconds = _Phases(bars), {}
    with building(folder, say), watch:
        began_s = time.monotonic()
        watch("load the checkpoint", 0, 1)
        model = load_backbone(source, Precision.of(order.precision, order.head))
        precision = set_precision(model, Precision.of(order.precision, order.head))
        seconds["load"] = time.monotonic() - began_s
        tokenizer = Tokenizer.from_file(str(source.folder / TOKENIZER_FILE))
        wanted = Wanted(spec, order.opset, order.only_depth, precision, _facts(order, source, folder))
        weight_bytes = sum(parameter.nbytes for parameter in model.parameters())

        def inspect(bundle: Bundle) -> dict[str, Any]:
            seconds["export"] = time.monotonic() - began_s - seconds["load"]
            watch("compare with torch", 0, 1)
            return {"parity": _parity(order, model, bundle, weight_bytes)}

        manifest = write_engine(model, tokenizer, wanted, folder, inspect, watch)
        seconds["check and finish"] = time.monotonic() - began_s - sum(seconds.values())
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return BuildReport(folder, manifest, seconds, weight_bytes, peak_bytes)


def check_order(order: EngineOrder) -> None:
    """Raises SetupError for a precision that the backend does not run."""
    if order.precision not in RUNS_ON[order.backend]:
        others = " ".join(f"({name}: {', '.join(taken)})" for name, taken in RUNS_ON.items() if name != order.backend)
        raise SetupError(
            f"backend {order.backend} does not run {order.precision}; it runs {', '.join(RUNS_ON[order.backend])} "
            f"{others}."
        )


def check_source(order: EngineOrder, source: Bundle | Checkpoint) -> None:
    """Raises SetupError for a model of which no engine can be made."""
    if source.spec.family == "depthlm":
        raise SetupError(
            f"{order.model} is shown every pixel by an arrow in an image of its own, several images at a time, which "
            "an engine for one image cannot do: use backend torch, or a model that is told pixels in words "
            "(vlm3-depth)."
        )
    if order.only_depth and not source.spec.head:
        raise SetupError(
            f"{order.model} has no depth head, so that --depth-only leaves nothing of it: use depthvlm-4b."
        )
    if isinstance(source, Bundle) and not (source.folder / CHECKPOINT_FILE).is_file():
        made_of = str(read_manifest(source.folder).get("model", ""))
        raise SetupError(
            f"{source.spec.name} is itself an engine and holds no checkpoint: build from the model it was made of"
            f"{f' (--model {made_of})' if made_of else ''}, or leave out camera and size to build its plans."
        )


def engine_name(order: EngineOrder, model: str) -> str:
    """Folder and name: model, camera, precision, target, and what is left out, so that none takes another's place."""
    camera = order.camera
    parts = [model, f"{camera.width_px}x{camera.height_px}", f"f{camera.fx_px:.0f}", order.precision]
    parts += [order.target.name] if order.target else []
    return "-".join(parts + (["depth"] if order.only_depth else []))


def load_backbone(source: Bundle | Checkpoint, precision: Precision) -> Backbone:
    """The model of a checkpoint, or of a bundle of ours that holds one. Raises BadBundle, SetupError."""
    from depthlm_ros.export.precision import TORCH
    from depthlm_ros.nets.checkpoint import load_checkpoint
    from depthlm_ros.nets.loading import load_released

    if isinstance(source, Checkpoint):
        return load_released(source.folder, source.spec, TORCH[precision.backbone])
    return load_checkpoint(source.folder).eval().requires_grad_(False)


def _facts(order: EngineOrder, source: Bundle | Checkpoint, folder: Path) -> dict[str, Any]:
    """What the manifest says of where the engine comes from, and what builds it again."""
    out = "" if order.out is None else f" --out {shlex.quote(str(folder.resolve()))}"
    revision = _revision(source)
    return {
        "model": order.model,
        "hub": source.spec.hub if revision else "",
        "revision": revision,
        "camera": asdict(order.camera),
        "backend": order.backend,
        "target": order.target.name if order.target else "",
        "versions": {name: importlib.metadata.version(name) for name in EXPORTERS},
        "built_by": order.command,
        "rebuild": f"{order.command} {order.camera_options}{out}",
    }


def _revision(source: Bundle | Checkpoint) -> str:
    """The commit of a download; of a model of ours the SHA-256 of its checkpoint; "" for any other folder."""
    if isinstance(source, Bundle):
        return f"sha256:{read_manifest(source.folder)['files'][CHECKPOINT_FILE]}"
    folder = source.folder.resolve()
    return folder.name if folder.parent.name == "snapshots" else ""


def _parity(order: EngineOrder, model: Backbone, bundle: Bundle, weight_bytes: int) -> dict[str, Any]:
    if not can_measure(bundle):
        return {"not_measured": f"ONNX Runtime's CPU provider has no {bundle.precision}"}
    wanted = weight_bytes <= MOST_BYTES_TO_CHECK if order.check is None else order.check
    if not wanted:
        return {"not_measured": "the model is large (--check measures it)" if order.check is None else "not asked for"}
    found = measure_parity(model, bundle)
    # NaN is no JSON.
    return {name: None if value != value else value for name, value in asdict(found).items()}


class _Phases:
    """What is reported step by step, as bars: one thing at a time."""

    def __init__(self, bars: Bars) -> None:
        self._bars, self._current = bars, ""

    def __call__(self, what: str, done: int, of: int) -> None:
        if what != self._current:
            self._finish()
            self._bars.begin(what, None, of)
            self._current = what
        self._bars.step(what, done)

    def __enter__(self) -> _Phases:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._current:
            self._bars.end(self._current)
        self._current = ""
