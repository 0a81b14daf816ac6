# SPDX-License-Identifier: Apache-2.0
"""`depthlm engine list|inspect|clean` on folders as a build leaves them.

Damaged files are named together with the remedy. Files that no build wrote, and engines that are being built, are never
removed.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT, TINY

from depthlm_ros.backends.tensorrt.plan_file import Machine, PlanKey, key_path, write_plan
from depthlm_ros.cli import main
from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.export.engine_store import LOCK_FILE, build_lock, check_output_folder
from depthlm_ros.model_files.bundle import MANIFEST, file_digest, load_bundle, manifest_text

REBUILD = "depthlm engine build --model tiny --size 160x120 --backend onnxruntime"
GRAPH = "look_160x128.onnx"
HERE = Machine("10.3.0", "Orin", "8.7", "CUDA 12.6")


@pytest.fixture
def engine_root(tmp_path, monkeypatch):
    """The engine folder that is searched first."""
    folder = tmp_path / "engines"
    folder.mkdir()
    monkeypatch.setenv("DEPTHLM_ENGINES", str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "own"))
    return folder


@pytest.fixture
def engine(engine_root):
    return make_engine(engine_root / "mine")


def make_engine(folder):
    """Writes what a build for depth only leaves. Its graph is only a producer's name, because no test here runs it."""
    folder.mkdir()
    for name in ("weights.data", "tokenizer.json"):
        (folder / name).write_bytes(name.encode() * 1000)
    # Field 2 of ONNX's ModelProto (producer_name) is bytes with their length before them.
    (folder / GRAPH).write_bytes(bytes([2 << 3 | 2, len(GRAPH)]) + GRAPH.encode())
    (folder / LOCK_FILE).write_text("1")
    tiny = json.loads((TINY / MANIFEST).read_text())
    files = {path.name: file_digest(path) for path in folder.iterdir() if path.name != LOCK_FILE}
    changes = {"name": folder.name, "canvases_px": [[160, 128]], "only_depth": True, "pairs": False}
    more = {"model": "tiny", "precision": {"backbone": "fp16", "head": "fp16"}, "rebuild": REBUILD, "files": files}
    (folder / MANIFEST).write_text(manifest_text(tiny | changes | more))
    return folder


def add_plan(engine, content=b"plan" * 100):
    files = {name: file_digest(engine / name) for name in (GRAPH, "weights.data")}
    plan = engine / GRAPH.replace(".onnx", ".plan")
    write_plan(plan, content, PlanKey(files, HERE, "fp16"))
    return plan


def run(capsys, *words):
    """Exit code, stdout, stderr of `depthlm engine ...`."""
    code = main(["engine", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def check_refusal(capsys, words, *texts, code=1):
    """Checks that the command fails with one line on stderr that contains all texts."""
    exit_code, _, err = run(capsys, *words)
    assert exit_code == code and err.count("\n") == 1, err
    for text in texts:
        assert text in err


def test_list_shows_engines_and_marks_damaged_ones(engine, engine_root, capsys):
    add_plan(engine)
    make_engine(engine_root / "broken")
    (engine_root / "broken" / MANIFEST).write_text("{")
    code, out, _ = run(capsys, "list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert lines["mine"].split() == ["mine", "160x128", "fp16", "depth", "20", "0", "MB", "1", str(engine)]
    assert "damaged" in lines["broken"] and "tiny" in lines
    listed = {Path(each["folder"]).name: each for each in json.loads(run(capsys, "list", "--json")[1])}
    assert listed["mine"]["rebuild"] == REBUILD and listed["mine"]["fault"] == ""
    assert "manifest.json is damaged" in listed["broken"]["fault"]


def test_inspect_prints_the_manifest_and_the_machine_of_each_plan(engine, capsys):
    plan = add_plan(engine)
    code, out, err = run(capsys, "inspect", "mine")
    assert (code, err) == (0, "")
    for text in (
        "backbone fp16",
        REBUILD,
        "[[160, 128]]",
        "weights.data",
        f"{plan.name}: TensorRT 10.3.0, Orin (sm 8.7)",
    ):
        assert text in out
    facts = json.loads(run(capsys, "inspect", engine, "--json")[1])
    assert facts["plans"][plan.name]["machine"]["driver"] == "CUDA 12.6"
    assert facts["bytes"]["weights.data"] == (engine / "weights.data").stat().st_size


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, '"fp16"', '"bf16"'), "manifest.json was edited after it was written"),
        (lambda f: (f / "weights.data").unlink(), "weights.data is missing"),
        (lambda f: (f / "weights.data").write_bytes(b"weights"), "weights.data is damaged: SHA-256 is "),
        (lambda f: (f / GRAPH).unlink(), f"{GRAPH} is missing"),
    ],
    ids=["edited manifest", "no external data", "truncated weights", "no graph"],
)
def test_damaged_engine_names_the_file_and_the_command_that_builds_it_again(engine, capsys, damage, message):
    damage(engine)
    check_refusal(capsys, ["inspect", "mine"], message, f"build it again: {REBUILD}")
    with pytest.raises(BadBundle, match="build it again: depthlm engine build"):
        load_bundle(engine)


def edit(folder, old, new):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: plan.write_bytes(b"plan"), "it is cut short or was changed"),
        (lambda plan: key_path(plan).write_text("{}"), "look_160x128.plan.json is damaged"),
        (lambda plan: write_plan(plan, b"", PlanKey({GRAPH: "0"}, HERE, "fp16")), f"{GRAPH} has changed since"),
    ],
    ids=["truncated plan", "damaged key", "another graph"],
)
def test_inspect_names_a_plan_that_cannot_be_loaded(engine, capsys, damage, message):
    damage(add_plan(engine))
    check_refusal(capsys, ["inspect", "mine"], message, "depthlm engine build --model mine --backend tensorrt")


def test_unknown_engine_lists_the_known_engines(engine, tmp_path, capsys):
    check_refusal(capsys, ["inspect", "nothing"], "'nothing'", "mine", "tiny")
    check_refusal(capsys, ["clean", "nothing"], "'nothing'", "mine", "tiny")
    (tmp_path / "pictures").mkdir()
    check_refusal(capsys, ["clean", tmp_path / "pictures"], "pictures", "mine")
    check_refusal(capsys, ["clean", "--all"], "needs the name of an engine")


def test_clean_removes_only_the_leftovers_of_killed_builds(engine, engine_root, capsys):
    plan = add_plan(engine)
    (engine / ".export").mkdir()
    (engine / ".export" / "weights.data").write_bytes(b"half" * 1000)
    (engine / "partial-look.plan").write_bytes(b"half")
    (engine / "look_64x48.plan").write_bytes(b"a plan without its JSON was not finished")
    (engine_root / "never").mkdir()  # holds only the lock of a build that was killed at once
    (engine_root / "never" / LOCK_FILE).write_text("1")
    # Files of other programs stay.
    (engine_root / "work" / ".export").mkdir(parents=True)
    (engine_root / "work" / "main.plan").write_text("terraform")
    code, out, _ = run(capsys, "clean")
    assert code == 0 and "freed 0.0 MB" in out and out.count("removing") == 3
    assert not (engine_root / "never").exists()
    assert (engine_root / "work" / ".export").is_dir() and (engine_root / "work" / "main.plan").is_file()
    assert plan.is_file() and key_path(plan).is_file()
    load_bundle(engine)
    assert run(capsys, "clean")[1:] == ("freed 0.0 MB\n", "")


def test_clean_of_an_engine_removes_its_plans_and_with_all_the_engine_too(engine, capsys):
    plan = add_plan(engine, b"plan" * 1_000_000)
    code, out, _ = run(capsys, "clean", "mine")
    assert code == 0 and "freed 4.0 MB" in out
    assert not plan.exists() and not key_path(plan).exists()
    load_bundle(engine)
    (engine / "notes.txt").write_text("mine")
    _, out, _ = run(capsys, "clean", "mine", "--all")
    assert "stays, because it holds notes.txt, which no build wrote" in out
    assert {path.name for path in engine.iterdir()} == {"notes.txt", LOCK_FILE}
    (engine / "notes.txt").unlink()
    run(capsys, "clean", "mine", "--all")
    assert not engine.exists()


def test_model_with_its_checkpoint_is_not_removed(engine_root, capsys):
    before = sorted(TINY.iterdir())
    check_refusal(capsys, ["clean", "tiny", "--all"], "not an engine that could be built again", "by hand")
    assert sorted(TINY.iterdir()) == before


LOCK_HOLDER = """
import sys
from pathlib import Path
from depthlm_ros.export.engine_store import build_lock
with build_lock(Path(sys.argv[1]), print):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_clean_leaves_alone_an_engine_that_is_being_built(engine, capsys):
    (engine / ".export").mkdir()
    command = [sys.executable, "-c", LOCK_HOLDER, str(engine)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout.readline() == "locked\n"
        running = f"process {builder.pid} is building"
        check_refusal(capsys, ["clean", "mine", "--all"], f"{running} in {engine}", "wait until")
        code, out, _ = run(capsys, "clean")
        assert code == 0 and f"left alone: {running}" in out and "0.0 MB" in out
        assert (engine / ".export").is_dir()
        load_bundle(engine)
        builder.stdin.close()
    run(capsys, "clean")
    assert not (engine / ".export").exists()


def test_engines_are_built_only_into_new_empty_or_engine_folders(engine, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for folder in (tmp_path / "new", pictures, engine):
        check_output_folder(folder)
    (pictures / "room.png").write_bytes(b"")
    with pytest.raises(SetupError, match=r"pictures is not the folder of an engine: it holds room\.png.*--out"):
        check_output_folder(pictures)
    with pytest.raises(SetupError, match=r"room\.png is a file.*--out"):
        check_output_folder(pictures / "room.png")
    with pytest.raises(SetupError, match=r"tiny is a model with its checkpoint.*--out"):
        check_output_folder(TINY)


def test_empty_folder_of_a_failed_build_is_removed_even_if_another_build_waits_for_it(tmp_path):
    folder = tmp_path / "new"
    command = [sys.executable, "-c", LOCK_HOLDER, str(folder)]
    with build_lock(folder, print):
        second = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert "is building in" in second.stdout.readline()
    assert second.stdout.readline() == "locked\n"
    assert (folder / LOCK_FILE).read_text() == str(second.pid)
    second.communicate()
    assert not folder.exists()


def texts_in_the_package():
    """Yields every string in the package, with "…" in place of formatted values."""
    for path in (ROOT / "depthlm_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_message_in_the_table_of_failures_exists_in_the_code():
    readme = (ROOT / "engines" / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## When it fails") :].splitlines()
    rows = [row.split(" | ")[0] for row in table if row.startswith("| `")]
    quoted = [message for row in rows for message in re.findall(r"`([^`]*)`", row)]
    texts = list(texts_in_the_package())

    def exists(message):
        parts = message.split("…")
        pattern = re.compile(".*?".join(map(re.escape, parts)))
        return any(pattern.search(text) for text in texts if all(part in text for part in parts))

    assert len(quoted) > 30 and [message for message in quoted if not exists(message)] == []
