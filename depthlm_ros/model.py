"""The one place where a family meets a backend: a model looks at a frame once, and everything is read off that View."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.decoding import Generated, Query, generate
from depthlm_ros.backends.registry import check_backend_name, open_backend
from depthlm_ros.bundle import Bundle, find_bundle, load_bundle
from depthlm_ros.canonical import CanonicalView, canonical_view
from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.errors import BadBundle, BadIntrinsics, BadQuestion
from depthlm_ros.families.base import Family, Prompt
from depthlm_ros.families.registry import family_named
from depthlm_ros.view import View

# Fewer canvas pixels than this on an axis are no picture.
LEAST_CANVAS_PX = 4
# A principal point farther off than so many image sizes belongs to another image (a cropped sensor stays well below).
MOST_OFF_CENTRE = 3.0
# A question is read at a cost that grows with its square: without a limit one request could take all memory.
MAX_PROMPT_TOKENS = 512


def load_model(name: str = "tiny", backend: str = "auto", threads: int = 0) -> Model:
    """Loads a model by name or folder.

    backend: "auto", "onnxruntime" or "torch". threads: 0 = all cores. Raises UnknownName, BadBundle, BackendFailed.
    """
    check_backend_name(backend)
    bundle = load_bundle(find_bundle(name))
    family = family_named(bundle.family)
    try:
        tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    except Exception as exc:  # the library raises plain Exception
        raise BadBundle(f"cannot read {bundle.tokenizer_path} ({exc}): export the model again.") from exc
    return Model(bundle, family, open_backend(backend, bundle, threads), tokenizer)


class Model:
    """A loaded model. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, family: Family, backend: Backend, tokenizer: Tokenizer) -> None:
        self.bundle, self.family, self.backend, self.tokenizer = bundle, family, backend, tokenizer
        vocab = tokenizer.get_vocab()
        self._ends = np.zeros(max(vocab.values()) + 1, bool)
        self._ends[vocab[family.end]] = True
        # What may stand in a number; everything else ends it.
        self._not_number = np.ones_like(self._ends)
        self._not_number[[vocab[piece] for piece in "0123456789."]] = False
        # Caches a function that does not know self: a cached method would keep a dropped model alive until the
        # garbage collector comes by.
        self._canonical = lru_cache(maxsize=8)(
            partial(believable_view, focal_px=bundle.focal_px, canvases_px=bundle.canvases_px)
        )

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def backend_name(self) -> str:
        return self.backend.name

    @property
    def focal_px(self) -> float:
        """The canonical focal length."""
        return self.bundle.focal_px

    def look(self, frame: Frame) -> View:
        """One pass over a rectified frame: focal normalisation, depth, and the prefix of every later question."""
        canonical = self._canonical(frame.intrinsics)
        canvas = canonical.image_to_canvas(frame.rgb)
        started_s = time.perf_counter()
        look = self.backend.look(canvas)
        return View(self, frame, canonical, look, time.perf_counter() - started_s)

    def coverage(self, intrinsics: Intrinsics) -> float:
        """Share (0 to 1) of this camera's image that the model can see; the rest has unknown depth."""
        return self._canonical(intrinsics).coverage

    def reply_to(self, look: Look, prompts: Sequence[Prompt]) -> list[tuple[str, Generated]]:
        """The model's words after each prompt (without its forced beginning)."""
        queries = [self._query(prompt) for prompt in prompts]
        replies = generate(self.backend, look, queries)
        return [(self.tokenizer.decode(reply.ids, skip_special_tokens=False), reply) for reply in replies]

    def _query(self, prompt: Prompt) -> Query:
        ids = self.tokenizer.encode(prompt.text + self.family.header + prompt.forced).ids
        if len(ids) > MAX_PROMPT_TOKENS:
            raise BadQuestion(
                f"the question, with its pixels and regions, is {len(ids)} tokens long: at most "
                f"{MAX_PROMPT_TOKENS} are taken; ask about fewer things at once."
            )
        return Query(ids, self._not_number if prompt.number_only else self._ends, prompt.max_new_tokens)


def believable_view(intrinsics: Intrinsics, focal_px: float, canvases_px: Sequence[tuple[int, int]]) -> CanonicalView:
    """canonical_view of a camera that can be. Raises BadIntrinsics for one whose numbers are finite but absurd."""
    width, height = intrinsics.size_px
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
    return canonical_view(intrinsics, focal_px, canvases_px)
