"""`depthlm export`: a checkpoint folder (config.json, model.safetensors, tokenizer.json) in, a bundle out."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from depthlm_ros.bundle import find_bundle, load_bundle
from depthlm_ros.export.graphs import OPSET
from depthlm_ros.export.package import write_bundle
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
    spec = bundle.spec
    if args.canvas:
        spec = replace(spec, canvas=replace(spec.canvas, canvases_px=tuple((w, h) for w, h in args.canvas)))
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    provenance = {"command": "depthlm export", "from": bundle.name}
    write_bundle(load_checkpoint(bundle.folder), tokenizer, spec, args.out, args.opset, provenance)
    print(f"wrote {args.out}")
    return 0
