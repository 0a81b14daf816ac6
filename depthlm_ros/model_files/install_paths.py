# SPDX-License-Identifier: Apache-2.0
"""Finds the data of this package, engines/ and config/, in the source tree and after an installation.

package_share_folders, package_share_file: the folders that hold the data, and one file in them
engine_roots, default_engine_root: the folders that hold engines, and the one into which new engines are built
installed_bundle, installed_bundle_names: the exported models in the engine folders, by name
"""

from __future__ import annotations

import os
from pathlib import Path

from depthlm_ros.errors import SetupError

PACKAGE = Path(__file__).resolve().parents[1]
SHARE = Path("share") / "depthlm_ros"
# A folder with this file is an exported model; bundle.py says what is in it.
MANIFEST = "manifest.json"
# Environment variable with folders that hold engines, separated as in $PATH. New engines are built into the first one.
ENGINES_VARIABLE = "DEPTHLM_ENGINES"


def package_share_folders() -> list[Path]:
    """Returns the folders that hold engines/ and config/: the one of the running code, then those of ROS prefixes.

    pip puts data into share/ of the prefix into whose lib/ it puts the code, whichever prefix that is: a virtual
    environment's, ~/.local (pip install --user), Debian's /usr/local, or the folder of pip install --target.
    """
    source = PACKAGE.parent
    if (source / "package.xml").is_file():
        own = [source]
    else:
        own = [folder / SHARE for folder in PACKAGE.parents if (folder / SHARE).is_dir()][:1]
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return own + [prefix / SHARE for prefix in prefixes if (prefix / SHARE).is_dir()]


def package_share_file(name: str) -> Path:
    """Returns the path of a file such as "config/train/tiny.yaml". Raises SetupError if no share folder has it."""
    folders = package_share_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked_in = ", ".join(map(str, folders)) or f"share/depthlm_ros of any folder above {PACKAGE}"
    raise SetupError(f"{name} is not installed (looked in {looked_in}): install the package again, or name the file.")


def engine_roots() -> list[Path]:
    """Returns the folders that hold engines: those of $DEPTHLM_ENGINES, then engines/ of every share folder, then the
    user's own. Folders that do not exist are left out."""
    *named, own = _user_engine_roots()
    shared = [folder / "engines" for folder in package_share_folders()]
    return [path for path in (*named, *shared, own) if path.is_dir()]


def default_engine_root() -> Path:
    """Returns the folder into which engines are built: the first of $DEPTHLM_ENGINES, else the user's own."""
    return _user_engine_roots()[0]


def installed_bundle(name: str) -> Path | None:
    """Returns the folder of the exported model of that name in the engine folders, None if there is none."""
    if not name or Path(name).name != name:
        return None
    return next((root / name for root in engine_roots() if (root / name / MANIFEST).is_file()), None)


def installed_bundle_names() -> list[str]:
    """Returns the names of all exported models in the engine folders, in alphabetical order."""
    return sorted({path.parent.name for root in engine_roots() for path in root.glob(f"*/{MANIFEST}")})


def _user_engine_roots() -> list[Path]:
    """Returns the folders of $DEPTHLM_ENGINES, and at the end the user's own."""
    named = [Path(path).expanduser() for path in os.environ.get(ENGINES_VARIABLE, "").split(os.pathsep) if path]
    own = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "depthlm" / "engines"
    return [*named, own]
