# SPDX-License-Identifier: Apache-2.0
"""Backend torch: runs released checkpoints on a GPU or CPU. Exported graphs are checked against it.

torch and the networks are imported when a TorchBackend is made, not with this module.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from depthlm_ros.backends.base import (
    Look,
    StepInput,
    StepOutput,
    checked_look,
    checked_step,
    pair_of_looks,
    read_input,
    read_look,
)
from depthlm_ros.errors import BackendFailed, DepthLMError, OutOfMemory
from depthlm_ros.model_files.bundle import ModelBundle
from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint

if TYPE_CHECKING:
    import torch

    from depthlm_ros.nets.backbone import Backbone
    from depthlm_ros.nets.graphs import LookGraph, ReadGraph
    from depthlm_ros.nets.positions import PromptLayout

# Sizes (width, height) of the images of a prompt.
ImageSizes: TypeAlias = tuple[tuple[int, int], ...]

# A graph holds constants for the sizes of its images. One camera has one size, a pair of cameras one more.
MAX_GRAPHS = 8
LOOK_GRAPH = "the graph for images in torch"


@dataclass(frozen=True)
class TorchKeyValues:
    """Keys and values of the look and of the text, on the device, each (layers, rows, heads_kv, tokens, D)."""

    prefix: tuple[torch.Tensor, torch.Tensor]
    text: tuple[torch.Tensor, torch.Tensor]


class TorchBackend:
    """Runs a backbone in torch (extra [torch]).

    load: makes the backbone for a torch device; it is called once, after torch was found. texts: token ids before,
    between and after the images of a prompt. threads: 0 leaves torch's own setting. device: "" takes a CUDA device if
    there is one. Raises BackendFailed if torch is not installed or cannot load the model.
    """

    name = "torch"

    def __init__(
        self,
        load: Callable[[str], Backbone],
        texts: tuple[Sequence[int], Sequence[int], Sequence[int]],
        threads: int = 0,
        device: str = "",
    ) -> None:
        try:
            import torch

            from depthlm_ros.nets import graphs
        except ImportError as exc:
            raise BackendFailed(
                f"backend torch needs torch, transformers and safetensors ({exc}): pip install 'depthlm_ros[torch]', "
                "or use backend onnxruntime."
            ) from exc
        if threads:
            torch.set_num_threads(threads)
        self._torch, self._graphs, self._texts = torch, graphs, texts
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with self._errors("load the model"):
            self._model = load(self.device)
        self._precision = str(next(self._model.parameters()).dtype).removeprefix("torch.")
        self._step_graph = graphs.StepGraph(self._model).eval()
        self._depth_graph = graphs.DepthLookGraph(self._model).eval() if self._model.depth_first else None
        # Graphs that give keys and values, by the sizes of their images.
        self._prefix_graphs: OrderedDict[ImageSizes, LookGraph | ReadGraph] = OrderedDict()
        # The action's questions come from threads of their own.
        self._making = threading.Lock()

    def look(self, images: Sequence[np.ndarray]) -> Look:
        """See Backend."""
        sizes_px = tuple((image.shape[2], image.shape[1]) for image in images)
        if self._depth_graph is not None:
            looks = list(map(self._look_for_depth, images, sizes_px))
            if len(looks) == 1:
                return looks[0]
            features = [look.features.float().cpu().numpy() for look in looks]
            return pair_of_looks(looks, features)
        with self._errors("look at the image"):
            graph = self._prefix_graph(sizes_px)
            outputs = graph(*(self._torch.from_numpy(image).to(self.device) for image in images))
            keys, values = outputs[-2:]
            depth_m = outputs[0].float().cpu().numpy() if len(outputs) == 3 else None
        layout = self._layout(sizes_px)
        look = Look(depth_m, (keys, values), keys.shape[1], layout.length, layout.next_position)
        return checked_look(look, LOOK_GRAPH, self._precision)

    def read(self, look: Look) -> Look:
        """See Backend."""
        if not look.needs_reading:
            return look
        image = read_input(look)
        height, width = image.depth_m.shape[1:]
        with self._errors("read the image"):
            maps = (self._torch.tensor(each, device=self.device) for each in (image.depth_m, image.relative_std))
            keys, values = self._prefix_graph(((width, height),))(image.features, *maps)
        return read_look(look, (keys, values), keys.shape[3])

    def cache(self, look: Look, rows: int, slots: int) -> TorchKeyValues:
        """See Backend."""
        keys = look.prefix[0]
        layers, _, heads, _, size = keys.shape
        self._model.check_window(look.length + slots)
        with self._errors(f"keep {slots} tokens of {rows} questions"):
            text = keys.new_zeros(2, layers, rows, heads, slots, size)
        return TorchKeyValues(look.prefix, (text[0], text[1]))

    def step(self, cache: TorchKeyValues, step_input: StepInput) -> StepOutput:
        """See Backend."""
        first = step_input.first_slot
        # The first text has no text before it, but the graph needs one slot, which is masked.
        used = max(first, 1)
        text_keys, text_values = (side[:, :, :, :used] for side in cache.text)
        arrays = (step_input.ids, step_input.positions, step_input.last, step_input.mask[:, :used], step_input.watched)
        with self._errors("read the question"):
            ids, positions, last, mask, watched = (self._torch.from_numpy(array).to(self.device) for array in arrays)
            logits, keys, values = self._step_graph(
                ids, positions, last, *cache.prefix, text_keys, text_values, mask.to(text_keys.dtype)
            )
            slots = slice(first, first + keys.shape[3])
            cache.text[0][:, :, :, slots] = keys
            cache.text[1][:, :, :, slots] = values
            log_probability = self._penalise(logits.float(), step_input).log_softmax(-1)
            best, chosen = log_probability.max(-1)
            output = StepOutput(*(tensor.cpu().numpy() for tensor in (chosen, best, log_probability[:, watched])))
        return checked_step(output, "the graph for text in torch", self._precision)

    def _penalise(self, logits: torch.Tensor, step_input: StepInput) -> torch.Tensor:
        """See base.penalise_repetition, here on the device."""
        if step_input.repeated is None:
            return logits
        ids, penalty = self._torch.from_numpy(step_input.repeated).to(self.device), step_input.repetition_penalty
        values = logits.gather(1, ids)
        return logits.scatter(1, ids, self._torch.where(values < 0, values * penalty, values / penalty))

    def _look_for_depth(self, image: np.ndarray, size_px: tuple[int, int]) -> Look:
        """Looks at one image with a depth-first model."""
        assert self._depth_graph is not None
        with self._errors("look at the image"):
            outputs = self._depth_graph(self._torch.from_numpy(image).to(self.device))
            depth_m, relative_std = (output.float().cpu().numpy() for output in outputs[:2])
        next_position = self._layout((size_px,)).next_position
        look = Look(depth_m, None, len(image), 0, next_position, relative_std, features=outputs[2])
        return checked_look(look, LOOK_GRAPH, self._precision)

    def _texts_around(self, images: int) -> list[Sequence[int]]:
        """Returns the token ids before, between and after so many images."""
        before, between, after = self._texts
        return [before, *[between] * (images - 1), after]

    def _layout(self, sizes_px: ImageSizes) -> PromptLayout:
        """Returns where texts and images of these sizes are in the prefix."""
        from depthlm_ros.nets.positions import PromptLayout

        lengths = tuple(len(text) for text in self._texts_around(len(sizes_px)))
        return PromptLayout(lengths, tuple(self._model.image_span(size_px) for size_px in sizes_px))

    def _prefix_graph(self, sizes_px: ImageSizes) -> LookGraph | ReadGraph:
        """Returns the graph that gives keys and values for images of these sizes.

        Forgets the least recently used graph if there are too many.
        """
        with self._making:
            if sizes_px not in self._prefix_graphs:
                make = self._graphs.ReadGraph if self._model.depth_first else self._graphs.LookGraph
                graph = make(self._model, self._texts_around(len(sizes_px)), sizes_px)
                self._prefix_graphs[sizes_px] = graph.eval()
                if len(self._prefix_graphs) > MAX_GRAPHS:
                    self._prefix_graphs.popitem(last=False)
            self._prefix_graphs.move_to_end(sizes_px)
            return self._prefix_graphs[sizes_px]

    @contextmanager
    def _errors(self, task: str) -> Iterator[None]:
        """Computes without gradients, and raises torch's errors as BackendFailed or OutOfMemory."""
        try:
            with self._torch.inference_mode():
                yield
        except self._torch.OutOfMemoryError as exc:
            self._torch.cuda.empty_cache()
            raise OutOfMemory(f"device {self.device} has no memory left to {task}: {_first_line(exc)}") from exc
        except RuntimeError as exc:
            if isinstance(exc, DepthLMError):
                raise
            raise BackendFailed(f"torch could not {task} on {self.device}: {_first_line(exc)}") from exc


def backbone_loader(source: ModelBundle | ReleasedCheckpoint) -> Callable[[str], Backbone]:
    """Returns the function that loads a model's weights onto a torch device."""

    def load(device: str) -> Backbone:
        if isinstance(source, ModelBundle):
            from depthlm_ros.nets.depth_first import load_checkpoint

            return load_checkpoint(source.folder).eval().to(device)
        import torch

        from depthlm_ros.nets.loading import load_released_model

        # On a CPU, single precision is slow but right. Half precision is for devices that compute in it.
        dtype = torch.float32 if device == "cpu" else getattr(torch, source.spec.dtype)
        return load_released_model(source, dtype, device)

    return load


def _first_line(exc: BaseException) -> str:
    """Returns the message of an error without the stack traces that torch appends."""
    return str(exc).strip().split("\n")[0]
