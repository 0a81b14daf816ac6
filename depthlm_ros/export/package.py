"""Writes a bundle: checkpoint, graphs, tokenizer and the manifest that vouches for them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from depthlm_ros.bundle import FORMAT, MANIFEST, file_digest, look_file
from depthlm_ros.errors import SetupError
from depthlm_ros.export.dedupe import share_weights
from depthlm_ros.export.graphs import OPSET, export_look, export_step
from depthlm_ros.families.base import PAIR_ABILITIES
from depthlm_ros.families.chat import chat_named
from depthlm_ros.families.registry import family_named
from depthlm_ros.nets.checkpoint import WEIGHTS_FILE, save_checkpoint
from depthlm_ros.nets.graphs import LookGraph, StepGraph
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth
from depthlm_ros.spec import ModelSpec


def write_bundle(
    model: Qwen3VLDepth,
    tokenizer: Tokenizer,
    spec: ModelSpec,
    folder: Path,
    opset: int = OPSET,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Exports into a temporary folder and moves it over `folder` file by file, the manifest last: a killed export
    leaves a folder that does not load rather than a wrong one. Other files in `folder` stay."""
    canvases_px, chat = spec.canvas.canvases_px, chat_named(spec.chat, spec.system)
    check_canvases(canvases_px, model.pixels_per_token)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        before, between, after = (tokenizer.encode(text).ids for text in chat.around_images)
        pairs = bool(family_named(spec.family).abilities & PAIR_ABILITIES)
        save_checkpoint(model, work)
        tokenizer.save(str(work / "tokenizer.json"))
        for size_px in canvases_px:
            for images in (1, 2)[: 1 + pairs]:
                texts = (before, *[between] * (images - 1), after)
                path = work / look_file(size_px, images)
                export_look(LookGraph(model, texts, (size_px,) * images), size_px, path, opset)
                share_weights(path, work / WEIGHTS_FILE)
        export_step(StepGraph(model), work / "step.onnx", opset)
        share_weights(work / "step.onnx", work / WEIGHTS_FILE)
        files = sorted(path.name for path in work.iterdir())
        manifest = {
            "format": FORMAT,
            "name": spec.name,
            "family": spec.family,
            "architecture": spec.architecture,
            "head": spec.head,
            "licence": spec.licence,
            "focal_px": spec.canvas.focal_px,
            "depth_type": spec.depth_type,
            "canvases_px": [list(size) for size in canvases_px],
            "pixels_per_token": model.pixels_per_token,
            "chat": spec.chat,
            "system": spec.system,
            "prefix": {"before": before, "between": between, "after": after},
            "pairs": pairs,
            "calibration": asdict(spec.calibration),
            "opset": opset,
            "provenance": dict(provenance or {}),
            "files": {file: file_digest(work / file) for file in files},
        }
        (folder / MANIFEST).unlink(missing_ok=True)
        for file in files:
            (work / file).chmod(0o644)  # some writers make files for their owner only
            shutil.move(work / file, folder / file)
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        shutil.move(work / MANIFEST, folder / MANIFEST)


def check_canvases(canvases_px: tuple[tuple[int, int], ...], token_px: int) -> None:
    """Raises SetupError naming a size that is not made of whole image tokens."""
    for width, height in canvases_px:
        if width < token_px or height < token_px or width % token_px or height % token_px:
            raise SetupError(f"canvas {width} x {height}: both sides must be a multiple of {token_px} px, one token.")
