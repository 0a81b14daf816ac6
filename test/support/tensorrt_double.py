# SPDX-License-Identifier: Apache-2.0
"""Doubles of the libraries behind backend tensorrt, for machines without a GPU: TensorRT of both kinds, and CUDA.

They are for what happens when plans run. How TensorRT's parser and builder behave is tested with the real ones
(test_rtx_builder.py). Engines run in ONNX Runtime, and device memory is host memory. The doubles are strict where a GPU
is silent: work on a stream is done only when somebody waits for it, so a result that is read too early is old, and data
that is overwritten too early is lost; addresses must lie in live memory; shapes must be within a profile. Nothing here
shows how TensorRT itself behaves. All names are those of the real libraries (test_tensorrt_names.py compares our code's
names with them).
"""

import base64
import ctypes
import enum
import importlib.machinery
import json
import sys
import time
import types
import weakref
from pathlib import Path

import numpy as np

from support.paths import ROOT

SUCCESS, NO_MEMORY = 0, 2


class Memory:
    """The memory and the stream behind cuda.bindings.runtime. limit_bytes: the memory of the device."""

    def __init__(self):
        self.limit_bytes, self.live, self.queue, self.recording, self.replays = 1 << 34, {}, [], None, 0

    def put(self, work):
        (self.queue if self.recording is None else self.recording).append(work)
        return (SUCCESS,)

    def run(self):
        while self.queue:
            self.queue.pop(0)()

    def allocate(self, size):
        if sum(len(block) for block in self.live.values()) + size > self.limit_bytes:
            return NO_MEMORY, None
        block = (ctypes.c_uint8 * max(size, 1))()
        # Real memory is not clean.
        ctypes.memset(block, 0x7F, size)
        self.live[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def free(self, address):
        self.run()
        del self.live[address]
        return (SUCCESS,)

    def check(self, address, size):
        inside = any(start <= address and address + size <= start + len(block) for start, block in self.live.items())
        assert inside, f"{size} bytes at {address} are not all in one live allocation"

    def move(self, to, source, size):
        def work():
            self.check(to, size)
            self.check(source, size)
            ctypes.memmove(to, source, size)

        return self.put(work)

    def move_2d(self, to, to_pitch, source, source_pitch, width, height):
        def work():
            for row in range(height):
                self.check(to + row * to_pitch, width)
                self.check(source + row * source_pitch, width)
                ctypes.memmove(to + row * to_pitch, source + row * source_pitch, width)

        return self.put(work)

    def clear(self, address, value, size):
        def work():
            self.check(address, size)
            ctypes.memset(address, value, size)

        return self.put(work)

    def begin(self):
        assert self.recording is None
        self.recording = []
        return (SUCCESS,)

    def end(self):
        recorded, self.recording = self.recording, None
        return SUCCESS, recorded

    def launch(self, recorded):
        self.replays += 1
        return self.put(lambda: [work() for work in recorded])

    def synchronize(self):
        assert self.recording is None, "waiting is impossible while work is recorded"
        self.run()
        return (SUCCESS,)


def runtime(memory, sm):
    """Returns the module cuda.bindings.runtime over a Memory. sm: compute capability of the device."""
    major, minor = map(int, sm.split("."))
    properties = types.SimpleNamespace(name=b"Double GPU", major=major, minor=minor)
    kinds = enum.Enum("cudaMemcpyKind", "cudaMemcpyHostToDevice cudaMemcpyDeviceToHost cudaMemcpyDeviceToDevice")
    modes = enum.Enum("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal")
    module = types.ModuleType("cuda.bindings.runtime")
    vars(module).update(
        cudaError_t=types.SimpleNamespace(cudaSuccess=SUCCESS, cudaErrorMemoryAllocation=NO_MEMORY),
        cudaMemcpyKind=kinds,
        cudaStreamCaptureMode=modes,
        cudaStreamNonBlocking=1,
        cudaHostAllocDefault=0,
        cudaSetDevice=lambda index: (SUCCESS,) if index == 0 else (101,),
        cudaGetErrorString=lambda status: (SUCCESS, b"out of memory" if status == NO_MEMORY else b"invalid device"),
        cudaStreamCreateWithFlags=lambda flags: (SUCCESS, 77),
        cudaGetDeviceProperties=lambda index: (SUCCESS, properties),
        cudaDriverGetVersion=lambda: (SUCCESS, 12060),
        cudaMemGetInfo=lambda: (SUCCESS, memory.limit_bytes // 2, memory.limit_bytes),
        cudaMalloc=memory.allocate,
        cudaFree=memory.free,
        cudaHostAlloc=lambda size, flags: memory.allocate(size),
        cudaFreeHost=memory.free,
        cudaMemsetAsync=lambda address, value, size, stream: memory.clear(address, value, size),
        cudaMemcpyAsync=lambda to, source, size, kind, stream: memory.move(to, source, size),
        cudaMemcpy2DAsync=lambda to, tp, source, sp, width, height, kind, stream: memory.move_2d(
            to, tp, source, sp, width, height
        ),
        cudaStreamBeginCapture=lambda stream, mode: memory.begin(),
        cudaStreamEndCapture=lambda stream: memory.end(),
        cudaGraphInstantiate=lambda graph, flags: (SUCCESS, graph),
        cudaGraphDestroy=lambda graph: (SUCCESS,),
        cudaGraphExecDestroy=lambda recorded: (SUCCESS,),
        cudaGraphLaunch=lambda recorded, stream: memory.launch(recorded),
        cudaStreamSynchronize=lambda stream: memory.synchronize(),
    )
    return module


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT8 INT32 INT64 BOOL UINT8")
TYPES = {1: "FLOAT", 10: "HALF", 16: "BF16", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8"}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": bool, "UINT8": np.uint8}


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


class Engine:
    """The ICudaEngine of a plan that Builder made."""

    def __init__(self, module, plan):
        import onnx
        import onnxruntime

        self.module, self.profiles = (
            module,
            [
                {name: [tuple(shape) for shape in span] for name, span in profile.items()}
                for profile in plan["profiles"]
            ],
        )
        content = base64.b64decode(plan["onnx"])
        graph = onnx.load_model_from_string(content).graph
        self.values = {value.name: value for value in (*graph.input, *graph.output)}
        self.input_names, self.output_names = [v.name for v in graph.input], [v.name for v in graph.output]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.num_io_tensors, self.num_optimization_profiles = len(self.values), max(len(self.profiles), 1)
        self.device_memory_size_v2 = 4096

    def get_tensor_name(self, index):
        return list(self.values)[index]

    def get_tensor_mode(self, name):
        return self.module.TensorIOMode.INPUT if name in self.input_names else self.module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[TYPES[self.values[name].type.tensor_type.elem_type]]

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(dim, str) else dim for dim in dims(self.values[name]))

    def get_tensor_profile_shape(self, name, profile_index):
        fixed = self.get_tensor_shape(name)
        return self.profiles[profile_index].get(name, [fixed] * 3) if self.profiles else [fixed] * 3

    def create_execution_context(self, strategy):
        config = strategy if isinstance(strategy, RuntimeConfig) else None
        strategy = config.strategy if config else strategy
        assert strategy is self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self, config)

    def create_runtime_config(self):
        assert self.module.__name__ == "tensorrt_rtx"
        return RuntimeConfig()


class RuntimeCache:
    """Kernels of TensorRT for RTX. It reads those of this GPU only."""

    def __init__(self):
        self.content = b""

    def deserialize(self, blob):
        is_mine = bytes(blob).startswith(KERNELS)
        self.content = bytes(blob) if is_mine else self.content
        return is_mine

    def serialize(self):
        return self.content


KERNELS = b"kernels for Double GPU"


class RuntimeConfig:
    """As the real one, it does not keep its cache alive."""

    def __init__(self):
        self.strategy, self.cache, self.dynamic_shapes_kernel_specialization_strategy = None, None, None

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = weakref.ref(cache)
        return True

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


class Context:
    def __init__(self, engine, config=None):
        self.engine, self.profile, self.shapes, self.addresses, self.scratch = engine, 0, {}, {}, 0
        self.config = config

    def is_stream_capturable(self, stream):
        return self.engine.module.can_record

    def set_device_memory(self, memory, size):
        assert size >= self.engine.device_memory_size_v2
        self.scratch = memory

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self.profile, self.shapes = profile_index, {}
        return profile_index < self.engine.num_optimization_profiles

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = tuple(shape)
        return len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return name in self.engine.values

    def infer_shapes(self):
        return [name for name in self.engine.input_names if name not in self.shapes or name not in self.addresses]

    def get_tensor_shape(self, name):
        sizes = {}
        for given, shape in self.shapes.items():
            for dim, size in zip(dims(self.engine.values[given]), shape, strict=True):
                assert sizes.setdefault(dim, size) == size or not isinstance(dim, str), f"{dim} is not one size"
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims(self.engine.values[name]))

    def execute_async_v3(self, stream_handle):
        assert stream_handle == 77 and self.scratch and not self.infer_shapes()
        if self.config:
            cache = self.config.cache()
            assert cache is not None, "the cache of kernels is gone: TensorRT would use freed memory"
            if not cache.content:
                self.engine.module.compiled.append(self.engine)
                cache.content = KERNELS
        shapes = self.shapes | {name: self.get_tensor_shape(name) for name in self.engine.output_names}
        memory = self.engine.module.memory
        addresses = dict(self.addresses)

        def at(name):
            dtype = np.dtype(NUMPY[self.engine.get_tensor_dtype(name).name])
            count = int(np.prod(shapes[name]))
            assert count, f"{name} is empty"
            memory.check(addresses[name], count * dtype.itemsize)
            raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(addresses[name])
            return np.frombuffer(raw, dtype).reshape(shapes[name])

        def work():
            feeds = {name: at(name).copy() for name in self.engine.input_names}
            results = self.engine.session.run(self.engine.output_names, feeds)
            for name, result in zip(self.engine.output_names, results, strict=True):
                np.copyto(at(name), result)

        memory.put(work)
        return True


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            return Engine(installed_module(), json.loads(bytes(serialized_engine)))
        except ValueError:
            self.logger.log(Severity.ERROR, "magic tag does not match")
            return None


class Network:
    def __init__(self, flags):
        assert flags == 2, "not strongly typed"
        self.model, self.num_layers = None, 0

    @property
    def num_inputs(self):
        return len(self.model.graph.input)

    def get_layer(self, index):
        return types.SimpleNamespace(type=types.SimpleNamespace(name=self.model.graph.node[index].op_type))

    def get_input(self, index):
        value = self.model.graph.input[index]
        return types.SimpleNamespace(name=value.name, shape=[-1 if isinstance(d, str) else d for d in dims(value)])


class OnnxParser:
    def __init__(self, network, logger):
        self.network = network

    def parse(self, model, path):
        import onnx

        loaded = onnx.load_model_from_string(model)
        onnx.external_data_helper.load_external_data_for_model(loaded, str(Path(path).parent))
        self.network.model, self.network.num_layers = loaded, len(loaded.graph.node)
        return True


class Config:
    def __init__(self):
        self.profiles, self.timings, self.progress_monitor = [], None, None

    def set_memory_pool_limit(self, pool, pool_size):
        pass

    def set_compute_capability(self, compute_capability, index):
        return True

    def clear_flag(self, flag):
        pass

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return types.SimpleNamespace(content=serialized_timing_cache, serialize=lambda: b"timings")

    def set_timing_cache(self, cache, ignore_mismatch):
        self.timings = cache
        return cache.content in (b"", b"timings")

    def get_timing_cache(self):
        return self.timings


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):
        self.shapes[input] = [min, opt, max]


class Builder:
    seconds = 0.0

    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        module = installed_module()
        module.built.append(config)
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        time.sleep(self.seconds)
        for step in range(2):
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        if module.refusal:
            self.logger.log(Severity.ERROR, module.refusal)
            return None
        content = base64.b64encode(network.model.SerializeToString()).decode()
        return json.dumps({"onnx": content, "profiles": config.profiles}).encode()


def installed_module():
    """Returns the double of TensorRT that was installed last."""
    return sys.modules["cuda.bindings.runtime"].tensorrt


def install(monkeypatch, version="10.3.0", name="tensorrt", sm="8.7"):
    """Makes `import tensorrt` (or tensorrt_rtx) and `import cuda.bindings` find the doubles.

    Returns (module tensorrt, its memory). compiled: the engines of TensorRT for RTX whose kernels were compiled.
    """
    memory = Memory()
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # torch asks for it
    vars(module).update(
        __version__=version,
        memory=memory,
        built=[],
        refusal="",
        ComputeCapability=enum.Enum("ComputeCapability", "SM75 SM80 SM86 SM89 SM120 SM121"),
        compiled=[],
        can_record=True,
        DynamicShapesKernelSpecializationStrategy=enum.Enum("DynamicShapesKernelSpecializationStrategy", "LAZY NONE"),
        NetworkDefinitionCreationFlag=enum.IntEnum("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ExecutionContextAllocationStrategy=enum.Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED"),
        TensorIOMode=enum.Enum("TensorIOMode", "NONE INPUT OUTPUT"),
        MemoryPoolType=enum.Enum("MemoryPoolType", "WORKSPACE"),
        BuilderFlag=enum.Enum("BuilderFlag", "TF32"),
    )
    for thing in (DataType, ILogger, IProgressMonitor, Runtime, OnnxParser, Builder):
        setattr(module, thing.__name__, thing)
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = runtime(memory, sm)
    bindings.runtime.tensorrt = module
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", bindings.runtime)
    return module, memory


# The source of a module `tensorrt` that installs the doubles in the process that imports it.
MODULE = """
import os, types
from support import tensorrt_double

patch = types.SimpleNamespace(setitem=lambda modules, name, module: modules.__setitem__(name, module))
module, _ = tensorrt_double.install(patch, os.environ["DOUBLE_VERSION"])
module.refusal = os.environ.get("DOUBLE_REFUSAL", "")
module.Builder.seconds = float(os.environ.get("DOUBLE_SECONDS", "0"))
"""


def install_for_processes(monkeypatch, folder, version="10.3.0"):
    """Makes processes that start from now on find the doubles.

    In their environment, DOUBLE_REFUSAL is the message with which the builder refuses to build, and DOUBLE_SECONDS is
    the time that a build takes.
    """
    folder.mkdir(exist_ok=True)
    (folder / "tensorrt.py").write_text(MODULE)
    paths = [str(folder), str(ROOT / "test"), str(ROOT), *sys.path]
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in paths if path))
    monkeypatch.setenv("DOUBLE_VERSION", version)
