"""`depthlm export`: a checkpoint folder (config.json, model.safetensors, tokenizer.json) in, a bundle out."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer

from depthlm_ros.bundle import find_bundle, load_bundle
from depthlm_ros.export.graphs import OPSET
from depthlm_ros.export.package import BundleFacts, write_bundle
from depthlm_ros.families.registry import family_named
from depthlm_ros.nets.checkpoint import load_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="bundle whose checkpoint is exported (name or folder)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    parser.add_argument(
        "--canvas",
        type=int,
        nargs=2,
        action="append",
        metavar=("W", "H"),
        help="canvas size in pixels; repeatable (default: the bundle's own)",
    )
    parser.add_argument("--opset", type=int, default=OPSET, help=f"ONNX opset (default {OPSET})")


def run(args: argparse.Namespace) -> int:
    bundle = load_bundle(find_bundle(args.model))
    canvases = tuple((w, h) for w, h in args.canvas) if args.canvas else bundle.canvases_px
    facts = BundleFacts(
        bundle.name,
        bundle.focal_px,
        canvases,
        bundle.dense_std,
        bundle.words_std,
        licence="as the checkpoint's",
        provenance={"command": "depthlm export", "from": bundle.name},
    )
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    write_bundle(load_checkpoint(bundle.folder), tokenizer, family_named(bundle.family), facts, args.out, args.opset)
    print(f"wrote {args.out}")
    return 0
