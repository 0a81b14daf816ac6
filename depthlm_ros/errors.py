"""Every error that this package raises on purpose.

    DepthLMError
    |-- BadInput           one frame or one request is unusable; the next may be fine
    |   |-- BadImage       pixels: size, encoding, short buffer
    |   |-- BadIntrinsics  camera: zero or NaN focal length, size mismatch, unknown distortion
    |   `-- BadQuestion    question: empty, too long, pixels outside the image
    `-- SetupError         the installation or configuration is unusable; mend it and start again
        |-- UnknownName    a model, backend or family that does not exist
        |-- BadBundle      an engine folder that is missing, damaged or of another version
        |   `-- UnfitPlans its TensorRT plans only, which can be built anew from the rest
        `-- BackendFailed  the runtime (ONNX Runtime, TensorRT, torch) refused or broke
            `-- OutOfMemory    the device has no memory left for this much at once

Messages say what was wrong, with the value, and what to do about it.
"""


class DepthLMError(Exception):
    """Root of all errors raised on purpose by depthlm_ros."""


class BadInput(DepthLMError, ValueError):
    """One frame or one request is unusable; the next may be fine."""


class BadImage(BadInput):
    """The pixels are unusable: wrong size, unknown encoding, short buffer."""


class BadIntrinsics(BadInput):
    """The camera is unusable: zero or NaN focal length, size mismatch, unknown distortion."""


class BadQuestion(BadInput):
    """The question is unusable: empty, too long, or about pixels outside the image."""


class SetupError(DepthLMError, RuntimeError):
    """The installation or configuration is unusable; mend it and start again."""


class UnknownName(SetupError):
    """A model, backend or family of this name does not exist."""


class BadBundle(SetupError):
    """An engine folder is missing, damaged or of another version."""


class UnfitPlans(BadBundle):
    """TensorRT plans are missing, damaged, or of another machine or graph. rebuild: the command that builds them."""

    def __init__(self, message: str, rebuild: str) -> None:
        super().__init__(f"{message} Build them on this machine: {rebuild}")
        self.rebuild = rebuild


class BackendFailed(SetupError):
    """The runtime underneath refused to load or run a graph."""


class OutOfMemory(BackendFailed):
    """The device has no memory left for this much at once."""
