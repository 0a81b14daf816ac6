"""The rooms of the package: who may import whom, what stays out of the running node, sizes, and one version."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "depthlm_ros"
CODE = sorted(
    path for folder in ("depthlm_ros", "bench", "launch", "scripts", "test") for path in (ROOT / folder).rglob("*.py")
)

GEOMETRY = {"camera", "canonical", "canonical_axis", "canvas_size", "cloud", "pinhole", "rectify"}
PICTURES = {"cloudview", "imagefile", "pictures"}
BASE = {"core", "errors", "spec"}
CHECKPOINT = {"checkpoint", "hubcache", "processor", "shards"}
MARKS = {"marker", "pose"}
FILES = CHECKPOINT | {"bundle", "manifest", "share", "specfile"}
# Things in a depth map, measured.
MEASURING = {"things", "measure"}
# What a model said about one image or two, and what the depth map says to it.
VIEWS = {"digits", "judgement", "pair", "placement", "speech", "view"}
RUNTIME = BASE | GEOMETRY | PICTURES | MARKS | FILES | MEASURING | VIEWS | {"families", "backends", "model"}

# Room (file or folder of depthlm_ros): rooms it may import, beside itself. What is not named here may import nothing.
ROOMS = {
    "__init__": set(),
    "errors": set(),
    "spec": set(),
    "core": {"errors"},
    **{name: BASE | GEOMETRY for name in GEOMETRY},
    **{name: BASE | GEOMETRY | PICTURES for name in PICTURES},
    "cameras": BASE | GEOMETRY,
    **{name: BASE for name in MARKS},
    "families": BASE | GEOMETRY | MARKS,
    "share": BASE,
    "manifest": BASE,
    "bundle": BASE | {"manifest", "share"},
    "specfile": BASE | {"share"},
    **{name: BASE | FILES for name in CHECKPOINT},
    "backends": BASE | MARKS | FILES,
    "backends/torch_hf": BASE | FILES | {"nets"},
    "backends/tensorrt_runtime": BASE,
    "backends/device_cuda": BASE,
    "backends/device_torch": BASE,
    **{name: BASE | GEOMETRY | MEASURING for name in MEASURING},
    "digits": BASE,
    "placement": BASE | GEOMETRY,
    "speech": BASE | {"digits", "families", "backends"},
    **{name: BASE | GEOMETRY | MEASURING | VIEWS | {"families", "backends"} for name in ("judgement", "view", "pair")},
    "model": RUNTIME,
    "scenes": BASE | GEOMETRY,
    "data": BASE | GEOMETRY | PICTURES | MARKS | {"families"},
    "data/rendered": BASE | GEOMETRY | PICTURES | {"scenes"},
    "nets": BASE,
    "export": RUNTIME | {"nets"},
    "engine": RUNTIME | {"cameras"},
    **{name: RUNTIME | {"cameras", "nets", "export"} for name in ("engine/build", "engine/parity")},
    "train": RUNTIME | {"nets", "export", "eval", "scenes", "data", "jsonable"},
    "finetune": RUNTIME | {"nets", "data"},
    "eval": RUNTIME | {"scenes", "data", "jsonable"},
    "ros": RUNTIME | {"eval", "scenes"},
    "jsonable": set(),
    "cli": RUNTIME | {"jsonable"},
}

# Libraries that only some rooms may import; "ros" stands for everything that comes with ROS 2.
BUILD_SIDE = {"nets", "export", "train", "finetune", "backends/torch_hf"}
LIBRARIES = {
    "torch": BUILD_SIDE | {"backends/device_torch"},
    "transformers": BUILD_SIDE,
    "safetensors": BUILD_SIDE,
    "onnx": {"export", "engine"},
    "onnxscript": {"export"},
    "onnxruntime": {"backends", "export"},
    "tensorrt": {"backends/tensorrt_runtime"},
    "cuda": {"backends/device_cuda"},
    "accelerate": {"finetune"},
    "trl": {"finetune"},
    "datasets": {"finetune"},
    "tokenizers": {"model", "bundle", "export", "engine", "train", "finetune"},
    "numba": {"scenes"},
    "cv2": GEOMETRY | PICTURES | {"things", "scenes", "data", "eval", "ros", "train", "finetune"},
    "pyarrow": {"data"},
    "webdataset": {"data"},
    "ros": {"ros"},
}
ROS_LIBRARIES = re.compile(
    r"rclpy|rosidl\w*|\w+_(msgs|interfaces)|std_srvs|message_filters|sensor_msgs_py|cv_bridge|tf2\w*|"
    r"ament_index_python|launch\w*|diagnostic_updater"
)


OWN = {"depthlm_ros"}
# In ROS 2 the package tf2_ros holds the C++ library only.
DISTRIBUTED_BY = {"tf2_ros": "tf2_ros_py"}
IMPORTED_AS = {"opencv-python-headless": "cv2", "PyYAML": "yaml", "cuda-bindings": "cuda", "numba-cuda": "numba"}


def room_of(path: Path) -> str:
    """The most special room that a file of the package belongs to."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    whole = "/".join(parts)
    return whole if whole in ROOMS else parts[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "depthlm_ros":
            yield from ((node.lineno, f"depthlm_ros.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            yield node.lineno, node.module or ""


def forbidden(room: str, module: str) -> bool:
    """Whether a room may not import a module."""
    top, *rest = module.split(".")
    if top == "depthlm_ros" and rest and rest[0] not in ("srv", "msg"):
        return rest[0] not in ROOMS.get(room, set()) | {room.split("/")[0]}
    library = "ros" if ROS_LIBRARIES.fullmatch(top) or top == "depthlm_ros" else top
    return library in LIBRARIES and not {room, room.split("/")[0]} & LIBRARIES[library]


def test_every_room_imports_only_what_the_design_allows():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: room {room_of(path)} may not import {module}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, module in imports(path)
        if forbidden(room_of(path), module)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_needs_nothing_but_numpy():
    libraries = {
        module.split(".")[0] for name in ("core", "errors") for _, module in imports(PACKAGE / f"{name}.py")
    } - set(sys.stdlib_module_names)
    assert libraries <= {"numpy", "depthlm_ros"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("depthlm_ros.core", "cv2 onnxruntime torch transformers rclpy numba"),
        ("depthlm_ros.model", "torch transformers rclpy numba"),
        ("depthlm_ros.backends.onnx_runtime", "torch transformers rclpy numba"),
        ("depthlm_ros.cli", "onnxruntime torch transformers rclpy numba"),
        pytest.param("depthlm_ros.ros.node", "torch transformers numba", marks=pytest.mark.ros),
    ],
)
def test_importing_a_room_does_not_load(module, unwanted):
    """In a process of its own, because this one has loaded much already."""
    code = f"import sys, {module}; print(*sorted(set({unwanted.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_source_holds_no_generated_packages():
    """A folder srv or msg here would hide the generated one in the overlay."""
    assert not [name for name in ("srv", "msg") if (PACKAGE / name).exists()]


def test_every_folder_of_code_is_a_package():
    """Otherwise pip leaves it out."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_functions_fit_on_a_page():
    functions = (
        (path, node)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    long = [f"{path.name}:{node.lineno} {node.name}" for path, node in functions if lines(node) > 60]
    assert not long, f"longer than 60 lines: {', '.join(long)}"


def lines(node: ast.stmt) -> int:
    """Number of lines of a definition."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_package_setup_and_changelog_name_one_version():
    package = ElementTree.parse(ROOT / "package.xml").findtext("version")
    changelog = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    pip = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()[-1]
    assert package == changelog == pip


def test_interfaces_are_all_generated():
    """Every .srv and .msg file is named in CMakeLists.txt."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    files = [path.relative_to(ROOT).as_posix() for kind in ("srv", "msg") for path in (ROOT / kind).glob(f"*.{kind}")]
    assert files
    assert not [file for file in files if f'"{file}"' not in cmake]


def libraries(*rooms: str) -> set[str]:
    """What the rooms import from outside: neither this package nor Python's own modules."""
    files = [path for path in PACKAGE.rglob("*.py") if room_of(path) in rooms]
    return {module.split(".")[0] for path in files for _, module in imports(path)} - OWN - set(sys.stdlib_module_names)


def required(*names: str) -> set[str]:
    """What requirements/NAME.txt brings, as it is imported."""
    lines = [line for name in names for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()]
    return {IMPORTED_AS.get(name, name) for line in lines if (name := re.match(r"[\w-]*", line)[0])}


def test_every_ros_package_in_use_is_declared():
    declared = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter() if "depend" in element.tag}
    used = {module.split(".")[0] for path in CODE for _, module in imports(path)}
    packages = {DISTRIBUTED_BY.get(library, library) for library in used if ROS_LIBRARIES.fullmatch(library)}
    assert packages - declared <= {"cv_bridge"}  # used only where it is installed


def test_the_running_node_needs_only_what_pip_is_told_to_install():
    used = {library for library in libraries(*RUNTIME, "cli", "eval", "ros") if not ROS_LIBRARIES.fullmatch(library)}
    assert used <= required("base")
    assert libraries("scenes") <= required("base", "scenes")
    assert libraries("data") <= required("base", "data")
    assert libraries(*BUILD_SIDE) <= required("base", "scenes", "torch", "train", "grpo")


def test_pip_is_told_to_install_nothing_that_no_room_imports():
    extras = {path.stem for path in (ROOT / "requirements").glob("*.txt")} - {"dev", "ros", "ros-constraints"}
    gpu = ("backends/tensorrt_runtime", "backends/device_cuda")
    used = libraries(*RUNTIME, *gpu, "cli", "eval", "scenes", "data", "engine", *BUILD_SIDE)
    assert required(*extras) <= used | {"tensorboard"}  # which transformers' Trainer imports


@pytest.mark.ros
def test_source_tree_and_generated_interfaces_are_one_package():
    import depthlm_ros.core
    from depthlm_ros.srv import SpatialQuery

    assert Path(depthlm_ros.core.__file__).parent == PACKAGE
    assert SpatialQuery.Response.OK == 0
