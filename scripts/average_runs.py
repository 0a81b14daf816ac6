# SPDX-License-Identifier: Apache-2.0
"""Averages the weights of two finished runs of `depthlm train`, the second of which went on from the first.

The mean of weights that one run passed through is often better than both (Wortsman et al., "Model soups", ICML 2022).
The folder that is written can be exported:

    . ./env.sh torch
    python scripts/average_runs.py RUN1 RUN2 OUT --share 0.5
    depthlm train --export-only --run OUT --photos PHOTOS --frames FRAMES
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from depthlm_ros.training.embedded.tokenizer import TOKENIZER_FILE
from depthlm_ros.training.embedded.trainer import CHECKPOINT


def main() -> None:
    """Writes the checkpoint of the second run with the averaged weights, and the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (("first", "run folder"), ("second", "run folder that went on from it"), ("out", "new folder")):
        parser.add_argument(name, type=Path, help=text)
    parser.add_argument("--share", type=float, default=0.5, help="of the second run, 0 to 1 (default: %(default)s)")
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"--share is {args.share:g}: give a number from 0 to 1")
    for path in (folder / name for folder in (args.first, args.second) for name in (TOKENIZER_FILE, CHECKPOINT)):
        if not path.is_file():
            parser.error(f"{path} does not exist: name two folders of `depthlm train --run`")
    texts = [(folder / TOKENIZER_FILE).read_text() for folder in (args.first, args.second)]
    if texts[0] != texts[1]:
        parser.error("the runs have different tokenizers: the second must have gone on from the first")
    first, second = (
        torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True) for folder in (args.first, args.second)
    )
    average = {
        name: torch.lerp(first["average"][name].double(), values.double(), args.share).to(values.dtype)
        if values.is_floating_point()
        else values
        for name, values in second["average"].items()
    }
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(second | {"average": average, "model": average}, args.out / CHECKPOINT)
    shutil.copy(args.second / TOKENIZER_FILE, args.out)


if __name__ == "__main__":
    main()
