# SPDX-License-Identifier: Apache-2.0
"""docs/PUBLISHED.md: every published row is there, and every command of it is one that the command line takes."""

import re
import shlex

import pytest
from support.paths import ROOT

from depthlm_ros.cli import build_parser
from depthlm_ros.eval.first_day import CHECKS, TOKEN_CHECKS
from depthlm_ros.eval.published import ALL_TABLES, TABLES

PAGE = (ROOT / "docs" / "PUBLISHED.md").read_text(encoding="utf-8")
REPEATED, NOT_REPEATED = PAGE.split("## Commands by table")[1].split("## Rows that cannot be repeated here")
COMMANDS = re.findall(r"`(depthlm eval [A-Z][^`]*)`", PAGE) + re.findall(r"^    (depthlm eval [^#\n]*)", PAGE, re.M)


def test_every_published_row_has_a_command_or_a_reason():
    rows = {re.sub(r" \[\w\]$", "", row) for table in ALL_TABLES for row in table.rows}
    missing = [row for row in rows if row not in REPEATED and row not in NOT_REPEATED]
    assert not missing


def test_every_table_with_a_command_is_named():
    titles = {table.title.split(",")[0] for tables in TABLES.values() for table in tables}
    assert not [title for title in titles if title not in REPEATED]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_the_command_line_takes(command):
    words = shlex.split(command)[1:]
    args = build_parser("eval").parse_args(words)
    assert args.run


def test_the_expected_figures_are_those_of_the_checks():
    page = PAGE.split("## The first day")[1].split("## What a run needs")[0]
    for checks in TOKEN_CHECKS.values():
        assert all(str(check.tokens) in page for check in checks)
    for checks in CHECKS.values():
        for check in checks:
            figures = [re.sub(r"^0", "", f"{value:g}") for value, _ in check.expected.values()]
            missing = [one for one in figures if f"{one}" not in page]
            assert not missing, check.title
            assert f"{check.n:,}" in page
