# SPDX-License-Identifier: Apache-2.0
"""`depthlm engine build|inspect|list|clean`: builds a model for one camera, and manages the engines that exist."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.cli.common import parse_positive, parse_size
from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError
from depthlm_ros.export.trt_support_table import PORTABLE_TARGETS, TARGETS, BuildTarget, target_named

if TYPE_CHECKING:
    import numpy as np

    from depthlm_ros.export.build import BuildReport
    from depthlm_ros.export.parity import Parity
    from depthlm_ros.export.trt_builder import PlanReport

BACKENDS = ("tensorrt", "onnxruntime")
PRECISIONS = ("bf16", "fp16", "fp32", "int8")
# Older versions of ONNX Runtime read this opset too, and newer opsets are not faster there.
PORTABLE_OPSET = 20
# Fields of an engine's description that `inspect` does not print as text.
UNPRINTED_FIELDS = {"files", "format", "manifest_sha256", "calibration", "canvas"}
MAX_VALUE_LENGTH = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="what to do", metavar="build|inspect|list|clean", required=True)
    for name, (add, act, about) in VERBS.items():
        verb = verbs.add_parser(name, help=about, description=act.__doc__)
        add(verb)
        verb.set_defaults(act=act)


def run(args: argparse.Namespace) -> None:
    args.act(args)


def add_build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a model's name, NAME=FOLDER, or a folder")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--camera", type=Path, metavar="FILE.yaml", help="ROS calibration file of the camera")
    camera.add_argument("--size", type=parse_size, metavar="WxH", help="size of the camera's images, instead")
    parser.add_argument(
        "--focal",
        type=parse_positive,
        metavar="F",
        help="with --size: their focal length in pixels (default: the model's canonical focal length)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the model without its depth head (default: bf16 for tensorrt, fp32 for onnxruntime; int8 rounds the "
        "weights of linear layers, with --pictures also convolutions; onnxruntime only)",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="with --precision int8: pictures of the engine's camera, on which the ranges for int8 are measured",
    )
    parser.add_argument(
        "--head-precision",
        choices=("fp16", "fp32"),
        default="",
        help="of the depth head (default: fp16 if --precision is bf16 or fp16, otherwise fp32)",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="",
        help="what runs the engine (default: tensorrt if it is installed here or --target is given)",
    )
    parser.add_argument(
        "--target", choices=tuple(TARGETS), help="the machine that runs it, if it is not this one (default: this one)"
    )
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="X.Y",
        help="with --target rtx: the GPUs that run it, for example 8.6 8.9 12.0 (default: 8.0 and later)",
    )
    parser.add_argument("--depth-only", action="store_true", help="leave out everything that only questions need")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the engine; its name is the engine's name")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare with torch (default: only if the model is small; takes as much memory again)",
    )
    parser.add_argument(
        "--workspace",
        type=parse_positive,
        metavar="GB",
        help="memory for TensorRT's builder (default: half of the free memory)",
    )


def add_inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", help="an engine's name or folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def add_clean_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", nargs="?", default="", help="an engine's name or folder (default: only leftovers)")
    parser.add_argument("--all", action="store_true", help="remove the engine itself too")


def build(args: argparse.Namespace) -> None:
    """Build a model for one camera: ONNX graphs and, on a machine with TensorRT, plans of them. With --target rtx,
    plans are built on any x86-64 machine that has TensorRT for RTX. Without --camera or --size, the graphs must exist
    already, and only their plans are built."""
    from depthlm_ros.export.trt_builder import check_portable_build, installed_target

    _check_options(args)
    is_portable = args.target in PORTABLE_TARGETS
    if is_portable:  # an export of many minutes must not be in vain
        check_portable_build(target_named(args.target), args.compute_capability or ())
    installed = installed_target() if args.backend != "onnxruntime" and not is_portable else None
    backend = args.backend or ("tensorrt" if installed or args.target else "onnxruntime")
    if args.camera is None and args.size is None:
        _check_plans_only(backend)
        _build_plans(args, args.model)
        return
    if backend == "tensorrt" and installed is None and args.target is None:
        raise SetupError(
            "there is no TensorRT here: say for which machine to write the graphs (--target "
            f"{'|'.join(TARGETS)}) and build the plans there, or use --backend onnxruntime."
        )
    target = target_named(args.target) if args.target else installed
    folder = _build_graphs(args, backend, target if backend == "tensorrt" else None)
    if backend != "tensorrt":
        return
    if is_portable or (installed is not None and target == installed):
        _build_plans(args, str(folder))
    else:
        print(
            f"Plans are built on the machine that runs them: copy {folder} there, into one of its engine folders, "
            f"and run there: depthlm engine build --model {folder.name} --backend tensorrt"
        )


def inspect_engine(args: argparse.Namespace) -> None:
    """Check every file of an engine against its manifest, and print what the engine was built from and for."""
    from depthlm_ros.export.engine_store import describe_engine
    from depthlm_ros.model_files.bundle import find_bundle, load_bundle

    folder = find_bundle(args.engine)
    load_bundle(folder)
    description = describe_engine(folder)
    if args.json:
        print(json.dumps(description.to_json(), indent=1))
        return
    for name, value in {"folder": str(folder), **description.manifest}.items():
        if name not in UNPRINTED_FIELDS and value not in ("", None):
            print(f"{name:16} {_format_value(value)}")
    for name, size in description.file_bytes.items():
        print(f"{name:24} {size / 1e6:10.2f} MB")
    for name, key in description.plans.items():
        print(f"{name}: {key.machine.description}")
    print("all files agree with the manifest")


def list_engines(args: argparse.Namespace) -> None:
    """List the engines in the engine folders, without a check of their files (see inspect)."""
    from depthlm_ros.export.engine_store import engine_table, list_engine_folders

    engines = list_engine_folders()
    if args.json:
        fields = [{"folder": str(e.folder), "fault": e.fault, "bytes": e.size_bytes, **e.manifest} for e in engines]
        print(json.dumps(fields, indent=1))
    else:
        print(engine_table(engines))


def clean(args: argparse.Namespace) -> None:
    """Remove the leftovers of killed builds; of a named engine also its plans, with --all the engine itself."""
    from depthlm_ros.export.engine_store import clean_engines

    if args.all and not args.engine:
        raise SetupError("--all needs the name of an engine: it does not remove all engines at once.")
    freed = clean_engines(args.engine, args.all, print)
    print(f"freed {freed / 1e6:.1f} MB")


VERBS = {
    "build": (add_build_options, build, "build an engine"),
    "inspect": (add_inspect_options, inspect_engine, "check an engine and print what it is"),
    "list": (add_list_options, list_engines, "list the engines that exist here"),
    "clean": (add_clean_options, clean, "remove leftovers, plans or an engine"),
}


def _check_options(args: argparse.Namespace) -> None:
    """Raises SetupError for options that would have no effect."""
    if args.target and args.backend == "onnxruntime":
        raise SetupError(
            f"--target {args.target} is for TensorRT's plans: leave it out, or leave out --backend onnxruntime."
        )
    if args.compute_capability and args.target not in (None, *PORTABLE_TARGETS):
        raise SetupError(f"--compute-capability is for --target {' or '.join(PORTABLE_TARGETS)}: leave it out.")
    if args.focal and args.size is None:
        raise SetupError("--focal belongs to --size: a camera file has its own focal length.")
    graph_options = [
        name for name in ("out", "precision", "head_precision", "target", "pictures") if getattr(args, name)
    ]
    if args.target in PORTABLE_TARGETS:  # their plans can be built from the graphs for any machine
        graph_options.remove("target")
    if graph_options and args.camera is None and args.size is None:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in graph_options)
        raise SetupError(
            f"{options} would change the graphs, which are made for one camera: say which camera, with --camera "
            "camera.yaml or --size WIDTHxHEIGHT. (Without a camera, only the plans of existing graphs are built.)"
        )


def _check_plans_only(backend: str) -> None:
    if backend != "tensorrt":
        raise SetupError(
            "say for which camera: --camera camera.yaml, or --size WIDTHxHEIGHT with --focal. (Without a camera, only "
            "the TensorRT plans of existing graphs are built, with --backend tensorrt.)"
        )


def _photographs() -> Callable[[Intrinsics, int], Iterable[np.ndarray]]:
    """Returns what makes pictures of other places. The renderer needs numba."""
    from depthlm_ros.scenes.camera.photo import photographs

    return photographs


def _build_graphs(args: argparse.Namespace, backend: str, target: BuildTarget | None) -> Path:
    """Builds the graphs, prints a report and returns the engine's folder. target: None for ONNX Runtime."""
    from depthlm_ros.export.build import EngineRequest, build_graphs, camera_of_size
    from depthlm_ros.export.build_progress import BuildProgress
    from depthlm_ros.export.depth_network import build_network_graphs
    from depthlm_ros.model_files.checkpoint import find_model
    from depthlm_ros.model_files.depth_network import DepthNetwork

    camera = _read_camera(args.camera)
    # Finding a bundle hashes all its files, so the model is found only once.
    source = find_model(args.model)
    request = EngineRequest(
        model=args.model,
        camera=camera or camera_of_size(args.size, args.focal, source.spec),
        precision=args.precision or _default_precision(backend, isinstance(source, DepthNetwork)),
        backend=backend,
        opset=target.opset if target else PORTABLE_OPSET,
        head=args.head_precision,
        target=target,
        capabilities=tuple(args.compute_capability or ()),
        only_depth=args.depth_only,
        out=args.out,
        check=args.check,
        command=_rebuild_command(args),
        camera_options=_camera_options(args),
        pictures=args.pictures,
        photographs=_photographs() if args.pictures else None,
    )
    if isinstance(source, DepthNetwork):
        report = build_network_graphs(request, source, BuildProgress(), _print_message)
    else:
        report = build_graphs(request, source, BuildProgress(), _print_message)
    print(format_build_report(report))
    return report.folder


def _default_precision(backend: str, is_network: bool) -> str:
    """Returns the precision without --precision. is_network: whether the model is an ONNX file, which has no bf16."""
    if backend != "tensorrt":
        return "fp32"
    return "fp16" if is_network else "bf16"


def _build_plans(args: argparse.Namespace, name: str) -> None:
    from depthlm_ros.export.build_progress import BuildProgress
    from depthlm_ros.export.trt_builder import BuilderOptions, build_plans
    from depthlm_ros.model_files.bundle import ModelBundle
    from depthlm_ros.model_files.checkpoint import find_model

    bundle = find_model(name)
    if not isinstance(bundle, ModelBundle):
        raise SetupError(f"{name} is not an engine yet: say for which camera to build it (--camera or --size).")
    options = BuilderOptions(
        workspace_bytes=None if args.workspace is None else int(args.workspace * 1e9),
        only_depth=args.depth_only,
        flavour=target_named(args.target).flavour if args.target else None,
        capabilities=tuple(args.compute_capability or ()) if args.compute_capability or args.target else None,
    )
    print(format_plan_reports(build_plans(bundle, options, BuildProgress(), _print_message)))


def _read_camera(path: Path | None) -> Intrinsics | None:
    from depthlm_ros.geometry.calibration_file import read_camera

    return read_camera(path).rectified_intrinsics if path else None


def _rebuild_command(args: argparse.Namespace) -> str:
    """Returns the command that builds the same again, without the camera and --out."""
    parts: list[object] = ["depthlm engine build --model", shlex.quote(_absolute_model(args.model))]
    for name in ("precision", "head_precision", "backend", "target"):
        if getattr(args, name):
            parts += [f"--{name.replace('_', '-')}", getattr(args, name)]
    parts += ["--pictures", shlex.quote(str(args.pictures.resolve()))] if args.pictures else []
    parts += ["--compute-capability", *args.compute_capability] if args.compute_capability else []
    return " ".join(map(str, parts + (["--depth-only"] if args.depth_only else [])))


def _camera_options(args: argparse.Namespace) -> str:
    if args.camera:
        return f"--camera {shlex.quote(str(args.camera.resolve()))}"
    return f"--size {args.size[0]}x{args.size[1]}" + (f" --focal {args.focal:g}" if args.focal else "")


def _absolute_model(model: str) -> str:
    """Returns a name for the same model that is valid in every working directory."""
    name, equals, folder = model.rpartition("=")
    path = Path(folder).expanduser()
    return f"{name}{equals}{path.resolve()}" if (equals or os.sep in folder) and path.is_dir() else model


def format_build_report(report: BuildReport) -> str:
    """Returns graphs, sizes, precision, time, memory and parity of an export as lines of text."""
    camera = report.camera
    head = f", depth head {report.head}" if report.head else ", no depth head"
    cache = "" if report.only_depth else ", keys and values like the backbone"
    lines = [
        f"engine     {report.folder.name} in {report.folder}",
        f"camera     {camera.width_px} x {camera.height_px}, fx {camera.fx_px:g}, seen as "
        + " and ".join(f"{width} x {height}" for width, height in report.canvases_px),
        f"precision  backbone {report.precision}{head}{cache}",
        f"opset      {report.opset}",
        *(f"  {name:24} {size / 1e6:10.2f} MB" for name, size in report.file_bytes.items()),
        f"time       {', '.join(f'{name} {seconds:.1f} s' for name, seconds in report.seconds.items())}",
        f"memory     weights {report.weight_bytes / 1e9:.3f} GB, at most {report.peak_bytes / 1e9:.3f} GB in use",
        f"parity     {_format_parity(report.parity, report.reference)}",
    ]
    return "\n".join(lines)


def _format_parity(parity: Parity | str, reference: str) -> str:
    if isinstance(parity, str):
        return f"not measured: {parity}"
    texts = []
    if not math.isnan(parity.depth_mean):
        size = f"{parity.depth_mean:.1e} on average, {parity.depth_max:.1e} at most"
        texts.append(f"depth differs from {reference} by {size}")
    if parity.same_token is not None:
        texts.append(f"{'the same' if parity.same_token else 'ANOTHER'} token after a question")
    return "; ".join(texts)


def format_plan_reports(reports: Sequence[PlanReport]) -> str:
    """Returns one line per plan: whether it was built now, its size and the time."""
    return "\n".join(
        f"{report.plan}: {f'built in {report.seconds:.0f} s' if report.built else 'is up to date'}, "
        f"{report.plan_bytes / 1e6:.1f} MB{f', {report.layers} layers' if report.built else ''}"
        for report in reports
    )


def _format_value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items() if inner not in ("", None))
    text = json.dumps(value) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."


def _print_message(text: str) -> None:
    print(f"depthlm: {text}", file=sys.stderr)
