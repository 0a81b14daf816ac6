# SPDX-License-Identifier: Apache-2.0
"""Any network for depth as a model: an ONNX file and a YAML file that says what goes in and what comes out.

    DepthNetworkFields    the fields of the YAML file, family: depth_map
    DepthNetwork          the ONNX file with its fields; what find_model returns for such a model
    read_network_fields   reads and checks the YAML file
    open_network          finds the ONNX file that a YAML file names

The YAML file is depth_map.yaml beside the ONNX file, or a file in config/models. docs/MODELS.md explains every field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.geometry.resize_rules import RESAMPLINGS, CanvasRule
from depthlm_ros.model_files.bounded_files import graph_files
from depthlm_ros.model_files.spec import ErrorCalibration, ModelSpec
from depthlm_ros.model_files.yaml_dataclass import build_dataclass, read_yaml

FAMILY = "depth_map"
# A folder with this file and the ONNX file that it names is a model.
NETWORK_FILE = "depth_map.yaml"

SQUEEZE, LETTERBOX, MULTIPLE, FOCAL = "squeeze", "letterbox", "multiple", "focal"
METRES, INVERSE, LOG, DISPARITY = "metres", "inverse", "log", "disparity"
MATRIX, RAYS = "matrix", "rays"
CHOICES: dict[str, Sequence[object]] = {
    "family": (FAMILY,),
    "image.fit": (SQUEEZE, LETTERBOX, MULTIPLE, FOCAL),
    "image.colour": ("rgb", "bgr"),
    "image.layout": ("nchw", "nhwc"),
    "image.resampling": ("", *RESAMPLINGS),
    "depth.kind": (METRES, INVERSE, LOG, DISPARITY),
    "camera.kind": (MATRIX, RAYS),
}
LIMITS = {
    "image.size_px": (1, 1 << 14),
    "image.longest_px": (1, 1 << 14),
    "image.shortest_px": (1, 1 << 14),
    "image.multiple_px": (1, 1 << 10),
    "image.focal_px": (1.0, 1e5),
    "image.divide_by": (1e-6, 1e6),
    "image.std": (1e-6, 1e6),
    "depth.channel": (0, 1 << 10),
    "depth.clamp_m": (0.0, 1e6),
    "depth.true_at_focal_px": (1.0, 1e5),
    "depth.true_at_focal_widths": (0.01, 100.0),
    "download_gb": (0.0, 1e6),
    **{f"calibration.{name}": (0.0, 10.0) for name in ("dense_spread", "dense_relative")},
    **{f"calibration.{name}": (0.0, 10.0) for name in ("map_std_factor", "map_std_floor", "map_std_growth")},
    "calibration.map_std_centre_m": (0.01, 1000.0),
    "calibration.map_std_upper": (0.0, 10.0),
}
# A vocabulary without words: the symbols of a number and the end of a text, which every loaded model has.
WORDLESS_CHAT = "none"
WORDLESS_TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {symbol: index for index, symbol in enumerate([*"0123456789.", "<end>"])},
            "unk_token": "<end>",
        },
    }
)


@dataclass(frozen=True)
class ImageInput:
    """The network's image. Its values are (pixel / divide_by - mean) / std for each channel, in the order of `colour`.

    input: its name in the graph. fit: how a camera's image becomes this image:
    - squeeze: stretched to size_px, whatever its aspect
    - letterbox: resized at its own aspect to fit into size_px, in the middle of grey
    - multiple: resized at its own aspect so that the longer side is longest_px, or the shorter one shortest_px; then
      both sides become the nearest multiples of multiple_px
    - focal: resized so that its focal length is focal_px, in the middle of size_px; what does not fit is not seen
    size_px: (width, height). resampling: "area", "linear" or "cubic", as OpenCV resizes; "" for this package's own, the
    only one with fit: focal. layout: "nchw" or "nhwc".
    """

    input: str
    fit: str
    size_px: tuple[int, int] | None = None
    longest_px: int | None = None
    shortest_px: int | None = None
    multiple_px: int = 1
    focal_px: float | None = None
    resampling: str = ""
    colour: str = "rgb"
    divide_by: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: str = "nchw"

    def __post_init__(self) -> None:
        needed = {MULTIPLE: (), FOCAL: ("size_px", "focal_px")}.get(self.fit, ("size_px",))
        for name in needed:
            if getattr(self, name) is None:
                raise SetupError(f"{name} is missing: with fit: {self.fit} it is needed.")
        given = [name for name in ("size_px", "longest_px", "shortest_px", "focal_px") if getattr(self, name)]
        allowed = ("longest_px", "shortest_px") if self.fit == MULTIPLE else needed
        for name in given:
            if name not in allowed:
                raise SetupError(
                    f"{name} is {getattr(self, name)!r}: with fit: {self.fit} it has no effect, leave it out."
                )
        if self.fit != MULTIPLE and self.multiple_px != 1:
            raise SetupError(f"multiple_px is {self.multiple_px}: with fit: {self.fit} it has no effect, leave it out.")
        if self.fit == FOCAL and self.resampling:
            raise SetupError(f"resampling is {self.resampling!r}: with fit: {FOCAL} it has no effect, leave it out.")
        if self.fit == MULTIPLE and len(given) != 1:
            raise SetupError(f"fit is {self.fit!r}: it needs either longest_px or shortest_px.")

    def canvas_rule(self) -> CanvasRule:
        """Returns how a camera's image becomes the network's image."""
        if self.fit == FOCAL:
            assert self.size_px is not None
            return CanvasRule(self.focal_px, (self.size_px,))
        return CanvasRule(
            None,
            fixed_px=self.size_px,
            letterbox=self.fit == LETTERBOX,
            longest_px=self.longest_px,
            shortest_px=self.shortest_px,
            multiple_px=self.multiple_px,
            resampling=self.resampling,
        )


@dataclass(frozen=True)
class DepthOutput:
    """The network's depth, z along the optical axis.

    output: its name in the graph. kind, with x for its values: "metres" x; "inverse" 1 / x; "log" exp(x); "disparity"
    1 / (scale * x + shift): a disparity is known up to scale and shift only, so that both must be measured and given.
    channel: which channel, in outputs with several (points x, y, z: 2). clamp_m: least and greatest metres; values
    outside become these. Values that are not positive finite numbers are unknown depth.
    true_at_focal_px, true_at_focal_widths: the focal length, in pixels of the network's image or as a share of its
    width, at which the metres are true. With another camera they are multiplied by its focal length over this one. Both
    left out: the metres hold for every camera.
    relative_std: name of an output with the standard deviation of ln(depth), "" for none.
    """

    output: str
    kind: str
    channel: int = 0
    scale: float | None = None
    shift: float | None = None
    clamp_m: tuple[float, float] | None = None
    true_at_focal_px: float | None = None
    true_at_focal_widths: float | None = None
    relative_std: str = ""

    def __post_init__(self) -> None:
        given = [name for name in ("scale", "shift") if getattr(self, name) is not None]
        if self.kind == DISPARITY and len(given) < 2:
            missing = " and ".join(name for name in ("scale", "shift") if name not in given)
            raise SetupError(
                f"kind is {self.kind!r}, which has no metres: {missing} missing. Measure some depths z of a scene, fit "
                "1 / z = scale * x + shift to the network's values x there, and write both numbers."
            )
        if self.kind != DISPARITY and given:
            raise SetupError(
                f"{given[0]} is {getattr(self, given[0])!r}: it belongs to kind: {DISPARITY}, leave it out."
            )
        if self.scale == 0:
            raise SetupError("scale is 0: every depth would be the same; give the factor that was measured.")
        if self.clamp_m is not None and not 0 < self.clamp_m[0] < self.clamp_m[1]:
            raise SetupError(f"clamp_m is {list(self.clamp_m)}: the least and then the greatest metres are needed.")
        if self.true_at_focal_px and self.true_at_focal_widths:
            raise SetupError("true_at_focal_px and true_at_focal_widths are both given: one of them is needed.")


@dataclass(frozen=True)
class CameraInput:
    """A second input with the camera of the network's image.

    kind: "matrix" is K, (1, 3, 3), in pixels with (0, 0) in the centre of the first one; "rays" are unit vectors along
    the rays of all pixels, (1, 3, height, width).
    """

    input: str
    kind: str


@dataclass(frozen=True)
class DepthNetworkFields:
    """The fields of the YAML file of a network for depth.

    file: the ONNX file, relative to the YAML file or to the repository `hub`. source: where the network comes from.
    words: the model that answers questions in words on this depth, such as "tiny"; "" for none.
    The other fields are as in ModelSpec.
    """

    family: str
    file: str
    image: ImageInput
    depth: DepthOutput
    camera: CameraInput | None = None
    title: str = ""
    licence: str = ""
    source: str = ""
    note: str = ""
    hub: str = ""
    revision: str = ""
    download_gb: float = 0.0
    words: str = ""
    calibration: ErrorCalibration = field(default_factory=ErrorCalibration)

    def __post_init__(self) -> None:
        if not self.file or Path(self.file).is_absolute() or ".." in Path(self.file).parts:
            raise SetupError(f"file is {self.file!r}: the name of an ONNX file beside this file is needed.")
        if self.image.fit == FOCAL and (self.depth.true_at_focal_px or self.depth.true_at_focal_widths):
            raise SetupError(
                f"image.fit is {FOCAL!r}, which gives every camera one focal length: leave out depth.true_at_focal_px "
                "and depth.true_at_focal_widths."
            )

    def model_spec(self, name: str) -> ModelSpec:
        """Returns the facts that every kind of model has."""
        rule = replace(
            self.image.canvas_rule(),
            depth_focal_px=self.depth.true_at_focal_px,
            depth_focal_widths=self.depth.true_at_focal_widths,
        )
        return ModelSpec(
            name=name,
            family=FAMILY,
            architecture=FAMILY,
            chat=WORDLESS_CHAT,
            canvas=rule,
            pixels_per_token=rule.multiple_px,
            head=FAMILY,
            title=self.title,
            licence=self.licence,
            hub=self.hub,
            revision=self.revision,
            calibration=self.calibration,
            dtype="float32",
            download_gb=self.download_gb,
            note=self.note,
        )


@dataclass(frozen=True)
class DepthNetwork:
    """A network for depth whose files are here.

    folder: of the ONNX file. path: the ONNX file. fields_path: the YAML file.
    """

    folder: Path
    path: Path
    fields_path: Path
    spec: ModelSpec
    fields: DepthNetworkFields = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """A text that changes with the YAML file and with the names and sizes of the files beside the ONNX file."""
        digest = hashlib.blake2b(self.fields_path.read_bytes(), digest_size=8)
        for path in sorted(self.folder.iterdir()):
            if path.is_file():
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()


def is_network_file(values: dict[str, object]) -> bool:
    """Returns whether the fields of a YAML file are those of a network for depth."""
    return values.get("family") == FAMILY


def read_network_fields(path: Path) -> DepthNetworkFields:
    """Reads and checks a YAML file. Raises SetupError with the file, the field, its value and what is allowed."""
    return build_network_fields(read_yaml(path, "model file"), path)


def build_network_fields(values: dict[str, object], path: Path) -> DepthNetworkFields:
    """Checks the fields that were read from a YAML file. Raises SetupError as read_network_fields does."""
    return build_dataclass(DepthNetworkFields, {"family": FAMILY, **values}, str(path), CHOICES, LIMITS)


def check_weight_places(path: Path) -> None:
    """Raises BadBundle if an ONNX file points into files that are not in its own folder, or is no ONNX file."""
    outside = [name for name in graph_files(path) if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise BadBundle(f"{path} points into {outside[0]!r}, which is not in its folder: do not use this file.")


def open_network(fields_path: Path, name: str, folder: Path | None = None) -> DepthNetwork:
    """Returns the network of a YAML file, called `name`.

    folder: where the ONNX file lies, None for the folder of the YAML file. Raises BadBundle if the ONNX file is
    missing, and SetupError for a wrong YAML file.
    """
    fields, folder = read_network_fields(fields_path), folder or fields_path.parent
    for path in (folder / fields.file, folder / Path(fields.file).name):
        if path.is_file():
            return DepthNetwork(path.parent, path, fields_path, fields.model_spec(name), fields)
    raise BadBundle(
        f"{folder} has no {fields.file}, which {fields_path} names: put the ONNX file there, or correct the field file."
        + (f" {fields.note}" if fields.note else "")
    )
