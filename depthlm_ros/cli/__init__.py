"""The command line, `depthlm VERB`. Each verb is a module with add_arguments(parser) and run(args), in its own room or
here."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from depthlm_ros.errors import BadInput, DepthLMError, SetupError

INSTALL_HINT = (
    "pip install 'depthlm_ros[torch]' for train and engine build (for TensorRT plans also [tensorrt]), "
    "'depthlm_ros[torch,train]' for finetune (its recipe depthlm-grpo: also [grpo]), 'depthlm_ros' for the rest. "
    "In the repository: make setup-torch, then . ./env.sh torch in the shell."
)
# The last as shells tell of a process that Ctrl-C ended.
EXIT_SETUP, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130
# train and engine build need torch.
VERBS = {
    "depth": ("depthlm_ros.cli.depth", "depth of an image, as a file"),
    "ask": ("depthlm_ros.cli.ask", "a question about an image, or about two"),
    "match": ("depthlm_ros.cli.match", "where pixels of an image are in another one"),
    "pose": ("depthlm_ros.cli.pose", "how the camera moved between two images"),
    "eval": ("depthlm_ros.cli.eval", "scores on labelled images, beside the published ones"),
    "models": ("depthlm_ros.cli.models", "list the models, their licences, and where they are or how to get them"),
    "data": ("depthlm_ros.cli.data", "look at labelled data, and make them from public data sets"),
    "train": ("depthlm_ros.cli.train", "train the embedded model on rendered scenes"),
    "finetune": ("depthlm_ros.cli.finetune", "train DepthLM, DepthVLM or VLM3 on labelled images by its recipe"),
    "engine": ("depthlm_ros.cli.engine", "compile a model for one camera, with TensorRT or ONNX Runtime"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; errors are one line on stderr.

    Returns 0, 2 for unusable input, 1 for an unusable installation, 130 after Ctrl-C.
    """
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
    except KeyboardInterrupt:
        return _complain(KeyboardInterrupt("interrupted."), EXIT_INTERRUPTED)
    return 0


def _parser(verb: str) -> argparse.ArgumentParser:
    """The whole command line; a verb's options only if it is the one that was asked for."""
    parser = argparse.ArgumentParser(prog="depthlm", description="Metric depth and spatial questions from images.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, (module_name, help_text) in VERBS.items():
        chosen = verbs.add_parser(name, help=help_text, description=help_text)
        if name == verb:
            module = importlib.import_module(module_name)
            module.add_arguments(chosen)
            chosen.set_defaults(run=module.run)
    return parser


def _complain(exc: BaseException, exit_code: int) -> int:
    print("depthlm:", " ".join(str(exc).split()), file=sys.stderr)
    return exit_code
