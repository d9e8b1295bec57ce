"""What `--source` brings: all frames of a recording, the newest one of anything live, and never an invented one."""

from __future__ import annotations

import http.server
import queue
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import cv2
import numpy as np
import pytest

from vgg_flax.errors import UserError
from vgg_flax.live import capture, newest
from vgg_flax.live.capture import Frame
from vgg_flax.live.newest import LiveSource
from vgg_flax.live.sources import open_source

PATIENT = 10.0  # seconds after which a test that waits has failed


def picture(value: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def level(frame: Frame) -> int:
    return round(float(frame.image.mean()))


def next_frame(frames: Iterator[Frame | None]) -> Frame:
    """The next frame that comes, however often the source says before that there is none."""
    deadline = time.monotonic() + PATIENT
    for frame in frames:
        if frame is not None:
            return frame
        assert time.monotonic() < deadline, "no frame came"
    raise AssertionError("the source ended")


class ScriptedCapture:
    """A camera that does as it is told: pictures, False (a failed read), None, an empty array, or an exception."""

    def __init__(self) -> None:
        self.script: queue.Queue[Any] = queue.Queue()
        self.waiting = threading.Semaphore(0)  # released each time the reader has used up the script
        self.released = threading.Event()

    def tell(self, *steps: Any) -> ScriptedCapture:
        for step in steps:
            self.script.put(step)
        return self

    def grab(self) -> bool:
        if self.script.empty():
            self.waiting.release()
        while not self.released.is_set():
            try:
                self._step = self.script.get(timeout=0.05)
                return self._step is not False
            except queue.Empty:
                continue
        return False

    def retrieve(self) -> tuple[bool, Any]:
        if isinstance(self._step, Exception):
            raise self._step
        return True, self._step

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LiveSource]]:
    """Builds live sources from captures, which are opened one after the other; then there are none."""
    monkeypatch.setattr(newest, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(newest, "LAST_DELAY", 0.05)
    monkeypatch.setattr(newest, "POLL", 0.02)
    made: list[tuple[LiveSource, tuple[ScriptedCapture, ...]]] = []

    def build(*captures: ScriptedCapture, **options: Any) -> LiveSource:
        opened = iter(captures)
        source = LiveSource("camera 0", lambda: next(opened, None), **options)  # type: ignore[arg-type]
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
    assert (frame.index, level(frame)) == (49, 59)
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


def test_lost_camera_is_released_and_reopened(live):
    first = ScriptedCapture().tell(picture(1), *[False] * capture.MISSES)
    second = ScriptedCapture().tell(picture(2))
    frames = iter(live(first, second))
    seen = [level(next_frame(frames))]
    if seen == [1]:  # frame 1 may have been overtaken by frame 2
        seen.append(level(next_frame(frames)))
    assert seen[-1] == 2
    assert first.released.is_set()
    assert not second.released.is_set()


def test_silent_source_is_given_up_with_one_line(live, monkeypatch):
    monkeypatch.setattr(newest, "PATIENCE", 0.2)
    frames = iter(live(ScriptedCapture().tell(*[False] * capture.MISSES)))
    with pytest.raises(UserError, match="camera 0: no frame for"):
        next_frame(frames)


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


@pytest.mark.parametrize("is_camera", [True, False])
def test_only_a_camera_is_frozen_when_it_repeats_itself(live, monkeypatch, is_camera):
    monkeypatch.setattr(newest, "FROZEN", 0.0)  # the first repetition counts
    camera = ScriptedCapture().tell(picture(5))
    frames = iter(live(camera, camera=is_camera))
    assert level(next_frame(frames)) == 5
    camera.tell(picture(5))
    if is_camera:
        assert camera.released.wait(PATIENT), "a frozen camera is opened anew"
        assert next(frames) is None
    else:
        assert level(next_frame(frames)) == 5


# Recordings


def no_warning(text: str) -> None:
    raise AssertionError(f"unexpected: {text}")


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_video_gives_every_frame_in_order_with_its_time(tmp_path, name):
    codec = cv2.VideoWriter.fourcc(*("MJPG" if name.endswith("avi") else "mp4v"))
    writer = cv2.VideoWriter(str(tmp_path / name), codec, 10.0, (64, 48))
    for value in range(0, 200, 10):
        writer.write(picture(value, 48, 64))
    writer.release()
    source = open_source(str(tmp_path / name), no_warning)
    frames = list(source)
    source.close()
    assert [frame.index for frame in frames if frame] == list(range(20))
    np.testing.assert_allclose([level(frame) for frame in frames if frame], range(0, 200, 10), atol=4)
    np.testing.assert_allclose([frame.time_s for frame in frames if frame], np.arange(20) / 10)


def test_video_that_is_cut_short_says_so(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    whole = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    warnings: list[str] = []
    source = open_source(str(tmp_path / "cut.avi"), warnings.append)
    frames = list(source)
    source.close()
    assert 0 < len(frames) < 20
    assert warnings and f"ended after {len(frames)} of 20 frames" in warnings[0]


def test_folder_gives_its_pictures_by_name_and_names_the_unreadable(tmp_path):
    sizes = {"b.png": (20, 30), "a.jpg": (300, 200), "C.PNG": (5, 7)}
    for value, (name, size) in enumerate(sizes.items()):
        cv2.imwrite(str(tmp_path / name), picture(50 * value, *size))
    (tmp_path / "bad.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    warnings: list[str] = []
    frames = [frame for frame in open_source(str(tmp_path), warnings.append) if frame]
    assert [frame.file for frame in frames] == ["C.PNG", "a.jpg", "b.png"]
    assert [frame.image.shape[:2] for frame in frames] == [(5, 7), (300, 200), (20, 30)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert warnings == ["bad.jpg skipped: an HTML or XML page, not a picture"]


def test_picture_file_comes_as_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((8, 8, 3), (255, 0, 0), np.uint8))
    (frame,) = open_source(f"file://{tmp_path}/blue.png", no_warning)
    assert frame is not None
    assert frame.image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere.mp4", "no such file"),
        ("-1", "no such file"),
        ("text.mp4", "not a video"),
        ("empty.mp4", "not a video"),
        ("folder", "no pictures"),
        ("765432", "camera 765432 can't be opened"),
        ("http://127.0.0.1:9/live", "can't be opened"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(tmp_path, monkeypatch, source, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UserError, match=complaint) as error:
        open_source(source, no_warning)
    assert "\n" not in str(error.value)


def test_folder_and_file_without_a_readable_picture_are_refused(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    for source in (tmp_path, tmp_path / "broken.jpg"):
        with pytest.raises(UserError, match="no readable picture"):
            list(open_source(str(source), lambda text: None))


# Streams: a loopback server that behaves, or doesn't


class MjpegServer(http.server.ThreadingHTTPServer):
    """Motion JPEG over HTTP. Paths: /ok, /junk (one bad part), /close (after 8 frames), /stall (after 8), /silent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MjpegHandler)
        self.stopping = threading.Event()
        self.connections = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, mode: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{mode}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client hanging up is part of the game


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    server: MjpegServer

    def do_GET(self) -> None:
        self.server.connections += 1
        mode = self.path.strip("/")
        if mode == "silent":
            self.server.stopping.wait()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        self.end_headers()
        for number in count():
            if mode in ("close", "stall") and number == 8:
                break
            bad = mode == "junk" and number == 6
            data = b"junk" * 50 if bad else cv2.imencode(".jpg", picture(100, 48, 64))[1].tobytes()
            self.wfile.write(b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
            self.wfile.write(data + b"\r\n")
            if self.server.stopping.wait(0.02):
                return
        if mode == "stall":
            self.server.stopping.wait()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[MjpegServer]:
    monkeypatch.setattr(capture, "TIMEOUT", 0.5)
    monkeypatch.setattr(newest, "FIRST_DELAY", 0.05)
    with MjpegServer() as running:
        yield running
        running.stopping.set()
        running.shutdown()


@pytest.mark.parametrize("mode", ["ok", "junk", "close"])
def test_stream_goes_on_past_junk_and_a_closed_connection(server, mode):
    source = open_source(server.url(mode), no_warning)
    connections = server.connections
    try:
        frames = iter(source)
        seen = [next_frame(frames) for _ in range(12)]
        assert all(abs(level(frame) - 100) <= 3 for frame in seen), "every frame is one that the server sent"
        assert [frame.index for frame in seen] == sorted({frame.index for frame in seen})
        assert (server.connections > connections) == (mode == "close")
    finally:
        source.close()


def test_stalled_stream_yields_nothing_more_and_is_given_up(server, monkeypatch):
    monkeypatch.setattr(newest, "PATIENCE", 1.0)
    source = open_source(server.url("stall"), no_warning)
    monkeypatch.setattr(source, "_open", lambda: None)  # it stays away
    seen = []
    try:
        with pytest.raises(UserError, match="no frame for"):
            for frame in source:
                seen.append(frame)  # noqa: PERF402  (extend would keep nothing when it raises)
    finally:
        source.close()
    assert seen[-1] is None
    assert len([frame for frame in seen if frame]) <= 8, "a stalled stream has no more frames than were sent"


def test_silent_server_is_refused_in_time(server):
    started = time.monotonic()
    with pytest.raises(UserError, match="can't be opened"):
        open_source(server.url("silent"), no_warning)
    assert time.monotonic() - started < 5


def test_password_of_a_stream_is_not_shown():
    with pytest.raises(UserError) as error:
        open_source("http://me:secret@127.0.0.1:9/live", no_warning)
    assert "secret" not in str(error.value)
