# SPDX-License-Identifier: Apache-2.0
"""The image steps of the released systems by Pillow and by transformers' own processors, and photographs for them.

Image.resize rounds to whole grey levels after each direction. Since version 13 Pillow goes down first where the height
shrinks more than the width (its pull request 9549). The checkpoints were trained and published before, and torchvision
always goes across first. `across_first` and `torch_resize` stand for Image.resize in these two ways.
"""

import importlib.util
import os
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from depthlm_ros.core import Intrinsics
from depthlm_ros.model_files.image_processor import apply_size_rule, read_size_rule
from depthlm_ros.model_files.spec_yaml import find_spec
from support.checkpoint_folders import write_json
from support.paths import ROOT

PHOTOGRAPHS = Path(os.environ.get("DEPTHLM_IBIMS", ROOT.parent / "shared" / "data" / "ibims1_dev")) / "rgb"
QWEN3 = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}
QWEN25 = {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 3136, "longest_edge": 12845056}}
PIXTRAL = {"patch_size": {"height": 16, "width": 16}, "size": {"longest_edge": 2048}}
PROCESSORS = {"depthlm-12b": PIXTRAL, "depthlm-7b": QWEN25, "qwen2.5-vl-3b": QWEN25}
# transformers' processors for Pillow, the same with torch's resize, and those for torchvision where that is here.
BACKENDS = ["pillow", "torch", *(["torchvision"] if importlib.util.find_spec("torchvision") else [])]
# The released code of DepthVLM calls qwen_vl_utils, which resizes to multiples of 28 within these areas.
SNAP = (28, 4 * 28 * 28, 16384 * 28 * 28)


def camera(width, height, fx, fy=None):
    return Intrinsics(fx, fy or fx, (width - 1) / 2, (height - 1) / 2, width, height)


CAMERAS = {
    "NYUv2": Intrinsics(518.8579, 519.4696, 325.58, 253.74, 640, 480),
    "KITTI": camera(1242, 375, 721.5377),
    "nuScenes": camera(1600, 900, 1266.4),
    "portrait": camera(720, 1280, 1000.0),
    "tall": camera(400, 1000, 850.0),
    "wide": camera(1920, 480, 1100.0),
    "fx is not fy": camera(1024, 768, 886.81, 927.06),
    "fx is much less than fy": camera(640, 400, 410.0, 520.0),
    "full HD": camera(1920, 1080, 1400.0),
    "full HD, wide angle": camera(1920, 1080, 1011.0),
    "12 megapixels": camera(4000, 3000, 3000.0),
    "canonical": camera(1000, 750, 1000.0),
    "small": camera(320, 240, 300.0),
    "odd": camera(411, 333, 431.7, 433.2),
}


def photograph(seen_by, index=0):
    """Returns a photograph (Pillow) as this camera's size, cropped to its aspect; None if the data are not here."""
    files = sorted(PHOTOGRAPHS.glob("*.png"))
    return fill(Image.open(files[index % len(files)]).convert("RGB"), seen_by) if files else None


def synthetic(seen_by):
    """Returns noise over edges and slopes, saturated at both ends."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:360, :480]
    waves = 150 * np.sin(u / 7.0) * np.cos(v / 11.0) + 90 * ((u // 40 + v // 40) % 2) + u / 4
    values = waves[..., None] + rng.normal(0, 12, (360, 480, 3)) + (0, 20, 40)
    return fill(Image.fromarray(values.clip(0, 255).astype(np.uint8)), seen_by)


def fill(image, seen_by):
    width, height = seen_by.size_px
    scale = min(image.width / width, image.height / height)
    w, h = width * scale, height * scale
    left, top = (image.width - w) / 2, (image.height - h) / 2
    return image.resize((width, height), Image.LANCZOS, box=(left, top, left + w, top + h))


def across_first(image, size, resample=Image.BICUBIC, **_):
    """Image.resize of all versions of Pillow before 13."""
    return pillow_resize(pillow_resize(image, (size[0], image.height), resample), size, resample)


def torch_resize(image, size, resample=Image.BICUBIC, **_):
    """What torchvision's resize with antialias does with bytes on a CPU."""
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    mode = {Image.BICUBIC: "bicubic", Image.BILINEAR: "bilinear"}[resample]
    resized = torch.nn.functional.interpolate(values, size=(size[1], size[0]), mode=mode, antialias=True)
    return Image.fromarray(np.ascontiguousarray(resized[0].permute(1, 2, 0)))


pillow_resize = Image.Image.resize


def released_picture(image, seen_by, system):
    """Returns the image before the processor (and before qwen_vl_utils), as the released code makes it."""
    if system == "vlm3-corr":
        scale = 1024 / max(image.size)
        return across_first(image, tuple(round(n * scale) for n in image.size))
    if system == "qwen2.5-vl-3b":
        return image
    if system == "depthvlm-4b":
        return across_first(image, tuple(round(n * 1000 / seen_by.fx_px) for n in image.size), Image.BILINEAR)
    scale = (750 if system == "depthlm-12b" else 1000) / seen_by.fx_px
    return across_first(image, (int(image.width * scale), int(image.height * scale)))


def released_canvas(picture, system, backend):
    """Returns uint8 (h, w, 3): the pixels that the released code normalises. backend: one of BACKENDS."""
    if system == "depthvlm-4b":
        height, width = smart_resize(picture.height, picture.width, *SNAP)
        picture = across_first(picture, (width, height))
    fields = PROCESSORS.get(system, QWEN3)
    processor = make_processor(fields, backend)
    with mock.patch.object(Image.Image, "resize", torch_resize if backend == "torch" else across_first):
        made = processor(images=[picture], do_rescale=False, do_normalize=False, return_tensors="np")
    values = np.asarray(made["pixel_values"])
    if fields is not PIXTRAL:
        values = unpatched(values, made["image_grid_thw"][0], fields["patch_size"])
    canvas = values[0].transpose(1, 2, 0)
    assert (canvas == np.rint(canvas)).all()
    return canvas.astype(np.uint8)


def make_processor(fields, backend):
    if backend != "torchvision":
        return (PixtralImageProcessorPil if fields is PIXTRAL else Qwen2VLImageProcessorPil)(**fields)
    from transformers import PixtralImageProcessor, Qwen2VLImageProcessor

    return (PixtralImageProcessor if fields is PIXTRAL else Qwen2VLImageProcessor)(**fields)


def unpatched(values, grid, patch):
    """Returns (1, 3, H, W) of the patches of one image: the inverse of Qwen's processor."""
    rows, columns = int(grid[1]), int(grid[2])
    blocks = values.reshape(rows // 2, columns // 2, 2, 2, 3, 2, patch, patch)[:, :, :, :, :, 0]
    return blocks.transpose(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, rows * patch, columns * patch)


def checkpoint_rule(system, folder):
    """Returns the canvas rule of the system with a checkpoint that has its processor."""
    fields = PROCESSORS.get(system, QWEN3)
    kind = "PixtralImageProcessor" if fields is PIXTRAL else "Qwen2VLImageProcessor"
    write_json(folder / "preprocessor_config.json", fields | {"image_processor_type": kind, "resample": 3})
    return apply_size_rule(find_spec(system).canvas, read_size_rule(folder))


def gradient_rms(rgb):
    """Returns the root mean square of the differences of neighbouring pixels."""
    values = rgb.astype(np.float32)
    return float(np.sqrt((np.diff(values, axis=0) ** 2).mean() + (np.diff(values, axis=1) ** 2).mean()))
