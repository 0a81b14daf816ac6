"""Writes bundles: graphs, weights, tokenizer and the manifest that vouches for them.

Everything is made in a folder of its own and moved into place at the end, the manifest last: an export that was killed
leaves a folder that does not load rather than a wrong one.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxscript import ir, optimizer
from tokenizers import Tokenizer

from depthlm_ros.errors import BackendFailed, BadBundle, SetupError
from depthlm_ros.export.onnx_graphs import OPSET, fold, look_model, save, step_model
from depthlm_ros.export.precision import Precision, convolve_in_single, quantise
from depthlm_ros.export.weights import WeightFile, share_weights
from depthlm_ros.families.base import PAIR_ABILITIES
from depthlm_ros.families.chat import chat_named
from depthlm_ros.families.registry import family_named
from depthlm_ros.model_files.bundle import (
    FORMAT,
    MANIFEST,
    STEP_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    Bundle,
    described_bundle,
    file_digest,
    look_file,
    manifest_text,
    read_manifest,
)
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.nets import checkpoint
from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth

# Where a folder's next content is made. It holds no manifest, so nothing in it loads.
WORK = ".export"


@dataclass(frozen=True)
class Wanted:
    """What is exported of a model. precision: that which the model's weights have. facts: further fields of the
    manifest."""

    spec: ModelSpec
    opset: int = OPSET
    only_depth: bool = False
    precision: Precision = field(default_factory=Precision)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        return self.spec.canvas.canvases_px or self.spec.canvas.built_px

    @property
    def pairs(self) -> bool:
        """Whether there are to be graphs for two images."""
        return not self.only_depth and bool(family_named(self.spec.family).abilities & PAIR_ABILITIES)


# Given the name of a graph's file and the graph.
Keep = Callable[[str, ir.Model], None]
# Told what is being done, and how many steps of how many are done.
Watch = Callable[[str, int, int], None]


def write_bundle(
    model: Qwen3VLDepth,
    tokenizer: Tokenizer,
    spec: ModelSpec,
    folder: Path,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Exports a model of our own with its checkpoint, whose half-precision weights the graphs share; other files in
    `folder` stay. Raises SetupError for a canvas that is not made of whole tokens, BackendFailed for a full disk."""
    wanted = Wanted(spec, facts={"provenance": dict(provenance or {})})
    check_canvases(wanted.sizes_px, model.pixels_per_token)
    with _work(folder) as work:
        checkpoint.save_checkpoint(model, work)
        _write_tokenizer(tokenizer, work)

        def keep(name: str, graph: ir.Model) -> None:
            save(graph, work / name)
            share_weights(work / name, work / checkpoint.WEIGHTS_FILE)

        _export(model, tokenizer, wanted, keep, lambda what, done, of: None)
        _publish(work, folder, _manifest(tokenizer, wanted, work))


def write_engine(
    model: Backbone,
    tokenizer: Tokenizer,
    wanted: Wanted,
    folder: Path,
    inspect: Callable[[Bundle], Mapping[str, Any]],
    watch: Watch,
) -> dict[str, Any]:
    """Exports a model without its checkpoint, in the precision that its weights have. inspect: looks at the bundle
    before it is put in place and gives further fields of the manifest. Returns the manifest.

    Raises SetupError, BackendFailed as write_bundle; what `inspect` raises, keeps the old content.
    """
    check_canvases(wanted.sizes_px, model.pixels_per_token)
    with _work(folder) as work:
        _write_tokenizer(tokenizer, work)
        with WeightFile(work / WEIGHTS_FILE) as weights:

            def keep(name: str, graph: ir.Model) -> None:
                fold(graph)
                convolve_in_single(graph)
                if wanted.precision.backbone == "int8":
                    quantise(graph)
                optimizer.remove_unused_nodes(graph)
                weights.take(graph, work / name, lambda done, of: watch(f"weights of {name}", done, of))

            _export(model, tokenizer, wanted, keep, watch)
        manifest = _manifest(tokenizer, wanted, work)
        manifest |= inspect(described_bundle(work, manifest))
        _publish(work, folder, manifest)
    return manifest


def _export(model: Backbone, tokenizer: Tokenizer, wanted: Wanted, keep: Keep, watch: Watch) -> None:
    before, between, after = _texts(tokenizer, wanted.spec)
    counts = (1, 2)[: 1 + wanted.pairs]
    looks = [(size_px, images) for size_px in wanted.sizes_px for images in counts]
    total = len(looks) + (not wanted.only_depth)
    for index, (size_px, images) in enumerate(looks):
        watch(f"export {look_file(size_px, images)}", index, total)
        texts = (before, *[between] * (images - 1), after)
        keep(
            look_file(size_px, images),
            look_model(model, texts, (size_px,) * images, wanted.opset, wanted.only_depth),
        )
    if not wanted.only_depth:
        watch(f"export {STEP_FILE}", total - 1, total)
        keep(STEP_FILE, step_model(model, wanted.opset))


def _texts(tokenizer: Tokenizer, spec: ModelSpec) -> tuple[list[int], list[int], list[int]]:
    """Token ids before, between and after images."""
    chat = chat_named(spec.chat, spec.system)
    before, between, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in chat.around_images)
    return before, between, after


def _write_tokenizer(tokenizer: Tokenizer, work: Path) -> None:
    """As its own save() does, whose error for a full disk is a plain Exception."""
    (work / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def _manifest(tokenizer: Tokenizer, wanted: Wanted, work: Path) -> dict[str, Any]:
    spec = wanted.spec
    before, between, after = _texts(tokenizer, spec)
    resizes = {} if spec.canvas.canvases_px else {"canvas": asdict(spec.canvas)}
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
        "canvases_px": [list(size) for size in wanted.sizes_px],
        **resizes,
        "pixels_per_token": spec.pixels_per_token,
        "chat": spec.chat,
        "system": spec.system,
        "prefix": {"before": before, "between": between, "after": [] if wanted.only_depth else after},
        "pairs": wanted.pairs,
        "only_depth": wanted.only_depth,
        "calibration": asdict(spec.calibration),
        "opset": wanted.opset,
        "precision": asdict(wanted.precision),
        **wanted.facts,
        "files": {path.name: file_digest(path) for path in sorted(work.iterdir())},
    }


@contextlib.contextmanager
def _work(folder: Path) -> Iterator[Path]:
    """An empty folder in `folder`, gone afterwards. A full disk becomes a BackendFailed."""
    work = folder / WORK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            made = sum(path.stat().st_size for path in work.glob("*")) / 1e6
            raise BackendFailed(
                f"no space is left in {folder} ({exc.strerror}; {made:.0f} MB were written): free some, or name "
                "another folder with --out."
            ) from exc
        raise BackendFailed(f"cannot write to {folder}: {exc.strerror or exc}. Name another folder.") from exc
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Moves everything into place; files that only the old manifest vouched for go, and their plans."""
    before = _vouched(folder)
    # Written while the old content is still whole: from here on nothing needs room.
    (work / MANIFEST).write_text(manifest_text(manifest))
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in manifest["files"]:
        (work / name).chmod(0o644)  # some writers make files for their owner only
        (work / name).replace(folder / name)
    for name in before - set(manifest["files"]):
        for path in (folder / name, *folder.glob(f"{Path(name).stem}.plan*")):
            path.unlink(missing_ok=True)
    (work / MANIFEST).replace(folder / MANIFEST)


def _vouched(folder: Path) -> set[str]:
    try:
        return {name for name in read_manifest(folder)["files"] if Path(name).name == name}
    except BadBundle:
        return set()


def check_canvases(canvases_px: tuple[tuple[int, int], ...], token_px: int) -> None:
    """Raises SetupError naming a size that is not made of whole image tokens."""
    for width, height in canvases_px:
        if width < token_px or height < token_px or width % token_px or height % token_px:
            raise SetupError(f"canvas {width} x {height}: both sides must be a multiple of {token_px} px, one token.")
