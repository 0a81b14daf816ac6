"""A model on rendered scenes that were in no training: depth, words, questions, and two views. The scores of a card.

    . ./env.sh torch && python bench/rendered.py [--model tiny] [--images 800]

Takes a quarter of an hour. Of 150 images there are 240 distances of objects: their share is then known to 6 % at best.

Ends with one JSON line, as `depthlm train` writes it beside what it has trained (scores_rendered.json).
"""

from __future__ import annotations

import argparse
import json

from depthlm_ros.eval.rendered_scenes import rendered_scores
from depthlm_ros.model import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="name, NAME=FOLDER or folder (default: %(default)s)")
    parser.add_argument("--images", type=int, default=800, help="and a third as many pairs (default: %(default)s)")
    args = parser.parse_args()
    print(json.dumps(rendered_scores(load_model(args.model), args.images)))


if __name__ == "__main__":
    main()
