"""The command line: `depthlm depth|ask|eval|models|train|export`. One small function per verb, heavy imports inside."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depthlm_ros.errors import BadInput, DepthLMError, SetupError

if TYPE_CHECKING:
    from depthlm_ros.core import Answer
    from depthlm_ros.model import Model, View

INSTALL_HINT = (
    "pip install 'depthlm_ros[torch]' for train and export, 'depthlm_ros' for the rest (or: make setup-torch)."
)
EXIT_SETUP, EXIT_INPUT = 1, 2
# Verbs whose options live beside their code, in MODULE.add_arguments(parser) and MODULE.run(args); train and export
# need torch.
OTHER_VERBS = {
    "models": ("depthlm_ros.modelscli", "list the models, their licences, and where they are or how to get them"),
    "train": ("depthlm_ros.train.cli", "train the embedded model on rendered scenes"),
    "export": ("depthlm_ros.export.cli", "turn a trained checkpoint into a model folder"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns 0, 2 for unusable input, 1 for an unusable installation; errors are one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(argv[0] if argv else "").parse_args(argv)
        args.run(args)
    except (BadInput, OSError) as exc:
        return _complain(exc, EXIT_INPUT)
    except ModuleNotFoundError as exc:
        return _complain(SetupError(f"the Python package '{exc.name}' is missing: {INSTALL_HINT}"), EXIT_SETUP)
    except DepthLMError as exc:
        return _complain(exc, EXIT_SETUP)
    return 0


def depth(args: argparse.Namespace) -> None:
    """Write the depth of one image as a float32 (H, W) .npy file, metres along the optical axis, NaN = unknown."""
    import numpy as np

    from depthlm_ros.imagefile import write_rgb
    from depthlm_ros.pictures import depth_picture

    view = _look(args)
    depth_m = view.depth().depth_m.astype(np.float32, copy=False)
    with args.out.open("wb") as file:
        np.save(file, depth_m)
    known_m = depth_m[np.isfinite(depth_m)]
    span = f"{known_m.min():.2f} to {known_m.max():.2f} m" if known_m.size else "nothing known"
    print(f"{args.out}: {depth_m.shape[1]} x {depth_m.shape[0]}, {span}")
    if args.picture:
        write_rgb(args.picture, depth_picture(depth_m))
        print(f"{args.picture}: the same in colours")


def ask(args: argparse.Namespace) -> None:
    """Answer one question about one image."""
    from depthlm_ros.core import Region

    regions = tuple(Region(*box) for box in args.region)
    answer = _look(args).ask(args.question, [tuple(uv) for uv in args.pixel], regions)
    print(json.dumps(answer_dict(answer)) if args.json else answer.text)


def evaluate(args: argparse.Namespace) -> None:
    """Score a model on labelled images."""
    from depthlm_ros.eval import evaluate as evaluation
    from depthlm_ros.eval.records import read_records

    labels = read_records(args.labels)
    model = _load(args)
    report = evaluation.evaluate(evaluation.model_predictor(model, args.points), labels)
    scores = report.as_dict() | {"model": model.name, "backend": model.backend_name, "points": args.points}
    for problem in (*report.left_out, *report.refused):
        print(f"depthlm: left out: {problem}", file=sys.stderr)
    print(report.table())
    if args.json:
        args.json.write_text(json.dumps(_plain(scores), indent=1) + "\n", encoding="utf-8")


def answer_dict(answer: Answer) -> dict[str, object]:
    """An answer in plain types, fit for JSON: what is unknown is null."""
    fields = {
        "text": answer.text,
        "status": answer.status.value,
        "value": answer.value,
        "unit": answer.unit,
        "std": answer.std,
        "points_m": answer.points_m.tolist(),
        "regions": [vars(region) for region in answer.regions],
        "confidence": answer.confidence,
    }
    return {key: _plain(value) for key, value in fields.items()}


def _parser(verb: str) -> argparse.ArgumentParser:
    """The whole command line; the options of another module's verb only if it is the one that was asked for."""
    parser = argparse.ArgumentParser(
        prog="depthlm", description="Metric depth and spatial questions from single images."
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_depth(verbs.add_parser("depth", help="depth of an image, as a file", description=depth.__doc__))
    _add_ask(verbs.add_parser("ask", help="a question about an image", description=ask.__doc__))
    _add_eval(verbs.add_parser("eval", help="scores on labelled images", description=evaluate.__doc__))
    for name, (module_name, help_text) in OTHER_VERBS.items():
        other = verbs.add_parser(name, help=help_text, description=help_text)
        if name == verb:
            module = importlib.import_module(module_name)
            module.add_arguments(other)
            other.set_defaults(run=module.run)
    return parser


def _add_depth(parser: argparse.ArgumentParser) -> None:
    _add_look(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npy", help="where to write the depth, float32")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="also draw it in colours, with a scale in metres"
    )
    parser.set_defaults(run=depth)


def _add_ask(parser: argparse.ArgumentParser) -> None:
    _add_look(parser)
    parser.add_argument("question", help='in plain English: "How far is the red box?"')
    for name, parts, about in (
        ("--pixel", ("U", "V"), "a pixel"),
        ("--region", ("X", "Y", "W", "H"), "a box, in pixels,"),
    ):
        help_text = f"{about} that the question is about; may be given again"
        parser.add_argument(
            name, type=float, nargs=len(parts), action="append", default=[], metavar=parts, help=help_text
        )
    parser.add_argument("--json", action="store_true", help="the whole answer as one JSON object")
    parser.set_defaults(run=ask)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", type=Path, metavar="LABELS.jsonl", help="labels in DepthLM's schema")
    _add_model(parser)
    parser.add_argument(
        "--points",
        choices=("dense", "words"),
        default="dense",
        help="read the depth map, or let the model say each depth",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there as JSON")
    parser.set_defaults(run=evaluate)


def _add_look(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="an image file, without lens distortion")
    parser.add_argument(
        "--intrinsics",
        type=float,
        nargs=4,
        required=True,
        metavar=("FX", "FY", "CX", "CY"),
        help="focal lengths and principal point of this image, pixels",
    )
    _add_model(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="a model's name or its folder (default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="what runs it (default: %(default)s)")


def _load(args: argparse.Namespace) -> Model:
    from depthlm_ros.model import load_model

    return load_model(args.model, backend=args.backend)


def _look(args: argparse.Namespace) -> View:
    from depthlm_ros.core import Frame, Intrinsics
    from depthlm_ros.imagefile import read_rgb

    rgb = read_rgb(args.image)
    fx_px, fy_px, cx_px, cy_px = args.intrinsics
    intrinsics = Intrinsics(fx_px, fy_px, cx_px, cy_px, rgb.shape[1], rgb.shape[0])
    return _load(args).look(Frame(rgb, intrinsics))


def _plain(value):
    """The same value with NaN and infinity as None, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _complain(exc: BaseException, exit_code: int) -> int:
    print("depthlm:", " ".join(str(exc).split()), file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
