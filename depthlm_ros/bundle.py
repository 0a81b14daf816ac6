"""The folder in which an exported model lives.

    manifest.json      what the model is, how it is asked, and the SHA-256 of every file beside it
    model.safetensors  the weights, once; the ONNX graphs point into this file
    look_WxH.onnx      image -> depth, keys, values; one per canvas size
    pair_WxH.onnx      the same of two images together, of a model that can match pixels or tell poses
    step.onnx          text after a look
    tokenizer.json     config.json (for the torch backend)

Nothing is loaded that the manifest does not vouch for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.share import share_folders
from depthlm_ros.spec import Calibration, CanvasRule, ModelSpec

FORMAT = 2
MANIFEST = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Bundle:
    """A checked folder. before, between, after: token ids around the images. pairs: there are graphs that look at two
    images of one canvas size together."""

    folder: Path
    spec: ModelSpec
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    pairs: bool = False

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def canvases_px(self) -> tuple[tuple[int, int], ...]:
        """Sizes (width, height) of the graphs."""
        return self.spec.canvas.canvases_px

    @property
    def step_path(self) -> Path:
        return self.folder / "step.onnx"

    @property
    def weights_path(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / TOKENIZER_FILE

    def look_path(self, size_px: tuple[int, int], images: int = 1) -> Path:
        """Graph for one or two images of a canvas size. Raises BadBundle if the bundle has none."""
        if size_px not in self.canvases_px:
            known = ", ".join(f"{w}x{h}" for w, h in self.canvases_px)
            raise BadBundle(f"{self.name} has no graph for {size_px[0]}x{size_px[1]}, only {known}.")
        return self.folder / look_file(size_px, images)

    def next_position(self, size_px: tuple[int, int], images: int = 1) -> int:
        """Position id of the first token after the prefix (Qwen3-VL: an image advances it by its longer side)."""
        texts = len(self.before) + (images - 1) * len(self.between) + len(self.after)
        return texts + images * (max(size_px) // self.spec.pixels_per_token)


def look_file(size_px: tuple[int, int], images: int = 1) -> str:
    """Name of the graph that looks at one image of this size, or at two."""
    return f"{'look' if images == 1 else 'pair'}_{size_px[0]}x{size_px[1]}.onnx"


def load_bundle(folder: Path) -> Bundle:
    """Reads and checks a bundle. Raises BadBundle naming the file and what is wrong with it."""
    manifest = _read_manifest(folder)
    try:
        prefix = manifest["prefix"]
        texts = (_ids(given) for given in (prefix["before"], prefix.get("between", ()), prefix["after"]))
        bundle = Bundle(folder, _read_spec(manifest), *texts, bool(manifest.get("pairs", False)))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadBundle(f"{folder / MANIFEST}: a field is missing or wrong ({exc!r}): {_REPAIR}") from exc
    _check_values(bundle)
    _check_files(bundle, manifest["files"])
    return bundle


def _read_spec(manifest: Mapping[str, Any]) -> ModelSpec:
    canvases_px = tuple((int(w), int(h)) for w, h in manifest["canvases_px"])
    return ModelSpec(
        name=str(manifest["name"]),
        family=str(manifest["family"]),
        architecture=str(manifest["architecture"]),
        chat=str(manifest["chat"]),
        system=str(manifest["system"]),
        canvas=CanvasRule(float(manifest["focal_px"]), canvases_px),
        pixels_per_token=int(manifest["pixels_per_token"]),
        head=str(manifest["head"]),
        licence=str(manifest["licence"]),
        depth_type=str(manifest["depth_type"]),
        calibration=Calibration(**{name: float(value) for name, value in manifest["calibration"].items()}),
    )


def _ids(given: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(token) for token in given)


def _check_values(bundle: Bundle) -> None:
    path, token, focal_px = bundle.folder / MANIFEST, bundle.spec.pixels_per_token, bundle.spec.canvas.focal_px
    if focal_px is None or not (math.isfinite(focal_px) and focal_px > 0):
        raise BadBundle(f"{path}: focal_px is {focal_px}, not a positive number: {_REPAIR}")
    for name, value in vars(bundle.spec.calibration).items():
        if not 0 <= value < 10:
            raise BadBundle(f"{path}: calibration {name} is {value}, not a factor from 0 to 10: {_REPAIR}")
    if token < 1 or not bundle.canvases_px or any(n < token or n % token for size in bundle.canvases_px for n in size):
        raise BadBundle(f"{path}: canvases_px {bundle.canvases_px} are not multiples of {token} px: {_REPAIR}")


def _check_files(bundle: Bundle, digests: dict[str, str]) -> None:
    needed = [bundle.weights_path, bundle.step_path, bundle.tokenizer_path]
    needed += [bundle.look_path(size, images) for size in bundle.canvases_px for images in (1, 2)[: 1 + bundle.pairs]]
    if unvouched := [path.name for path in needed if path.name not in digests]:
        raise BadBundle(f"{bundle.folder / MANIFEST} does not vouch for {', '.join(unvouched)}: {_REPAIR}")
    for name, digest in digests.items():
        if Path(name).name != name or not isinstance(digest, str):
            raise BadBundle(
                f"{bundle.folder / MANIFEST} names {name!r}, which is not a file beside it with its SHA-256: {_REPAIR}"
            )
        _check_file(bundle.folder / name, digest)


_REPAIR = "restore the folder from the repository, or export the model again (depthlm export)."


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): {_REPAIR}") from exc
    except ValueError as exc:
        raise BadBundle(f"{path} is damaged ({exc}): {_REPAIR}") from exc
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise BadBundle(f"{path} lists no files: {_REPAIR}")
    if manifest.get("format") != FORMAT:
        raise BadBundle(f"{path} has format {manifest.get('format')}, this version reads {FORMAT}: {_REPAIR}")
    return manifest


def _check_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise BadBundle(f"{path} is missing: {_REPAIR}")
    found = file_digest(path)
    if found != digest:
        raise BadBundle(f"{path} is damaged: SHA-256 is {found[:12]}..., the manifest says {digest[:12]}...: {_REPAIR}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def find_bundle(model: str) -> Path:
    """Folder of a model given by name or by path. Raises UnknownName listing the names that exist."""
    # Names first: a folder "tiny" that happens to lie in the working directory is not the installed model.
    for root in engine_roots():
        if (root / model / MANIFEST).is_file():
            return root / model
    given = Path(model).expanduser()
    if model and given.is_dir():
        return given
    known = sorted({path.parent.name for root in engine_roots() for path in root.glob(f"*/{MANIFEST}")})
    raise UnknownName(
        f"model {model!r} is neither a folder nor an installed model ({', '.join(known) or 'there are none'}); "
        f"looked in {', '.join(map(str, engine_roots()))}."
    )


def engine_roots() -> list[Path]:
    """Folders that hold bundles: those of $DEPTHLM_ENGINES, then engines/ of everything installed."""
    named = [Path(path) for path in os.environ.get("DEPTHLM_ENGINES", "").split(os.pathsep) if path]
    return [path for path in (*named, *(folder / "engines" for folder in share_folders())) if path.is_dir()]
