# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders and Hugging Face caches for tests of model_files: the right files, almost without content."""

import json
import shutil
import struct

import pytest

from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.checkpoint import find_model
from depthlm_ros.model_files.depth_network import WORDLESS_TOKENIZER

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QWEN3 = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "patch_size": 16,
    "merge_size": 2,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}
QWEN25 = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 12845056,
}
PIXTRAL = {
    "image_processor_type": "PixtralImageProcessor",
    "patch_size": {"height": 16, "width": 16},
    "size": {"longest_edge": 1024},
}
CONFIGS = {
    "qwen3_vl": {"model_type": "qwen3_vl"},
    "qwen2_5_vl": {"model_type": "qwen2_5_vl"},
    "llava": {"model_type": "llava", "vision_config": {"model_type": "pixtral"}},
}
PROCESSORS = {"qwen3_vl": QWEN3, "qwen2_5_vl": QWEN25, "llava": PIXTRAL | {"do_resize": False, "do_rescale": False}}

# A tokenizer with one word and the special tokens of all chat templates.
SPECIAL = ("<|im_end|>", "<|image_pad|>", "</s>", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
TOKENIZER = json.loads(WORDLESS_TOKENIZER) | {
    "added_tokens": [
        {"id": i, "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, token in enumerate(SPECIAL, 12)
    ]
}


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def write_tensors(path, names, cut=0):
    """Writes a safetensors file, as the format's documentation says. Each tensor is two float32. cut: bytes that are
    missing at the end."""
    entries = {n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(names)}
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(8 * len(names))
    path.write_bytes(whole[: len(whole) - cut])


def checkpoint(folder, architecture="qwen3_vl", tensors=("model.a", "lm_head.weight"), **config):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIGS[architecture] | config)
    write_json(folder / "preprocessor_config.json", PROCESSORS[architecture])
    write_json(folder / "tokenizer.json", TOKENIZER)
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def shard(folder, files):
    """Spreads tensors over files with an index. files: name -> tensors."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    for name, tensors in files.items():
        write_tensors(folder / name, tensors)
    places = {tensor: name for name, tensors in files.items() for tensor in tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    return folder


def download(cache, hub_id, source, commit=COMMIT, ref="main"):
    """Makes what `hf download` leaves: files in blobs/, and links to them in snapshots/."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for path in source.iterdir():
        shutil.copy(path, repository / "blobs" / f"{commit[:4]}{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/{commit[:4]}{path.name}")
    if ref:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    return snapshot


def assert_refused(name, *texts, kind=BadBundle):
    with pytest.raises(kind) as raised:
        find_model(str(name))
    for text in texts:
        assert text in str(raised.value), str(raised.value)
