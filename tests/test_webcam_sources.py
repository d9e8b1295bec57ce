"""Live sources: the newest frame, its true age, its faults, and never an invented one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from misbehaving import PATIENT, MjpegServer, ScriptedCapture, level, next_frame, no_warning, picture, wait_for

from vgg_flax.errors import UserError
from vgg_flax.live import cameras, capture, newest
from vgg_flax.live.capture import DAMAGED, FROZEN, OpenCV, Unavailable
from vgg_flax.live.clock import LATEST, PROOF, WINDOW, SourceClock
from vgg_flax.live.newest import LiveSource
from vgg_flax.live.sources import open_source


@pytest.fixture
def server(monkeypatch) -> Iterator[MjpegServer]:
    """A loopback server; whoever waits for it loses patience soon."""
    monkeypatch.setattr(capture, "TIMEOUT", 0.5)
    monkeypatch.setattr(newest, "FIRST_DELAY", 0.05)
    with MjpegServer() as running:
        yield running
        running.stopping.set()
        running.shutdown()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LiveSource]]:
    """Builds live sources from captures, which are opened one after the other; then there are none."""
    monkeypatch.setattr(newest, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(newest, "LAST_DELAY", 0.05)
    monkeypatch.setattr(newest, "POLL", 0.02)
    made: list[tuple[LiveSource, tuple[ScriptedCapture, ...]]] = []

    def build(*captures: ScriptedCapture, **options: Any) -> LiveSource:
        left = list(captures)

        def opening() -> OpenCV:
            if not left:
                raise Unavailable("unplugged")
            return OpenCV(left.pop(0), camera=True)  # type: ignore[arg-type]

        source = LiveSource("camera 0", opening, **options)
        made.append((source, captures))
        return source

    yield build
    for source, captures in made:
        for one in captures:
            one.release()
        source.close()
        assert not source._thread.is_alive()


def test_live_source_drops_all_but_the_newest_frame(live):
    camera = ScriptedCapture().tell(*(picture(value) for value in range(10, 60)))
    frames = iter(live(camera))
    assert camera.waiting.acquire(timeout=PATIENT)
    frame = next_frame(frames)
    assert (frame.index, level(frame), frame.fault) == (49, 59, None)
    assert next(frames) is None, "a frame must not be handed out twice"


def test_failed_reads_yield_nothing_and_do_not_end_the_stream(live):
    camera = ScriptedCapture().tell(picture(1))
    frames = iter(live(camera))
    assert level(next_frame(frames)) == 1
    assert camera.waiting.acquire(timeout=PATIENT)
    camera.tell(False, None, np.empty((0, 0, 3), np.uint8), cv2.error("driver trouble"))
    assert camera.waiting.acquire(timeout=PATIENT)
    assert next(frames) is None
    camera.tell(picture(2, 100, 60))
    frame = next_frame(frames)
    assert (level(frame), frame.image.shape) == (2, (100, 60, 3)), "the size may change while it runs"
    assert not camera.released.is_set()


def test_grey_camera_frames_get_three_channels(live):
    assert next_frame(iter(live(ScriptedCapture().tell(np.full((4, 4), 7, np.uint8))))).image.shape == (4, 4, 3)


def test_lost_camera_is_released_and_reopened_and_the_trouble_is_over(live):
    first = ScriptedCapture().tell(picture(1), *[False] * capture.MISSES)
    second = ScriptedCapture().tell(picture(2))
    source = live(first, second)
    frames = iter(source)
    seen = [level(next_frame(frames))]
    if seen == [1]:  # frame 1 may have been overtaken by frame 2
        seen.append(level(next_frame(frames)))
    assert seen[-1] == 2
    assert first.released.is_set()
    assert not second.released.is_set()
    assert source.trouble is None


def test_silent_source_is_given_up_with_one_line_and_the_reason(live, monkeypatch):
    monkeypatch.setattr(newest, "PATIENCE", 0.3)
    source = live(ScriptedCapture().tell(*[False] * capture.MISSES))
    with pytest.raises(UserError, match=r"camera 0: no frame for .* \(unplugged\), given up"):
        next_frame(iter(source))
    assert source.trouble == "unplugged"


def test_hanging_driver_is_left_behind_and_its_late_frame_ignored(live, monkeypatch):
    monkeypatch.setattr(newest, "STALL", 0.1)
    hanging, healthy = ScriptedCapture(), ScriptedCapture().tell(picture(2))
    source = live(hanging, healthy)
    frames, stuck = iter(source), source._thread
    assert level(next_frame(frames)) == 2
    monkeypatch.setattr(newest, "STALL", PATIENT)
    hanging.tell(picture(99))
    stuck.join(PATIENT)
    assert hanging.released.is_set(), "the old thread must free its camera"
    assert next(frames) is None, "the late frame belongs to a thread that is no longer in charge"


def test_frame_that_waited_too_long_is_not_labelled(live, monkeypatch):
    camera = ScriptedCapture().tell(picture(1))
    frames = iter(live(camera))
    assert camera.waiting.acquire(timeout=PATIENT)
    monkeypatch.setattr(newest, "FRESH", 0.0)
    assert next(frames) is None


# Faults


@pytest.mark.parametrize("is_camera", [True, False])
def test_any_source_is_frozen_when_it_repeats_itself_and_recovers_at_once(live, monkeypatch, is_camera):
    monkeypatch.setattr(newest, "FIRST_REOPENING", 60.0)
    script = ScriptedCapture().tell(picture(5))
    again = ScriptedCapture()
    source = live(script, again, camera=is_camera, frozen_after=0.0)  # the first repetition counts
    frames = iter(source)
    assert next_frame(frames).fault is None
    script.tell(picture(5))
    frame = next_frame(frames)
    assert (level(frame), frame.fault, source.trouble) == (5, FROZEN, FROZEN), "it is shown, and why it has no label"
    if is_camera:
        assert script.released.wait(PATIENT), "a frozen camera is opened anew"
        again.tell(picture(5))
        assert next_frame(frames).fault == FROZEN
        assert again.waiting.acquire(timeout=PATIENT)
        assert not again.released.is_set(), "but not for ever: a covered lens looks the same"
    (again if is_camera else script).tell(picture(6))
    frame = next_frame(frames)
    assert (level(frame), frame.fault, source.trouble) == (6, None, None)


def test_covered_camera_is_a_fault_and_never_given_up(live, monkeypatch):
    monkeypatch.setattr(newest, "PATIENCE", 1.0)
    script = ScriptedCapture().tell(picture(0))
    frames = iter(live(script, frozen_after=0.0))
    assert next_frame(frames).fault is None
    ends = time.monotonic() + 1.5 * newest.PATIENCE
    while time.monotonic() < ends:
        script.tell(picture(0))
        assert next_frame(frames).fault == FROZEN
    assert next(frames) is None


def test_picture_that_changes_in_one_pixel_is_not_frozen(live):
    changed = picture(5)
    changed[7, 9] = 6  # beside the pixels of a coarse grid
    script = ScriptedCapture().tell(picture(5))
    frames = iter(live(script, frozen_after=0.0))
    next_frame(frames)
    script.tell(changed)
    assert next_frame(frames).fault is None


def test_grey_rows_of_a_camera_are_a_damaged_picture(live):
    damaged = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    damaged[20:] = 128
    script = ScriptedCapture().tell(damaged)
    source = live(script)
    frames = iter(source)
    assert next_frame(frames).fault == DAMAGED
    assert source.trouble == DAMAGED
    script.tell(picture(9))
    assert next_frame(frames).fault is None
    assert source.trouble is None


def test_silence_is_a_trouble_only_where_pictures_usually_come_faster(live, monkeypatch):
    script = ScriptedCapture().tell(picture(1))
    source = live(script)
    next_frame(iter(source))
    assert source.trouble is None
    monkeypatch.setattr(newest, "QUIET", 0.0)
    time.sleep(0.02)
    assert source.trouble == "no data for 0 s"
    source._distance = 10.0
    assert source.trouble is None
    assert source.quiet == 20.0


def test_distance_of_pictures_is_the_longest_lately(live):
    source = live(ScriptedCapture())
    for arrived in (0.0, 0.1, 2.1, 2.2):
        source._see(1, capture.Shot(picture(round(10 * arrived)), arrived), arrived)
    assert source.quiet == pytest.approx(4.0, rel=0.02), "it comes in bursts"
    for number in range(300):
        source._see(1, capture.Shot(picture(number % 200), 3 + number / 10), 0.0)
    assert source.quiet == newest.QUIET


def test_defect_in_the_capture_thread_is_raised_where_frames_are_taken(live):
    script = ScriptedCapture()
    source = live(script)
    source._repeats = None  # whatever it may be
    script.tell(picture(1))
    with pytest.raises(AttributeError):
        next_frame(iter(source))


# Time


def test_stamps_tell_the_true_age_of_frames_that_come_late_and_in_bursts():
    clock = SourceClock()
    assert clock.captured(1000.0, 50.0) == 50.0
    late = [clock.captured(1000.0 + i / 30, 52.0) for i in range(1, 61)]
    np.testing.assert_allclose(late, 50.0 + np.arange(1, 61) / 30)
    assert clock.captured(1002.1, 52.05) == pytest.approx(52.05), "less delayed than the first one was"
    assert clock.captured(1002.2, 53.0) == pytest.approx(52.15)


def test_stamp_on_our_own_clock_is_the_time_of_the_picture():
    clock = SourceClock()
    assert [clock.captured(50.0 + i, 50.03 + i) for i in range(3)] == [50.0, 51.0, 52.0], "0.03 s old, each of them"


def test_no_stamp_and_a_clock_that_was_set_count_as_now():
    clock = SourceClock()
    assert clock.captured(None, 7.0) == 7.0
    clock.captured(1000.0, 50.0)
    assert clock.captured(500.0, 51.0) == 51.0, "set back"
    assert clock.captured(501.0, 52.0) == 52.0
    assert clock.captured(501.1, 52.2 + LATEST) == pytest.approx(52.2 + LATEST), "it stood still"


def test_clock_that_runs_too_slowly_is_not_believed():
    clock = SourceClock()
    for second in range(int(PROOF) + 2):
        captured = clock.captured(1000 + 0.5 * second, float(second))
    assert captured == second


def test_clocks_that_drift_apart_stay_together():
    clock, drift = SourceClock(), 1 - 1e-3
    for second in range(int(4 * WINDOW)):
        captured = clock.captured(100 + drift * second, float(second))
    assert 0 <= second - captured < 2.1e-3 * WINDOW


def test_cameras_own_clock_is_used(live):
    script = ScriptedCapture()
    frames = iter(live(script))
    script.milliseconds = 5000.0
    script.tell(picture(1))
    first = next_frame(frames)
    assert script.waiting.acquire(timeout=PATIENT)
    script.milliseconds = 5001.0  # a thousandth of a second later, though it comes after more
    time.sleep(0.05)
    script.tell(picture(2))
    assert next_frame(frames).captured - first.captured == pytest.approx(0.001)


# Closing


def test_close_from_another_thread_ends_the_iteration_while_a_driver_hangs(live, monkeypatch):
    monkeypatch.setattr(newest, "STALL", 0.2)
    monkeypatch.setattr(newest, "POLL", PATIENT)
    hanging = ScriptedCapture()
    source = live(hanging)
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.extend(source))
    reader.start()
    source.close()
    reader.join(PATIENT / 2)
    assert not reader.is_alive()
    assert seen in ([], [None])


# Cameras of this computer. There is no virtual one in a container: real drivers are not tested here.


def test_cameras_are_listed_with_names_and_without_metadata_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(cameras.sys, "platform", "linux")
    nodes = {
        "video0": ("HD Webcam\n", 0x1),
        "video1": ("HD Webcam\n", 0x00800000),
        "video10": ("Capture\x1b[2J", 0x1000),
    }
    for node, (name, _) in nodes.items():
        (tmp_path / "sys" / node).mkdir(parents=True)
        (tmp_path / "sys" / node / "name").write_text(name)
    (tmp_path / "sys" / "video2").mkdir()  # without a name; another program has it
    (tmp_path / "sys" / "radio0").mkdir()
    found = cameras.list_cameras(
        tmp_path / "sys", Path("/dev"), lambda path: nodes[path.name][1] if path.name in nodes else None
    )
    assert found == [(0, "/dev/video0", "HD Webcam"), (2, "/dev/video2", "video2"), (10, "/dev/video10", "Capture[2J")]
    assert cameras.list_cameras(tmp_path / "nowhere") == []


def test_node_that_is_no_camera_is_asked_and_left_out(tmp_path):
    (tmp_path / "sys" / "video0").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "video0").write_text("a plain file does not answer")
    assert cameras.list_cameras(tmp_path / "sys", tmp_path / "dev") == []


def test_capabilities_of_the_device_count_and_not_those_of_its_driver(tmp_path, monkeypatch):
    import fcntl
    import struct

    def answer(every: int, device: int) -> Callable[..., int]:
        def ioctl(descriptor: int, request: int, data: bytearray) -> int:
            assert request == cameras.QUERYCAP
            struct.pack_into("=II", data, 84, every, device)
            return 0

        return ioctl

    (tmp_path / "video0").touch()
    monkeypatch.setattr(fcntl, "ioctl", answer(0x84A00001, 0x04A00000))  # UVC's metadata node
    assert cameras._capabilities(tmp_path / "video0") == 0x04A00000
    monkeypatch.setattr(fcntl, "ioctl", answer(0x04000001, 0))  # an old driver
    assert cameras._capabilities(tmp_path / "video0") == 0x04000001


class StubbornCamera(ScriptedCapture):
    """One that gives what it likes, whatever it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[int, float] = {}

    def isOpened(self) -> bool:
        return True

    def set(self, what: int, value: float) -> bool:
        self.asked[what] = value
        return True

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0, cv2.CAP_PROP_FPS: 30.0}.get(
            what, 0.0
        )


def test_resolution_and_rate_are_asked_for_and_what_comes_instead_is_said_once(monkeypatch):
    monkeypatch.setattr(newest, "FIRST_DELAY", 0.01)
    made = [StubbornCamera().tell(picture(1), *[False] * capture.MISSES), StubbornCamera().tell(picture(2))]
    left = iter(made)
    monkeypatch.setattr(cameras.cv2, "VideoCapture", lambda *_: next(left))
    notes: list[str] = []
    source = open_source("3", notes.append, resolution=(1280, 720), fps=60)
    wait_for(lambda: made[1].asked, "it is opened again")
    made[1].release()
    source.close()
    assert made[0].asked[cv2.CAP_PROP_FRAME_WIDTH] == 1280
    assert made[0].asked[cv2.CAP_PROP_FRAME_HEIGHT] == 720
    assert made[0].asked[cv2.CAP_PROP_FPS] == 60
    assert made[0].asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
    assert notes == [
        "camera 3 gives 640x480 pixels, not the 1280x720 of --resolution",
        "camera 3 gives 30 pictures a second, not the 60 of --fps",
    ]


def test_camera_that_is_not_there_is_named_with_those_that_are(monkeypatch):
    from vgg_flax.live import sources

    monkeypatch.setattr(sources.sys, "platform", "linux")
    monkeypatch.setattr(sources, "list_cameras", lambda: [(2, "/dev/video2", "HD Webcam")])
    with pytest.raises(UserError) as error:
        open_source("765432", no_warning)
    assert "camera 765432 can't be opened: there is no /dev/video765432. Cameras here: 2 (HD Webcam)." in str(
        error.value
    )
