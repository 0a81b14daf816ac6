"""load_model and Model: where the prompts of a family meet a backend.

A model looks at a frame once and returns a View, from which depth and answers are read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.depth_network import DepthNetworkBackend
from depthlm_ros.backends.generation import GeneratedTokens, Query, generate, look_at_marked_images
from depthlm_ros.backends.number_uncertainty import SYMBOLS, GenerationResult
from depthlm_ros.backends.registry import check_backend_name, open_backend
from depthlm_ros.core import DepthMap, Frame, Intrinsics, PointDepths
from depthlm_ros.errors import BadBundle, BadQuestion, SetupError
from depthlm_ros.families.base import PAIR_ABILITIES, Family, Prompt
from depthlm_ros.families.registry import ChatTemplate, chat_named, family_named
from depthlm_ros.geometry.canonical_view import (
    CanonicalView,
    CanvasPlacement,
    checked_canonical_view,
    engine_build_command,
)
from depthlm_ros.model_files.bundle import TOKENIZER_FILE, ModelBundle
from depthlm_ros.model_files.checkpoint import ModelSource, find_model
from depthlm_ros.model_files.depth_network import WORDLESS_TOKENIZER, DepthNetwork
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.view import PairView, View

# The cost of a question grows with the square of its length: without a limit, one request could take all memory.
MAX_PROMPT_TOKENS = 512


def load_model(name: str | ModelSource = "tiny", backend: str = "auto", threads: int = 0, device: str = "") -> Model:
    """Loads a model.

    name: a model's name, NAME=FOLDER, a folder or a hub id (see checkpoint.find_model); or what find_model returned, so
    that the files are not hashed again. backend: "auto", "onnxruntime", "tensorrt" or "torch" (see open_backend).
    threads: 0 for all cores. device: "cpu", "cuda" or "cuda:1"; "" for the best one that the backend can use.
    Raises UnknownName, BadBundle (BadPlans if only its plans are wrong), BackendFailed.
    """
    check_backend_name(backend)
    source = find_model(name) if isinstance(name, str) else name
    if isinstance(source, DepthNetwork) and source.fields.words:
        depth_only = replace(source, fields=replace(source.fields, words=""))
        both = depth_only, find_words_model(source)
        return WordsOnDepth(*(load_model(each, backend, threads, device) for each in both))
    spec = source.spec
    if isinstance(source, DepthNetwork):
        tokenizer = Tokenizer.from_str(WORDLESS_TOKENIZER)
    else:
        tokenizer = read_tokenizer(source.folder / TOKENIZER_FILE)
    chat = chat_named(spec.chat, spec.system)
    before, between, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in chat.around_images)
    opened = open_backend(backend, source, (before, between, after), threads, device)
    return Model(spec, family_named(spec.family, spec.most_coordinate), chat, opened, tokenizer)


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer.json. Raises BadBundle if it cannot be read."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises plain Exception
        raise BadBundle(f"cannot read {path} ({exc}): export or download the model again.") from exc


class Model:
    """A loaded model. Several threads can use it at the same time."""

    def __init__(
        self, spec: ModelSpec, family: Family, chat: ChatTemplate, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        self.spec, self.family, self.chat, self.backend, self.tokenizer = spec, family, chat, backend, tokenizer
        vocab = tokenizer.get_vocab()
        self._is_end_token = np.zeros(max(vocab.values()) + 1, bool)
        self._is_end_token[vocab[chat.end]] = True
        self._symbol_ids = np.array([vocab[symbol] for symbol in SYMBOLS])
        # Every token that cannot be part of a number ends it.
        self._ends_number = np.ones_like(self._is_end_token)
        self._ends_number[self._symbol_ids] = False
        # The cached function does not refer to self: a cached method would keep a dropped model alive until the
        # garbage collector runs.
        self._canonical_view = lru_cache(maxsize=8)(partial(checked_canonical_view, rule=spec.canvas))

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
        placement = CanvasPlacement(frame, self._canonical_view(frame.intrinsics))
        canvas = placement.canvas
        started_s = time.perf_counter()
        look = self._look_at(canvas, placement) if self.spec.head else None
        return View(self, placement, look, time.perf_counter() - started_s)

    def _look_at(self, canvas: np.ndarray, placement: CanvasPlacement) -> Look:
        """Returns the look at a canvas (h, w, 3), with its depth in metres for the frame's camera."""
        view = placement.canonical
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
        queries = [self._query(prompt) for prompt in prompts]
        return [self._result(tokens) for tokens in generate(self.backend, look, queries, self._symbol_ids)]

    def generate_marked_replies(self, canvas: np.ndarray, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        """Returns the model's reply to each prompt, about its own copy of the canvas (h, w, 3) with its markers.

        The model looks at every copy, several in one batch: a marker changes everything that the vision tower sees.
        """
        queries = [self._query(prompt) for prompt in prompts]
        results: dict[int, GenerationResult] = {}

        def generate_for(indices: list[int], look: Look) -> None:
            replies = generate(self.backend, look, [queries[index] for index in indices], self._symbol_ids)
            results.update(zip(indices, map(self._result, replies), strict=True))

        markers_px = [prompt.markers_px for prompt in prompts]
        look_at_marked_images(self.backend, canvas, markers_px, self.spec.pixels_per_token, generate_for)
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
        return Query(ids, self._ends_number if prompt.number_only else self._is_end_token, prompt.max_new_tokens)


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

    def look(self, frame: Frame) -> View:
        """Runs the depth network on a rectified frame. Raises BadIntrinsics, BackendFailed."""
        placement = CanvasPlacement(frame, self._canonical_view(frame.intrinsics))
        return ViewOnDepth(self, placement, self.depth_model.look(frame))

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
        depth_m = nearest_on_canvas(self._placement.canonical, depth.depth_m)
        std = None if depth.std_m is None else nearest_on_canvas(self._placement.canonical, depth.std_m) / depth_m
        return replace(
            look,
            depth_m=fill_unknown(depth_m, look.depth_m[0])[None],
            relative_std=look.relative_std if std is None else np.where(std > 0, std, look.relative_std[0])[None],
        )


def nearest_on_canvas(view: CanonicalView, values: np.ndarray) -> np.ndarray:
    """Returns (h, w): for each pixel of the canvas, the value (H, W) of the nearest pixel of the image, NaN outside."""
    (height, width), (w, h) = values.shape, view.canvas_size_px
    u, v = (np.rint(axis.to_image(np.arange(count))).astype(int) for axis, count in ((view.x, w), (view.y, h)))
    inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))[None]
    return np.where(inside, values[np.clip(v, 0, height - 1)[:, None], np.clip(u, 0, width - 1)[None]], np.nan)


def fill_unknown(depth_m: np.ndarray, other_m: np.ndarray) -> np.ndarray:
    """Returns a depth map float32 (h, w) whose unknown pixels have those of another map, at the scale of the first."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    ratio = float(np.median(depth_m[known] / other_m[known])) if known.any() else 1.0
    return np.where(known, depth_m, ratio * other_m).astype(np.float32)
