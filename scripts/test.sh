#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of both environments:   scripts/test.sh [--in-turns] MARKS TORCH_MARKS [arguments of pytest]
# At the same time: those of the first are shown as they run, those of the second, with torch, when they are done. Or in
# turns, for tests that measure. Both run to their end even where one has failed, so that one run shows everything. With
# arguments it is enough that one has something to run. No plugin is used: those of a distribution, which the first
# environment sees, are made for its own pytest.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
in_turns=""
if [ "$1" = --in-turns ]; then
    in_turns=1
    shift
fi
marks=$1 torch_marks=$2
shift 2
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
nothing_to_run=5 # pytest's exit status

test_torch() {
    DEPTHLM_MUST_RUN=torch exec .venv-torch/bin/python -m pytest -m "$torch_marks" "$@"
}

ros=0 torch=0
if [ -z "$in_turns" ]; then
    log=$(mktemp)
    test_torch "$@" >"$log" 2>&1 &
    torch_pid=$!
    trap 'kill "$torch_pid" 2>/dev/null; rm -f "$log"' EXIT
    trap 'kill "$torch_pid" 2>/dev/null; wait "$torch_pid"; cat "$log"; exit 130' INT TERM
fi
# shellcheck disable=SC1091
(. ./env.sh && DEPTHLM_MUST_RUN=ros exec python -m pytest -m "$marks" "$@") || ros=$?
if [ -z "$in_turns" ]; then
    echo "Tests that need torch, so far in $log:"
    wait "$torch_pid" || torch=$?
    cat "$log"
else
    (test_torch "$@") || torch=$?
fi

case "$([ $# -gt 0 ] && echo some || echo all) $ros $torch" in
    *" 0 0" | "some 0 $nothing_to_run" | "some $nothing_to_run 0") exit 0 ;;
esac
exit 1
