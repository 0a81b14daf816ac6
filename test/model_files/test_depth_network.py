# SPDX-License-Identifier: Apache-2.0
"""Networks for depth on disk: every field of the YAML file is checked; a model is found by folder, name and hub."""

import re

import pytest
import yaml
from support.depth_networks import write_network

from depthlm_ros.errors import BadBundle, SetupError, UnknownName
from depthlm_ros.families.registry import family_named
from depthlm_ros.model_files.checkpoint import find_cached_checkpoint, find_model
from depthlm_ros.model_files.depth_network import DepthNetwork, read_network_fields
from depthlm_ros.model_files.spec_yaml import find_spec, find_spec_file, read_known_specs

IMAGE = {"input": "image", "fit": "squeeze", "size_px": [32, 32]}
DEPTH = {"output": "depth", "kind": "metres"}
WHOLE = {"file": "net.onnx", "image": IMAGE, "depth": DEPTH}
EXAMPLES = {
    "depth-anything-v2-metric-indoor-small": ("Apache-2.0", None),
    "yolo26n-depth": ("AGPL-3.0", (768, 768)),
    "metric3d-v2-small": ("BSD-2-Clause", (1064, 616)),
    "unidepth-v2-small": ("CC-BY-NC 4.0", (630, 462)),
}


@pytest.fixture
def network(tmp_path):
    return write_network(tmp_path / "own", {"image": IMAGE, "depth": DEPTH, "licence": "MIT"})


def read(tmp_path, **changes):
    path = tmp_path / "depth_map.yaml"
    path.write_text(yaml.safe_dump({**WHOLE, **changes}))
    return read_network_fields(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "rgb"}, "there is no field colour; there are family, file, image, depth"),
        ({"image": {**IMAGE, "colours": "rgb"}}, "there is no field image.colours"),
        ({"image": {"input": "image", "fit": "squeeze"}}, "image.size_px is missing: with fit: squeeze it is needed"),
        ({"image": {**IMAGE, "fit": "crop"}}, "image.fit is 'crop': 'squeeze' or 'letterbox' or 'multiple' or 'focal'"),
        ({"image": {**IMAGE, "fit": "focal"}}, "image.focal_px is missing"),
        ({"image": {**IMAGE, "fit": "multiple"}}, "image.size_px is (32, 32): with fit: multiple it has no effect"),
        ({"image": {"input": "image", "fit": "multiple"}}, "needs either longest_px or shortest_px"),
        ({"image": {**IMAGE, "multiple_px": 14}}, "image.multiple_px is 14: with fit: squeeze it has no effect"),
        ({"image": {**IMAGE, "std": [1, 0, 1]}}, "image.std is [1, 0, 1]: a list of 3 numbers from 1e-06"),
        ({"image": {**IMAGE, "size_px": [32]}}, "image.size_px is [32]: a list of 2 whole numbers"),
        ({"depth": {**DEPTH, "kind": "feet"}}, "depth.kind is 'feet': 'metres' or 'inverse' or 'log' or 'disparity'"),
        ({"depth": {**DEPTH, "kind": "disparity"}}, "which has no metres: scale and shift missing"),
        ({"depth": {**DEPTH, "scale": 2.0}}, "depth.scale is 2.0: it belongs to kind: disparity"),
        ({"depth": {**DEPTH, "clamp_m": [5, 2]}}, "depth.clamp_m is [5.0, 2.0]: the least and then the greatest"),
        ({"depth": {**DEPTH, "true_at_focal_px": 9, "true_at_focal_widths": 1}}, "are both given: one of them"),
        (
            {"image": {**IMAGE, "fit": "focal", "focal_px": 100}, "depth": {**DEPTH, "true_at_focal_px": 9}},
            "image.fit is 'focal', which gives every camera one focal length",
        ),
        ({"camera": {"input": "K", "kind": "fov"}}, "camera.kind is 'fov': 'matrix' or 'rays' is needed"),
        ({"file": "../net.onnx"}, "file is '../net.onnx': the name of an ONNX file beside this file is needed"),
        ({"words": 3}, "words is 3: a text is needed"),
    ],
)
def test_wrong_field_is_named_with_its_value_and_what_is_allowed(tmp_path, changes, message):
    with pytest.raises(SetupError, match=re.escape(message)) as caught:
        read(tmp_path, **changes)
    assert str(tmp_path / "depth_map.yaml") in str(caught.value)


def test_missing_group_is_named(tmp_path):
    (tmp_path / "depth_map.yaml").write_text("file: net.onnx\n")
    with pytest.raises(SetupError, match="image is missing: a group of fields is needed"):
        read_network_fields(tmp_path / "depth_map.yaml")


# ---- where such a model is found


def test_folder_is_a_model_named_after_itself_or_as_given(network, monkeypatch):
    found = find_model(str(network))
    assert isinstance(found, DepthNetwork) and found.path == network / "net.onnx"
    assert (found.spec.name, found.spec.family, found.spec.licence) == ("own", "depth_map", "MIT")
    assert find_model(f"mine={network}").spec.name == "mine"
    assert find_model(found) is found
    monkeypatch.chdir(network)
    assert find_model(".").spec.name == "own"


def test_file_beside_the_graph_is_a_model_too(network):
    (network / "depth_map.yaml").rename(network / "porch.yaml")
    (network / "porch.yaml").write_text("family: depth_map\n" + (network / "porch.yaml").read_text())
    assert find_model(str(network / "porch.yaml")).spec.name == "porch"


def test_known_name_with_a_folder_takes_the_graph_from_there(tmp_path):
    (tmp_path / "yolo26n-depth.onnx").write_bytes(b"graph")
    found = find_model(f"yolo26n-depth={tmp_path}")
    assert (found.path, found.spec.name) == (tmp_path / "yolo26n-depth.onnx", "yolo26n-depth")
    assert found.fields_path == find_spec_file("yolo26n-depth")


def test_missing_graph_and_folder_say_what_to_do(tmp_path, network):
    (network / "net.onnx").unlink()
    with pytest.raises(BadBundle, match=r"own has no net\.onnx, which .*depth_map\.yaml names"):
        find_model(str(network))
    with pytest.raises(BadBundle, match=r"yolo26n-depth is not on this machine: never run here; .*yolo export"):
        find_model("yolo26n-depth")
    with pytest.raises(BadBundle, match="there is no such folder; give the folder of the ONNX file"):
        find_model(f"yolo26n-depth={tmp_path / 'none'}")
    with pytest.raises(BadBundle, match=r"has no yolo26n-depth\.onnx"):
        find_model(f"yolo26n-depth={tmp_path}")
    with pytest.raises(UnknownName):
        find_model(f"porch={tmp_path}")


def test_graph_of_a_hub_is_found_in_the_local_cache(tmp_path, monkeypatch):
    models, commit = tmp_path / "share" / "config" / "models", "c" * 40
    models.mkdir(parents=True)
    (models / "hubbed.yaml").write_text(
        yaml.safe_dump({"family": "depth_map", **WHOLE, "file": "onnx/net.onnx", "hub": "some/net"})
    )
    monkeypatch.setattr("depthlm_ros.model_files.spec_yaml.package_share_folders", lambda: [tmp_path / "share"])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadBundle, match="run `hf download some/net`"):
        find_model("hubbed")
    graph = tmp_path / "cache" / "models--some--net" / "snapshots" / commit / "onnx" / "net.onnx"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"graph")
    assert find_model("hubbed").path == find_model("some/net").path == graph
    assert find_cached_checkpoint(find_spec("hubbed")).spec.name == "hubbed"


def test_fingerprint_changes_with_the_fields_and_with_the_graph(network):
    seen = {find_model(str(network)).fingerprint}
    fields = network / "depth_map.yaml"
    fields.write_text(fields.read_text().replace("squeeze", "letterbox"))
    seen.add(find_model(str(network)).fingerprint)
    (network / "net.onnx").write_bytes(b"another")
    seen.add(find_model(str(network)).fingerprint)
    assert len(seen) == 3


# ---- the examples of the package


def test_examples_are_listed_with_licence_source_and_that_they_were_never_run():
    specs = read_known_specs()
    for name, (licence, size_px) in EXAMPLES.items():
        fields = read_network_fields(find_spec_file(name))
        assert (fields.licence, fields.image.size_px) == (licence, size_px)
        assert fields.source.startswith("https://") and "never run here" in fields.note
        assert specs[name].family == family_named("depth_map").name
