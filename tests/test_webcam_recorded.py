"""Recorded sources: every frame of a video or a folder, in order, at its own time."""

from __future__ import annotations

import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from misbehaving import PATIENT, level, no_warning, picture

from vgg_flax.errors import UserError
from vgg_flax.live.sources import open_source


def write(path: Path, count: int = 20, size: tuple[int, int] = (64, 48), values: range | None = None) -> Path:
    codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, 10.0, size)
    for value in values or range(0, 10 * count, 10):
        writer.write(picture(value, size[1], size[0]))
    writer.release()
    return path


def frames_of(path: Path | str, warn=no_warning):
    source = open_source(str(path), warn)
    frames = [frame for frame in source if frame]
    source.close()
    return frames


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_video_gives_every_frame_in_order_with_its_time(tmp_path, name):
    frames = frames_of(write(tmp_path / name))
    assert [frame.index for frame in frames] == list(range(20))
    np.testing.assert_allclose([level(frame) for frame in frames], range(0, 200, 10), atol=4)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(20) / 10, atol=1e-6)


def test_video_of_a_variable_rate_has_the_times_it_was_filmed_at(tmp_path):
    times = [0, 40, 80, 400, 1400, 1440]
    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(40 * number, 48, 64), format="bgr24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = frames_of(tmp_path / "phone.mp4")
    np.testing.assert_allclose([frame.time_s for frame in frames], np.array(times) / 1000, atol=2e-3)


def test_video_of_few_frames_that_last_long_is_not_called_cut_short(tmp_path):
    with av.open(str(tmp_path / "screen.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(picture(20 * number, 48, 64), format="bgr24")
            frame.pts, frame.time_base = 1000 * number, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(frames_of(tmp_path / "screen.mkv")) == 10


@pytest.mark.parametrize("name", ["12:30.mp4", "odd\udcff.avi"])
def test_video_is_read_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write((tmp_path / "plain").with_suffix(Path(name).suffix)).rename(name)
    assert len([*open_source(name, no_warning)]) == 20


@pytest.mark.parametrize("stamps", [[0, 0, 0, 0], [100, 50, 20, 10], [0, 1e9, 2e9, 3e9], [float("nan")] * 4])
def test_stamps_that_lead_nowhere_are_replaced_by_the_frame_rate(stamps):
    from vgg_flax.live.recorded import _Times

    times = _Times(10.0)
    np.testing.assert_allclose([times.of(stamp) for stamp in stamps], [0, 0.1, 0.2, 0.3])


def test_video_that_is_cut_short_says_so(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    whole = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    warnings: list[str] = []
    frames = frames_of(tmp_path / "cut.avi", warnings.append)
    assert 0 < len(frames) < 20
    assert warnings and f"ended after {len(frames)} of 20 frames" in warnings[0]


def test_mp4_that_was_killed_in_mid_write_is_refused(tmp_path):
    path = write(tmp_path / "whole.mp4")
    (tmp_path / "killed.mp4").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="not a video or picture that OpenCV can read"):
        open_source(str(tmp_path / "killed.mp4"), no_warning)


def test_tiny_and_grey_videos_are_videos(tmp_path):
    (frame,) = frames_of(write(tmp_path / "tiny.avi", 1, (2, 2)))
    assert frame.image.shape == (2, 2, 3)
    cv2.imwrite(str(tmp_path / "one.png"), picture(7, 1, 1))
    (frame,) = frames_of(tmp_path / "one.png")
    assert frame.image.shape == (1, 1, 3)
    (frame,) = frames_of(write(tmp_path / "grey.avi", values=range(128, 129)))
    assert frame.fault is None
    assert level(frame) == pytest.approx(128, abs=3)


def test_close_from_another_thread_ends_a_video(tmp_path):
    source = open_source(str(write(tmp_path / "clip.avi", 25)), no_warning)
    seen, closed = [], threading.Event()

    def read() -> None:
        for frame in source:
            seen.append(frame)
            assert closed.wait(PATIENT)

    reader = threading.Thread(target=read)
    reader.start()
    source.close()
    closed.set()
    reader.join(PATIENT)
    assert not reader.is_alive()
    assert len(seen) <= 2


# Pictures


def test_folder_gives_its_pictures_by_name_and_names_the_unreadable(tmp_path):
    sizes = {"b.png": (20, 30), "a.jpg": (300, 200), "C.PNG": (5, 7)}
    for value, (name, size) in enumerate(sizes.items()):
        cv2.imwrite(str(tmp_path / name), picture(50 * value, *size))
    (tmp_path / "bad.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    warnings: list[str] = []
    frames = frames_of(tmp_path, warnings.append)
    assert [frame.file for frame in frames] == ["C.PNG", "a.jpg", "b.png"]
    assert [frame.image.shape[:2] for frame in frames] == [(5, 7), (300, 200), (20, 30)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert warnings == ["bad.jpg skipped: an HTML or XML page, not a picture"]


def test_pattern_gives_the_pictures_that_fit_it(tmp_path):
    for name in ("a1.png", "a2.jpg", "b1.png", "sub/a3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture(9))
    (tmp_path / "a4.txt").write_text("no picture")
    source = open_source(str(tmp_path / "a*"), no_warning)
    assert [frame.file for frame in source if frame] == ["a1.png", "a2.jpg"]
    assert source.name == str(tmp_path / "a*")
    assert [frame.file for frame in frames_of(tmp_path / "**" / "*3.png")] == ["a3.png"]
    with pytest.raises(UserError, match="no picture fits this pattern; 1 other files"):
        open_source(str(tmp_path / "*.txt"), no_warning)


def test_name_with_brackets_is_a_name_where_it_exists(tmp_path):
    cv2.imwrite(str(tmp_path / "IMG[1].png"), picture(9))
    assert [frame.file for frame in frames_of(tmp_path / "IMG[1].png")] == ["IMG[1].png"]


def test_picture_file_comes_as_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((8, 8, 3), (255, 0, 0), np.uint8))
    (frame,) = frames_of(f"file://{tmp_path}/blue.png")
    assert frame.image[0, 0].tolist() == [255, 0, 0]


# Mistakes


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere.mp4", "no such file"),
        ("-1", "no such file"),
        ("text.mp4", "not a video"),
        ("empty.mp4", "an empty file"),
        ("folder", "no pictures"),
        ("folder/*", "no picture fits this pattern; 0 other"),
        ("x" * 300, "File name too long"),
        ("~nobody-of-this-name/x.mp4", "home directory"),
        ("http://[::1/live", "Invalid IPv6 URL"),
        ("765432", "camera 765432 can't be opened"),
        ("http://127.0.0.1:9/live", "can't be opened: connection refused"),
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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_told(tmp_path):
    write(tmp_path / "mine.avi").chmod(0)
    with pytest.raises(UserError, match="closed to this user"):
        open_source(str(tmp_path / "mine.avi"), no_warning)


def test_settings_of_cameras_are_told_to_be_useless_elsewhere(tmp_path):
    warnings: list[str] = []
    open_source(str(write(tmp_path / "clip.avi")), warnings.append, resolution=(640, 480)).close()
    assert warnings == [f"--resolution and --fps are for cameras, and {tmp_path / 'clip.avi'} is none"]


def test_folder_and_file_without_a_readable_picture_are_refused(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    for source in (tmp_path, tmp_path / "broken.jpg"):
        with pytest.raises(UserError, match="no readable picture"):
            list(open_source(str(source), lambda text: None))
