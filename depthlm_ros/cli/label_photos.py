# SPDX-License-Identifier: Apache-2.0
"""`depthlm data label-photos`: makes shards of photographs with the depth that one or two models see in them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm_ros.cli.common import parse_positive, parse_size
from depthlm_ros.cli.label import add_worker_options, model_request, parse_workers
from depthlm_ros.core import Frame
from depthlm_ros.data.photo_labels import (
    LABEL_STRIDE_PX,
    MOST_DISAGREEMENT_LN,
    REFERENCE_FX_OVER_WIDTH,
    PhotoLabels,
    TeacherNote,
    encode,
    fit_photo,
    label_photo,
    reference_camera,
)
from depthlm_ros.errors import BadInput

if TYPE_CHECKING:
    from depthlm_ros.data.picture_source import Picture
    from depthlm_ros.data.worker_pool import Workers
    from depthlm_ros.eval.worker_model import ModelRequest
    from depthlm_ros.model import Model


def add_label_photos_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `depthlm data label-photos`."""
    parser.description = (
        "Labels photographs with the depth that a model sees in them, as WebDataset shards. The same command continues "
        "a run that was killed. The photographs are cut to the shape of --size and resized. Their focal length is "
        "unknown: the teacher is told --fx-over-width, and its depth belongs to that camera. No detector looks at the "
        "photographs: the samples have no list of boxes, which is not the same as an empty one."
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of pictures or shards, or JSONL of records")
    parser.add_argument(
        "--teacher", required=True, metavar="NAME", help="a model with dense depth: name, NAME=FOLDER, folder or hub id"
    )
    parser.add_argument(
        "--second-teacher", default="", metavar="NAME", help="depth is kept where this model agrees, and is the mean"
    )
    parser.add_argument(
        "--agree",
        type=parse_positive,
        default=MOST_DISAGREEMENT_LN,
        metavar="LN",
        help="most difference of two teachers in ln (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: name of SOURCE + -labels)")
    parser.add_argument(
        "--size",
        type=parse_size,
        default="256x192",
        metavar="WxH",
        help="size of the written photographs; depth has a quarter of it (default: %(default)s)",
    )
    parser.add_argument(
        "--images-per-shard", type=int, default=1100, metavar="N", help="pictures in a shard (default: %(default)s)"
    )
    parser.add_argument(
        "--fx-over-width",
        type=parse_positive,
        default=REFERENCE_FX_OVER_WIDTH,
        metavar="RATIO",
        help="assumed focal length, in widths of the written photograph (default: %(default)s)",
    )
    parser.add_argument("--flip", action="store_true", help="average with the depth of the mirrored picture")
    add_worker_options(parser)
    parser.add_argument("--backend", default="auto", help="what runs the teachers (default: %(default)s)")
    parser.add_argument(
        "--device", default="", help="where they run: cpu, cuda, cuda:N or openvino (default: the best)"
    )


def run_label_photos(args: argparse.Namespace) -> None:
    """Labels the photographs of a folder, and prints what was done."""
    from depthlm_ros.data.labelling import LabellingJob, label_pictures

    source = args.source.resolve()
    workers = parse_workers(args, (source,))
    out = args.out or Path(f"{source.name}-labels")
    labeller = _make_labeller(args, workers)
    job = LabellingJob(source, out, labeller.settings, args.images_per_shard)
    print(f"{out}: {label_pictures(job, labeller, workers)}")


@dataclass(frozen=True)
class Teachers:
    """Labels one picture with one or two models. Each process loads them when it labels its first picture.

    models: how they are loaded. notes: what the samples say of each.
    """

    models: tuple[ModelRequest, ...]
    notes: tuple[TeacherNote, ...]
    size_px: tuple[int, int]
    fx_over_width: float
    most_disagreement_ln: float
    flip: bool

    @property
    def settings(self) -> dict[str, object]:
        """What the labels depend on."""
        return {
            "teachers": self.notes,
            "size_px": self.size_px,
            "fx_over_width": self.fx_over_width,
            "most_disagreement_ln": self.most_disagreement_ln if len(self.models) > 1 else None,
            "flip": self.flip,
        }

    def __call__(self, picture: Picture) -> Mapping[str, bytes]:
        """Returns the files of the sample of a picture. Raises BadInput or OSError."""
        rgb = fit_photo(picture.load().rgb(upright=True), self.size_px)
        see = [partial(self._depth_m, model.load()) for model in self.models]
        depth_m = label_photo(rgb, see, self.most_disagreement_ln, self.flip)
        ratio = self.fx_over_width
        labels = PhotoLabels(
            rgb, depth_m, has_boxes=False, fx_over_width=ratio, source=picture.name, teachers=self.notes
        )
        return encode(labels)

    def _depth_m(self, model: Model, rgb: np.ndarray) -> np.ndarray:
        return model.look(Frame(rgb, reference_camera(self.size_px, self.fx_over_width))).depth(with_std=False).depth_m


def _make_labeller(args: argparse.Namespace, workers: Workers) -> Teachers:
    """Returns the labeller of these options. Raises BadInput for a size or a teacher that cannot be used."""
    from depthlm_ros.model_files.checkpoint import find_model

    if any(side % LABEL_STRIDE_PX for side in args.size):
        raise BadInput(f"--size is {args.size[0]}x{args.size[1]}: give multiples of {LABEL_STRIDE_PX}.")
    models = tuple(name for name in (args.teacher, args.second_teacher) if name)
    specs = [find_model(name).spec for name in models]
    for name, spec in zip(models, specs, strict=True):
        if not spec.head:
            raise BadInput(f"{name} has no dense depth: choose another teacher, such as depthvlm-4b.")
    notes = tuple(TeacherNote(spec.name, spec.licence or "not stated") for spec in specs)
    requests = tuple(model_request(args, name, workers) for name in models)
    return Teachers(requests, notes, args.size, args.fx_over_width, args.agree, args.flip)
