"""The local cache of Hugging Face downloads, read without its library: nothing here ever downloads.

<cache>/models--ORG--REPO/refs/main               the commit that was downloaded last
<cache>/models--ORG--REPO/snapshots/<commit>/     its files, links into ../../blobs
<cache>/models--ORG--REPO/blobs/*.incomplete      a download that was broken off
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from depthlm_ros.errors import BadBundle

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
MAIN = "main"


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ORG/REPO."""
    return HUB_ID.fullmatch(name) is not None and ".." not in name


def cache_folder() -> Path:
    """Where Hugging Face's tools keep downloads: $HF_HUB_CACHE, else hub/ in $HF_HOME, $XDG_CACHE_HOME/huggingface or
    ~/.cache/huggingface."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if given := os.environ.get(name):
            return Path(given).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser() / "hub"


def repository_folder(hub_id: str) -> Path:
    """Where a repository ORG/REPO is kept, whether or not it is there."""
    return cache_folder() / f"models--{hub_id.replace('/', '--')}"


def hub_id_of(folder: Path) -> str:
    """ORG/REPO of a snapshot's folder in a cache, or of a folder that is called like a repository (only REPO then)."""
    repository = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return "/".join(repository.split("--")[1:]) if repository.startswith("models--") else folder.name


def snapshot(hub_id: str, revision: str = "") -> Path | None:
    """Folder of a repository's files in the cache; None where it was never downloaded.

    revision: a commit, branch or tag; "" for the main branch or, without one, the only commit that is there. Raises
    BadBundle if the repository is there, but not this revision.
    """
    repository = repository_folder(hub_id)
    snapshots = repository / "snapshots"
    if not snapshots.is_dir():
        return None
    wanted = revision or MAIN
    commit = wanted if (snapshots / wanted).is_dir() else _commit(repository / "refs" / wanted)
    present = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    if not commit and not revision and len(present) == 1:
        commit = present[0]
    if commit in present:
        return snapshots / commit
    if not present:
        return None
    raise BadBundle(
        f"{repository} holds {hub_id} at {', '.join(name[:12] for name in present)}, but not at {wanted}"
        f"{f' ({commit[:12]})' if commit else ''}: {download_command(hub_id, revision)}"
    )


def unfinished(folder: Path) -> bool:
    """Whether a download into this snapshot's repository was broken off."""
    return folder.parent.name == "snapshots" and any((folder.parent.parent / "blobs").glob("*.incomplete"))


def download_command(hub_id: str, revision: str = "") -> str:
    """What downloads a repository."""
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


def _commit(ref: Path) -> str:
    try:
        return ref.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
