"""Where the data of this package lie: engines/ and config/, in the source tree as well as after an installation."""

from __future__ import annotations

import os
from pathlib import Path

from depthlm_ros.errors import SetupError

PACKAGE = Path(__file__).resolve().parents[1]
SHARE = Path("share") / "depthlm_ros"


def share_folders() -> list[Path]:
    """Folders that hold engines/ and config/, the one that belongs to this very code first; then those of ROS prefixes.

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


def shared_file(name: str) -> Path:
    """A file such as "config/train/tiny.yaml". Raises SetupError if no share folder has it."""
    folders = share_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked_in = ", ".join(map(str, folders)) or f"share/depthlm_ros of any folder above {PACKAGE}"
    raise SetupError(f"{name} is not installed (looked in {looked_in}): install the package again, or name the file.")
