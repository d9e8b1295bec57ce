"""The real window, on a screen that only exists in memory: shown, drawn, paused, and closed in each possible way."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_webcam import command, save_clip, save_tiny_model

TOOLS = ("Xvfb", "xdotool", "openbox", "wmctrl")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: apt-get install xvfb xdotool openbox wmctrl"
)
TITLE = "^vgg_flax: run"
PATIENT = 60.0  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds `run`, a finished run, and `clip.avi`, half a minute long."""
    base = tmp_path_factory.mktemp("window")
    save_tiny_model(base / "run" / "model")
    save_clip(base / "clip.avi", frames=300)
    return base


@pytest.fixture(scope="module")
def screen() -> Iterator[dict[str, str]]:
    """The environment of a program on a virtual screen with a window manager."""
    reading, writing = os.pipe()
    arguments = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24"]
    server = subprocess.Popen(arguments, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        environment = os.environ | {"DISPLAY": f":{pipe.readline().strip()}"}  # written once it accepts windows
    manager = subprocess.Popen(["openbox"], env=environment, stderr=subprocess.DEVNULL)
    yield environment
    for process in (manager, server):
        process.terminate()
        process.wait(PATIENT)


def ask(screen: dict[str, str], *arguments: str) -> str:
    return subprocess.run(arguments, env=screen, capture_output=True, text=True, timeout=PATIENT).stdout.strip()


def press(screen: dict[str, str], window: str, key: str) -> None:
    # Not `key --window`: when the press closes the window, the release is lost, and the key stays down for ever.
    ask(screen, "xdotool", "windowactivate", "--sync", window)
    ask(screen, "xdotool", "key", key)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def open_webcam(screen: dict[str, str], folder: Path, rows: Path) -> tuple[subprocess.Popen[str], str]:
    """A running webcam.py whose window is on the screen and has shown a few frames, and the window's number."""
    arguments = command("--model", folder / "run", "--source", folder / "clip.avi", "--json", rows)
    running = subprocess.Popen(arguments, env=screen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: running.poll() is not None or (rows.exists() and rows.read_text().count("\n") > 3))
    if running.poll() is not None:
        raise AssertionError(running.communicate()[1])
    return running, ask(screen, "xdotool", "search", "--name", TITLE).splitlines()[-1]


@pytest.mark.parametrize("way", ["q", "Escape", "close"])
def test_window_shows_frames_and_closes_cleanly(screen, folder, tmp_path, way):
    rows = tmp_path / "out.jsonl"
    running, number = open_webcam(screen, folder, rows)
    geometry = ask(screen, "xdotool", "getwindowgeometry", number)
    if way == "close":
        ask(screen, "wmctrl", "-c", "vgg_flax: run")
    else:
        press(screen, number, way)
    out, err = running.communicate(timeout=PATIENT)
    assert (running.returncode, err) == (0, ""), err
    assert "Geometry: 640x480" in geometry
    labelled = rows.read_text().count("\n")
    assert labelled < 300, "it must stop when asked to, not at the end of the clip"
    assert f"{labelled} frames" in out


def test_space_pauses_and_goes_on(screen, folder, tmp_path):
    rows = tmp_path / "out.jsonl"
    running, number = open_webcam(screen, folder, rows)
    press(screen, number, "space")
    wait_for(lambda: "(paused)" in ask(screen, "xdotool", "getwindowname", number))
    before = rows.read_text()
    time.sleep(0.4)  # four frames long
    assert rows.read_text() == before
    press(screen, number, "space")
    wait_for(lambda: len(rows.read_text()) > len(before))
    press(screen, number, "q")
    assert running.wait(PATIENT) == 0
    running.communicate()


def test_clip_plays_no_faster_than_it_was_filmed(screen, folder, tmp_path):
    arguments = command("--model", folder / "run", "--source", folder / "clip.avi", "--max-frames", "11")
    done = subprocess.run(arguments, env=screen, capture_output=True, text=True, timeout=PATIENT)
    assert done.returncode == 0, done.stderr
    seconds = float(done.stdout.split("11 frames in ")[1].split(" s")[0])
    assert seconds >= 0.9, "eleven frames at ten a second last a second"
