"""The one place where a family meets a backend: a model looks at a frame once, and everything is read off that View."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.generation import Generated, Query, generate, look_at_marked
from depthlm_ros.backends.number_uncertainty import SYMBOLS
from depthlm_ros.backends.registry import check_backend_name, open_backend
from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import BadBundle, BadIntrinsics, BadQuestion
from depthlm_ros.families.base import PAIR_ABILITIES, Family, Prompt
from depthlm_ros.families.chat import Chat, chat_named
from depthlm_ros.families.registry import family_named
from depthlm_ros.geometry.canonical_view import CanonicalView, Placement, canonical_view, fitted_view
from depthlm_ros.model_files.bundle import TOKENIZER_FILE
from depthlm_ros.model_files.checkpoint import find_model
from depthlm_ros.model_files.spec import CanvasRule, ModelSpec
from depthlm_ros.view import PairView, Said, View

# Fewer canvas pixels than this on an axis are no picture.
LEAST_CANVAS_PX = 4
# A principal point farther off than so many image sizes belongs to another image (a cropped sensor stays well below).
MOST_OFF_CENTRE = 3.0
# Of the image of a camera that it was not built for, an engine must see at least this share. (A model that is no engine
# sees what it can, the rest is unknown.)
LEAST_OF_ENGINE = 0.9
# A question is read at a cost that grows with its square: without a limit one request could take all memory.
MAX_PROMPT_TOKENS = 512


def load_model(name: str = "tiny", backend: str = "auto", threads: int = 0, device: str = "") -> Model:
    """Loads a model: a name, NAME=FOLDER, a folder, or a hub id (see checkpoint.find_model).

    backend: "auto", "onnxruntime", "tensorrt" or "torch" (see open_backend). threads: 0 = all cores. device: "cpu",
    "cuda" or "cuda:1"; "" for the best that the backend can use.
    Raises UnknownName, BadBundle (UnfitPlans if only its plans are wrong), BackendFailed.
    """
    check_backend_name(backend)
    source = find_model(name)
    spec = source.spec
    tokenizer = read_tokenizer(source.folder / TOKENIZER_FILE)
    chat = chat_named(spec.chat, spec.system)
    before, between, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in chat.around_images)
    opened = open_backend(backend, source, (before, between, after), threads, device)
    return Model(spec, family_named(spec.family, spec.most_coordinate), chat, opened, tokenizer)


def read_tokenizer(path: Path) -> Tokenizer:
    """Raises BadBundle if it cannot be read."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises plain Exception
        raise BadBundle(f"cannot read {path} ({exc}): export or download the model again.") from exc


class Model:
    """A loaded model. Safe to use from several threads."""

    def __init__(self, spec: ModelSpec, family: Family, chat: Chat, backend: Backend, tokenizer: Tokenizer) -> None:
        self.spec, self.family, self.chat, self.backend, self.tokenizer = spec, family, chat, backend, tokenizer
        vocab = tokenizer.get_vocab()
        self._ends = np.zeros(max(vocab.values()) + 1, bool)
        self._ends[vocab[chat.end]] = True
        self._symbols = np.array([vocab[piece] for piece in SYMBOLS])
        # What may stand in a number; everything else ends it.
        self._not_number = np.ones_like(self._ends)
        self._not_number[self._symbols] = False
        # Caches a function that does not know self: a cached method would keep a dropped model alive until the
        # garbage collector comes by.
        self._canonical = lru_cache(maxsize=8)(partial(believable_view, rule=spec.canvas))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def backend_name(self) -> str:
        return self.backend.name

    def look(self, frame: Frame) -> View:
        """One pass over a rectified frame: focal normalisation, depth, and the prefix of every later question.

        A model without dense depth looks when it is first asked.
        """
        placement = Placement(frame, self._canonical(frame.intrinsics))
        canvas = placement.canvas
        started_s = time.perf_counter()
        look = self.backend.look([canvas[None]]) if self.spec.head else None
        return View(self, placement, look, time.perf_counter() - started_s)

    def look_pair(self, first: Frame, second: Frame) -> PairView:
        """One pass over two rectified frames together. Raises BadQuestion if the model cannot take two images."""
        if not self.family.abilities & PAIR_ABILITIES:
            raise BadQuestion(
                f"{self.name} looks at one image at a time: use vlm3-corr to match pixels, vlm3-pose for the pose."
            )
        one, other = (Placement(frame, self._canonical(frame.intrinsics)) for frame in (first, second))
        canvases = [placement.canvas[None] for placement in (one, other)]
        started_s = time.perf_counter()
        look = self.backend.look(canvases)
        return PairView(self, one, other, look, time.perf_counter() - started_s)

    def coverage(self, intrinsics: Intrinsics) -> float:
        """Share (0 to 1) of this camera's image that the model can see; the rest has unknown depth."""
        return self._canonical(intrinsics).coverage

    def misfit(self, intrinsics: Intrinsics) -> str:
        """In words, what an engine that was built for another camera loses with this one, which it can serve; "" if it
        is nothing, or the model is no engine. Raises BadIntrinsics."""
        view, rule = self._canonical(intrinsics), self.spec.canvas
        (width, height), shown = view.canvas_size_px, view.visible[2:]
        # As many pixels of an engine may show nothing as whole tokens need.
        spare = max(width - shown[0], height - shown[1]) >= self.spec.pixels_per_token
        if not (rule.built_by and rule.canvases_px) or (view.coverage == 1.0 and not spare):
            return ""
        return (
            f"this engine was built for a camera that is seen as {width} x {height} pixels; of a camera of "
            f"{intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g} it sees "
            f"{100 * view.coverage:.3g} %, on {shown[0]} x {shown[1]} of these. Depth is right where it is known; "
            f"build one for this camera: {_build_for(intrinsics, rule)}"
        )

    def reply_to(self, look: Look, prompts: Sequence[Prompt]) -> list[Said]:
        """The model's words after each prompt (without its forced beginning)."""
        queries = [self._query(prompt) for prompt in prompts]
        return [self._said(reply) for reply in generate(self.backend, look, queries, self._symbols)]

    def reply_to_marked(self, canvas: np.ndarray, prompts: Sequence[Prompt]) -> list[Said]:
        """The same on copies of the canvas (h, w, 3) that bear each prompt's marks: every copy is looked at, several in
        one batch, since a mark changes all that the vision tower sees."""
        queries = [self._query(prompt) for prompt in prompts]
        said: list[Said | None] = [None] * len(prompts)

        def answer(indices: list[int], look: Look) -> None:
            replies = generate(self.backend, look, [queries[index] for index in indices], self._symbols)
            for index, reply in zip(indices, replies, strict=True):
                said[index] = self._said(reply)

        marks_px = [prompt.marks_px for prompt in prompts]
        look_at_marked(self.backend, canvas, marks_px, self.spec.pixels_per_token, answer)
        return [each for each in said if each is not None]

    def _said(self, generated: Generated) -> Said:
        pieces = tuple(self.tokenizer.id_to_token(token) or "" for token in generated.ids)
        return Said(self.tokenizer.decode(generated.ids, skip_special_tokens=False), pieces, generated)

    def _query(self, prompt: Prompt) -> Query:
        text = prompt.text + self.chat.header + prompt.forced
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > MAX_PROMPT_TOKENS:
            raise BadQuestion(
                f"the question, with its pixels and regions, is {len(ids)} tokens long: at most "
                f"{MAX_PROMPT_TOKENS} are taken; ask about fewer things at once."
            )
        return Query(ids, self._not_number if prompt.number_only else self._ends, prompt.max_new_tokens)


def believable_view(intrinsics: Intrinsics, rule: CanvasRule) -> CanonicalView:
    """How a camera lies on the canvas, for one that can be. Raises BadIntrinsics for one whose numbers are finite but
    absurd."""
    width, height = intrinsics.size_px
    focal_px = rule.focal_px or intrinsics.fx_px
    if min(width * focal_px / intrinsics.fx_px, height * focal_px / intrinsics.fy_px) < LEAST_CANVAS_PX:
        raise BadIntrinsics(
            f"focal length fx = {intrinsics.fx_px:g}, fy = {intrinsics.fy_px:g} for an image of {width} x {height}: of "
            f"so narrow a view the model would see fewer than {LEAST_CANVAS_PX} pixels; check the calibration."
        )
    off_x = abs(intrinsics.cx_px - (width - 1) / 2) / width
    off_y = abs(intrinsics.cy_px - (height - 1) / 2) / height
    if max(off_x, off_y) > MOST_OFF_CENTRE:
        raise BadIntrinsics(
            f"principal point ({intrinsics.cx_px:g}, {intrinsics.cy_px:g}) is far outside the {width} x {height} "
            "image: is the calibration of another resolution?"
        )
    if rule.canvases_px:
        view = canonical_view(intrinsics, focal_px, rule.canvases_px)
        if rule.built_by and view.coverage < LEAST_OF_ENGINE:
            seen = f"{width * focal_px / intrinsics.fx_px:.0f} x {height * focal_px / intrinsics.fy_px:.0f}"
            raise _other_camera(intrinsics, rule, seen)
        return view
    view = fitted_view(intrinsics, rule)
    if rule.built_px and view.canvas_size_px not in rule.built_px:
        raise _other_camera(intrinsics, rule, f"{view.x.canvas_px} x {view.y.canvas_px}")
    return view


def _other_camera(intrinsics: Intrinsics, rule: CanvasRule, seen: str) -> BadIntrinsics:
    """seen: the size that the camera's image would need."""
    built = ", ".join(f"{w} x {h}" for w, h in rule.canvases_px or rule.built_px)
    return BadIntrinsics(
        f"a camera of {intrinsics.width_px} x {intrinsics.height_px} with fx = {intrinsics.fx_px:g} would be seen as "
        f"{seen} pixels, but this engine was built for a camera that is seen as {built}: build one for this camera: "
        f"{_build_for(intrinsics, rule)}"
    )


def _build_for(intrinsics: Intrinsics, rule: CanvasRule) -> str:
    """The command that builds an engine of the same model for a camera."""
    if not math.isclose(intrinsics.fx_px, intrinsics.fy_px, rel_tol=0.01):
        return f"{rule.built_by} --camera CALIBRATION.yaml"
    size = f"{intrinsics.width_px}x{intrinsics.height_px}"
    return f"{rule.built_by} --size {size} --focal {intrinsics.fx_px:g}"
