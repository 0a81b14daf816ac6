# SPDX-License-Identifier: Apache-2.0
"""A model's folder that was made to do harm is refused with one line, and costs little memory and time."""

import hashlib
import json
import os
import shutil
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from support.paths import TINY, needs_tiny

from depthlm_ros.errors import BadBundle, BadImage, BadInput, DepthLMError, SetupError
from depthlm_ros.image_io import decode_rgb
from depthlm_ros.model import load_model
from depthlm_ros.model_files.bounded_files import MAX_FIELDS_BYTES, MAX_TOKENIZER_BYTES, graph_files
from depthlm_ros.model_files.bundle import MANIFEST, load_bundle, manifest_text
from depthlm_ros.model_files.checkpoint_settings import read_config
from depthlm_ros.model_files.depth_network import NETWORK_FILE, check_weight_places, open_network
from depthlm_ros.model_files.image_processor import read_image_processor
from depthlm_ros.model_files.safetensors_files import CHECKPOINT_FILE, CHECKPOINT_INDEX_FILE, read_weight_files
from depthlm_ros.model_files.tokenizer_files import read_token_id, read_tokenizer

WEIGHTS = "model.safetensors"
NETWORK = """\
family: depth_map
file: net.onnx
image: {input: image, fit: squeeze, size_px: [32, 32]}
depth: {output: depth, kind: metres}
"""
FAR_TOO_DEEP = "[" * 200_000


@pytest.fixture
def copy(tmp_path):
    """A copy of the embedded model, which each test makes hostile."""
    shutil.copytree(TINY, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(autouse=True)
def little_memory():
    """No test here may need more memory than the small files that it reads."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 << 20


def sign(folder, change=lambda manifest: None) -> None:
    """Changes a manifest and writes it with the right checksum, as its maker can."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(manifest_text(manifest))


def signed_files(folder, *names: str) -> None:
    """Lets the manifest vouch for files as they are now."""

    def change(manifest):
        for name in names:
            manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()

    sign(folder, change)


# ---- the manifest


@needs_tiny
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", "a\0b", ""])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(copy, name):
    (copy.parent / "secret").write_text("x")
    (copy / "sub").mkdir()
    (copy / "sub" / "file").write_text("x")
    sign(copy, lambda manifest: manifest["files"].update({name: hashlib.sha256(b"x").hexdigest()}))
    with pytest.raises(BadBundle, match=r"manifest|missing"):
        load_bundle(copy)


@needs_tiny
@pytest.mark.parametrize("target", ["file", "pipe", "device", "folder", "nothing"])
def test_a_link_out_of_the_folder_is_refused_and_not_read(copy, target):
    place = copy.parent / "outside"
    if target == "file":
        shutil.move(copy / WEIGHTS, place)  # its content is what the manifest says
    else:
        (copy / WEIGHTS).unlink()
    if target == "pipe":
        os.mkfifo(place)
    elif target == "folder":
        place.mkdir()
    (copy / WEIGHTS).symlink_to("/dev/zero" if target == "device" else place)
    with pytest.raises(BadBundle, match=r"is a link to|is missing"):
        load_bundle(copy)


@needs_tiny
def test_an_installation_made_of_links_to_one_folder_is_taken(copy):
    """As `colcon build --symlink-install` makes it, and the cache of Hugging Face."""
    installed = copy.parent / "installed"
    installed.mkdir()
    for path in copy.iterdir():
        (installed / path.name).symlink_to(path)
    assert load_bundle(installed).name == "tiny"


@needs_tiny
@pytest.mark.parametrize(
    "change",
    [
        {"canvases_px": [[1 << 30, 1 << 30]]},
        {"canvases_px": [[16 * n, 16] for n in range(1, 200)]},
        {"canvases_px": [[1e999, 16]]},
        {"pixels_per_token": 1e999},
        {"calibration": {"map_std_factor": 1e999}},
        {"prefix": {"before": "x", "after": []}},
        {"files": []},
    ],
)
def test_numbers_that_would_cost_memory_or_are_none_are_refused(copy, change):
    sign(copy, lambda manifest: manifest.update(change))
    with pytest.raises(BadBundle):
        load_bundle(copy)


@needs_tiny
@pytest.mark.parametrize("location", [b"../weights.dataxx", b"/etc/weights.data", b"not.vouched.forxx"])
def test_a_graph_that_points_elsewhere_is_refused(copy, location):
    """ONNX Runtime follows such a name; a graph's own hash does not forbid it."""
    assert len(location) == len(WEIGHTS)
    graph = copy / "step.onnx"
    graph.write_bytes(graph.read_bytes().replace(WEIGHTS.encode(), location))
    signed_files(copy, graph.name)
    with pytest.raises(BadBundle, match="points into"):
        load_bundle(copy)


def entry(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(bytes((number << 3 | 2, len(content))) + content for number, content in fields)


@pytest.mark.parametrize(
    "place",
    [
        entry((1, b"location"), (2, b"../evil")),
        entry((2, b"../evil"), (1, b"location")),  # the other order
        entry((1, b"location"), (2, b"good"), (2, b"../evil")),  # the last one counts
        entry((3, b"?"), (1, b"offset"), (1, b"location"), (2, b"../evil")),
        b"\x0a\x88\x00location\x92\x00\x87\x80\x00../evil",  # numbers longer than they need to be
    ],
)
@pytest.mark.parametrize("wrapped", [(5,), (1, 5, 5), (15, 1), (1, 5, 6, 5)])
def test_every_way_of_writing_the_place_of_data_is_found(tmp_path, place, wrapped):
    content = entry((13, place))
    for number in reversed(wrapped):
        content = entry((number, content))
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a" + entry((7, content)))
    assert graph_files(tmp_path / "net.onnx") == {"../evil"}


def test_a_network_for_depth_that_points_out_of_its_folder_is_refused(tmp_path):
    (tmp_path / NETWORK_FILE).write_text(NETWORK)
    place = entry((1, b"location"), (2, b"../../etc/passwd"))
    (tmp_path / "net.onnx").write_bytes(entry((7, entry((5, entry((13, place)))))))
    with pytest.raises(BadBundle, match=r"\.\./\.\./etc/passwd"):
        check_weight_places(open_network(tmp_path / NETWORK_FILE, "net").path)
    (tmp_path / "net.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(BadBundle, match="is not an ONNX graph"):
        load_model(str(tmp_path))


# ---- JSON and YAML


READERS = {
    MANIFEST: load_bundle,
    "config.json": read_config,
    "preprocessor_config.json": read_image_processor,
    CHECKPOINT_INDEX_FILE: read_weight_files,
    "tokenizer.json": lambda folder: read_tokenizer(folder / "tokenizer.json"),
    "added_tokens.json": lambda folder: read_token_id(folder, "<x>"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", ["deep", "large", "digits", "bytes", "list", "pipe"])
def test_hostile_json_is_refused_with_one_line(tmp_path, name, content):
    path = tmp_path / name
    most = MAX_TOKENIZER_BYTES if name in ("tokenizer.json", CHECKPOINT_INDEX_FILE) else MAX_FIELDS_BYTES
    if content == "pipe":
        os.mkfifo(path)
    elif content == "large":
        with path.open("wb") as file:
            file.truncate(most + 1)  # a hole: it takes no room on the disk
    else:
        texts = {"deep": FAR_TOO_DEEP, "digits": f'{{"files": {"9" * 100_000}}}', "list": "[1, 2]"}
        path.write_bytes(texts[content].encode() if content in texts else b'{"\xff\xfe": 1}')
    with pytest.raises(DepthLMError) as caught:
        READERS[name](tmp_path)
    assert name in str(caught.value) or "holds no weights" in str(caught.value) or str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 2]\nb: [*a, *a]\n",
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]),
        "a: " + FAR_TOO_DEEP,
        "a: !!python/object/apply:os.system ['touch harm']",
        "x: 1\n" * (MAX_FIELDS_BYTES // 5 + 1),
    ],
    ids=["alias", "billion", "deep", "code", "large"],
)
def test_hostile_yaml_is_refused_with_one_line(tmp_path, text):
    (tmp_path / NETWORK_FILE).write_text(text)
    with pytest.raises(SetupError) as caught:
        open_network(tmp_path / NETWORK_FILE, "net")
    assert len(str(caught.value)) < 1000 and not (tmp_path / "harm").exists()


# ---- weights


def safetensors(header: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, begin, end, dtype="F32") -> dict:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b"{}", length=(1 << 63) - 1),
        safetensors(b"{}", length=90_000_000),
        safetensors(FAR_TOO_DEEP.encode()),
        safetensors(tensor([1 << 40], 0, 4), b"0000"),
        safetensors(tensor([-1], 0, 4), b"0000"),
        safetensors(tensor([1], -4, 0), b""),
        safetensors(tensor([1], 4, 0), b"0000"),
        safetensors({**tensor([1], 0, 4), "v": {"dtype": "F32", "shape": [2], "data_offsets": [4, 8]}}, b"00000000"),
        safetensors(tensor([1], 0, 1e999), b"0000"),
        b"",
        b"\x80\x02cos\nsystem\n",
    ],
)
def test_hostile_safetensors_are_refused_with_one_line(tmp_path, content):
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(BadBundle, match=CHECKPOINT_FILE):
        read_weight_files(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin", ".."])
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path, name):
    (tmp_path / CHECKPOINT_INDEX_FILE).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(BadBundle, match="not a safetensors file beside it"):
        read_weight_files(tmp_path)


# ---- pictures


def png_of(width: int, height: int, rows: int = 16) -> bytes:
    """Returns a PNG whose header promises a size, with black pixels for some rows."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * (3 * width + 1)))
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """Returns a JPEG whose header promises another size than that of its pixels."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("content", [png_of(30_000, 30_000), png_of(1 << 30, 1 << 30, rows=0), jpeg_of(65_000, 65_000)])
def test_a_small_file_that_promises_a_huge_picture_is_refused_before_it_is_decoded(content):
    assert len(content) < 1 << 20
    with pytest.raises(BadImage, match="promises"):
        decode_rgb(np.frombuffer(content, np.uint8), "bomb")


@pytest.mark.ros
@pytest.mark.parametrize("content", [png_of(30_000, 30_000), jpeg_of(65_000, 65_000)])
def test_the_node_refuses_such_a_picture_too(content):
    from sensor_msgs.msg import CompressedImage

    from depthlm_ros.ros.message_in import compressed_to_rgb

    with pytest.raises(BadInput, match="promises"):
        compressed_to_rgb(CompressedImage(format="png", data=content))


def test_a_picture_of_a_large_camera_is_decoded():
    """One that compresses well is no bomb."""
    content = cv2.imencode(".png", np.zeros((3000, 4000, 3), np.uint8))[1]
    assert decode_rgb(content, "picture").shape == (3000, 4000, 3)
