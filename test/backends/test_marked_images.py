# SPDX-License-Identifier: Apache-2.0
"""Looks at marked copies of one picture: every copy once, in batches, and made while the model looks."""

import threading

import numpy as np
import pytest

from depthlm_ros.backends.generation import MAX_COPIES_PER_BATCH, look_at_marked_images
from depthlm_ros.errors import OutOfMemory
from depthlm_ros.geometry.visual_prompt import draw_markers, pad_for_markers

PICTURE = np.zeros((40, 90, 3), np.uint8)
COUNT = 2 * MAX_COPIES_PER_BATCH + 3
MARKERS = [[(10.0 + index, 20.0)] for index in range(COUNT)]


class Looks:
    """Keeps the images of every look. most: with more images there is no memory."""

    def __init__(self, most=COUNT):
        self.most, self.batches = most, []

    def look(self, images):
        if len(images[0]) > self.most:
            raise OutOfMemory("full")
        self.batches.append(images[0])
        return images[0]


def handled(backend, markers_px=MARKERS, process=np.asarray):
    """Returns the indices in the order in which they were handled, and the images that were seen of each."""
    order, seen = [], {}

    def keep(indices, look):
        order.extend(indices)
        seen.update(zip(indices, look, strict=True))

    look_at_marked_images(backend, PICTURE, markers_px, 16, keep, process)
    return order, seen


@pytest.mark.parametrize("most", [COUNT, 5, 1])
def test_every_copy_is_processed_and_seen_once_whatever_the_memory(most):
    made = []
    backend = Looks(most)
    order, seen = handled(backend, process=lambda image: made.append(1) or image // 5)
    assert order == list(range(COUNT)) and len(made) == COUNT
    assert max(map(len, backend.batches)) == min(most, MAX_COPIES_PER_BATCH) - (most == 5)
    for index, markers in enumerate(MARKERS):
        assert np.array_equal(seen[index], draw_markers(PICTURE, np.array(markers)) // 5)


def test_a_mark_at_the_border_is_seen_on_a_wider_copy_after_the_others():
    order, seen = handled(Looks(), [[(1.0, 1.0)], [(20.0, 20.0)]])
    assert order == [1, 0]
    assert np.array_equal(seen[0], draw_markers(pad_for_markers(PICTURE, 16), np.array([[17.0, 17.0]])))


def test_the_next_copies_are_made_while_the_model_looks():
    made, is_ready = [], threading.Event()

    def process(image):
        made.append(1)
        if len(made) == 2 * MAX_COPIES_PER_BATCH:
            is_ready.set()
        return image

    class Waits(Looks):
        def look(self, images):
            assert is_ready.wait(20)
            assert len(made) <= (len(self.batches) + 2) * MAX_COPIES_PER_BATCH  # no copies are kept for later looks
            return super().look(images)

    assert handled(Waits(), process=process)[0] == list(range(COUNT))


def test_an_error_of_the_processor_reaches_the_caller():
    def process(image):
        raise ValueError("no such size")

    with pytest.raises(ValueError, match="no such size"):
        handled(Looks(), process=process)


def test_without_memory_for_one_copy_there_is_an_error():
    with pytest.raises(OutOfMemory):
        handled(Looks(most=0))
