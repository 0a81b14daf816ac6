"""What the training renders: a batch is the same in any process, and some cameras are not calibrated exactly."""

import pickle
import re
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np  # noqa: E402

from depthlm_ros.errors import UnknownName  # noqa: E402
from depthlm_ros.families.registry import family_named  # noqa: E402
from depthlm_ros.geometry.pinhole import centred_camera  # noqa: E402
from depthlm_ros.scenes.world.colours import NAMED_COLOURS  # noqa: E402
from depthlm_ros.training.synthetic.config import SyntheticDataSettings  # noqa: E402
from depthlm_ros.training.synthetic.dataset import RenderedBatches, make_batch, sample_shots, sample_texts  # noqa: E402
from depthlm_ros.training.synthetic.tokenizer import train_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch
FAMILY = family_named("tiny")
DATA = SyntheticDataSettings(canvases=((64, 48), (96, 64)), focal_px=48.0, batch=4, pair_share=0.0)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(sample_texts(np.random.default_rng(0), DATA, FAMILY, scenes=20), 512)


def test_the_share_of_pictures_through_a_lens_is_that_of_the_settings():
    camera = centred_camera((64, 48), 48.0)
    for share, low, high in ((0.0, 0, 0), (0.3, 5, 22), (1.0, 40, 40)):
        shots = sample_shots(np.random.default_rng(1), replace(DATA, lens_share=share), camera, 40)
        assert low <= sum(shot.lens is not None for shot in shots) <= high


def test_turns_about_recoloured_pictures_name_no_colour(tokenizer):
    names = {}
    for share in (0.0, 1.0):
        batches = [make_batch(replace(DATA, recoloured_share=share), FAMILY, tokenizer, 5, n) for n in range(4)]
        texts = [tokenizer.decode(row.tolist()) for batch in batches for row in batch.ids]
        names[share] = sum(word in NAMED_COLOURS for text in texts for word in re.findall(r"\w+", text.lower()))
        assert all(len(text) > 20 for text in texts)
    assert names[0.0] > 10 and names[1.0] == 0


def test_a_batch_is_the_same_in_another_process(tokenizer):
    batches = RenderedBatches(DATA, FAMILY, tokenizer.to_str(), seed=5, start=3)
    sent = next(iter(pickle.loads(pickle.dumps(batches))))
    here = make_batch(DATA, FAMILY, tokenizer, 5, 3)
    for name in here.__dataclass_fields__:
        assert torch.equal(getattr(sent, name).nan_to_num(), getattr(here, name).nan_to_num()), name


def test_an_unknown_render_device_is_named(tokenizer):
    with pytest.raises(UnknownName, match="abacus"):
        make_batch(replace(DATA, render_device="abacus"), FAMILY, tokenizer, 5, 3)
