"""Killed at any step or moment, a program comes to the same end when it is started again."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["rows", "rows-shared"])
def test_rows_survive_kills(scenario):
    survive("--kills", "20", "--scenario", scenario)


@pytest.mark.slow
def test_ctrl_c_at_named_points_of_a_run_leaves_nothing_half_done():
    survive("--kills", "12", "--scenario", "epochs", "--signal", "SIGINT")


def survive(*options):
    command = [sys.executable, "-m", "tests.crash.harness", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differences, 0 leftovers, 0 failures" in done.stdout
