"""manifest.json: what an exported model is, with a checksum over itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadBundle

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
