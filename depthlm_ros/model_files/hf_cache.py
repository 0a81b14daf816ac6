# SPDX-License-Identifier: Apache-2.0
"""The local cache of Hugging Face downloads, read without Hugging Face's library. Nothing is downloaded here.

<cache>/models--ORG--REPO/refs/main               the commit that was downloaded last
<cache>/models--ORG--REPO/snapshots/<commit>/     its files, which are links into ../../blobs
<cache>/models--ORG--REPO/blobs/*.incomplete      an interrupted download
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from depthlm_ros.errors import BadBundle

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
MAIN_BRANCH = "main"


def is_hub_id(name: str) -> bool:
    """Returns whether a name has the form ORG/REPO."""
    return HUB_ID.fullmatch(name) is not None and ".." not in name


def cache_folder() -> Path:
    """Returns where Hugging Face's tools keep downloads: $HF_HUB_CACHE, else hub/ in $HF_HOME,
    $XDG_CACHE_HOME/huggingface or ~/.cache/huggingface."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if given := os.environ.get(name):
            return Path(given).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser() / "hub"


def repository_folder(hub_id: str) -> Path:
    """Returns the folder of a repository ORG/REPO in the cache, whether or not it exists."""
    return cache_folder() / f"models--{hub_id.replace('/', '--')}"


def hub_id_of(folder: Path) -> str:
    """Returns ORG/REPO for a snapshot folder in a cache, and only the folder's name for any other folder."""
    repository = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return "/".join(repository.split("--")[1:]) if repository.startswith("models--") else folder.name


def find_snapshot(hub_id: str, revision: str = "") -> Path | None:
    """Returns the folder of a repository's files in the cache, None if it was never downloaded.

    revision: a commit, branch or tag. "" means the main branch or, if that is not noted, the only commit in the cache.
    Raises BadBundle if the repository is in the cache, but not this revision.
    """
    repository = repository_folder(hub_id)
    snapshots = repository / "snapshots"
    if not snapshots.is_dir():
        return None
    name = revision or MAIN_BRANCH
    commit = name if (snapshots / name).is_dir() else _read_commit(repository / "refs" / name)
    present = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    if not commit and not revision and len(present) == 1:
        commit = present[0]
    if commit in present:
        return snapshots / commit
    if not present:
        return None
    raise BadBundle(
        f"{repository} holds {hub_id} at {', '.join(commit[:12] for commit in present)}, but not at {name}"
        f"{f' ({commit[:12]})' if commit else ''}: {download_command(hub_id, revision)}, or use what is there: "
        f"NAME={snapshots / present[0]}"
    )


def has_unfinished_download(folder: Path) -> bool:
    """Returns whether a download into the repository of this snapshot was interrupted."""
    return folder.parent.name == "snapshots" and any((folder.parent.parent / "blobs").glob("*.incomplete"))


def download_command(hub_id: str, revision: str = "") -> str:
    """Returns the command that downloads a repository."""
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


def _read_commit(ref: Path) -> str:
    try:
        return ref.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
