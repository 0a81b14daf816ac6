"""torch: released checkpoints on a GPU or CPU, and the reference for what is exported."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm_ros.backends.base import Look, StepInput, StepOutput
from depthlm_ros.errors import BackendFailed, DepthLMError, OutOfMemory
from depthlm_ros.model_files.bundle import Bundle
from depthlm_ros.model_files.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from depthlm_ros.nets.backbone import Backbone

# Look graphs hold constants of their prompt's size; a camera has one size, a pair of them one more.
GRAPHS_KEPT = 8


@dataclass(frozen=True)
class DeviceCache:
    """Keys and values on the device, (layers, rows, heads_kv, tokens, D)."""

    prefix: tuple[torch.Tensor, torch.Tensor]
    own: tuple[torch.Tensor, torch.Tensor]


class TorchBackend:
    """A backbone (extra [torch]).

    texts: token ids before, between and after the images of a prompt. load: makes the backbone for a torch device; it
    is called once, after torch was found. device: "" takes a CUDA device if there is one.
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

            from depthlm_ros.nets.graphs import LookGraph, StepGraph
        except ImportError as exc:
            raise BackendFailed(
                f"backend torch needs torch, transformers and safetensors ({exc}): pip install 'depthlm_ros[torch]', "
                "or use backend onnxruntime."
            ) from exc
        if threads:
            torch.set_num_threads(threads)
        self._torch, self._look_graph, self._texts = torch, LookGraph, texts
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with self._errors("load the model"):
            self._model = load(self.device)
        self._step = StepGraph(self._model).eval()
        self._looks: OrderedDict[tuple[tuple[int, int], ...], LookGraph] = OrderedDict()

    def look(self, images: Sequence[np.ndarray]) -> Look:
        with self._errors("look at the image"):
            graph = self._graph(tuple((image.shape[2], image.shape[1]) for image in images))
            outputs = graph(*(self._torch.from_numpy(image).to(self.device) for image in images))
            keys, values = outputs[-2:]
            depth_m = outputs[0].float().cpu().numpy() if len(outputs) == 3 else None
        return Look(depth_m, (keys, values), keys.shape[1], graph.layout.length, graph.layout.next_position)

    def cache(self, look: Look, rows: int, slots: int) -> DeviceCache:
        keys = look.prefix[0]
        layers, _, heads, _, size = keys.shape
        with self._errors(f"keep {slots} tokens of {rows} questions"):
            own = keys.new_zeros(2, layers, rows, heads, slots, size)
        return DeviceCache(look.prefix, (own[0], own[1]))

    def step(self, cache: DeviceCache, given: StepInput) -> StepOutput:
        used = max(given.at, 1)
        own_keys, own_values = (side[:, :, :, :used] for side in cache.own)
        with self._errors("read the question"):
            ids, positions, last, mask, watched = (
                self._torch.from_numpy(array).to(self.device)
                for array in (given.ids, given.positions, given.last, given.mask[:, :used], given.watched)
            )
            logits, keys, values = self._step(
                ids, positions, last, *cache.prefix, own_keys, own_values, mask.to(own_keys.dtype)
            )
            slots = slice(given.at, given.at + keys.shape[3])
            cache.own[0][:, :, :, slots] = keys
            cache.own[1][:, :, :, slots] = values
            log = logits.float().log_softmax(-1)
            best, chosen = log.max(-1)
            return StepOutput(*(t.cpu().numpy() for t in (chosen, best, log[:, watched])))

    def _graph(self, sizes_px: tuple[tuple[int, int], ...]) -> Any:
        """The look graph for images of these sizes; the least recently used one is given up."""
        if sizes_px not in self._looks:
            before, between, after = self._texts
            texts = [before, *[between] * (len(sizes_px) - 1), after]
            self._looks[sizes_px] = self._look_graph(self._model, texts, sizes_px).eval()
            if len(self._looks) > GRAPHS_KEPT:
                self._looks.popitem(last=False)
        self._looks.move_to_end(sizes_px)
        return self._looks[sizes_px]

    @contextmanager
    def _errors(self, task: str) -> Iterator[None]:
        """Runs without gradients; torch's errors become ours."""
        try:
            with self._torch.inference_mode():
                yield
        except self._torch.OutOfMemoryError as exc:
            self._torch.cuda.empty_cache()
            raise OutOfMemory(f"device {self.device} has no memory left to {task}: {first_line(exc)}") from exc
        except RuntimeError as exc:
            if isinstance(exc, DepthLMError):
                raise
            raise BackendFailed(f"torch could not {task} on {self.device}: {first_line(exc)}") from exc


def loader(source: Bundle | Checkpoint) -> Callable[[str], Backbone]:
    """What loads a model's weights onto a torch device."""

    def load(on_device: str) -> Backbone:
        if isinstance(source, Bundle):
            from depthlm_ros.nets.checkpoint import load_checkpoint

            return load_checkpoint(source.folder).eval().to(on_device)
        import torch

        from depthlm_ros.nets.loading import load_released

        # A CPU is right, if slow, in single precision; half of it is for devices that compute in it.
        dtype = torch.float32 if on_device == "cpu" else getattr(torch, source.spec.dtype)
        return load_released(source.folder, source.spec, dtype, on_device)

    return load


def first_line(exc: BaseException) -> str:
    """torch appends stack traces of its own to its messages."""
    return str(exc).strip().split("\n")[0]
