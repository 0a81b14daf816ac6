# SPDX-License-Identifier: Apache-2.0
"""The layout of the package: which room may import which, what the running node does not load, sizes, one version."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "depthlm_ros"
MODULES = sorted(PACKAGE.rglob("*.py"))
CODE = [
    *MODULES,
    *(path for folder in ("bench", "launch", "scripts", "test") for path in sorted((ROOT / folder).rglob("*.py"))),
]

# Values, errors, files and pictures: modules in the package's root that every room may import.
ROOT_MODULES = {"core", "errors", "file_io", "image_io", "progress", "visualization"}
RUNTIME = {"geometry", "model_files", "families", "backends", "measurement", "view", "model"}
# Room (a folder of depthlm_ros, or view.py, model.py) -> rooms that it may import, beside the modules of the root.
# docs/ARCHITECTURE.md describes them.
ROOMS = {
    "geometry": set(),
    "model_files": {"geometry"},
    "families": {"geometry"},
    "measurement": {"geometry"},
    "nets": {"geometry", "model_files"},
    "backends": {"geometry", "model_files", "nets"},
    "view": {"geometry", "model_files", "families", "backends", "measurement"},
    "model": RUNTIME - {"measurement"},
    "export": RUNTIME | {"nets"},
    "data": {"geometry", "families"},
    "scenes": {"geometry", "data"},
    "training": {"geometry", "model_files", "families", "nets", "data", "scenes"},
    "eval": RUNTIME | {"data", "scenes"},
    "ros": RUNTIME | {"scenes", "eval"},
    "bags": RUNTIME | {"data", "ros"},
    "cli": RUNTIME | {"nets", "export", "data", "scenes", "training", "eval", "bags"},
}
MOST_FILES, MOST_ROOT_MODULES, MOST_ARROWS = 275, 8, 120
MOST_FILE_LINES, MOST_FUNCTION_LINES = 450, 60

# Library -> rooms (or single files) that may import it; "ros" stands for everything that comes with ROS 2.
TORCH = {"nets", "export", "training", "backends/torch_backend", "cli/train"}
LIBRARIES = {
    "torch": TORCH | {"backends/tensorrt/cuda_device"},
    "transformers": TORCH,
    "safetensors": TORCH,
    "onnx": {"export"},
    "onnxscript": {"export"},
    "onnxruntime": {"backends", "export"},
    "tensorrt": {"backends/tensorrt/runtime"},
    "tensorrt_rtx": {"backends/tensorrt/runtime"},
    "cuda": {"backends/tensorrt/cuda_device"},
    "accelerate": {"training"},
    "trl": {"training"},
    "datasets": {"training"},
    "numba": {"scenes", "geometry/antialiased_resize"},
    "pyarrow": {"data"},
    "ray": {"data/ray_cluster"},
    "rosbags": {"bags"},
    "tqdm": {"progress"},
    "ros": {"ros"},
}
ROS_LIBRARIES = re.compile(
    r"rclpy|rosidl\w*|\w+_(msgs|interfaces)|std_srvs|message_filters|sensor_msgs_py|cv_bridge|tf2\w*|"
    r"ament_index_python|launch\w*|diagnostic_updater"
)
# In ROS 2 the package tf2_ros holds the C++ library only.
DISTRIBUTED_BY = {"tf2_ros": "tf2_ros_py"}
IMPORTED_AS = {
    "opencv-python-headless": "cv2",
    "PyYAML": "yaml",
    "cuda-bindings": "cuda",
    "tensorrt-rtx-cu12": "tensorrt_rtx",
}


def place(path: Path) -> str:
    """Path of a module in the package, without its ending: "ros/node"."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def room_of(path: Path) -> str:
    """Name of the folder in the package, or of the module in its root."""
    return place(path).split("/")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import in a file, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            # A module of a package, imported by name.
            inside = [alias.name for alias in node.names if is_module(f"{node.module}.{alias.name}")]
            yield from ((node.lineno, f"{node.module}.{name}") for name in inside)
            if len(inside) < len(node.names):
                yield node.lineno, node.module or ""


def is_module(name: str) -> bool:
    """Whether a full name is one of a module or folder of this package."""
    base = ROOT / name.replace(".", "/")
    return name.startswith("depthlm_ros.") and (base.is_dir() or base.with_suffix(".py").exists())


def own_imports(path: Path) -> Iterator[tuple[int, str]]:
    """The imports of this package's modules, without the generated interfaces and the package itself."""
    for line, module in imports(path):
        if module.startswith("depthlm_ros.") and module.split(".")[1] not in ("msg", "srv", "action"):
            yield line, module


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms (or modules of the root) of which the first imports the second."""
    pairs = ((room_of(path), module.split(".")[1]) for path in MODULES for _, module in own_imports(path))
    return {(room, other) for room, other in pairs if room != other}


def test_every_room_imports_only_what_the_architecture_allows():
    wrong = [
        f"depthlm_ros/{place(path)}.py:{line}: room {room_of(path)} may not import {module}"
        for path in MODULES
        for line, module in own_imports(path)
        if room_of(path) not in {*ROOT_MODULES, "__init__"}
        if module.split(".")[1] not in ROOMS[room_of(path)] | ROOT_MODULES | {room_of(path)}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_modules_of_the_root_import_only_each_other():
    wrong = [(room, other) for room, other in arrows() if room in ROOT_MODULES and other not in ROOT_MODULES]
    assert not wrong


def test_there_are_few_arrows_between_rooms_and_no_circle(capsys):
    found = arrows()
    with capsys.disabled():
        print(f" {len(found)} arrows between rooms ", end="")
    assert len(found) <= MOST_ARROWS
    graph: dict[str, set[str]] = {}
    for room, other in found:
        if room != "__init__":
            graph.setdefault(room, set()).add(other)
    TopologicalSorter(graph).prepare()


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        if path.name != "__init__.py":
            name = "depthlm_ros." + place(path).replace("/", ".")
            graph[name] = {module for _, module in own_imports(path)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_only_where_the_architecture_allows(library):
    wrong = [
        f"depthlm_ros/{place(path)}.py:{line}"
        for path in MODULES
        for line, module in imports(path)
        if library_of(module) == library and not {place(path), room_of(path)} & LIBRARIES[library]
    ]
    assert not wrong


def library_of(module: str) -> str:
    """The library that a module belongs to; "ros" for everything of ROS 2, also for the generated interfaces."""
    top = module.split(".")[0]
    generated = module.startswith(("depthlm_ros.msg", "depthlm_ros.srv", "depthlm_ros.action"))
    return "ros" if generated or ROS_LIBRARIES.fullmatch(top) else top


def test_the_core_needs_nothing_but_numpy():
    used = {module.split(".")[0] for name in ("core", "errors") for _, module in imports(PACKAGE / f"{name}.py")}
    assert used - set(sys.stdlib_module_names) <= {"numpy", "depthlm_ros"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("depthlm_ros", "numpy cv2 onnxruntime tokenizers torch transformers rclpy numba"),
        ("depthlm_ros.core", "cv2 onnxruntime torch transformers rclpy numba"),
        ("depthlm_ros.model", "torch transformers rclpy numba"),
        ("depthlm_ros.backends.onnx_runtime", "torch transformers rclpy numba"),
        ("depthlm_ros.cli", "onnxruntime torch transformers rclpy numba"),
        ("depthlm_ros.cli.bag", "rclpy sensor_msgs rosbags"),
        ("depthlm_ros.bags.frame_messages", "rclpy sensor_msgs torch"),
        pytest.param("depthlm_ros.ros.node", "torch transformers numba tqdm", marks=pytest.mark.ros),
    ],
)
def test_importing_a_module_does_not_load(module, unwanted):
    """In a process of its own, because this one has loaded much already."""
    code = f"import sys, {module}; print(*sorted(set({unwanted.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_public_names_are_importable_from_the_package():
    import depthlm_ros

    assert {"load_model", "Frame", "Intrinsics", "Answer", "DepthMap", "View"} <= set(depthlm_ros.__all__)
    assert all(getattr(depthlm_ros, name) for name in depthlm_ros.__all__)
    with pytest.raises(AttributeError, match="no attribute 'depth'"):
        depthlm_ros.depth  # noqa: B018


def test_every_room_says_what_it_is_for_and_what_is_public():
    rooms = [folder / "__init__.py" for folder in sorted(PACKAGE.iterdir()) if (folder / "__init__.py").exists()]
    assert {path.parent.name for path in rooms} | {"view", "model"} == set(ROOMS)
    trees = {path.parent.name: ast.parse(path.read_text()) for path in rooms}
    assert not [room for room, tree in trees.items() if len((ast.get_docstring(tree) or "").split()) < 10]
    assert not [room for room, tree in trees.items() if "__all__" not in names_assigned_in(tree)]


def names_assigned_in(tree: ast.Module) -> set[str]:
    """Names that the top level of a module assigns to."""
    targets = [node.targets for node in tree.body if isinstance(node, ast.Assign)]
    return {target.id for group in targets for target in group if isinstance(target, ast.Name)}


def test_the_source_holds_no_generated_packages():
    """A folder msg, srv or action here would hide the generated one in the overlay."""
    assert not [name for name in ("srv", "msg", "action") if (PACKAGE / name).exists()]


def test_every_folder_of_code_is_a_package():
    """Otherwise pip leaves it out."""
    assert not [path.parent for path in MODULES if not (path.parent / "__init__.py").exists()]


def test_files_and_functions_are_short_and_files_are_few():
    files = [path for path in MODULES if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES
    assert len([path for path in files if path.parent == PACKAGE]) <= MOST_ROOT_MODULES
    assert not [f"{place(path)}.py" for path in files if len(path.read_text().splitlines()) > MOST_FILE_LINES]
    functions = (
        (path, node)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    long = [f"{path.name}:{node.lineno} {node.name}" for path, node in functions if lines(node) > MOST_FUNCTION_LINES]
    assert not long


def lines(node: ast.stmt) -> int:
    """Number of lines of a definition."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_package_setup_and_changelog_name_one_version():
    package = ElementTree.parse(ROOT / "package.xml").findtext("version")
    released = re.findall(
        r"^(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE
    )
    pip = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()[-1]
    assert package == released[0] == pip


def test_interfaces_are_all_generated():
    """Every .srv, .msg and .action file is named in CMakeLists.txt."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    kinds = ("srv", "msg", "action")
    files = [path.relative_to(ROOT).as_posix() for kind in kinds for path in (ROOT / kind).glob(f"*.{kind}")]
    assert files
    assert not [file for file in files if f'"{file}"' not in cmake]


def libraries(*rooms: str) -> set[str]:
    """What the rooms import from outside: neither this package nor Python's own modules."""
    files = [path for path in MODULES if {room_of(path), place(path)} & set(rooms)]
    used = {module.split(".")[0] for path in files for _, module in imports(path)}
    return used - {"depthlm_ros"} - set(sys.stdlib_module_names)


def required(*names: str) -> set[str]:
    """What requirements/NAME.txt brings, as it is imported."""
    lines = [line for name in names for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()]
    return {IMPORTED_AS.get(name, name) for line in lines if (name := re.match(r"[\w-]*", line)[0])}


def test_every_ros_package_in_use_is_declared():
    declared = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter() if "depend" in element.tag}
    used = {module.split(".")[0] for path in CODE for _, module in imports(path)}
    packages = {DISTRIBUTED_BY.get(library, library) for library in used if ROS_LIBRARIES.fullmatch(library)}
    assert packages - declared <= {"cv_bridge", "vision_msgs"}  # used only where they are installed


def test_the_running_node_needs_only_what_pip_is_told_to_install():
    runtime = {*ROOT_MODULES, *RUNTIME - {"backends"}, "backends/onnx_runtime", "backends/generation", "eval", "ros"}
    used = {library for library in libraries(*runtime) if not ROS_LIBRARIES.fullmatch(library)}
    assert used <= required("base") | {"numba"}  # which the node uses only where it is installed
    assert libraries("scenes") <= required("base", "scenes")
    assert libraries("data") <= required("base", "data", "scale")
    assert libraries("bags") <= required("base", "bags")
    assert libraries("nets", "export", "training", "cli") <= required("base", "scenes", "torch", "train", "grpo") | {
        "tensorrt"
    }


def test_pip_is_told_to_install_nothing_that_no_room_imports():
    extras = {path.stem for path in (ROOT / "requirements").glob("*.txt")} - {"dev", "ros", "ros-constraints"}
    used = libraries(*ROOT_MODULES, *ROOMS)
    assert required(*extras) <= used | {"tensorboard"}  # which transformers' Trainer imports


@pytest.mark.ros
def test_source_tree_and_generated_interfaces_are_one_package():
    import depthlm_ros.core
    from depthlm_ros.srv import SpatialQuery

    assert Path(depthlm_ros.core.__file__).parent == PACKAGE
    assert SpatialQuery.Response.OK == 0
