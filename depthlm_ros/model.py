# SPDX-License-Identifier: Apache-2.0
"""load_model and Model: where the prompts of a family meet a backend.

A model looks at a frame once and returns a View, from which depth and answers are read. Two kinds of model are made of
several: WordsOnDepth of a network for depth and a model with words, Vlm3Models of VLM3's checkpoints.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import lru_cache, partial

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.depth_network import DepthNetworkBackend
from depthlm_ros.backends.generation import GeneratedTokens, Query, generate, look_at_marked_images
from depthlm_ros.backends.number_uncertainty import SYMBOLS, GenerationResult
from depthlm_ros.backends.registry import AUTO, BACKENDS, best_backend, check_backend_name, memory_bytes, open_backend
from depthlm_ros.core import Answer, DepthMap, Frame, Intrinsics, Matches, PointDepths, Question, RelativePose
from depthlm_ros.errors import BadBundle, BadQuestion, OutOfMemory, SetupError
from depthlm_ros.families.base import PAIR_ABILITIES, Family, ForcedBeginnings, Prompt
from depthlm_ros.families.registry import ChatTemplate, chat_named, family_named
from depthlm_ros.geometry.canonical_view import (
    CanonicalView,
    CanvasPlacement,
    checked_canonical_view,
    engine_build_command,
    fill_unknown,
)
from depthlm_ros.geometry.resize_rules import process_picture
from depthlm_ros.model_files.bundle import ModelBundle
from depthlm_ros.model_files.checkpoint import (
    VLM3,
    VLM3_CHECKPOINTS,
    ModelSource,
    ReleasedCheckpoint,
    Source,
    Vlm3Checkpoints,
    find_model,
    find_source,
)
from depthlm_ros.model_files.depth_network import WORDLESS_TOKENIZER, DepthNetwork
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.tokenizer_files import check_tokens, open_tokenizer
from depthlm_ros.view import PairView, View

# The cost of a question grows with the square of its length: without a limit, one request could take all memory.
MAX_PROMPT_TOKENS = 512
BACKEND_CHOICES = (AUTO, *BACKENDS)
logger = logging.getLogger(__name__)


def load_model(
    name: str | Source = "tiny", backend: str = "auto", threads: int = 0, device: str = "", as_released: bool = False
) -> Model:
    """Loads a model.

    name: a model's name, NAME=FOLDER, a folder or a hub id (see checkpoint.find_model), or "vlm3" for all checkpoints
    of VLM3, each of which is loaded when a question needs it; or what find_source returned, so that the files are not
    hashed again. backend: "auto", "onnxruntime", "tensorrt" or "torch" (see open_backend).
    threads: 0 for all cores. device: "cpu", "cuda" or "cuda:1"; "" for the best one that the backend can use.
    as_released: repeat the released code of the model, defects included (ModelSpec.as_released).
    Raises UnknownName, BadBundle (BadPlans if only its plans are wrong), BackendFailed.
    """
    check_backend_name(backend)
    source = find_source(name)
    load_part = partial(load_model, backend=backend, threads=threads, device=device, as_released=as_released)
    if isinstance(source, Vlm3Checkpoints):
        return Vlm3Models(source, load_part)
    if isinstance(source, DepthNetwork) and source.fields.words:
        depth_only = replace(source, fields=replace(source.fields, words=""))
        both = depth_only, find_words_model(source)
        return WordsOnDepth(*map(load_part, both))
    spec = source.spec.as_released() if as_released else source.spec
    if isinstance(source, DepthNetwork):
        tokenizer = Tokenizer.from_str(WORDLESS_TOKENIZER)
    else:
        tokenizer = open_tokenizer(source.folder)
    chat = chat_named(spec.chat, spec.system)
    check_tokens(tokenizer, chat.tokens if isinstance(source, ReleasedCheckpoint) else (chat.end,), source.folder)
    before, between, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in chat.around_images)
    opened = open_backend(backend, source, (before, between, after), threads, device)
    return Model(spec, family_named(spec.family, spec.most_coordinate), chat, opened, tokenizer)


def cached_views(spec: ModelSpec) -> Callable[[Intrinsics], CanonicalView]:
    """Returns checked_canonical_view for a model, with a cache.

    It does not refer to the model: a cached method would keep a dropped one alive until the garbage collector runs.
    """
    return lru_cache(maxsize=8)(partial(checked_canonical_view, rule=spec.canvas))


def chosen_backend(source: ModelSource, backend: str = AUTO) -> str:
    """Returns the name of the backend that load_model takes for a model. Raises UnknownName."""
    check_backend_name(backend)
    return best_backend(source) if backend == AUTO else backend


class Model:
    """A loaded model. Several threads can use it at the same time."""

    def __init__(
        self, spec: ModelSpec, family: Family, chat: ChatTemplate, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        self.spec, self.family, self.chat, self.backend, self.tokenizer = spec, family, chat, backend, tokenizer
        vocab = tokenizer.get_vocab()
        self._beginnings = ForcedBeginnings(spec.name, complete=spec.released)
        ends = [vocab[chat.end], *spec.generation.stop_ids]
        self._is_end_token = np.zeros(max(*vocab.values(), *ends) + 1, bool)
        self._is_end_token[ends] = True
        prefix = [tokenizer.encode(text, add_special_tokens=False).ids for text in chat.around_images]
        images = [vocab[token] for token in chat.image_tokens if token in vocab]
        self._prefix_ids = sorted({*images, *(token for ids in prefix for token in ids)})
        self._symbol_ids = np.array([vocab[symbol] for symbol in SYMBOLS])
        # Every token that cannot be part of a number ends it.
        self._ends_number = np.ones_like(self._is_end_token)
        self._ends_number[self._symbol_ids] = False
        self._canonical_view = cached_views(spec)

    @property
    def name(self) -> str:
        """The name of the model, not of its backend."""
        return self.spec.name

    @property
    def backend_name(self) -> str:
        """The name of the backend that runs the model: "onnxruntime", "tensorrt" or "torch"."""
        return self.backend.name

    def look(self, frame: Frame) -> View:
        """Runs one pass over a rectified frame: focal normalisation, depth, and the prefix of all later questions.

        A model without dense depth runs the pass when it is first asked. Raises BadIntrinsics, BackendFailed.
        """
        return self.look_at(self.place(frame))

    def place(self, frame: Frame) -> CanvasPlacement:
        """Returns a rectified frame as the model sees it, without running the model. Raises BadIntrinsics."""
        placement = CanvasPlacement(frame, self._canonical_view(frame.intrinsics))
        _ = placement.canvas if self.spec.head else None  # computed here, and kept
        return placement

    def look_at(self, placement: CanvasPlacement) -> View:
        """Does the rest of `look` for a frame from `place`. Raises BackendFailed."""
        if not self.spec.head:
            return View(self, placement, None, 0.0)
        started_s = time.perf_counter()
        look = self._run_backend(placement)
        return View(self, placement, look, time.perf_counter() - started_s)

    def _run_backend(self, placement: CanvasPlacement) -> Look:
        """Returns the look at a canvas, with its depth in metres for the frame's camera."""
        view, canvas = placement.canonical, placement.canvas
        if isinstance(self.backend, DepthNetworkBackend):
            look = self.backend.look_through(canvas[None], view.canvas_camera(placement.frame.intrinsics))
        else:
            look = self.backend.look([canvas[None]])
        if view.depth_factor == 1.0 or look.depth_m is None:
            return look
        return replace(look, depth_m=look.depth_m * np.float32(view.depth_factor))

    def look_pair(self, first: Frame, second: Frame) -> PairView:
        """Runs one pass over two rectified frames together. Raises BadQuestion if the model cannot take two images."""
        if not self.family.abilities & PAIR_ABILITIES:
            raise BadQuestion(
                f"{self.name} looks at one image at a time: use vlm3-corr to match pixels, vlm3-pose for the pose."
            )
        one, other = (CanvasPlacement(frame, self._canonical_view(frame.intrinsics)) for frame in (first, second))
        canvases = [placement.canvas[None] for placement in (one, other)]
        started_s = time.perf_counter()
        look = self.backend.look(canvases)
        return PairView(self, one, other, look, time.perf_counter() - started_s)

    def coverage(self, intrinsics: Intrinsics) -> float:
        """Returns the share (0 to 1) of this camera's image that the model can see; the rest has unknown depth."""
        return self._canonical_view(intrinsics).coverage

    def describe_camera_mismatch(self, intrinsics: Intrinsics) -> str:
        """Returns what an engine that was built for another camera loses with this camera, as a sentence.

        Returns "" if it loses nothing, or if the model is not an engine. Raises BadIntrinsics for a camera that the
        engine cannot serve at all.
        """
        view, rule = self._canonical_view(intrinsics), self.spec.canvas
        (width, height), shown = view.canvas_size_px, view.visible[2:]
        # The sides of an engine's canvas are multiples of a number of pixels: less than this may show nothing.
        wastes_pixels = max(width - shown[0], height - shown[1]) >= self.spec.canvas_multiple_px
        if not (rule.built_by and rule.canvases_px) or (view.coverage == 1.0 and not wastes_pixels):
            return ""
        return (
            f"this engine was built for a camera that is seen as {width} x {height} pixels; of a camera of "
            f"{intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g} it sees "
            f"{100 * view.coverage:.3g} %, on {shown[0]} x {shown[1]} of these pixels. Depth is right where it is "
            f"known; build an engine for this camera: {engine_build_command(intrinsics, rule)}"
        )

    def generate_replies(self, look: Look, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        """Returns the model's reply to each prompt after a look, without the prompt's forced beginning."""
        return self._beginnings.ask(prompts, lambda given: self._generate(look, given))

    def _generate(self, look: Look, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        queries = [self._query(prompt) for prompt in prompts]
        return [self._result(tokens) for tokens in generate(self.backend, look, queries, self._symbol_ids)]

    def generate_marked_replies(self, picture: np.ndarray, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        """Returns the model's reply to each prompt, about its own copy of the picture (h, w, 3) with its markers.

        The model looks at every copy, several in one batch: a marker changes everything that the vision tower sees. The
        checkpoint's image processor comes after the marker, as in the released code.
        """
        return self._beginnings.ask(prompts, lambda given: self._generate_marked(picture, given))

    def _generate_marked(self, picture: np.ndarray, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        queries = [self._query(prompt) for prompt in prompts]
        results: dict[int, GenerationResult] = {}

        def generate_for(indices: list[int], look: Look) -> None:
            replies = generate(self.backend, look, [queries[index] for index in indices], self._symbol_ids)
            results.update(zip(indices, map(self._result, replies), strict=True))

        markers_px = [prompt.markers_px for prompt in prompts]
        rule, pad_px = self.spec.canvas, self.spec.pixels_per_token
        process = partial(process_picture, rule=rule) if rule.processor_filter else np.asarray
        look_at_marked_images(self.backend, picture, markers_px, pad_px, generate_for, process)
        return [results[index] for index in range(len(prompts))]

    def _result(self, tokens: GeneratedTokens) -> GenerationResult:
        token_texts = tuple(self.tokenizer.id_to_token(token) or "" for token in tokens.ids)
        return GenerationResult(self.tokenizer.decode(tokens.ids, skip_special_tokens=False), token_texts, tokens)

    def _query(self, prompt: Prompt) -> Query:
        text = prompt.text + self.chat.header + prompt.forced
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > MAX_PROMPT_TOKENS:
            raise BadQuestion(
                f"the question, with its pixels and regions, is {len(ids)} tokens long: at most "
                f"{MAX_PROMPT_TOKENS} are taken; ask about fewer things at once."
            )
        ends = self._ends_number if prompt.number_only else self._is_end_token
        penalty, on_tokens = self.spec.generation.repetition_penalty, self._token_listener(prompt)
        return Query(ids, ends, prompt.max_new_tokens, penalty, self._prefix_ids, on_tokens)

    def _token_listener(self, prompt: Prompt) -> Callable[[Sequence[int]], None] | None:
        """Returns what tells the words of tokens to the prompt's listener; None without one."""
        if (on_words := prompt.on_words) is None:
            return None
        # The last character may lack bytes that come with the next token.
        return lambda ids: on_words(self.tokenizer.decode(ids, skip_special_tokens=False).rstrip("\ufffd"))


def find_words_model(network: DepthNetwork) -> ModelBundle:
    """Returns the model that the field `words` names. Raises BadBundle if it is not one that reads any depth."""
    field = f"{network.fields_path}: words is {network.fields.words!r}"
    try:
        words = find_model(network.fields.words)
    except SetupError as exc:
        raise BadBundle(f"{field}: {exc}") from exc
    if isinstance(words, ModelBundle) and words.depth_first and not words.only_depth:
        return words
    raise BadBundle(
        f"{field}, which cannot read the depth of another network: only depth-first models can, such as tiny, if they "
        "were not built for depth only; name one, or leave the field out."
    )


def spec_of_both(depth: ModelSpec, words: ModelSpec) -> ModelSpec:
    """Returns the spec of a model that answers questions on the depth of another: each tells its own errors."""
    of_map = [field.name for field in fields(depth.calibration) if field.name.startswith(("dense_", "map_std_"))]
    calibration = replace(words.calibration, **{name: getattr(depth.calibration, name) for name in of_map})
    return replace(words, name=f"{depth.name}+{words.name}", calibration=calibration)


class WordsOnDepth(Model):
    """A depth network, and another model that answers questions in words on the network's depth.

    The depth is that of the network alone. At the first question about a view the other model looks at the frame too,
    and reads the network's depth in place of its own. Pairs are the other model's alone. depth_model, words_model: the
    two models.
    """

    def __init__(self, depth_model: Model, words_model: Model) -> None:
        spec = spec_of_both(depth_model.spec, words_model.spec)
        super().__init__(spec, words_model.family, words_model.chat, words_model.backend, words_model.tokenizer)
        self.depth_model, self.words_model = depth_model, words_model

    @property
    def backend_name(self) -> str:
        """The name of the backend of both models, or of either, as in "onnxruntime+tensorrt"."""
        return "+".join(dict.fromkeys((self.depth_model.backend_name, self.words_model.backend_name)))

    def place(self, frame: Frame) -> CanvasPlacement:
        """Returns a rectified frame as the depth network sees it."""
        return self.depth_model.place(frame)

    def look_at(self, placement: CanvasPlacement) -> View:
        """Runs the depth network. Raises BadIntrinsics, BackendFailed."""
        for_words = CanvasPlacement(placement.frame, self._canonical_view(placement.frame.intrinsics))
        return ViewOnDepth(self, for_words, self.depth_model.look_at(placement))

    def coverage(self, intrinsics: Intrinsics) -> float:
        """Returns the share (0 to 1) of this camera's image that the depth network can see."""
        return self.depth_model.coverage(intrinsics)

    def describe_camera_mismatch(self, intrinsics: Intrinsics) -> str:
        """Returns what either model, if it is an engine for another camera, loses with this camera; "" for nothing."""
        mismatches = (model.describe_camera_mismatch(intrinsics) for model in (self.depth_model, self.words_model))
        return next(filter(None, mismatches), "")


class ViewOnDepth(View):
    """A view whose depth comes from another view of the same frame."""

    def __init__(self, model: WordsOnDepth, placement: CanvasPlacement, depth_view: View) -> None:
        super().__init__(model, placement, None, depth_view.backend_s)
        self.canvas_size_px = depth_view.canvas_size_px
        self._depth_view, self._backend = depth_view, model.backend

    def depth(self, with_std: bool = True) -> DepthMap:
        """Returns the dense depth of the depth network."""
        return self._depth_view.depth(with_std)

    def depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """Returns the depth of the depth network at pixels (N, 2) of the frame."""
        return self._depth_view.depth_at(uv_px)

    def _make_look(self) -> Look:
        """Returns the words' model's look at the frame, with the network's depth."""
        look = self._backend.look([self._placement.canvas[None]])
        if look.depth_m is None or look.relative_std is None:
            return look
        depth = self.depth()
        # The words' model reads the depth as the network tells it; View scales the words.
        told_m = depth.depth_m / np.float32(self.frame.depth_scale)
        depth_m = self._placement.canonical.nearest_to_canvas(told_m)
        std = None if depth.std_m is None else self._placement.canonical.nearest_to_canvas(depth.std_m / depth.depth_m)
        return replace(
            look,
            depth_m=fill_unknown(depth_m, look.depth_m[0])[None],
            relative_std=look.relative_std if std is None else np.where(std > 0, std, look.relative_std[0])[None],
        )


class Vlm3Models(Model):
    """VLM3's checkpoints as one model: the question decides which of them is asked.

    A checkpoint is loaded when the first question needs it, and stays in memory. checkpoints: where they are. load:
    loads one of them. Raises BadBundle if there is none of them.
    """

    def __init__(self, checkpoints: Vlm3Checkpoints, load: Callable[[ModelSource], Model]) -> None:
        self.spec, self.family = checkpoints.spec, family_named(VLM3)
        self._canonical_view = cached_views(self.spec)
        self._load, self._loading, self._memory_bytes = load, threading.Lock(), 0
        self._models: dict[str, Model] = {}
        self._sources: dict[str, ModelSource] = {}
        self._missing: dict[str, SetupError] = {}
        for ability in VLM3_CHECKPOINTS:
            try:
                self._sources[ability] = checkpoints.find(ability)
            except SetupError as exc:
                self._missing[ability] = exc
        if not self._sources:
            raise self._missing["points"]

    @property
    def backend_name(self) -> str:
        """The names of the backends of the loaded checkpoints."""
        return "+".join(dict.fromkeys(model.backend_name for model in self._models.values()))

    def model_for(self, ability: str) -> Model:
        """Returns the model with one of the abilities in VLM3_CHECKPOINTS, after loading it if it was never needed.

        Raises BadBundle if it is not on this machine, BackendFailed.
        """
        with self._loading:
            if ability in self._missing:
                raise self._missing[ability]
            if ability not in self._models:
                self._models[ability] = self._load_next(self._sources[ability])
            return self._models[ability]

    def _load_next(self, source: ModelSource) -> Model:
        """Returns the model of a checkpoint, and logs the memory that it takes."""
        name, gigabytes = source.spec.name, self._memory_bytes / 1e9
        try:
            model = self._load(source)
        except OutOfMemory as exc:
            advice = f"{gigabytes:.1f} GB of {VLM3} are loaded: use this checkpoint alone (--model {name})."
            raise OutOfMemory(f"{exc} {advice}") from exc
        own_bytes = memory_bytes(source, model.backend)
        self._memory_bytes += own_bytes
        sizes = f"{own_bytes / 1e9:.2f} GB of memory, {self._memory_bytes / 1e9:.2f} GB with the others of {VLM3}"
        logger.warning("%s is loaded: %s", name, sizes)
        return model

    def look_at(self, placement: CanvasPlacement) -> View:
        """Returns a view that asks the checkpoints; each looks at the frame when it is first asked."""
        return Vlm3View(self, placement)

    def look_pair(self, first: Frame, second: Frame) -> PairView:
        """Returns a view of both frames that asks the checkpoints; each looks at them when it is first asked."""
        placements = (CanvasPlacement(frame, self._canonical_view(frame.intrinsics)) for frame in (first, second))
        return Vlm3PairView(self, *placements)


class Vlm3View(View):
    """A view of one frame that asks VLM3's checkpoints: vlm3-depth about pixels, vlm3-object about everything else."""

    def __init__(self, models: Vlm3Models, placement: CanvasPlacement) -> None:
        super().__init__(models, placement, None, 0.0)
        self._view = lru_cache(lambda ability: models.model_for(ability).look(placement.frame))

    def tell_depth_at(self, uv_px: np.ndarray | Sequence) -> PointDepths:
        """Returns the depth at pixels (N, 2) in the model's words."""
        return self._view("points").tell_depth_at(uv_px)

    def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers many questions, those for one checkpoint in one batch."""
        answers: dict[int, Answer] = {}
        abilities = ["points" if len(question.uv_px) else "questions" for question in questions]
        for ability in dict.fromkeys(abilities):
            indices = [index for index, one in enumerate(abilities) if one == ability]
            found = self._view(ability).ask_all([questions[index] for index in indices])
            answers.update(zip(indices, found, strict=True))
        return [answers[index] for index in range(len(questions))]


class Vlm3PairView(PairView):
    """A view of two frames that asks VLM3's checkpoints: vlm3-corr for matches, vlm3-pose for the pose."""

    def __init__(self, models: Vlm3Models, first: CanvasPlacement, second: CanvasPlacement) -> None:
        super().__init__(models, first, second, Look(None, None, 1, 0, 0), 0.0)
        self._view = lru_cache(lambda ability: models.model_for(ability).look_pair(*self.frames))

    def match(self, uv_px: np.ndarray | Sequence) -> Matches:
        """Returns where pixels (N, 2) of the first frame are in the second frame."""
        return self._view("match").match(uv_px)

    def pose(self) -> RelativePose:
        """Returns the pose of the second camera in the first camera's frame."""
        return self._view("pose").pose()
