# SPDX-License-Identifier: Apache-2.0
"""Builds an engine: exports a checkpoint as graphs for one camera, into a folder of its own.

build_graphs does the export that an EngineRequest describes and returns a BuildReport. camera_of_size makes a camera
from an image size; fitted_spec chooses the canvas for a camera. TensorRT plans of the graphs: trt_builder.py.
"""

from __future__ import annotations

import importlib.metadata
import math
import resource
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.backends.tensorrt.flavour import capability_text
from depthlm_ros.backends.tensorrt.plan_file import portable_machine
from depthlm_ros.backends.tensorrt.runtime import load_tensorrt
from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import BadIntrinsics, SetupError
from depthlm_ros.export.build_progress import BuildProgress, StageProgress
from depthlm_ros.export.engine_store import build_lock, check_output_folder
from depthlm_ros.export.parity import Parity, can_measure_parity, measure_parity
from depthlm_ros.export.trt_support_table import BuildTarget
from depthlm_ros.geometry.canonical_view import checked_canonical_view
from depthlm_ros.model_files.bundle import ModelBundle, read_manifest
from depthlm_ros.model_files.checkpoint import ModelSource, ReleasedCheckpoint
from depthlm_ros.model_files.install_paths import default_engine_root
from depthlm_ros.model_files.safetensors_files import CHECKPOINT_FILE
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.tokenizer_files import open_tokenizer

if TYPE_CHECKING:
    from depthlm_ros.export.precision import Precision
    from depthlm_ros.nets.backbone import Backbone

# The step graph takes prefixes of 16384 tokens; the rest is for text.
MAX_IMAGE_TOKENS = 16000
# The comparison of a larger model with torch takes minutes on the CPU and as much memory again.
MAX_BYTES_TO_CHECK = 2e9
BACKEND_PRECISIONS = {"tensorrt": ("fp32", "fp16", "bf16"), "onnxruntime": ("fp32", "fp16", "int8")}
# Packages whose versions the manifest notes.
EXPORT_PACKAGES = ("torch", "transformers", "onnxscript", "onnx", "onnxruntime")


@dataclass(frozen=True)
class EngineRequest:
    """What to build.

    model: as load_model takes it. camera: of the rectified image. precision: of the backbone. backend: "onnxruntime" or
    "tensorrt". opset: of the graphs. head: precision of the DPT head, "" for one that suits the backbone. target: the
    machine that runs the engine, None for ONNX Runtime. capabilities: compute capabilities of portable plans, () for
    the default ones. out: folder of the engine, None for the default one. check: whether to compare with torch, None to
    do so if the model is small. command: the command that builds the same again, without camera_options and --out.
    pictures: folder with pictures of the camera, on which int8 convolutions are measured; None leaves convolutions as
    they are. photographs: makes more pictures, of other places (see static_int8.read_canvases).
    """

    model: str
    camera: Intrinsics
    precision: str
    backend: str
    opset: int
    head: str = ""
    target: BuildTarget | None = None
    capabilities: tuple[str, ...] = ()
    only_depth: bool = False
    out: Path | None = None
    check: bool | None = None
    command: str = ""
    camera_options: str = ""
    pictures: Path | None = None
    photographs: Callable[[Intrinsics, int], Iterable[np.ndarray]] | None = None


@dataclass(frozen=True)
class BuildReport:
    """The result of build_graphs.

    canvases_px: sizes (width, height) at which the model sees the camera's image. head: precision of the depth head, ""
    if there is none. parity: the difference to the reference, or the reason why it was not measured. file_bytes: size
    of each file. seconds: by stage. weight_bytes: of the exported model. peak_bytes: most memory that this process had
    in use. reference: what the engine was compared with.
    """

    folder: Path
    camera: Intrinsics
    canvases_px: tuple[tuple[int, int], ...]
    opset: int
    precision: str
    head: str
    only_depth: bool
    parity: Parity | str
    file_bytes: dict[str, int]
    seconds: dict[str, float]
    weight_bytes: int
    peak_bytes: int
    reference: str = "torch"


def build_graphs(
    request: EngineRequest, source: ModelSource, progress: BuildProgress, report: Callable[[str], None]
) -> BuildReport:
    """Exports a model for the request's camera into a folder of its own, from which it can be loaded by name.

    source: what find_model returns for request.model. report: called with messages for people. Raises BadIntrinsics for
    an absurd camera, SetupError for a request that cannot be built, BackendFailed for a full disk or for graphs that do
    not compute the same as torch.
    """
    from depthlm_ros.export.precision import Precision, set_precision
    from depthlm_ros.export.static_int8 import read_canvases
    from depthlm_ros.export.write_bundle import ExportOptions, write_engine

    check_backend_precision(request)
    check_source(request, source)
    check_pictures(request, source)
    folder = request.out or default_engine_root() / engine_name(request, source.spec.name)
    check_output_folder(folder)
    spec = fitted_spec(source.spec, request.camera, folder.name)
    canvases: list[np.ndarray] = []
    if request.pictures:
        canvases = read_canvases(request.pictures, request.camera, spec.canvas, request.photographs)
    seconds: dict[str, float] = {}
    parity: Parity | str = ""
    with build_lock(folder, report), StageProgress(progress) as report_stage:
        began_s = time.monotonic()
        report_stage("load the checkpoint", 0, 1)
        model = load_backbone(source, Precision.of(request.precision, request.head))
        precision = set_precision(model, Precision.of(request.precision, request.head))
        seconds["load"] = time.monotonic() - began_s
        tokenizer = open_tokenizer(source.folder)
        origin = origin_fields(request, source, folder)
        options = ExportOptions(spec, request.opset, request.only_depth, precision, origin, canvases)
        weight_bytes = sum(parameter.nbytes for parameter in model.parameters())

        def compare(bundle: ModelBundle) -> dict[str, object]:
            nonlocal parity
            seconds["export"] = time.monotonic() - began_s - seconds["load"]
            report_stage("compare with torch", 0, 1)
            parity = _compare_with_torch(request, model, bundle, weight_bytes)
            return {"parity": parity_fields(parity)}

        manifest = write_engine(model, tokenizer, options, folder, compare, report_stage)
        seconds["check and finish"] = time.monotonic() - began_s - sum(seconds.values())
    return BuildReport(
        folder,
        request.camera,
        options.sizes_px,
        request.opset,
        precision.backbone,
        precision.head,
        request.only_depth,
        parity,
        {name: (folder / name).stat().st_size for name in manifest["files"]},
        seconds,
        weight_bytes,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def check_backend_precision(request: EngineRequest) -> None:
    """Raises SetupError for a precision that the backend, or a GPU that was named, does not run."""
    if request.target and request.target.flavour.portable:
        from depthlm_ros.export.trt_builder import check_gpu_precision

        check_gpu_precision(request.precision, portable_machine("", request.target.flavour, request.capabilities))
    runs = BACKEND_PRECISIONS[request.backend]
    if request.precision not in runs:
        others = {name: precisions for name, precisions in BACKEND_PRECISIONS.items() if name != request.backend}
        alternatives = " ".join(f"({name}: {', '.join(precisions)})" for name, precisions in others.items())
        raise SetupError(
            f"backend {request.backend} does not run {request.precision}; it runs {', '.join(runs)} {alternatives}."
        )


def check_pictures(request: EngineRequest, source: ModelSource) -> None:
    """Raises SetupError for pictures that would have no effect."""
    if request.pictures is None:
        return
    if request.precision != "int8":
        raise SetupError(f"--pictures is for --precision int8, not {request.precision}: leave it out, or say int8.")
    if not isinstance(source, ModelBundle) or not source.depth_first:
        raise SetupError(
            f"--pictures is for models whose look is made of convolutions, such as tiny: {request.model} has linear "
            "layers, which int8 rounds without pictures; leave it out."
        )


def check_source(request: EngineRequest, source: ModelSource) -> None:
    """Raises SetupError for a model from which no engine can be built."""
    if source.spec.family == "depthlm":
        raise SetupError(
            f"{request.model} needs an arrow at every pixel that it is asked about, each in an image of its own and "
            "several images at a time, which an engine for one image cannot do: use backend torch, or a model that "
            "reads pixels from the text (vlm3-depth)."
        )
    if request.only_depth and not source.spec.head:
        raise SetupError(
            f"{request.model} has no depth head, so --depth-only would leave nothing of it: use depthvlm-4b."
        )
    if isinstance(source, ModelBundle) and not (source.folder / CHECKPOINT_FILE).is_file():
        origin = str(read_manifest(source.folder).get("model", ""))
        raise SetupError(
            f"{source.spec.name} is itself an engine and holds no checkpoint: build from its source model"
            f"{f' (--model {origin})' if origin else ''}, or leave out the camera and size to build its plans."
        )


def engine_name(request: EngineRequest, model: str) -> str:
    """Returns the default name of the engine. Different cameras, precisions, targets and contents give other names."""
    camera = request.camera
    parts = [model, f"{camera.width_px}x{camera.height_px}", f"f{camera.fx_px:.0f}", request.precision]
    parts += [request.target.name] if request.target else []
    return "-".join(parts + (["depth"] if request.only_depth else []))


def camera_of_size(size_px: tuple[int, int], focal_px: float | None, spec: ModelSpec) -> Intrinsics:
    """Returns a camera for images of (width, height) with its principal point in the middle.

    focal_px: None for the model's canonical focal length, at which the image is neither enlarged nor reduced.
    """
    width, height = size_px
    focal_px = focal_px or spec.canvas.focal_px or float(max(size_px))
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def fitted_spec(spec: ModelSpec, camera: Intrinsics, name: str) -> ModelSpec:
    """Returns the spec of an engine called `name` for a rectified camera.

    A model with canvases of its own gets the smallest canvas that shows the camera's whole image at the canonical focal
    length. A published model gets the size to which its rule resizes the camera's image. Raises
    BadIntrinsics for an absurd camera, or if the image would have more tokens than a graph takes.
    """
    rule = spec.canvas
    if rule.canvases_px:
        size_px = _covering_canvas(camera, rule.focal_px or camera.fx_px, spec.canvas_multiple_px)
        fitted = replace(rule, canvases_px=(size_px,), built_px=())
        checked_canonical_view(camera, fitted)
    else:
        size_px = checked_canonical_view(camera, replace(rule, built_px=())).canvas_size_px
        fitted = replace(rule, built_px=(size_px,))
    tokens = math.prod(size_px) // spec.pixels_per_token**2
    if tokens > MAX_IMAGE_TOKENS:
        raise BadIntrinsics(
            f"a camera of {camera.width_px} x {camera.height_px} with fx = {camera.fx_px:g} would be seen as "
            f"{size_px[0]} x {size_px[1]} pixels, {tokens} tokens; at most {MAX_IMAGE_TOKENS} are possible: check the "
            "calibration, or let the camera send smaller images."
        )
    return replace(spec, name=name, canvas=fitted)


def _covering_canvas(camera: Intrinsics, focal_px: float, multiple_px: int) -> tuple[int, int]:
    """Returns the sides, multiples of multiple_px, that cover the camera's image at the canonical focal length."""
    sides_px = (camera.width_px * focal_px / camera.fx_px, camera.height_px * focal_px / camera.fy_px)
    # An image that exceeds a multiple by a rounding error does not need the next one.
    width, height = (max(1, math.ceil(side / multiple_px - 1e-6)) * multiple_px for side in sides_px)
    return width, height


def load_backbone(source: ModelSource, precision: Precision) -> Backbone:
    """Loads the torch model of a released checkpoint or of a bundle with a checkpoint. Raises BadBundle, SetupError."""
    from depthlm_ros.export.precision import TORCH_TYPES
    from depthlm_ros.nets.depth_first import load_checkpoint
    from depthlm_ros.nets.loading import load_released_model

    if isinstance(source, ReleasedCheckpoint):
        if source.quantisation is not None:
            source.require_plain_weights("be exported")
        return load_released_model(source, TORCH_TYPES[precision.backbone])
    return load_checkpoint(source.folder).eval().requires_grad_(False)


def origin_fields(request: EngineRequest, source: ModelSource, folder: Path) -> dict[str, object]:
    """Returns the manifest's fields that say where the engine comes from and which command builds it again."""
    out = "" if request.out is None else f" --out {shlex.quote(str(folder.resolve()))}"
    revision = _revision(source)
    versions, portable = {name: importlib.metadata.version(name) for name in EXPORT_PACKAGES}, {}
    if request.target and request.target.flavour.portable:
        flavour = request.target.flavour
        versions[flavour.module] = str(load_tensorrt(flavour).__version__)
        portable = {"compute_capabilities": capability_text(request.capabilities)}
    return {
        "model": request.model,
        "hub": source.spec.hub if revision else "",
        "revision": revision,
        "camera": asdict(request.camera),
        "backend": request.backend,
        "target": request.target.name if request.target else "",
        **portable,
        "versions": versions,
        "built_by": request.command,
        "rebuild": f"{request.command} {request.camera_options}{out}",
    }


def _revision(source: ModelSource) -> str:
    """Returns the commit of a download, the SHA-256 of a bundle's checkpoint, or "" for any other folder."""
    if isinstance(source, ModelBundle):
        return f"sha256:{source.digests[CHECKPOINT_FILE]}"
    folder = source.folder.resolve()
    return folder.name if folder.parent.name == "snapshots" else ""


def _compare_with_torch(
    request: EngineRequest, model: Backbone, bundle: ModelBundle, weight_bytes: int
) -> Parity | str:
    """Returns the difference to torch, or the reason why it is not measured."""
    if not can_measure_parity(bundle):
        return f"ONNX Runtime's CPU provider has no {bundle.precision}"
    if request.check is False:
        return "not asked for"
    if request.check is None and weight_bytes > MAX_BYTES_TO_CHECK:
        return "the model is large (--check measures it)"
    return measure_parity(model, bundle)


def parity_fields(parity: Parity | str) -> dict[str, object]:
    """Returns the manifest's field: None stands for NaN, which JSON does not have."""
    if isinstance(parity, str):
        return {"not_measured": parity}
    return {name: None if value is not None and math.isnan(value) else value for name, value in asdict(parity).items()}
