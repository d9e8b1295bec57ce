"""The real window, on a screen that only exists in memory: shown, drawn, paused, recorded, and closed in each way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from misbehaving import MjpegServer
from test_webcam import command, read_video, save_clip, save_tiny_model
from test_webcam_sources import server  # noqa: F401  (a fixture)

TOOLS = ("Xvfb", "xdotool", "openbox", "wmctrl", "xwininfo")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: apt-get install xvfb xdotool openbox wmctrl x11-utils"
)
PATIENT = 60.0  # seconds
GEOMETRY = ("Absolute upper-left X", "Absolute upper-left Y", "Width", "Height")
GROUND, ORANGE = (30, 27, 26), (70, 185, 250)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds `run`, a finished run, and `clip.avi`, a minute and a half long."""
    base = tmp_path_factory.mktemp("window")
    save_tiny_model(base / "run" / "model")
    save_clip(base / "clip.avi", frames=900)
    return base


@pytest.fixture(scope="module")
def screen(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment of a program on a virtual screen with a window manager; FRAMES is where its picture lies."""
    frames = tmp_path_factory.mktemp("frames")
    reading, writing = os.pipe()
    arguments = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-fbdir", str(frames)]
    display = subprocess.Popen(arguments, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        environment = os.environ | {"DISPLAY": f":{pipe.readline().strip()}", "FRAMES": str(frames)}
    manager = subprocess.Popen(["openbox"], env=environment, stderr=subprocess.DEVNULL)
    yield environment
    for process in (manager, display):
        process.terminate()
        process.wait(PATIENT)


def ask(screen: dict[str, str], *arguments: str) -> str:
    return subprocess.run(arguments, env=screen, capture_output=True, text=True, timeout=PATIENT).stdout.strip()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


class View:
    """A webcam.py at work in a window on the screen."""

    def __init__(self, screen: dict[str, str], running: subprocess.Popen[str]):
        self.running = running
        self._screen, self._number = screen, ""
        wait_for(lambda: running.poll() is not None or self._found())
        if running.poll() is not None:
            raise AssertionError(running.communicate()[1])
        wait_for(lambda: self.count(GROUND) > 1000)  # its first view

    def _found(self) -> bool:
        found = ask(self._screen, "xdotool", "search", "--onlyvisible", "--pid", str(self.running.pid)).splitlines()
        self._number = found[-1] if found else ""
        return bool(found)

    def picture(self) -> np.ndarray:
        """What the window shows, uint8 BGR `[height, width, 3]`: cut out of the screen, an XWD file."""
        data = (Path(self._screen["FRAMES"]) / "Xvfb_screen0").read_bytes()
        header = struct.unpack(">25I", data[:100])
        start, width, height, line = header[0] + 12 * header[19], header[4], header[5], header[12]
        rows = np.frombuffer(data[start : start + line * height], np.uint8).reshape(height, line)
        picture = rows[:, : 4 * width].reshape(height, width, 4)[:, :, :3]
        lines = ask(self._screen, "xwininfo", "-id", self._number)
        x, y, wide, high = (int(re.search(rf"{name}:\s+(-?\d+)", lines)[1]) for name in GEOMETRY)  # type: ignore[index]
        return picture[max(0, y) : y + high, max(0, x) : x + wide].copy()

    def count(self, colour: tuple[int, int, int]) -> int:
        """Pixels of about that colour, BGR."""
        return int((np.abs(self.picture().astype(int) - colour).sum(-1) < 30).sum())

    def press(self, *keys: str) -> None:
        # Not `key --window`: when the press closes the window, the release is lost, and the key stays down for ever.
        ask(self._screen, "xdotool", "windowactivate", "--sync", self._number)
        for key in keys:
            ask(self._screen, "xdotool", "key", key)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        for (x, y), action in ((start, "mousedown"), (end, "mouseup")):
            ask(self._screen, "xdotool", "mousemove", "--window", self._number, str(x), str(y))
            time.sleep(0.2)
            ask(self._screen, "xdotool", action, "1")
            time.sleep(0.2)
        self.mouse_away()

    def mouse_away(self) -> None:
        ask(self._screen, "xdotool", "mousemove", "1279", "799")
        time.sleep(0.2)

    def resize(self, width: int, height: int) -> None:
        ask(self._screen, "xdotool", "windowsize", "--sync", self._number, str(width), str(height))

    def close_button(self) -> None:
        ask(self._screen, "wmctrl", "-i", "-c", hex(int(self._number)))

    def ended(self) -> tuple[int, str, str]:
        """Exit code, standard output and error, once it has ended."""
        out, err = self.running.communicate(timeout=PATIENT)
        return self.running.returncode, out, err


@pytest.fixture
def look(screen, folder) -> Iterator[Callable[..., View]]:
    """Opens a view; whatever happens, it is gone after the test."""
    opened: list[subprocess.Popen[str]] = []

    def look(*more: object, source: object = None) -> View:
        arguments = command("--model", folder / "run", "--source", source or folder / "clip.avi", *more)
        opened.append(
            subprocess.Popen(arguments, env=screen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return View(screen, opened[-1])

    yield look
    for running in opened:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("way", ["q", "Escape", "close"])
def test_window_shows_frames_and_closes_cleanly(look, way):
    view = look()
    before = view.picture()
    wait_for(lambda: (view.picture() != before).mean() > 0.05)
    view.close_button() if way == "close" else view.press(way)
    code, out, err = view.ended()
    assert (code, err) == (0, ""), err
    labelled = int(out.split(" labels in")[0].split("\n")[-1])
    assert 0 < labelled < 900, "it must stop when asked to, not at the end of the clip"


def test_a_clip_plays_at_its_own_rate_and_is_labelled_meanwhile(screen, folder):
    arguments = command("--model", folder / "run", "--source", folder / "clip.avi", "--max-frames", "11")
    done = subprocess.run(arguments, env=screen, capture_output=True, text=True, timeout=PATIENT)
    assert done.returncode == 0, done.stderr
    seconds = float(done.stdout.split("11 labels in ")[1].split(" s")[0])
    assert seconds >= 0.9, "eleven frames at ten a second last a second"


def test_a_pause_holds_the_picture_and_says_so(look):
    view = look()
    view.press("space")
    wait_for(lambda: (np.abs(view.picture()[:80, :200].astype(int) - ORANGE).sum(-1) < 40).sum() > 20)
    time.sleep(0.3)
    held = view.picture()
    time.sleep(0.4)  # four frames long
    np.testing.assert_array_equal(view.picture(), held)
    view.press("space")
    wait_for(lambda: (view.picture() != held).mean() > 0.05)
    view.press("q")
    assert view.ended()[0] == 0


def test_text_is_drawn_for_the_size_of_the_window(look):
    view = look()
    view.press("space")
    view.resize(1200, 500)
    wait_for(lambda: view.picture().shape == (500, 1200, 3))
    wait_for(lambda: (np.abs(view.picture()[250, 720:1190].astype(int) - GROUND).sum(-1) < 3).all())
    picture = view.picture()
    inside = np.flatnonzero((picture[250] != GROUND).any(-1))
    assert inside.max() - inside.min() + 1 == pytest.approx(500 * 4 / 3, abs=20), "the picture keeps its proportions"
    view.press("q")
    assert view.ended()[0] == 0


def test_keys_keep_a_picture_record_and_mirror(look, tmp_path):
    view = look("--project", tmp_path)
    view.press("r")
    wait_for(lambda: list(tmp_path.glob("live/*.mp4")))
    time.sleep(1.5)
    view.press("s", "m", "h", "h", "n", "g", "r", "s")
    wait_for(lambda: len(list(tmp_path.glob("live/*.json"))) == 2)  # each time s is pressed is one picture
    view.press("q")
    code, out, err = view.ended()
    assert (code, err) == (0, "")
    frames = [path for path in (tmp_path / "live").glob("*.png") if ".view" not in path.name]
    assert len(frames) == 2
    for path in frames:
        assert cv2.imread(str(path)).shape == (120, 160, 3), "the frame as it came, not the view"
        said = json.loads(path.with_suffix(".json").read_text())
        assert said["verdict"] and said["label"] and said["source"].endswith("clip.avi")
        assert cv2.imread(str(path.with_suffix(".view.png"))).shape[0] >= 360
        assert f"wrote {path}" in out
    (video,) = (tmp_path / "live").glob("*.mp4")
    written = int(out.split(f"wrote {video} (")[1].split(" ")[0])
    assert len(read_video(video)) == written >= 10


def test_a_dragged_rectangle_is_the_region(look):
    view = look()
    view.press("space")
    view.mouse_away()
    before = view.picture()
    view.drag((100, 100), (300, 300))
    wait_for(lambda: (view.picture() != before).any())
    wait_for(lambda: (view.picture() != before)[:, 490:].any())  # what is said of it, though nothing moves
    changed = (view.picture() != before).any(-1)[:, :470]
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    np.testing.assert_allclose([rows.min(), columns.min(), rows.max(), columns.max()], [100, 100, 300, 300], atol=3)
    assert not changed[110:290, 110:290].any(), "its edges are drawn, and nothing else"
    view.press("q")
    assert view.ended()[0] == 0


def test_a_folder_names_its_pictures_keeps_their_proportions_and_holds_the_last(look, tmp_path):
    (tmp_path / "photos").mkdir()
    for name, size in (("1_wide", (100, 400)), ("2_tall", (400, 100))):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), np.full((*size, 3), (200, 80, 220), np.uint8))
    view = look(source=tmp_path / "photos")

    def proportions() -> float:
        pink = (np.abs(view.picture().astype(int) - (200, 80, 220)).sum(-1) < 10).nonzero()
        return (np.ptp(pink[0]) + 1) / (np.ptp(pink[1]) + 1) if len(pink[0]) else 0.0

    wait_for(lambda: proportions() == pytest.approx(4, rel=0.1))
    time.sleep(1.0)
    assert view.running.poll() is None, "the last picture stays"
    view.press("q")
    code, out, _ = view.ended()
    assert code == 0 and "2 labels in" in out and "2_tall.png" in out


def test_what_a_key_asks_for_in_a_pause_is_answered(look, tmp_path):
    view = look("--project", tmp_path)
    view.press("space")
    view.mouse_away()
    time.sleep(0.5)
    before = view.picture()
    view.press("s")
    wait_for(lambda: (view.picture() != before).any())  # it says where it is kept,
    wait_for(lambda: (view.picture() == before).all())  # and not for ever
    view.press("g")
    wait_for(lambda: (view.picture() != before)[:40, :300].any())  # "seen: " and the class
    view.press("q")
    assert view.ended()[0] == 0


def test_a_folder_with_a_number_of_labels_ends_there(screen, folder, tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.full((100, 400, 3), (200, 80, 220), np.uint8))
    arguments = command("--model", folder / "run", "--source", tmp_path, "--max-frames", "1")
    done = subprocess.run(arguments, env=screen, capture_output=True, text=True, timeout=PATIENT)
    assert done.returncode == 0 and "1 labels in" in done.stdout


def test_a_lost_signal_takes_the_label_away_in_the_window(look, server: MjpegServer):  # noqa: F811
    view = look(source=server.url("stall"))
    wait_for(lambda: view.count((95, 95, 240)) > 50)
    view.press("q")
    assert view.ended()[0] == 0


def test_a_closed_terminal_ends_a_window_in_order(look):
    view = look()
    view.running.send_signal(signal.SIGHUP)
    code, out, err = view.ended()
    assert (code, err) == (129, "")
    assert "labels in" in out
