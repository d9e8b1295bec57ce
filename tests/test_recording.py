"""`--save`: whatever ends a recording, the file plays, and what is said of it is what a reader finds."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from vgg_flax.errors import NotSaved, UserError
from vgg_flax.live import recording
from vgg_flax.live.recording import KINDS, Recording

ENDINGS = list(KINDS)
FPS = 15.0
WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_recording import view
from vgg_flax.live.recording import Recording
recording = Recording(Path(sys.argv[1]), 15.0)
for i in range(int(sys.argv[2])):
    recording.add_view(view(i), i / 15.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def view(number: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Noise, which no encoder makes small, under a number written in grey levels of its left half."""
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    noise[:, : width // 2] = 40 + number * 10 % 180
    return noise


def level(image: np.ndarray) -> int:
    return round(float(image[:, : image.shape[1] // 4].mean()))


def read_video(path: Path) -> list[np.ndarray]:
    """Every frame that OpenCV, which has an FFmpeg of its own, decodes."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (grabbed := capture.read())[0]:
        frames.append(grabbed[1])
    capture.release()
    return frames


def record(path: Path, count: int) -> Recording:
    made = Recording(path, FPS)
    for number in range(count):
        made.add_view(view(number), number / FPS)
    return made


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_view_can_be_read_again_with_its_colours_and_at_its_time(tmp_path, ending):
    made = record(tmp_path / f"out{ending}", 40)
    made.close()
    frames = read_video(made.path)
    assert made.frames == len(frames) == 40
    assert str(made) == f"{made.path} (40 frames)"
    np.testing.assert_allclose([level(frame) for frame in frames], [level(view(i)) for i in range(40)], atol=4)
    capture = cv2.VideoCapture(str(made.path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(FPS, rel=0.01)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(40, rel=0.02), "players show it as the duration"
    capture.release()


@pytest.mark.parametrize("ending", ENDINGS)
def test_colours_are_not_swapped(tmp_path, ending):
    made = Recording(tmp_path / f"out{ending}", FPS)
    made.add_view(np.full((64, 64, 3), (200, 40, 20), np.uint8), 0.0)
    made.close()
    np.testing.assert_allclose(read_video(made.path)[0].mean((0, 1)), (200, 40, 20), atol=6)


def test_recording_keeps_the_time_of_uneven_frames_and_cuts_gaps(tmp_path):
    made = Recording(tmp_path / "out.avi", fps=10.0)
    views = {0.0: 0, 0.31: 60, 0.33: 120, 0.62: 180, 100.0: 240, 7.0: 20, 7.1: 40}
    for time_s, value in views.items():
        made.add_view(np.full((360, 400, 3), value, np.uint8), time_s)
    made.close()
    levels = [round(float(image.mean())) for image in read_video(made.path)]
    np.testing.assert_allclose(levels, [0, 60, 60, 60, 180, 180, 180, 240, 20, 40], atol=4)


def test_a_frame_that_lasts_long_in_a_recorded_source_lasts_as_long(tmp_path):
    made = Recording(tmp_path / "out.avi", fps=10.0, longest_gap=60.0)
    for time_s in (0.0, 0.1, 8.0):
        made.add_view(view(3), time_s)
    made.close()
    assert made.frames == 81


def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = record(Path("12:30.mp4"), 5)
    made.close()
    assert made.frames == 5


@pytest.mark.parametrize("ending", ENDINGS)
def test_recording_letterboxes_frames_of_another_size(tmp_path, ending):
    made = Recording(tmp_path / f"out{ending}", fps=10.0)
    made.add_view(np.full((401, 639, 3), 200, np.uint8), 0.0)
    made.add_view(np.full((800, 640, 3), 200, np.uint8), 0.1)
    made.close()
    first, second = read_video(made.path)
    assert first.shape == second.shape == (402, 640, 3), "sides are even"
    assert second[200, 320].min() > 180
    assert second[200, 100].max() < 40, "the sides of the taller picture stay black"


def test_frames_that_are_reported_are_counted_in_the_file(tmp_path, monkeypatch):
    made = record(tmp_path / "out.mp4", 20)
    assert made.frames == 20
    monkeypatch.setattr(recording, "count_frames", lambda path: 7 if path == made.path else 0)
    made.close()
    assert str(made) == f"{made.path} (7 frames)"


def test_frame_rates_that_are_fractions_stay_what_they_are(tmp_path):
    made = Recording(tmp_path / "out.mp4", fps=30000 / 1001)
    for number in range(60):
        made.add_view(view(number), number * 1001 / 30000)
    made.close()
    capture = cv2.VideoCapture(str(made.path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=0.01)
    capture.release()
    assert made.frames == 60


@pytest.mark.parametrize("ending", ENDINGS)
def test_killed_process_leaves_a_file_that_plays(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    arguments = [sys.executable, "-c", WRITER, str(path), "90", str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    frames = read_video(path)
    assert len(frames) >= 90 - FPS, "at most a second is lost"
    np.testing.assert_allclose([level(one) for one in frames], [level(view(i)) for i in range(len(frames))], atol=4)
    assert list(tmp_path.iterdir()) == [path], "and nothing else"


# A disk that is full


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Files of this process can't grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def tiny_disk(tmp_path) -> Iterator[Path]:
    """A file system of 400 kB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_refused(path: Path, reason: str) -> None:
    """A recording that goes on until the disk refuses ends with one right line, and what is there plays."""
    made = Recording(path, FPS)
    with pytest.raises(NotSaved, match=reason) as error:
        for number in range(500):
            made.add_view(view(number), number / FPS)
    assert error.value.code == 3
    assert "\n" not in str(error.value)
    assert f"first {made.frames} frames are there" in str(error.value)
    made.close()
    frames = read_video(path)
    assert 5 < made.frames == len(frames) < 500
    np.testing.assert_allclose([level(one) for one in frames], [level(view(i)) for i in range(len(frames))], atol=4)


@pytest.mark.parametrize("ending", ENDINGS)
def test_full_disk_ends_the_recording_with_one_line_and_what_is_there_plays(tiny_disk, ending):
    assert_refused(tiny_disk / f"out{ending}", "No space left on device")


@pytest.mark.parametrize("ending", ENDINGS)
def test_file_that_may_not_grow_ends_the_recording_with_one_line(tmp_path, ending):
    with limited(400_000):
        assert_refused(tmp_path / f"out{ending}", "File too large")


@pytest.mark.parametrize("ending", ENDINGS)
def test_disk_that_refuses_only_the_end_of_the_file_is_told(tmp_path, ending):
    made = record(tmp_path / f"out{ending}", 45)
    with limited(made.path.stat().st_size), pytest.raises(NotSaved, match="File too large"):
        made.close()
    assert 30 <= made.frames == len(read_video(made.path))


@pytest.mark.parametrize("ending", ENDINGS)
def test_disk_that_takes_nothing_keeps_no_file(tmp_path, ending):
    made = Recording(tmp_path / f"out{ending}", FPS)
    with limited(0), pytest.raises(NotSaved, match="nothing was kept"):
        for number in range(60):
            made.add_view(view(number), number / FPS)
    made.close()
    assert made.frames == 0
    assert not made.path.exists(), "an empty file would stop the next try"


# Mistakes


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("out.txt", r"expected a name that ends in \.mp4, \.mkv, \.webm, \.avi"),
        ("out", "expected a name that ends in"),
        ("nowhere/out.mp4", "there is no folder"),
        ("mine.mp4", "exists already"),
        ("dangling.mp4", "exists already"),
        ("folder.mp4", "exists already"),
        ("x" * 300 + ".mp4", "File name too long"),
    ],
)
def test_names_that_can_not_be_written_are_refused_before_anything_is_made(tmp_path, name, complaint):
    (tmp_path / "mine.mp4").write_text("mine")
    (tmp_path / "dangling.mp4").symlink_to("gone")
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=complaint) as error:
        Recording(tmp_path / name, FPS)
    assert error.value.code == 2
    assert sorted(tmp_path.iterdir()) == before


def test_ffmpeg_without_a_codec_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    import av

    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    record(tmp_path / "out.mp4", 3).close()
    assert len(read_video(tmp_path / "out.mp4")) == 3, "MPEG-4 Part 2 instead"
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(UserError, match=r"the FFmpeg of this PyAV can't write \.webm"):
        Recording(tmp_path / "out.webm", FPS)


def test_folder_that_may_not_be_written_to_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere but on a read-only disk
        monkeypatch.setattr(recording.os, "access", lambda path, mode: path != folder)
    with pytest.raises(UserError, match="closed can't be written to"):
        Recording(folder / "out.mp4", FPS)


def test_file_that_appears_after_the_start_is_left_alone(tmp_path):
    made = Recording(tmp_path / "out.avi", fps=10.0)
    made.path.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        made.add_view(np.zeros((360, 400, 3), np.uint8), 0.0)
    assert made.path.read_text() == "mine"


def test_recording_without_a_view_leaves_nothing(tmp_path):
    made = Recording(tmp_path / "out.mp4", FPS)
    made.close()
    assert list(tmp_path.iterdir()) == []
