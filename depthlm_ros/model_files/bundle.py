# SPDX-License-Identifier: Apache-2.0
"""An exported model: a folder of graphs, weights and a manifest that vouches for them.

    manifest.json      what the model is, how it is asked, and the SHA-256 of every other file and of itself
    look_WxH.onnx      image -> depth, keys, values; one graph for each canvas size
    pair_WxH.onnx      the same for two images together, in models that match pixels or estimate poses
                       In depth-first bundles depth comes without language, and keys and values when a question comes:
    look_WxH.onnx      image -> depth_m, relative_std (both (1, H, W)), features (1, C, H/16, W/16)
    read_WxH.onnx      features, depth_m, relative_std -> keys, values
    step.onnx          text behind the images; missing in engines that were built for depth only
    model.safetensors  the weights, to which the graphs point; with config.json for the torch backend
    weights.data       the weights of an engine, in the precision of its graphs
    tokenizer.json
    *.plan             the TensorRT plans that were built from the graphs for this machine, each with a JSON file

load_bundle reads a folder and loads nothing that differs from its manifest. find_bundle finds a folder by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from depthlm_ros.errors import BadBundle, BadQuestion, UnknownName
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model_files.bounded_files import check_links, graph_files, read_json
from depthlm_ros.model_files.install_paths import MANIFEST, engine_roots, installed_bundle, installed_bundle_names
from depthlm_ros.model_files.spec import ErrorCalibration, GenerationSettings, ModelSpec

STEP_FILE, TOKENIZER_FILE, CONFIG_FILE = "step.onnx", "tokenizer.json", "config.json"
ENGINE_WEIGHTS_FILE = "weights.data"
# Version of the manifest's fields.
FORMAT = 3
# Inputs of a read graph. They are the outputs of a look graph in depth-first bundles.
READ_INPUTS = ("features", "depth_m", "relative_std")
# Field that holds the checksum of all other fields. The manifests of older exports do not have it.
CHECKSUM = "manifest_sha256"
# Of the numbers of a calibration, those that are no plain factors. Exponents must not overflow.
_CALIBRATION_LIMITS = {
    "confidence_offset": (-100, 100),
    "map_std_centre_m": (0.01, 1000),
    "map_std_growth": (0, 10),
    "map_std_upper": (0, 10),
}
# Larger JSON files count in a fingerprint by their size only.
MAX_FINGERPRINT_BYTES = 1 << 20
# More would only cost memory: engines have one canvas, the embedded model three.
MAX_CANVASES, MAX_CANVAS_PX = 64, 1 << 14

# The fields of a manifest.json, as JSON holds them. bundle_from_manifest checks them.
Manifest: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True)
class ModelBundle:
    """An exported model.

    before, between, after: token ids around the images of a prompt.
    pairs: whether it looks at two images of one canvas size together, or at both in turn if depth_first.
    only_depth: whether the model cannot be asked in words.
    depth_first: whether look graphs give no keys and values: those come from read graphs (Backend.read).
    precision: of the backbone in the graphs: "fp32", "fp16", "bf16" or "int8".
    rebuild: the command that builds an engine again, "" for other models.
    digests: the SHA-256 of every file by name. load_bundle has compared them with the files.
    """

    folder: Path
    spec: ModelSpec
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    pairs: bool = False
    only_depth: bool = False
    depth_first: bool = False
    precision: str = "fp32"
    rebuild: str = ""
    digests: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def canvases_px(self) -> tuple[tuple[int, int], ...]:
        """Sizes (width, height) of the graphs' images."""
        return self.spec.canvas.canvases_px or self.spec.canvas.built_px

    @property
    def step_path(self) -> Path:
        return self.folder / STEP_FILE

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / TOKENIZER_FILE

    @property
    def look_paths(self) -> tuple[Path, ...]:
        """Paths of the graphs that see images."""
        counts = (1, 2) if self.pairs and not self.depth_first else (1,)
        return tuple(self.look_path(size_px, images) for size_px in self.canvases_px for images in counts)

    @property
    def prefix_paths(self) -> tuple[Path, ...]:
        """Paths of the graphs that give keys and values. There are none if the model cannot be asked in words."""
        if self.only_depth:
            return ()
        if not self.depth_first:
            return self.look_paths
        return tuple(self.read_path(size_px) for size_px in self.canvases_px)

    @property
    def graphs(self) -> tuple[Path, ...]:
        """Paths of all graphs."""
        step = () if self.only_depth else (self.step_path,)
        return tuple(dict.fromkeys((*self.look_paths, *self.prefix_paths, *step)))

    @cached_property
    def fingerprint(self) -> str:
        """A text that changes with the model's files (see folder_fingerprint). It is computed at most once."""
        return folder_fingerprint(self.folder)

    def look_path(self, size_px: tuple[int, int], images: int = 1) -> Path:
        """Returns the graph that sees one or two images of a canvas size.

        Raises BadBundle if there is none. In depth-first bundles it sees one image, and that of two runs twice.
        """
        self._check_canvas(size_px)
        if images > 1 and self.depth_first:
            raise BadBundle(f"{self.name} looks at one image at a time: there is no graph for two.")
        return self.folder / look_graph_name(size_px, images)

    def read_path(self, size_px: tuple[int, int]) -> Path:
        """Returns the graph of a depth-first bundle that gives the keys and values of an image.

        Raises BadBundle if there is none.
        """
        self._check_canvas(size_px)
        if not self.depth_first:
            raise BadBundle(f"{self.name} has no read graphs: keys and values come from its look graphs.")
        return self.folder / read_graph_name(size_px)

    def _check_canvas(self, size_px: tuple[int, int]) -> None:
        if size_px not in self.canvases_px:
            known = ", ".join(f"{w}x{h}" for w, h in self.canvases_px)
            raise BadBundle(f"{self.name} has no graph for {size_px[0]}x{size_px[1]}, only {known}.")

    def check_images(self, images: Sequence[np.ndarray]) -> tuple[int, int]:
        """Returns the common size (width, height) of the images of a prompt, each uint8 (1, h, w, 3).

        Raises BadQuestion for more images than the graphs look at together, or for images of two sizes.
        """
        limit = 2 if self.pairs else 1
        if len(images) > limit or any(len(image) != 1 for image in images):
            raise BadQuestion(f"{self.name} was exported to look at {limit} image(s) at a time, no more.")
        sizes = sorted({(image.shape[2], image.shape[1]) for image in images})
        if len(sizes) > 1:
            raise BadQuestion(
                f"the two images come from cameras so different that the model sees them as {sizes} pixels: "
                f"{self.name} takes two images in one size; use images of one camera."
            )
        return sizes[0]

    def next_position(self, size_px: tuple[int, int], images: int = 1) -> int:
        """Returns the position id of the first token after the prefix. In Qwen3-VL an image advances the position by
        the tokens of its longer side."""
        texts = len(self.before) + (images - 1) * len(self.between) + len(self.after)
        return texts + images * (max(size_px) // self.spec.pixels_per_token)


def look_graph_name(size_px: tuple[int, int], images: int = 1) -> str:
    """Returns the file name of the graph for one or two images of this size (width, height)."""
    return f"{'look' if images == 1 else 'pair'}_{size_px[0]}x{size_px[1]}.onnx"


def read_graph_name(size_px: tuple[int, int]) -> str:
    """Returns the file name of the graph that reads an image of this size in depth-first bundles."""
    return f"read_{size_px[0]}x{size_px[1]}.onnx"


def find_bundle(model: str) -> Path:
    """Returns the folder of an exported model, given its name or the folder itself.

    Raises UnknownName with the names of the installed models.
    """
    # Names come first: a folder "tiny" that happens to lie in the working directory is not the installed model.
    if folder := installed_bundle(model):
        return folder
    given = Path(model).expanduser()
    if model and given.is_dir():
        return given
    raise UnknownName(
        f"model {model!r} is neither a folder nor an installed model "
        f"({', '.join(installed_bundle_names()) or 'there are none'}); "
        f"looked in {', '.join(map(str, engine_roots()))}."
    )


def load_bundle(folder: Path) -> ModelBundle:
    """Reads a bundle and compares every file with the manifest.

    Raises BadBundle with the name of the file, what is wrong with it and how to repair it.
    """
    manifest = read_manifest(folder)
    try:
        bundle = bundle_from_manifest(folder, manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise _damaged(f"{folder / MANIFEST}: a field is missing or wrong ({exc!r})", manifest) from exc
    _check_values(bundle)
    _check_files(bundle)
    return bundle


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a folder after a check of its own checksum. The files that it names are not read.

    Raises BadBundle.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except OSError as exc:
        raise _damaged(f"cannot read {path} ({exc.strerror})") from exc
    except ValueError as exc:
        raise _damaged(f"{path} is damaged ({exc})") from exc
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _damaged(f"{path} lists no files")
    if manifest.get("format") != FORMAT:
        raise _damaged(f"{path} has format {manifest.get('format')}, this version reads {FORMAT}", manifest)
    if CHECKSUM in manifest and manifest[CHECKSUM] != _manifest_checksum(manifest):
        raise _damaged(f"{path} was edited after it was written", manifest)
    return manifest


def manifest_text(manifest: Mapping[str, object]) -> str:
    """Returns the content of manifest.json: the fields and their checksum."""
    return json.dumps({**manifest, CHECKSUM: _manifest_checksum(manifest)}, indent=1) + "\n"


def bundle_from_manifest(folder: Path, manifest: Manifest) -> ModelBundle:
    """Makes the bundle that a manifest describes, without a look at its files.

    Raises KeyError, TypeError, ValueError or AttributeError for a field that is missing or wrong.
    """
    prefix = manifest["prefix"]
    spec = ModelSpec(
        name=str(manifest["name"]),
        family=str(manifest["family"]),
        architecture=str(manifest["architecture"]),
        chat=str(manifest["chat"]),
        system=str(manifest["system"]),
        canvas=_canvas_rule(manifest),
        pixels_per_token=int(manifest["pixels_per_token"]),
        head=str(manifest["head"]),
        licence=str(manifest["licence"]),
        depth_type=str(manifest["depth_type"]),
        calibration=ErrorCalibration(**{name: float(value) for name, value in manifest["calibration"].items()}),
        most_coordinate=int(manifest.get("most_coordinate", ModelSpec.most_coordinate)),
        generation=_generation_settings(manifest.get("generation", {})),
    )
    return ModelBundle(
        folder,
        spec,
        before=tuple(map(int, prefix["before"])),
        between=tuple(map(int, prefix.get("between", ()))),
        after=tuple(map(int, prefix["after"])),
        pairs=bool(manifest.get("pairs", False)),
        only_depth=bool(manifest.get("only_depth", False)),
        depth_first=bool(manifest.get("depth_first", False)),
        precision=str(manifest.get("precision", {}).get("backbone", "fp32")),
        rebuild=str(manifest.get("rebuild", "")),
        digests=manifest["files"],
    )


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal text. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Returns a short text that changes with the files of a model's folder.

    It covers the names and sizes of all files and the contents of small JSON files. A bundle's manifest is such a file,
    and it holds the digests of the others.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            digest.update(path.read_bytes() if path.suffix == ".json" and size < MAX_FINGERPRINT_BYTES else b"")
    return digest.hexdigest()


def _generation_settings(fields: Mapping[str, Any]) -> GenerationSettings:
    """Reads how replies are decoded. The manifests of older exports do not have it."""
    penalty, stop_ids = fields.get("repetition_penalty", 1.0), fields.get("stop_ids", ())
    return GenerationSettings(float(penalty), tuple(map(int, stop_ids)))


def _canvas_rule(manifest: Manifest) -> CanvasRule:
    """Reads the rule of the canvas. In engines that resize whole images, manifest["canvas"] holds the other fields of
    the rule."""
    sizes_px = tuple((int(w), int(h)) for w, h in manifest["canvases_px"])
    built_by = str(manifest.get("built_by", ""))
    if "canvas" not in manifest:
        return CanvasRule(float(manifest["focal_px"]), sizes_px, built_by=built_by)
    return CanvasRule(**manifest["canvas"] | {"canvases_px": (), "built_px": sizes_px, "built_by": built_by})


def _check_values(bundle: ModelBundle) -> None:
    path, token, focal_px = bundle.folder / MANIFEST, bundle.spec.pixels_per_token, bundle.spec.canvas.focal_px
    # Whole images may be resized without a focal length.
    needs_focal = focal_px is not None or not bundle.spec.canvas.built_px
    if needs_focal and (focal_px is None or not (math.isfinite(focal_px) and focal_px > 0)):
        raise _damaged(f"{path}: focal_px is {focal_px}, not a positive number", bundle)
    for name, value in vars(bundle.spec.calibration).items():
        # A model that has hardly been trained is wrong by tens of metres, and its factors show it.
        low, high = _CALIBRATION_LIMITS.get(name, (0, 1000))
        if not low <= value < high:
            raise _damaged(f"{path}: calibration {name} is {value}, not a number from {low} to {high}", bundle)
    sizes_px = bundle.canvases_px
    if token < 1 or not sizes_px or any(side < token or side % token for size_px in sizes_px for side in size_px):
        raise _damaged(f"{path}: canvases_px {sizes_px} are not multiples of {token} px", bundle)
    if len(sizes_px) > MAX_CANVASES or max(map(max, sizes_px)) > MAX_CANVAS_PX:
        raise _damaged(
            f"{path}: {len(sizes_px)} canvases of up to {max(map(max, sizes_px))} px are named, at most "
            f"{MAX_CANVASES} of {MAX_CANVAS_PX} px are read",
            bundle,
        )


def _check_files(bundle: ModelBundle) -> None:
    """Compares every file with its digest, and looks where the graphs point. Each file is read once."""
    path, digests = bundle.folder / MANIFEST, bundle.digests
    needed = [*(graph.name for graph in bundle.graphs), TOKENIZER_FILE]
    if missing := [name for name in needed if name not in digests]:
        raise _damaged(f"{path} does not vouch for {', '.join(missing)}", bundle)
    for name, digest in digests.items():
        if Path(name).name != name or not isinstance(digest, str):
            raise _damaged(f"{path} names {name!r}, which is not a file beside it with its SHA-256", bundle)
        if not (bundle.folder / name).is_file():
            raise _damaged(f"{bundle.folder / name} is missing", bundle)
    check_links(bundle.folder, MANIFEST, digests)
    # Several threads, because the hashing of gigabytes takes time and does not hold Python's lock.
    with ThreadPoolExecutor() as pool:
        found = pool.map(file_digest, (bundle.folder / name for name in digests))
        for name, digest in zip(digests, found, strict=True):
            if digest != digests[name]:
                raise _damaged(
                    f"{bundle.folder / name} is damaged: SHA-256 is {digest[:12]}..., the manifest says "
                    f"{digests[name][:12]}...",
                    bundle,
                )
    for graph in bundle.graphs:
        if strangers := sorted(graph_files(graph) - set(digests)):
            raise _damaged(f"{graph} points into {strangers[0]!r}, for which {path} does not vouch", bundle)


def _damaged(problem: str, source: ModelBundle | Manifest | None = None) -> BadBundle:
    """Returns the error for a damaged folder, with the command that repairs it."""
    rebuild = source.rebuild if isinstance(source, ModelBundle) else (source or {}).get("rebuild")
    if rebuild:
        return BadBundle(f"{problem}: build it again: {rebuild}")
    return BadBundle(
        f"{problem}: restore the folder from the repository, or build the engine again (depthlm engine build)."
    )


def _manifest_checksum(manifest: Mapping[str, object]) -> str:
    """Returns the SHA-256 of all fields except the checksum itself, as JSON with sorted keys."""
    content = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
