# SPDX-License-Identifier: Apache-2.0
"""Runs the command line: `python -m depthlm_ros.cli`."""

import sys

from depthlm_ros.cli import main

sys.exit(main())
