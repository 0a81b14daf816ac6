# SPDX-License-Identifier: Apache-2.0
"""vision_msgs, which no wheel brings: its messages for detections, as version 4 (Humble and later) publishes them."""

import sys
import types
from importlib import import_module, util
from pathlib import Path
from typing import ClassVar

# Message -> field -> type, as in the .msg files of vision_msgs 4.
FIELDS = {
    "BoundingBox3D": {"center": "geometry_msgs/Pose", "size": "geometry_msgs/Vector3"},
    "ObjectHypothesis": {"class_id": "string", "score": "float64"},
    "ObjectHypothesisWithPose": {"hypothesis": "ObjectHypothesis", "pose": "geometry_msgs/PoseWithCovariance"},
    "Detection3D": {
        "header": "std_msgs/Header",
        "results": "ObjectHypothesisWithPose[]",
        "bbox": "BoundingBox3D",
        "id": "string",
    },
    "Detection3DArray": {"header": "std_msgs/Header", "detections": "Detection3D[]"},
}
CMAKE = """cmake_minimum_required(VERSION 3.16)
project(vision_msgs)
find_package(ament_cmake REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(std_msgs REQUIRED)
rosidl_generate_interfaces(${{PROJECT_NAME}} {files} DEPENDENCIES geometry_msgs std_msgs)
ament_package()
"""
MANIFEST = """<package format="3">
  <name>vision_msgs</name><version>4.0.0</version><description>Messages for a test.</description>
  <maintainer email="nobody@example.com">nobody</maintainer><license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend><buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>geometry_msgs</depend><depend>std_msgs</depend>
  <member_of_group>rosidl_interface_packages</member_of_group><export><build_type>ament_cmake</build_type></export>
</package>
"""
PLAIN = {"string": str, "float64": float}
# Whether the real package is here.
ARE_INSTALLED = util.find_spec("vision_msgs") is not None


def write_package(folder: Path) -> None:
    """Writes the sources of a package vision_msgs that has these messages."""
    (folder / "msg").mkdir(parents=True)
    for name, fields in FIELDS.items():
        lines = [f"{kind} {field}\n" for field, kind in fields.items()]
        (folder / "msg" / f"{name}.msg").write_text("".join(lines))
    files = " ".join(f'"msg/{name}.msg"' for name in FIELDS)
    (folder / "CMakeLists.txt").write_text(CMAKE.format(files=files))
    (folder / "package.xml").write_text(MANIFEST)


def stand_in() -> dict[str, types.ModuleType]:
    """Returns modules, by their names, whose messages take these fields only, each of its type."""
    module = types.ModuleType("vision_msgs.msg")
    for name, fields in FIELDS.items():
        setattr(module, name, type(name, (_Message,), {"FIELDS": fields}))
    return {"vision_msgs": types.ModuleType("vision_msgs"), "vision_msgs.msg": module}


class _Message:
    FIELDS: ClassVar[dict[str, str]] = {}

    def __init__(self, **values: object) -> None:
        for field, value in values.items():
            kind = self.FIELDS[field]
            parts = value if kind.endswith("[]") else [value]
            assert isinstance(parts, list) and all(isinstance(part, _type(kind.removesuffix("[]"))) for part in parts)
            setattr(self, field, value)


def _type(kind: str) -> type:
    """Returns the class of a field's type."""
    if kind in PLAIN:
        return PLAIN[kind]
    package, _, name = kind.rpartition("/")
    return getattr(import_module(f"{package}.msg") if package else sys.modules["vision_msgs.msg"], name)
