"""One command with verbs: help at once, the fronts are the same, and a reader that goes away is no fault."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vgg_flax import __main__ as program
from vgg_flax.commands import cache

ROOT = Path(__file__).resolve().parents[1]
WAYS = [
    ["-m", "vgg_flax", "train"],
    ["-m", "vgg_flax", "webcam"],
    ["-m", "vgg_flax", "predict"],
    ["-m", "vgg_flax", "doctor"],
    ["-m", "vgg_flax", "report"],
    ["-m", "vgg_flax", "cache"],
    ["-m", "vgg_flax"],
]
HEAVY = {"numpy", "jax", "cv2", "rich", "matplotlib", "flax", "h5py", "scipy", "jinja2", "asyncio", "typeguard"}


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in the repository, 80 columns wide."""
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, text=True, timeout=60, **options)


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_help_loads_nothing_heavy_and_fits_80_columns(way):
    done = run("-X", "importtime", *way, "--help", capture_output=True)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "tyro" in loaded
    assert not loaded & HEAVY
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("verb", ["train", "webcam"])
def test_the_front_is_the_verb(verb):
    front = run(f"{verb}.py", "--help", capture_output=True)
    assert (front.returncode, front.stderr) == (0, "")
    assert front.stdout == run("-m", "vgg_flax", verb, "--help", capture_output=True).stdout
    wrong = [run(*way, "--no-such-option", capture_output=True) for way in ([f"{verb}.py"], ["-m", "vgg_flax", verb])]
    assert wrong[0].returncode == wrong[1].returncode == 2
    assert wrong[0].stderr == wrong[1].stderr


@pytest.mark.parametrize("way", [*WAYS, ["webcam.py"]], ids=" ".join)
def test_help_that_nobody_reads_ends_without_a_word(way):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as pipe:
        done = run(*way, "--help", stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, ""), "as a program that SIGPIPE ends"


@pytest.mark.parametrize(
    ("typed", "missing"), [(["predict"], "RUN"), (["evaluate"], "RUN, --data"), (["doctor"], "DATA")]
)
def test_what_is_missing_is_called_as_help_calls_it(typed, missing, capsys):
    with pytest.raises(SystemExit):
        program.main(typed)
    assert capsys.readouterr().err == f"error: missing: {missing}. All options: --help\n"


def test_a_disk_that_refuses_is_one_line_and_exit_code_3_whatever_the_verb(monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/there/report.html")

    monkeypatch.setattr(cache, "main", full)
    with pytest.raises(SystemExit) as end:
        program.main(["cache"])
    line = "error: /there/report.html: No space left on device. Make room, or allow reading and writing there.\n"
    assert (end.value.code, capsys.readouterr().err) == (3, line)


def test_a_program_ends_with_its_output_whole_and_without_pythons_own_end():
    """There XLA's threads may still give arrays back, which aborts."""
    code = (
        "import atexit; atexit.register(print, 'late'); from vgg_flax.__main__ import program; program(['--version'])"
    )
    done = run("-c", code, capture_output=True)
    assert (
        (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("vgg-flax ") and "late" not in done.stdout
    )
