# SPDX-License-Identifier: Apache-2.0
"""Scores a model on rendered scenes that it was not trained on: depth, depth in words, questions, and pairs of views.

    . ./env.sh && python bench/rendered.py [--model tiny] [--images 800]

It takes a quarter of an hour. With 150 images there are 240 questions for distances of objects, so that the share of
correct answers is known to 6 % at best.

Ends with one JSON line. `depthlm train` writes the same scores beside a trained model (scores_rendered.json).
"""

from __future__ import annotations

import argparse
import json

from depthlm_ros.eval.rendered_scenes import rendered_scores
from depthlm_ros.model import load_model


def main() -> None:
    """Scores the model and prints the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="name, NAME=FOLDER or folder of a model (default: %(default)s)")
    parser.add_argument(
        "--images",
        type=int,
        default=800,
        help="a third as many pairs are rendered, too (default: %(default)s)",
    )
    args = parser.parse_args()
    print(json.dumps(rendered_scores(load_model(args.model), args.images)))


if __name__ == "__main__":
    main()
