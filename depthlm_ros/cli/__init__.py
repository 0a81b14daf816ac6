# SPDX-License-Identifier: Apache-2.0
"""The command line `depthlm VERB`. Each verb is a module of this room with add_arguments(parser) and run(args).

A verb's module is imported only when the verb is used, so that `depthlm --help` is fast and needs no model.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

from depthlm_ros.errors import BadInput, DepthLMError, SetupError

__all__ = ["VERBS", "build_parser", "main"]

INSTALL_HINT = (
    "pip install 'depthlm_ros[torch]' for train and engine build (for TensorRT plans also tensorrt or tensorrt-rtx), "
    "'depthlm_ros[torch,train]' for finetune (for its recipe depthlm-grpo also [grpo]), "
    "'depthlm_ros[bags]' for bag, 'depthlm_ros' for all others. "
    "In the repository: make setup-torch, then . ./env.sh torch in the shell."
)
# A shell reports 130 for a process that Ctrl-C ended, and 141 for one whose reader went away (`depthlm models | head`).
EXIT_SETUP, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141
# A word of a message that is longer is not for people: the content of a file in the place of its path.
MOST_CHARS = 300
# Name: (module, help text).
VERBS = {
    "depth": ("depthlm_ros.cli.depth", "write the depth of an image to a file"),
    "ask": ("depthlm_ros.cli.ask", "ask a question about one or two images"),
    "match": ("depthlm_ros.cli.match", "find pixels of an image in another image"),
    "pose": ("depthlm_ros.cli.pose", "tell how the camera moved between two images"),
    "eval": ("depthlm_ros.cli.eval", "score a model on labelled images and compare it with published scores"),
    "label": ("depthlm_ros.cli.label", "label many pictures with a model: depth maps and answers, in parallel"),
    "bag": ("depthlm_ros.cli.bag", "write depth and answers for the images of a recorded bag, as a bag; without ROS"),
    "models": ("depthlm_ros.cli.models", "list the models, their licences, and where they are or how to get them"),
    "data": ("depthlm_ros.cli.data", "inspect labelled data, and make them from public data sets"),
    "train": ("depthlm_ros.cli.train", "train the embedded model: depth, then words"),
    "finetune": ("depthlm_ros.cli.finetune", "train DepthLM, DepthVLM or VLM3 on labelled images with a recipe"),
    "engine": ("depthlm_ros.cli.engine", "compile a model for one camera, with TensorRT or ONNX Runtime"),
}


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a wrong option in one line, as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        """Prints the error on stderr and exits."""
        self.exit(EXIT_INPUT, f"depthlm: {' '.join(message.split())}: see `{self.prog} --help`.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; prints an error as one line on stderr.

    Returns the exit code: 0, 2 for unusable input, 1 for an unusable installation, 130 after Ctrl-C, 141 if nobody
    reads the output any more.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text, and a locale may be ASCII
    try:
        _parse_and_run(argv)
    except (BadInput, OSError) as exc:
        if isinstance(exc, BrokenPipeError) and _is_unread(sys.stdout, sys.stderr):
            return EXIT_BROKEN_PIPE
        return _print_error(exc, EXIT_INPUT)
    except ModuleNotFoundError as exc:
        return _print_error(SetupError(f"the Python package '{exc.name}' is missing: {INSTALL_HINT}"), EXIT_SETUP)
    except DepthLMError as exc:
        return _print_error(exc, EXIT_SETUP)
    except KeyboardInterrupt:
        return _print_error(KeyboardInterrupt("interrupted."), EXIT_INTERRUPTED)
    return 0


def _parse_and_run(argv: Sequence[str]) -> None:
    try:
        args = build_parser(argv[0] if argv else "").parse_args(argv)
        args.run(args)
    finally:
        sys.stdout.flush()  # here, where an error of it is told like others; also after --help, which exits


def build_parser(verb: str) -> argparse.ArgumentParser:
    """Returns the parser of all verbs, but with the options of `verb` only, so that no other module is imported."""
    parser = OneLineParser(prog="depthlm", description="Metric depth and spatial questions from images.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, (module_name, help_text) in VERBS.items():
        verb_parser = verbs.add_parser(name, help=help_text, description=help_text)
        if name == verb:
            module = importlib.import_module(module_name)
            module.add_arguments(verb_parser)
            verb_parser.set_defaults(run=module.run)
    return parser


def _print_error(exc: BaseException, exit_code: int) -> int:
    words = (word if len(word) <= MOST_CHARS else f"{word[:MOST_CHARS]}..." for word in str(exc).split())
    print("depthlm:", " ".join(words), file=sys.stderr)
    return exit_code


def _is_unread(*streams: TextIO) -> bool:
    """Whether nobody reads one of these streams; then it leads to nowhere, so that Python does not complain at exit."""
    unread = False
    for stream in streams:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            unread = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return unread
