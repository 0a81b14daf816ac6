# SPDX-License-Identifier: Apache-2.0
"""Base checkpoints and data sets that several tests of fine-tuning share.

torch is imported only inside fixtures: pytest loads this file in the environment without torch, too.
"""

import pytest


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Folders of small random base checkpoints by architecture, and one with a depth head."""
    from support.training_files import make_base

    folder = tmp_path_factory.mktemp("bases")
    made = {kind: make_base(folder / kind, kind) for kind in ("qwen2_5_vl", "qwen3_vl", "llava")}
    return made | {"depthvlm": make_base(folder / "depthvlm", "qwen3_vl", with_head=True)}


@pytest.fixture
def make_dataset(bases, tmp_path):
    """Makes the data set of a recipe from one file of records."""
    from support.training_files import ARCHITECTURES, write_image, write_lines

    from depthlm_ros.cli.finetune import recipe_file
    from depthlm_ros.training.finetune.model import find_base
    from depthlm_ros.training.finetune.recipe import read_finetune_recipe
    from depthlm_ros.training.finetune.run import FinetuneRun

    def make(recipe_name, lines, *changes, length=1, name="data.jsonl"):
        recipe = read_finetune_recipe(recipe_file(recipe_name), changes)
        for number in range(2):
            if not (tmp_path / f"{number}.png").exists():
                write_image(tmp_path / f"{number}.png", number)
        file = write_lines(tmp_path / name, lines)
        base = find_base(recipe, str(bases[ARCHITECTURES[recipe.model]]))
        return FinetuneRun(recipe, base, (str(file),), tmp_path / "out").dataset(length)

    return make
