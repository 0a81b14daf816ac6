"""`depthlm engine build|inspect|list|clean`: models compiled for one camera, and what there is of them.

Options of `depthlm engine build|inspect|list|clean`.

What a build has come to, as text.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError
from depthlm_ros.export.trt_support_table import TARGETS, Target, target_named

if TYPE_CHECKING:
    from depthlm_ros.export.build import BuildReport
    from depthlm_ros.export.trt_builder import PlanReport

BACKENDS = ("tensorrt", "onnxruntime")
PRECISIONS = ("bf16", "fp16", "fp32", "int8")


def add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a model's name, NAME=FOLDER, or a folder")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--camera", type=Path, metavar="FILE.yaml", help="calibration of the camera, as ROS writes it")
    camera.add_argument("--size", type=_size, metavar="WxH", help="size of the camera's images instead")
    parser.add_argument(
        "--focal", type=_positive, metavar="F", help="their focal length, pixels (default: the model's canonical one)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the model but for its depth head (default: bf16 for tensorrt, fp32 for onnxruntime; int8 rounds the "
        "weights of linear layers, onnxruntime only)",
    )
    parser.add_argument(
        "--head-precision", choices=("fp16", "fp32"), default="", help="of the depth head (default: fp16 beside half)"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="", help="what runs it (default: tensorrt if it is here)"
    )
    parser.add_argument(
        "--target", choices=tuple(TARGETS), help="the machine that runs it, if it is another one (default: this one)"
    )
    parser.add_argument("--depth-only", action="store_true", help="leave out all that only questions need")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the engine; its name is the engine's name")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare with torch (default: if the model is small; takes as much memory again)",
    )
    parser.add_argument(
        "--workspace",
        type=_positive,
        metavar="GB",
        help="memory for TensorRT's builder (default: half of what is free)",
    )


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", help="an engine's name or folder")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def add_clean(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", nargs="?", default="", help="an engine's name or folder (default: only leftovers)")
    parser.add_argument("--all", action="store_true", help="the engine itself too")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: expected WIDTHxHEIGHT, for example 640x480")
    return int(match[1]), int(match[2])


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


# For ONNX Runtime what its older versions read too; newer opsets are no faster there.
PORTABLE_OPSET = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="what to do", metavar="build|inspect|list|clean", required=True)
    for name, (add, act, about) in VERBS.items():
        verb = verbs.add_parser(name, help=about, description=act.__doc__)
        add(verb)
        verb.set_defaults(act=act)


def run(args: argparse.Namespace) -> None:
    args.act(args)


def build(args: argparse.Namespace) -> None:
    """Compile a model for one camera: ONNX graphs and, on a machine with TensorRT, plans of them. Without a camera or
    size its graphs must be there already, and only the plans of them are built."""
    from depthlm_ros.export.trt_builder import target_here

    _check(args)
    here = target_here() if args.backend != "onnxruntime" else None
    backend = args.backend or ("tensorrt" if here or args.target else "onnxruntime")
    if args.camera is None and args.size is None:
        _plans_alone(args, backend)
        return
    if backend == "tensorrt" and here is None and args.target is None:
        raise SetupError(
            "there is no TensorRT here: say for which machine the graphs are to be written (--target "
            f"{'|'.join(TARGETS)}) and build the plans there, or use --backend onnxruntime."
        )
    folder = _build_graphs(args, backend, here)
    if backend == "tensorrt":
        if here is not None and args.target in (None, here.name):
            _plans(args, str(folder))
        else:
            print(
                f"Plans are built on the machine that runs them: copy {folder} there, into one of its engine folders, "
                f"and run there: depthlm engine build --model {folder.name} --backend tensorrt"
            )


def inspect(args: argparse.Namespace) -> None:
    """Check every file of an engine against its manifest, and tell what it was built from and for."""
    from depthlm_ros.export.engine_store import describe
    from depthlm_ros.model_files.bundle import find_bundle, load_bundle

    folder = find_bundle(args.engine)
    load_bundle(folder)
    facts = describe(folder)
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    hidden = {"files", "bytes", "plans", "format", "manifest_sha256", "calibration", "canvas"}
    for name, value in facts.items():
        if name not in hidden and value not in ("", None):
            print(f"{name:16} {_short(value)}")
    for name, size in facts["bytes"].items():
        print(f"{name:24} {size / 1e6:10.2f} MB")
    for name, key in facts["plans"].items():
        machine = key["machine"]
        print(f"{name}: TensorRT {machine['tensorrt']}, {machine['gpu']} (sm {machine['sm']}), {machine['driver']}")
    print("all files are what the manifest says")


def list_engines(args: argparse.Namespace) -> None:
    """List the engines in the engine folders. Their files are not checked: see inspect."""
    from depthlm_ros.export.engine_store import shelved, table

    engines = shelved()
    if args.json:
        fields = [{"folder": str(e.folder), "fault": e.fault, "bytes": e.size_bytes, **e.manifest} for e in engines]
        print(json.dumps(fields, indent=1))
    else:
        print(table(engines))


def clean(args: argparse.Namespace) -> None:
    """Remove what killed builds left behind; of a named engine also its plans, with --all the engine itself."""
    from depthlm_ros.export import engine_store

    if args.all and not args.engine:
        raise SetupError("--all needs the name of an engine: all of them at once are removed by nobody by mistake.")
    freed = engine_store.clean(args.engine, args.all, print)
    print(f"{freed / 1e6:.1f} MB became free")


def _check(args: argparse.Namespace) -> None:
    """Refuses options that would have no effect. Raises SetupError."""
    if args.target and args.backend == "onnxruntime":
        raise SetupError(f"--target {args.target} is for TensorRT's plans: leave it out, or --backend onnxruntime.")
    if args.focal and args.size is None:
        raise SetupError("--focal belongs to --size: a camera file has its own focal length.")
    given = [name for name in ("out", "precision", "head_precision", "target") if getattr(args, name)]
    if given and args.camera is None and args.size is None:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SetupError(
            f"{named} would change the graphs, which are made for one camera: say which, with --camera camera.yaml "
            "or --size WIDTHxHEIGHT. (Without one, only the plans of graphs that are there already are built.)"
        )


def _build_graphs(args: argparse.Namespace, backend: str, here: Target | None) -> Path:
    from depthlm_ros.export.build import EngineOrder, build_graphs, camera_of_size
    from depthlm_ros.export.progress import Bars
    from depthlm_ros.model_files.checkpoint import find_model

    wanted = target_named(args.target) if args.target else here
    target = wanted if backend == "tensorrt" else None
    camera = _camera(args.camera) or camera_of_size(args.size, args.focal, find_model(args.model).spec)
    order = EngineOrder(
        model=args.model,
        camera=camera,
        precision=args.precision or ("bf16" if backend == "tensorrt" else "fp32"),
        backend=backend,
        opset=target.opset if target else PORTABLE_OPSET,
        head=args.head_precision,
        target=target,
        only_depth=args.depth_only,
        out=args.out,
        check=args.check,
        command=_command(args),
        camera_options=_camera_options(args),
    )
    report = build_graphs(order, Bars(), _say)
    print(report_text(report))
    return report.folder


def _plans_alone(args: argparse.Namespace, backend: str) -> None:
    if backend != "tensorrt":
        raise SetupError(
            "say for which camera: --camera camera.yaml, or --size WIDTHxHEIGHT with --focal. (Without one, only the "
            "TensorRT plans of graphs that are there already are built, with --backend tensorrt.)"
        )
    _plans(args, args.model)


def _plans(args: argparse.Namespace, name: str) -> None:
    from depthlm_ros.export.progress import Bars
    from depthlm_ros.export.trt_builder import PlanWishes, build_plans
    from depthlm_ros.model_files.bundle import Bundle
    from depthlm_ros.model_files.checkpoint import find_model

    bundle = find_model(name)
    if not isinstance(bundle, Bundle):
        raise SetupError(f"{name} is a checkpoint: say for which camera it is to be built (--camera or --size).")
    workspace = None if args.workspace is None else int(args.workspace * 1e9)
    reports = build_plans(bundle, PlanWishes(workspace, only_depth=args.depth_only), Bars(), _say)
    print(plan_text(reports))


def _camera(path: Path | None) -> Intrinsics | None:
    from depthlm_ros.geometry.calibration_file import read_camera

    return read_camera(path).rectified_intrinsics if path else None


def _command(args: argparse.Namespace) -> str:
    """What builds the same again, but for the camera and --out."""
    parts: list[object] = ["depthlm engine build --model", shlex.quote(_model(args.model))]
    for name in ("precision", "head_precision", "backend", "target"):
        if getattr(args, name):
            parts += [f"--{name.replace('_', '-')}", getattr(args, name)]
    return " ".join(map(str, parts + (["--depth-only"] if args.depth_only else [])))


def _camera_options(args: argparse.Namespace) -> str:
    if args.camera:
        return f"--camera {shlex.quote(str(args.camera.resolve()))}"
    return f"--size {args.size[0]}x{args.size[1]}" + (f" --focal {args.focal:g}" if args.focal else "")


def _model(given: str) -> str:
    """The same model, named so that it is found from every folder."""
    name, equals, folder = given.rpartition("=")
    path = Path(folder).expanduser()
    return f"{name}{equals}{path.resolve()}" if (equals or os.sep in folder) and path.is_dir() else given


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items() if inner not in ("", None))
    text = json.dumps(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _say(text: str) -> None:
    print(f"depthlm: {text}", file=sys.stderr)


VERBS = {
    "build": (add_build, build, "build an engine"),
    "inspect": (add_inspect, inspect, "check an engine and tell what it is"),
    "list": (add_list, list_engines, "the engines that are here"),
    "clean": (add_clean, clean, "remove leftovers, plans or an engine"),
}


def report_text(report: BuildReport) -> str:
    """Graphs, sizes, precision, time, memory and parity of an export."""
    manifest, precision = report.manifest, report.manifest["precision"]
    camera = manifest["camera"]
    head = f", depth head {precision['head']}" if precision["head"] else ", no depth head"
    kept = "" if manifest["only_depth"] else ", keys and values as the backbone"
    sizes_mb = {name: (report.folder / name).stat().st_size / 1e6 for name in manifest["files"]}
    lines = [
        f"engine     {manifest['name']} in {report.folder}",
        f"camera     {camera['width_px']} x {camera['height_px']}, fx {camera['fx_px']:g}, seen as "
        + " and ".join(f"{w} x {h}" for w, h in manifest["canvases_px"]),
        f"precision  backbone {precision['backbone']}{head}{kept}",
        f"opset      {manifest['opset']}",
        *(f"  {name:24} {size_mb:10.2f} MB" for name, size_mb in sizes_mb.items()),
        f"time       {', '.join(f'{name} {seconds:.1f} s' for name, seconds in report.seconds.items())}",
        f"memory     weights {report.weight_bytes / 1e9:.3f} GB, at most {report.peak_bytes / 1e9:.3f} GB in use",
        f"parity     {_parity_text(manifest['parity'])}",
    ]
    return "\n".join(lines)


def plan_text(reports: Sequence[PlanReport]) -> str:
    """Plans, whether they were built now, size and time."""
    return "\n".join(
        f"{report.plan}: {f'built in {report.seconds:.0f} s' if report.built else 'fits as it is'}, "
        f"{report.plan_bytes / 1e6:.1f} MB{f', {report.layers} layers' if report.built else ''}"
        for report in reports
    )


def _parity_text(parity: dict[str, Any]) -> str:
    if "not_measured" in parity:
        return f"not measured: {parity['not_measured']}"
    words = []
    if parity["depth_mean"] is not None:
        words.append(
            f"depth differs from torch by {parity['depth_mean']:.1e} on average, {parity['depth_max']:.1e} most"
        )
    if parity["same_token"] is not None:
        words.append(f"{'the same' if parity['same_token'] else 'ANOTHER'} token after a question")
    return "; ".join(words)
