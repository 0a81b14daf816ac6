"""The folder in which an exported model lives.

    manifest.json      what the model is, how it is asked, and the SHA-256 of every file beside it and of itself
    look_WxH.onnx      image -> depth, keys, values; one per canvas size
    pair_WxH.onnx      the same of two images together, of a model that can match pixels or tell poses
    step.onnx          text after a look; not in an engine that was built for depth only
    model.safetensors  the weights, once, into which the graphs point; with config.json for the torch backend
    weights.data       the same of an engine, in the graphs' own precision
    tokenizer.json
    *.plan             what TensorRT made of the graphs on this machine, each with a JSON that vouches for it

Nothing is loaded that the manifest does not vouch for.

manifest.json: what an exported model is, with a checksum over itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadBundle, UnknownName
from depthlm_ros.model_files.install_paths import share_folders
from depthlm_ros.model_files.spec import Calibration, CanvasRule, ModelSpec

FORMAT = 2
MANIFEST = "manifest.json"
# Field that holds the checksum of all others. Manifests of older exports have none.
CHECKSUM = "manifest_sha256"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, unchanged as far as it can tell itself; the files it names are not looked at.

    Raises BadBundle.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as exc:
        raise BadBundle(f"cannot read {path} ({exc.strerror}): {repair()}") from exc
    except ValueError as exc:
        raise BadBundle(f"{path} is damaged ({exc}): {repair()}") from exc
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise BadBundle(f"{path} lists no files: {repair()}")
    if manifest.get("format") != FORMAT:
        raise BadBundle(f"{path} has format {manifest.get('format')}, this version reads {FORMAT}: {repair(manifest)}")
    if manifest.get(CHECKSUM, _checksum(manifest)) != _checksum(manifest):
        raise BadBundle(f"{path} was edited after it was written: {repair(manifest)}")
    return manifest


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """What is written to manifest.json."""
    return json.dumps({**manifest, CHECKSUM: _checksum(manifest)}, indent=1) + "\n"


def repair(manifest: Mapping[str, Any] | None = None) -> str:
    """What to do about a damaged folder."""
    rebuild = (manifest or {}).get("rebuild")
    if rebuild:
        return f"build it again: {rebuild}"
    return "restore the folder from the repository, or build the engine again (depthlm engine build)."


def _checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all fields but its own, in an order and a form of their own."""
    content = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


STEP_FILE, TOKENIZER_FILE, WEIGHTS_FILE = "step.onnx", "tokenizer.json", "weights.data"
# Folders of engines, separated like those of $PATH; new ones are built into the first.
ENGINES_VARIABLE = "DEPTHLM_ENGINES"


@dataclass(frozen=True)
class Bundle:
    """A checked folder. before, between, after: token ids around the images. pairs: there are graphs that look at two
    images of one canvas size together. only_depth: nothing can be asked. precision: of the backbone in the graphs,
    "fp32", "fp16", "bf16" or "int8". rebuild: the command that builds it again, of an engine."""

    folder: Path
    spec: ModelSpec
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    pairs: bool = False
    only_depth: bool = False
    precision: str = "fp32"
    rebuild: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def canvases_px(self) -> tuple[tuple[int, int], ...]:
        """Sizes (width, height) of the graphs."""
        return self.spec.canvas.canvases_px or self.spec.canvas.built_px

    @property
    def step_path(self) -> Path:
        return self.folder / STEP_FILE

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / TOKENIZER_FILE

    def look_path(self, size_px: tuple[int, int], images: int = 1) -> Path:
        """Graph for one or two images of a canvas size. Raises BadBundle if the bundle has none."""
        if size_px not in self.canvases_px:
            known = ", ".join(f"{w}x{h}" for w, h in self.canvases_px)
            raise BadBundle(f"{self.name} has no graph for {size_px[0]}x{size_px[1]}, only {known}.")
        return self.folder / look_file(size_px, images)

    @property
    def graphs(self) -> tuple[Path, ...]:
        """Every graph that it has."""
        counts = (1, 2)[: 1 + self.pairs]
        looks = [self.look_path(size_px, images) for size_px in self.canvases_px for images in counts]
        return (*looks, *(() if self.only_depth else (self.step_path,)))

    def next_position(self, size_px: tuple[int, int], images: int = 1) -> int:
        """Position id of the first token after the prefix (Qwen3-VL: an image advances it by its longer side)."""
        texts = len(self.before) + (images - 1) * len(self.between) + len(self.after)
        return texts + images * (max(size_px) // self.spec.pixels_per_token)


def look_file(size_px: tuple[int, int], images: int = 1) -> str:
    """Name of the graph that looks at one image of this size, or at two."""
    return f"{'look' if images == 1 else 'pair'}_{size_px[0]}x{size_px[1]}.onnx"


def load_bundle(folder: Path) -> Bundle:
    """Reads and checks a bundle. Raises BadBundle naming the file and what is wrong with it."""
    manifest = read_manifest(folder)
    try:
        bundle = described_bundle(folder, manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadBundle(f"{folder / MANIFEST}: a field is missing or wrong ({exc!r}): {repair(manifest)}") from exc
    _check_values(bundle, repair(manifest))
    _check_files(bundle, manifest["files"], repair(manifest))
    return bundle


def described_bundle(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    """The bundle that a manifest describes, its files not looked at. Raises KeyError and the like for what is amiss."""
    prefix = manifest["prefix"]
    before, between, after = (_ids(given) for given in (prefix["before"], prefix.get("between", ()), prefix["after"]))
    return Bundle(
        folder,
        _read_spec(manifest),
        before,
        between,
        after,
        pairs=bool(manifest.get("pairs", False)),
        only_depth=bool(manifest.get("only_depth", False)),
        precision=str(manifest.get("precision", {}).get("backbone", "fp32")),
        rebuild=str(manifest.get("rebuild", "")),
    )


def _read_spec(manifest: Mapping[str, Any]) -> ModelSpec:
    return ModelSpec(
        name=str(manifest["name"]),
        family=str(manifest["family"]),
        architecture=str(manifest["architecture"]),
        chat=str(manifest["chat"]),
        system=str(manifest["system"]),
        canvas=_read_canvas(manifest),
        pixels_per_token=int(manifest["pixels_per_token"]),
        head=str(manifest["head"]),
        licence=str(manifest["licence"]),
        depth_type=str(manifest["depth_type"]),
        calibration=Calibration(**{name: float(value) for name, value in manifest["calibration"].items()}),
        most_coordinate=int(manifest.get("most_coordinate", ModelSpec.most_coordinate)),
    )


def _read_canvas(manifest: Mapping[str, Any]) -> CanvasRule:
    """Of an engine that resizes whole images the rule is all of manifest["canvas"], for the sizes that were built."""
    sizes_px = tuple((int(w), int(h)) for w, h in manifest["canvases_px"])
    built_by = str(manifest.get("built_by", ""))
    if "canvas" not in manifest:
        return CanvasRule(float(manifest["focal_px"]), sizes_px, built_by=built_by)
    return CanvasRule(**manifest["canvas"] | {"canvases_px": (), "built_px": sizes_px, "built_by": built_by})


def _ids(given: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(token) for token in given)


def _check_values(bundle: Bundle, remedy: str) -> None:
    path, token, focal_px = bundle.folder / MANIFEST, bundle.spec.pixels_per_token, bundle.spec.canvas.focal_px
    # Whole images may be resized without a focal length.
    needless = focal_px is None and bundle.spec.canvas.built_px
    if not needless and (focal_px is None or not (math.isfinite(focal_px) and focal_px > 0)):
        raise BadBundle(f"{path}: focal_px is {focal_px}, not a positive number: {remedy}")
    for name, value in vars(bundle.spec.calibration).items():
        # A model that has hardly been trained is off by tens of metres, and says so.
        if not 0 <= value < 1000:
            raise BadBundle(f"{path}: calibration {name} is {value}, not a factor from 0 to 1000: {remedy}")
    if token < 1 or not bundle.canvases_px or any(n < token or n % token for size in bundle.canvases_px for n in size):
        raise BadBundle(f"{path}: canvases_px {bundle.canvases_px} are not multiples of {token} px: {remedy}")


def _check_files(bundle: Bundle, digests: Mapping[str, Any], remedy: str) -> None:
    path = bundle.folder / MANIFEST
    if unvouched := [file.name for file in (*bundle.graphs, bundle.tokenizer_path) if file.name not in digests]:
        raise BadBundle(f"{path} does not vouch for {', '.join(unvouched)}: {remedy}")
    for name, digest in digests.items():
        if Path(name).name != name or not isinstance(digest, str):
            raise BadBundle(f"{path} names {name!r}, which is not a file beside it with its SHA-256: {remedy}")
    # Hashing gigabytes is what takes time here, and it runs beside other threads.
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda name: _fault(bundle.folder / name, digests[name]), digests)
        for fault in faults:
            if fault:
                raise BadBundle(f"{fault}: {remedy}")


def _fault(path: Path, digest: str) -> str:
    """What is wrong with a file, "" if nothing is."""
    if not path.is_file():
        return f"{path} is missing"
    found = file_digest(path)
    if found == digest:
        return ""
    return f"{path} is damaged: SHA-256 is {found[:12]}..., the manifest says {digest[:12]}..."


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
    """Folders that hold bundles: those of $DEPTHLM_ENGINES, engines/ of everything installed, and the user's own."""
    shared = [folder / "engines" for folder in share_folders()]
    return [path for path in (*_named_roots(), *shared, _own_root()) if path.is_dir()]


def build_root() -> Path:
    """Folder into which engines are built if none is named: the first of $DEPTHLM_ENGINES, else the user's own."""
    return next(iter(_named_roots()), _own_root())


def _named_roots() -> list[Path]:
    return [Path(path).expanduser() for path in os.environ.get(ENGINES_VARIABLE, "").split(os.pathsep) if path]


def _own_root() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "depthlm" / "engines"
