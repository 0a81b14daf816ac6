# SPDX-License-Identifier: Apache-2.0
"""Writes bundles: graphs, weights, tokenizer and the manifest that vouches for them.

write_bundle writes a model with its checkpoint, write_engine a model without one. Both write into a work folder and
move the files into place at the end, the manifest last: a killed export never leaves a wrong bundle that loads.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from onnxscript import ir, optimizer
from tokenizers import Tokenizer

from depthlm_ros.errors import BackendFailed, BadBundle, SetupError
from depthlm_ros.export.engine_store import WORK_FOLDER
from depthlm_ros.export.onnx_graphs import (
    OPSET,
    export_depth_graph,
    export_look_graph,
    export_read_graph,
    export_step_graph,
    fold_constants,
    save_model,
)
from depthlm_ros.export.precision import Precision, quantise_linear_layers, run_bf16_convolutions_in_fp32
from depthlm_ros.export.static_int8 import quantise_convolutions
from depthlm_ros.export.weights import WeightFile, share_weights
from depthlm_ros.families.base import PAIR_ABILITIES
from depthlm_ros.families.registry import chat_named, family_named
from depthlm_ros.model_files.bundle import (
    ENGINE_WEIGHTS_FILE,
    FORMAT,
    STEP_FILE,
    TOKENIZER_FILE,
    Manifest,
    ModelBundle,
    bundle_from_manifest,
    file_digest,
    look_graph_name,
    manifest_text,
    read_graph_name,
    read_manifest,
)
from depthlm_ros.model_files.install_paths import MANIFEST
from depthlm_ros.model_files.safetensors_files import CHECKPOINT_FILE
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.depth_first import DepthFirstModel, save_checkpoint


@dataclass(frozen=True)
class ExportOptions:
    """What to export of a model.

    precision: of the model's weights. extra_fields: further fields of the manifest. canvases: for int8 of a model that
    gives depth first: pictures as it sees them, uint8 (1, h, w, 3), on which its convolutions are rounded too.
    """

    spec: ModelSpec
    opset: int = OPSET
    only_depth: bool = False
    precision: Precision = field(default_factory=Precision)
    extra_fields: Mapping[str, object] = field(default_factory=dict)
    canvases: Sequence[np.ndarray] = ()

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """Sizes (width, height) of the look graphs' images."""
        return self.spec.canvas.canvases_px or self.spec.canvas.built_px

    @property
    def pairs(self) -> bool:
        """Whether the model takes two images at once."""
        return not self.only_depth and bool(family_named(self.spec.family).abilities & PAIR_ABILITIES)


# Saves one graph. Arguments: the name of its file, the graph.
SaveGraph = Callable[[str, ir.Model], None]
# Reports progress. Arguments: the stage, the number of the step that is done, the number of all steps.
ReportStage = Callable[[str, int, int], None]


def write_bundle(
    model: DepthFirstModel,
    tokenizer: Tokenizer,
    spec: ModelSpec,
    folder: Path,
    provenance: Mapping[str, object] | None = None,
) -> None:
    """Exports the embedded model with its checkpoint. The graphs share the checkpoint's half-precision weights.

    Other files in `folder` stay. Raises SetupError for a canvas that the model cannot see, BackendFailed for a full
    disk.
    """
    options = ExportOptions(spec, extra_fields={"provenance": dict(provenance or {})})
    check_canvases(options.sizes_px, model.canvas_multiple_px)
    with _work_folder(folder) as work:
        save_checkpoint(model, work)
        _write_tokenizer(tokenizer, work)

        def save_graph(name: str, graph: ir.Model) -> None:
            save_model(graph, work / name)
            share_weights(work / name, work / CHECKPOINT_FILE)

        _export_graphs(model, tokenizer, options, save_graph, lambda stage, done, total: None)
        _publish(work, folder, _make_manifest(tokenizer, options, work, model.depth_first))


def write_engine(
    model: Backbone,
    tokenizer: Tokenizer,
    options: ExportOptions,
    folder: Path,
    inspect: Callable[[ModelBundle], Mapping[str, object]],
    report: ReportStage,
) -> Manifest:
    """Exports a model without its checkpoint, in the precision of its weights. Returns the manifest.

    inspect: called with the finished bundle before it is moved into place; it returns further fields of the manifest.
    If it raises, the old content of `folder` stays. Raises SetupError and BackendFailed as write_bundle does.
    """
    check_canvases(options.sizes_px, model.canvas_multiple_px)
    with _work_folder(folder) as work:
        _write_tokenizer(tokenizer, work)
        with WeightFile(work / ENGINE_WEIGHTS_FILE) as weights:

            def save_graph(name: str, graph: ir.Model) -> None:
                fold_constants(graph)
                run_bf16_convolutions_in_fp32(graph)
                if options.precision.backbone == "int8":
                    fitting = [canvas for canvas in options.canvases if look_graph_name(_size_px(canvas)) == name]
                    graph = quantise_convolutions(graph, fitting) if fitting else graph
                    quantise_linear_layers(graph)
                optimizer.remove_unused_nodes(graph)
                weights.add_model(graph, work / name, lambda done, total: report(f"weights of {name}", done, total))

            _export_graphs(model, tokenizer, options, save_graph, report)
        manifest = _make_manifest(tokenizer, options, work, model.depth_first)
        manifest |= inspect(bundle_from_manifest(work, manifest))
        _publish(work, folder, manifest)
    return manifest


def write_network_engine(
    graph: ir.Model,
    tokenizer: Tokenizer,
    options: ExportOptions,
    folder: Path,
    inspect: Callable[[ModelBundle], Mapping[str, object]],
) -> Manifest:
    """Writes an engine whose one look graph exists already, as write_engine does. Returns the manifest."""
    with _work_folder(folder) as work:
        _write_tokenizer(tokenizer, work)
        with WeightFile(work / ENGINE_WEIGHTS_FILE) as weights:
            weights.add_model(graph, work / look_graph_name(options.sizes_px[0]), lambda done, total: None)
        manifest = _make_manifest(tokenizer, options, work)
        manifest |= inspect(bundle_from_manifest(work, manifest))
        _publish(work, folder, manifest)
    return manifest


def check_canvases(canvases_px: tuple[tuple[int, int], ...], multiple_px: int) -> None:
    """Raises SetupError naming a size whose sides are not multiples of multiple_px (Backbone.canvas_multiple_px)."""
    for width, height in canvases_px:
        if min(width, height) < multiple_px or width % multiple_px or height % multiple_px:
            raise SetupError(f"canvas {width} x {height}: both sides must be multiples of {multiple_px} px.")


def _size_px(canvas: np.ndarray) -> tuple[int, int]:
    return canvas.shape[2], canvas.shape[1]


def _export_graphs(
    model: Backbone, tokenizer: Tokenizer, options: ExportOptions, save_graph: SaveGraph, report: ReportStage
) -> None:
    exports = _look_exports(model, tokenizer, options)
    if not options.only_depth:
        exports[STEP_FILE] = partial(export_step_graph, model, options.opset)
    for index, (name, export) in enumerate(exports.items()):
        report(f"export {name}", index, len(exports))
        save_graph(name, export())


def _look_exports(model: Backbone, tokenizer: Tokenizer, options: ExportOptions) -> dict[str, Callable[[], ir.Model]]:
    """Returns what exports each of the graphs that lead from images to depth, keys and values, by file name."""
    before, between, after = _prompt_tokens(tokenizer, options.spec)
    texts = {1: (before, after), 2: (before, between, after)}
    exports: dict[str, Callable[[], ir.Model]] = {}
    opset, only_depth = options.opset, options.only_depth
    for size_px in options.sizes_px:
        if isinstance(model, DepthFirstModel):
            exports[look_graph_name(size_px)] = partial(export_depth_graph, model, size_px, opset, only_depth)
            if not only_depth:
                exports[read_graph_name(size_px)] = partial(export_read_graph, model, texts[1], size_px, opset)
            continue
        for images in (1, 2) if options.pairs else (1,):
            name, sizes_px = look_graph_name(size_px, images), (size_px,) * images
            exports[name] = partial(export_look_graph, model, texts[images], sizes_px, opset, only_depth)
    return exports


def _prompt_tokens(tokenizer: Tokenizer, spec: ModelSpec) -> tuple[list[int], list[int], list[int]]:
    """Returns the token ids before, between and after images."""
    chat = chat_named(spec.chat, spec.system)
    before, between, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in chat.around_images)
    return before, between, after


def _write_tokenizer(tokenizer: Tokenizer, work: Path) -> None:
    """Writes the same file as tokenizer.save(), which raises a plain Exception for a full disk."""
    (work / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def _make_manifest(tokenizer: Tokenizer, options: ExportOptions, work: Path, depth_first: bool = False) -> Manifest:
    spec = options.spec
    before, between, after = _prompt_tokens(tokenizer, spec)
    resize_rule = {} if spec.canvas.canvases_px else {"canvas": asdict(spec.canvas)}
    return {
        "format": FORMAT,
        "name": spec.name,
        "family": spec.family,
        "architecture": spec.architecture,
        "head": spec.head,
        "licence": spec.licence,
        "focal_px": spec.canvas.focal_px,
        "depth_type": spec.depth_type,
        "most_coordinate": spec.most_coordinate,
        "generation": asdict(spec.generation),
        "canvases_px": [list(size) for size in options.sizes_px],
        **resize_rule,
        "pixels_per_token": spec.pixels_per_token,
        "chat": spec.chat,
        "system": spec.system,
        "prefix": {"before": before, "between": between, "after": [] if options.only_depth else after},
        "pairs": options.pairs,
        "only_depth": options.only_depth,
        "depth_first": depth_first,
        "calibration": asdict(spec.calibration),
        "opset": options.opset,
        "precision": asdict(options.precision),
        **options.extra_fields,
        "files": {path.name: file_digest(path) for path in sorted(work.iterdir())},
    }


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Makes an empty folder inside `folder` and removes it at the end. A full disk becomes a BackendFailed."""
    work = folder / WORK_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            written_mb = sum(path.stat().st_size for path in work.glob("*")) / 1e6
            raise BackendFailed(
                f"no space is left in {folder} ({exc.strerror}; {written_mb:.0f} MB were written): free some space, or "
                "name another folder with --out."
            ) from exc
        raise BackendFailed(f"cannot write to {folder}: {exc.strerror or exc}. Name another folder.") from exc
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, folder: Path, manifest: Manifest) -> None:
    """Moves all files into place and removes the files, and their plans, that only the old manifest lists."""
    old_files = _files_of_old_manifest(folder)
    # The new manifest is written while the old content is complete: from here on no step needs disk space.
    (work / MANIFEST).write_text(manifest_text(manifest))
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in manifest["files"]:
        (work / name).chmod(0o644)  # some libraries make files that only their owner can read
        (work / name).replace(folder / name)
    for name in old_files - set(manifest["files"]):
        for path in (folder / name, *folder.glob(f"{Path(name).stem}.plan*")):
            path.unlink(missing_ok=True)
    (work / MANIFEST).replace(folder / MANIFEST)


def _files_of_old_manifest(folder: Path) -> set[str]:
    try:
        return {name for name in read_manifest(folder)["files"] if Path(name).name == name}
    except BadBundle:
        return set()
