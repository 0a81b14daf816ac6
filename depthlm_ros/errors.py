# SPDX-License-Identifier: Apache-2.0
"""Every error that this package raises intentionally.

    DepthLMError
    |-- BadInput           one frame or one request is unusable; the next may be fine
    |   |-- BadImage       pixels: size, encoding, short buffer
    |   |-- BadIntrinsics  camera: zero or NaN focal length, size mismatch, unknown distortion
    |   `-- BadQuestion    question: empty, too long, pixels outside the image
    `-- SetupError         the installation or configuration is unusable; repair it and start again
        |-- UnknownName    a model, backend or family that does not exist
        |-- BadBundle      an engine folder that is missing, damaged or of another version
        |   `-- BadPlans   only its TensorRT plans, which can be built again from the other files
        `-- BackendFailed  the runtime (ONNX Runtime, TensorRT, torch) refused a graph or failed
            `-- OutOfMemory    the device does not have enough memory for this

Messages say what was wrong, with the value, and what to do about it.
"""


class DepthLMError(Exception):
    """Base class of all errors that depthlm_ros raises intentionally."""


class BadInput(DepthLMError, ValueError):
    """One frame or one request is unusable; the next may be fine."""


class BadImage(BadInput):
    """The pixels are unusable: wrong size, unknown encoding, short buffer."""


class BadIntrinsics(BadInput):
    """The camera is unusable: zero or NaN focal length, size mismatch, unknown distortion."""


class BadQuestion(BadInput):
    """The question is unusable: empty, too long, or about pixels outside the image."""


class SetupError(DepthLMError, RuntimeError):
    """The installation or configuration is unusable; repair it and start again."""


class UnknownName(SetupError):
    """A model, backend or family of this name does not exist."""


class BadBundle(SetupError):
    """An engine folder is missing, damaged or of another version."""


class BadPlans(BadBundle):
    """TensorRT plans are missing, damaged, or of another machine or graph.

    rebuild: the command that builds them again.
    """

    def __init__(self, message: str, rebuild: str) -> None:
        super().__init__(f"{message} Build them on this machine: {rebuild}")
        self.rebuild = rebuild


class BackendFailed(SetupError):
    """The runtime (ONNX Runtime, TensorRT, torch) failed to load or run a graph."""


class OutOfMemory(BackendFailed):
    """The device does not have enough memory for this."""
