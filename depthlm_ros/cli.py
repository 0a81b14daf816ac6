"""The command line, `depthlm VERB`. One small function per verb here, or a module of its own; heavy imports inside."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from depthlm_ros.cliparts import add_lens, add_model, load, read_frame
from depthlm_ros.errors import BadInput, DepthLMError, SetupError

INSTALL_HINT = (
    "pip install 'depthlm_ros[torch]' for train and engine build (for TensorRT plans also [tensorrt]), "
    "'depthlm_ros[torch,train]' for finetune (its recipe depthlm-grpo: also [grpo]), 'depthlm_ros' for the rest. "
    "In the repository: make engine, make train; for others make setup-torch."
)
EXIT_SETUP, EXIT_INPUT = 1, 2
# Verbs whose options live beside their code, in MODULE.add_arguments(parser) and MODULE.run(args); train and
# engine build need torch.
OTHER_VERBS = {
    "ask": ("depthlm_ros.askcli", "a question about an image, or about two"),
    "match": ("depthlm_ros.matchcli", "where pixels of an image are in another one"),
    "pose": ("depthlm_ros.posecli", "how the camera moved between two images"),
    "eval": ("depthlm_ros.eval.cli", "scores on labelled images, beside the published ones"),
    "models": ("depthlm_ros.modelscli", "list the models, their licences, and where they are or how to get them"),
    "data": ("depthlm_ros.data.cli", "look at labelled data, and make them from public data sets"),
    "train": ("depthlm_ros.train.cli", "train the embedded model on rendered scenes"),
    "finetune": ("depthlm_ros.finetune.cli", "train DepthLM, DepthVLM or VLM3 on labelled images by its recipe"),
    "engine": ("depthlm_ros.engine.cli", "compile a model for one camera, with TensorRT or ONNX Runtime"),
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

    view = load(args).look(read_frame(args.image, args.intrinsics))
    depth_m = view.depth().depth_m.astype(np.float32, copy=False)
    with args.out.open("wb") as file:
        np.save(file, depth_m)
    known_m = depth_m[np.isfinite(depth_m)]
    span = f"{known_m.min():.2f} to {known_m.max():.2f} m" if known_m.size else "nothing known"
    print(f"{args.out}: {depth_m.shape[1]} x {depth_m.shape[0]}, {span}")
    if args.picture:
        write_rgb(args.picture, depth_picture(depth_m))
        print(f"{args.picture}: the same in colours")


def _parser(verb: str) -> argparse.ArgumentParser:
    """The whole command line; the options of another module's verb only if it is the one that was asked for."""
    parser = argparse.ArgumentParser(prog="depthlm", description="Metric depth and spatial questions from images.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_depth(verbs.add_parser("depth", help="depth of an image, as a file", description=depth.__doc__))
    for name, (module_name, help_text) in OTHER_VERBS.items():
        other = verbs.add_parser(name, help=help_text, description=help_text)
        if name == verb:
            module = importlib.import_module(module_name)
            module.add_arguments(other)
            other.set_defaults(run=module.run)
    return parser


def _add_depth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="an image file, without lens distortion")
    add_lens(parser)
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npy", help="where to write the depth, float32")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="also draw it in colours, with a scale in metres"
    )
    parser.set_defaults(run=depth)


def _complain(exc: BaseException, exit_code: int) -> int:
    print("depthlm:", " ".join(str(exc).split()), file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
