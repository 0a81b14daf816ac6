# SPDX-License-Identifier: Apache-2.0
"""Exports that several test files use, each made once."""

import inspect

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Returns a function that exports a small random model, once for all tests with the same arguments.

    Its arguments are those of small_engines.make_engine after the first two, and so is its result. It needs torch.
    """
    from support.small_engines import VOCAB, make_engine

    from depthlm_ros.training.embedded.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["How far is the red box? It is 2.31 meters away."] * 3, VOCAB)
    signature, exports = inspect.signature(make_engine), {}

    def export(*words, **named):
        bound = signature.bind(None, tokenizer, *words, **named)
        bound.apply_defaults()
        key = tuple(bound.args[2:])
        if key not in exports:
            exports[key] = make_engine(tmp_path_factory.mktemp("engine") / "small", tokenizer, *key)
        return exports[key]

    return export
