# SPDX-License-Identifier: Apache-2.0
"""Plain pip: the command line and the library without ROS. On ROS 2 the package is built by colcon (CMakeLists.txt)."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SHARE = Path("share/depthlm_ros")


def requirements(name: str) -> list[str]:
    """The lines of requirements/NAME.txt, which scripts/setup.sh installs too."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def data_files(*folders: str) -> list[tuple[str, list[str]]]:
    """Every file below the folders, for sys.prefix/share/depthlm_ros/<the same path>."""
    files = [
        path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()
    ]
    return [(str(SHARE / path.parent), [str(path)]) for path in files]


setup(
    name="depthlm_ros",
    version=ElementTree.parse(ROOT / "package.xml").findtext("version"),
    description="Metric depth and spatial questions from one look of a vision-language model",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["depthlm_ros", "depthlm_ros.*"]),
    package_data={"depthlm_ros.ros": ["fastdds.xml"]},
    data_files=data_files("engines/tiny", "config/train", "config/finetune", "config/models"),
    install_requires=requirements("base"),
    extras_require={
        name: requirements(name)
        for name in ("scenes", "data", "torch", "train", "grpo", "tensorrt", "tensorrt-rtx", "scale", "bags", "dev")
    },
    entry_points={"console_scripts": ["depthlm = depthlm_ros.cli:main"]},
)
