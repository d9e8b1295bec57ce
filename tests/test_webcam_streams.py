"""Streams over HTTP and pipes, from a server that behaves or doesn't: frames, faults, reasons, and no leaks."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from misbehaving import (
    NAME,
    PASSWORD,
    MjpegHandler,
    MjpegServer,
    jpeg,
    level,
    next_frame,
    no_warning,
    picture,
    wait_for,
)
from test_webcam_sources import server  # noqa: F401  (a fixture)

from vgg_flax.errors import UserError
from vgg_flax.live import jpegs, newest, pipes, streams
from vgg_flax.live.capture import DAMAGED, FROZEN, Frame, Source, Unavailable
from vgg_flax.live.jpegs import JpegParser
from vgg_flax.live.newest import LiveSource
from vgg_flax.live.sources import open_source
from vgg_flax.live.streams import decode_picture
from vgg_flax.live.web import shown

LOGIN = f"{NAME}:{PASSWORD.replace('@', '%40').replace(':', '%3A')}@"


@pytest.fixture
def watch(server: MjpegServer) -> Iterator:  # noqa: F811
    """Opens sources and closes them when the test is over."""
    made: list[Source] = []

    def opening(mode: str, login: str = "") -> tuple[LiveSource, Iterator[Frame | None]]:
        source = open_source(server.url(mode, login), no_warning)
        assert isinstance(source, LiveSource)
        made.append(source)
        return source, iter(source)

    yield opening
    for source in made:
        source.close()


# Streams


@pytest.mark.parametrize("mode", ["ok", "junk", "close", "raw", "elsewhere", "chatty"])
def test_stream_goes_on_past_junk_and_a_closed_connection(server, watch, mode):  # noqa: F811
    source, frames = watch(mode)
    connections = server.connections
    seen = [next_frame(frames) for _ in range(12)]
    assert all(60 <= level(frame) < 160 and frame.fault is None for frame in seen), "every frame is one that was sent"
    assert [frame.index for frame in seen] == sorted({frame.index for frame in seen})
    assert [frame.time_s for frame in seen] == sorted({frame.time_s for frame in seen})
    assert (server.connections > connections) == (mode == "close")
    assert source.trouble is None or mode == "close"


def test_half_pictures_are_shown_as_damaged_until_whole_ones_come(server, watch):  # noqa: F811
    source, frames = watch("half")
    for _ in range(5):
        frame = next_frame(frames)
        assert frame.fault == DAMAGED == source.trouble
        assert (frame.image[-1] == 128).all(), "what is missing is grey"
    server.changed.set()
    while frame.fault is not None:
        frame = next_frame(frames)
    assert 60 <= level(frame) < 160
    assert next_frame(frames).fault is None
    assert source.trouble is None


def test_no_half_picture_between_whole_ones_is_taken_for_a_good_one(watch):
    _, frames = watch("third")
    seen = [next_frame(frames) for _ in range(20)]
    assert all((frame.image[-1] == 128).all() == (frame.fault == DAMAGED) for frame in seen)


def test_frozen_stream_is_a_fault_and_recovers_at_once(server, watch, monkeypatch):  # noqa: F811
    monkeypatch.setattr(newest, "FROZEN_AFTER", 0.1)
    source, frames = watch("frozen")
    seen = [next_frame(frames)]
    while seen[-1].fault is None:
        seen.append(next_frame(frames))
    assert seen[-1].fault == FROZEN == source.trouble
    server.changed.set()
    while seen[-1].fault is not None:
        seen.append(next_frame(frames))
    assert seen[-1].fault is None
    assert sum(a.fault != b.fault for a, b in itertools.pairwise(seen)) == 2


def test_grey_pictures_are_not_damaged(watch):
    _, frames = watch("grey")
    assert next_frame(frames).fault is None


def test_frames_that_come_in_bursts_have_their_true_age(watch):
    _, frames = watch("bursts")
    while next_frame(frames).index < 24:
        pass  # how late a picture is, is known from those that were less so
    first, second, third = (next_frame(frames) for _ in range(3))
    for one, other in ((first, second), (second, third)):
        taken = (level(other) - level(one)) % 100 / 30  # what the picture itself says
        assert other.captured - one.captured == pytest.approx(taken, abs=0.02)


def test_size_may_change_when_it_is_connected_anew(watch):
    _, frames = watch("resize")
    sizes = set()
    while sizes != {40, 60}:
        frame = next_frame(frames)
        assert frame.image.shape[0] == frame.image.shape[1]
        sizes.add(frame.image.shape[0])


def test_slow_stream_is_no_trouble(watch, monkeypatch):
    from vgg_flax.live import capture

    monkeypatch.setattr(capture, "TIMEOUT", 3.0)
    source, frames = watch("slow")
    [next_frame(frames) for _ in range(3)]
    assert source.trouble is None


def test_fast_stream_is_dropped_from_and_not_queued(server, watch):  # noqa: F811
    _, frames = watch("fast")
    next_frame(frames)
    time.sleep(0.3)  # whoever looks is slow
    behind, newest_one = next_frame(frames), next_frame(frames)
    assert newest_one.index - behind.index <= 2, "nothing waits in between"
    assert time.monotonic() - newest_one.captured < 0.2


def test_stalled_stream_yields_nothing_more_says_why_and_is_given_up(server, watch, monkeypatch):  # noqa: F811
    monkeypatch.setattr(newest, "PATIENCE", 1.5)
    source, frames = watch("stall")

    def away():
        raise Unavailable("connection refused")

    monkeypatch.setattr(source, "_open", away)
    seen: list[Frame | None] = []
    troubles = set()
    with pytest.raises(UserError, match=r"no frame for .* \(connection refused\), given up"):
        for frame in frames:
            seen.append(frame)
            troubles.add(source.trouble)
    assert seen[-1] is None
    assert len([frame for frame in seen if frame]) <= 8, "a stalled stream has no more frames than were sent"
    assert {"no data for 0.5 s", "connection refused"} & troubles


def test_picture_without_end_is_refused(watch):
    source, frames = watch("large")
    wait_for(lambda: next(frames) or source.trouble == "a picture of more than 32 MB", "refused")


def test_stream_without_a_picture_says_so(watch):
    source, frames = watch("nothing_but_junk")
    wait_for(lambda: next(frames) or source.trouble == "what comes are no JPEG pictures", "refused")


def test_server_that_comes_back_is_found_again(watch, monkeypatch):
    monkeypatch.setattr(newest, "LAST_DELAY", 0.05)
    source, frames = watch("ok")
    next_frame(frames)
    opening = source._open

    def away():
        raise Unavailable("connection refused")

    source._open = away
    source._capture.interrupt()
    wait_for(lambda: next(frames) is None and source.trouble == "connection refused", "lost")
    source._open = opening
    assert next_frame(frames).fault is None
    assert source.trouble is None


def test_fifty_sources_one_after_the_other_leave_no_thread_and_no_descriptor(server):  # noqa: F811
    modes = ("ok", "snapshot", "close", "half", "raw")

    def flip(mode: str) -> None:
        source = open_source(server.url(mode), no_warning)
        next_frame(iter(source))
        source.close()

    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("capture ")]

    for mode in modes:
        flip(mode)
    wait_for(lambda: not ours(), "threads end")
    time.sleep(0.2)  # the server lets go
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if sys.platform == "linux" else 0
    for number in range(50):
        flip(modes[number % len(modes)])
    wait_for(lambda: not ours(), "threads end")
    if sys.platform == "linux":
        wait_for(lambda: len(list(descriptors.iterdir())) <= before + 2, "descriptors are closed")


def test_close_ends_a_wait_for_data_at_once(watch, monkeypatch):
    from vgg_flax.live import capture

    monkeypatch.setattr(capture, "TIMEOUT", 60.0)
    source, frames = watch("stall")
    wait_for(lambda: next(frames) is None and source._captured >= 8, "it stalls")
    source.close()
    assert not source._thread.is_alive(), "it did not wait for the time limit"


# Pictures that are polled


def test_snapshot_is_polled_and_an_unchanged_picture_is_no_new_frame(server, watch, monkeypatch):  # noqa: F811
    monkeypatch.setattr(streams, "OFTEN", 0.01)
    monkeypatch.setattr(streams, "SELDOM", 0.02)
    source, frames = watch("snapshot")
    assert level(next_frame(frames)) == 90
    wait_for(lambda: next(frames) is not None or server.connections > 5, "it is polled")
    assert server.asked[-1]["if-none-match"] == '"a"'
    assert source._captured == 1
    assert source.trouble is None
    assert source.quiet > 10
    server.changed.set()
    frame = next_frame(frames)
    assert (level(frame), frame.index) == (120, 1)


def test_snapshot_that_does_not_change_for_long_is_frozen(watch, monkeypatch):
    from vgg_flax.live import sources

    monkeypatch.setattr(streams, "OFTEN", 0.01)
    monkeypatch.setattr(sources, "UNCHANGED", 5.1)
    source, frames = watch("snapshot")
    assert next_frame(frames).fault is None
    source._repeats._since -= 5.2  # as if it were long ago
    frame = next_frame(frames)
    assert (frame.fault, source.trouble, source.quiet) == (FROZEN, FROZEN, newest.QUIET)


@pytest.mark.parametrize(("mode", "fault"), [("camera.png", None), ("half.jpg", DAMAGED), ("untyped_picture", None)])
def test_snapshots_of_any_kind(server, watch, monkeypatch, mode, fault):  # noqa: F811
    monkeypatch.setattr(streams, "OFTEN", 0.01)
    monkeypatch.setattr(streams, "SELDOM", 0.01)
    source, frames = watch(mode)
    assert next_frame(frames).fault == fault
    wait_for(lambda: next(frames) or server.connections > 4, "it is polled")
    assert source.trouble == fault, "also when it does not change"


def test_server_that_goes_away_between_two_polls_is_told(server, watch, monkeypatch):  # noqa: F811
    monkeypatch.setattr(streams, "OFTEN", 0.01)
    source, frames = watch("snapshot")
    next_frame(frames)
    server.shutdown()
    server.server_close()
    wait_for(lambda: next(frames) is None and source.trouble == "connection refused", "told")
    assert source.quiet == newest.QUIET


# Reasons


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("silent", "no answer for 0.5 s"),
        ("401", r"401 Unauthorized, it wants http://name:password@"),
        ("404", "404 Not Found"),
        ("missing.mp4", "404 Not Found"),
        ("503", "503 Service Unavailable"),
        ("599", "status 599"),
        ("html", r"it sends text/html, expected multipart/x-mixed-replace, image/\* or video/\*"),
        ("endless", "302, it redirects without end"),
        ("rude", "it does not speak HTTP"),
        ("gone", "the connection was closed"),
        ("drip", "it answers too slowly"),
    ],
)
def test_why_a_url_can_not_be_opened_is_one_line(server, mode, reason):  # noqa: F811
    with pytest.raises(UserError, match=f"can't be opened: {reason}") as error:
        open_source(server.url(mode), no_warning)
    assert "\n" not in str(error.value)
    assert server.connections < 20


def test_zero_bytes_of_video_are_no_video(server):  # noqa: F811
    with pytest.raises(UserError, match="not a video or picture"):
        open_source(server.url("zero.mp4"), no_warning)


def test_nobody_there_and_no_such_name(monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]  # bound and not listening: refused
        with pytest.raises(UserError, match="can't be opened: connection refused"):
            open_source(f"http://127.0.0.1:{port}/live", no_warning)
        with pytest.raises(UserError, match="can't be opened: connection refused"):
            open_source(f"rtsp://127.0.0.1:{port}/live", no_warning)
    for number, reason in ((socket.EAI_NONAME, "the name is unknown"), (socket.EAI_AGAIN, r"is there a network\?")):

        def look_up(*_, number=number, **__):
            raise socket.gaierror(number, "never mind")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        for scheme in ("http", "rtsp"):
            with pytest.raises(UserError, match=reason):
                open_source(f"{scheme}://no-such-camera.invalid/live", no_warning)
    with pytest.raises(UserError, match="not a URL"):
        open_source("http://127.0.0.1:eighty/live", no_warning)


def test_rtsp_server_that_refuses_is_quoted():
    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"RTSP/1.0 404 Nope\r\nCSeq: 1\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        url = f"rtsp://me:secret@127.0.0.1:{listening.getsockname()[1]}/live"
        with pytest.raises(UserError, match="can't be opened: 404 Not Found") as error:
            open_source(url, no_warning)
        assert "secret" not in str(error.value)
        listening.shutdown(socket.SHUT_RDWR)


def test_words_of_a_url_that_a_person_types_are_encoded(server):  # noqa: F811
    with pytest.raises(UserError, match="404"):
        open_source(server.url("404/für alle?größe=1 2&x=%20"), no_warning)
    assert server.paths[-1] == "/404/f%C3%BCr%20alle?gr%C3%B6%C3%9Fe=1%202&x=%20"


# Passwords


@pytest.mark.parametrize("mode", ["basic", "mute", "digest"])
def test_name_and_password_of_the_url_are_sent_to_the_server_that_asks(server, watch, mode):  # noqa: F811
    source, frames = watch(mode, LOGIN)
    assert next_frame(frames).fault is None
    assert NAME not in source.name and PASSWORD not in source.name
    scheme = "Digest" if mode == "digest" else "Basic"
    assert server.asked[-1]["authorization"].startswith(scheme)
    if mode == "digest":
        secret = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
        assert not any(secret in asked.get("authorization", "") for asked in server.asked)


@pytest.mark.parametrize("mode", ["basic", "digest", "bearer"])
def test_wrong_password_is_told_as_such(server, mode):  # noqa: F811
    with pytest.raises(UserError, match="401 Unauthorized, name or password are wrong") as error:
        open_source(server.url(mode, "me:secret@"), no_warning)
    assert "secret" not in str(error.value)
    plain = base64.b64encode(b"me:secret").decode()
    assert any(plain in asked.get("authorization", "") for asked in server.asked) == (mode != "digest")


def test_password_is_not_sent_on_to_another_server(server, monkeypatch):  # noqa: F811
    with MjpegServer() as other:
        elsewhere = other.url("mute")

        def lead_on(handler: MjpegHandler) -> None:
            if handler.headers["Authorization"]:
                handler.plain(302, "text/html", b"", Location=elsewhere)
            else:
                handler.plain(401, "text/html", b"", WWW_Authenticate='Basic realm="camera"')

        monkeypatch.setattr(MjpegHandler, "lead_on", lead_on, raising=False)
        with pytest.raises(UserError, match="401"):
            open_source(server.url("lead_on", LOGIN), no_warning)
        other.shutdown()
        assert other.asked
        assert not any("authorization" in asked for asked in other.asked)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://me:secret@host/live", "http://host/live"),
        ("http://me@host:81/live?a=1&password=secret&b=2", "http://host:81/live?a=1&password=***&b=2"),
        ("rtsp://me:se%40cret@host/", "rtsp://host/"),
        ("http://host/?usr=me&pwd=secret", "http://host/?usr=me&pwd=***"),
    ],
)
def test_passwords_are_not_for_the_screen(url, name):
    assert shown(url) == name


# Bytes


def test_pictures_are_found_whatever_stands_between_them_and_however_they_are_cut():
    header = b"--part\r\nContent-Length: 5\r\nX-Timestamp: 12.5\r\n\r\n"
    one, two = jpeg(70), jpeg(90)
    sent = header + one + b"\r\n" + two + header + one[:-200] + b"\r\n" + header + two + one[:40] + header + one
    whole = JpegParser().feed(sent)
    parser = JpegParser()
    pieces = [found for byte in sent for found in parser.feed(bytes([byte]))]
    assert whole == pieces
    good = [found for found in whole if found.whole]
    assert [found.data for found in good] == [one, two, two, one]
    assert [found.stamp for found in good] == [12.5, None, 12.5, 12.5]
    assert {(found.width, found.height) for found in good} == {(64, 48)}
    assert len(whole) == 6, "and two that were cut"


def test_thumbnail_inside_a_picture_is_not_a_picture_of_its_own():
    outer, inner = jpeg(70), jpeg(200, 16, 16)
    segment = b"\xff\xe1" + (len(inner) + 8).to_bytes(2) + b"Exif\0\0" + inner
    (found,) = JpegParser().feed(outer[:2] + segment + outer[2:])
    assert (found.width, found.height) == (64, 48)


def test_progressive_pictures_have_several_scans():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    (found,) = JpegParser().feed(data)
    assert found.data == data
    decoded = jpegs.decode(found)
    assert decoded is not None
    np.testing.assert_array_equal(decoded[0], cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_bytes_that_are_missing_in_the_middle_are_damage_and_say_nothing(capfd):
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))[1].tobytes()
    decoded = decode_picture(data[:50_000] + data[53_000:])
    assert decoded is not None and decoded[1] == DAMAGED
    assert capfd.readouterr() == ("", "")


def test_picture_that_claims_to_be_huge_is_not_decoded():
    data = bytearray(jpeg(70))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = (8000).to_bytes(2) + (8000).to_bytes(2)
    assert decode_picture(bytes(data)) is None
    png = bytearray(cv2.imencode(".png", picture(3))[1].tobytes())
    png[16:24] = (50000).to_bytes(4) + (50000).to_bytes(4)
    assert decode_picture(bytes(png)) is None


def test_no_bytes_break_the_parser():
    noise = np.random.default_rng(1)
    good = jpeg(70) + b"\r\n" + jpeg(90)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(noise.integers(1, 6)):
            place, length = int(noise.integers(0, len(data))), int(noise.integers(1, 40))
            kind = noise.integers(3)
            if kind == 0:
                data[place : place + length] = noise.bytes(length)
            elif kind == 1:
                del data[place : place + length]
            else:
                data[place:place] = b"\xff" * length
        parser = JpegParser()
        for found in parser.feed(bytes(data)) + parser.feed(good):
            decoded = jpegs.decode(found)
            assert decoded is None or decoded[0].ndim == 3


# Standard input and named pipes

READER = """
import sys
from vgg_flax.errors import UserError
from vgg_flax.live.sources import open_source
try:
    source = open_source("-", print)
    frames = [frame for frame in source if frame]
except UserError as error:
    sys.exit(str(error))
assert source.name == "standard input" and source.live
print(frames[-1].image.shape, frames[-1].fault)
"""


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (jpeg(70) * 3 + jpeg(80, 40, 30), "(40, 30, 3) None\n"),
        (b"--part\r\n\r\n" + jpeg(70) + b"\r\n--part--", "(48, 64, 3) None\n"),
        (b"", "standard input ended before the first picture.\n"),
        (b"hello\n", "standard input ended before the first picture.\n"),
        (bytes(3 << 20), "standard input: what comes are no JPEG pictures.\n"),
    ],
)
def test_standard_input_holds_pictures_and_has_an_end(data, answer):
    done = subprocess.run([sys.executable, "-c", READER], input=data, capture_output=True, timeout=60)
    assert (done.stdout or done.stderr).decode() == answer


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in its file system")
def test_named_pipe_is_read_and_another_writer_may_come(tmp_path, monkeypatch):
    monkeypatch.setattr(newest, "FIRST_DELAY", 0.02)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    source = open_source(str(path), no_warning)
    frames = iter(source)
    try:
        for value in (70, 120):
            with path.open("wb", buffering=0) as writer:
                writer.write(jpeg(value))
                frame = next_frame(frames)
                assert abs(level(frame) - value) <= 2
            wait_for(lambda: next(frames) is None and source.trouble == "nothing writes to this pipe", "told")
    finally:
        source.close()


def test_terminal_as_standard_input_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(pipes.os, "isatty", lambda _: True)
    with pytest.raises(UserError, match="standard input can't be opened: nothing is piped into it"):
        open_source("-", no_warning)


# Streams of FFMPEG


def recorded_levels(url: str) -> list[int]:
    """Of the frames of a source that must be a recording."""
    source = open_source(url, no_warning)
    assert not source.live
    with contextlib.closing(source):
        return [level(frame) for frame in source if frame]


def test_video_over_http_is_a_recording_by_its_type(tmp_path, server, monkeypatch):  # noqa: F811
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for value in range(0, 100, 10):
        writer.write(picture(value, 48, 64))
    writer.release()
    data = Path(tmp_path / "a.mp4").read_bytes()

    def watch(handler: MjpegHandler) -> None:
        handler.plain(200, "video/mp4", data)

    monkeypatch.setattr(MjpegHandler, "watch", watch, raising=False)
    np.testing.assert_allclose(recorded_levels(server.url("watch")), range(0, 100, 10), atol=4)


def test_live_video_over_http_is_read_by_ffmpeg_with_the_times_of_its_pictures(tmp_path, server, monkeypatch):  # noqa: F811
    """MPEG-TS, a hundred pictures at 25 a second, sent in pieces of eight: late and in bursts."""
    from vgg_flax.live import capture

    monkeypatch.setattr(capture, "TIMEOUT", 5.0)
    pieces = transport_stream(tmp_path / "live.ts", 100, 8)

    def live(handler: MjpegHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp2t")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(piece)
            if handler.server.stopping.wait(8 / 25):
                return

    monkeypatch.setattr(MjpegHandler, "live", live, raising=False)
    source = open_source(server.url("live"), no_warning)
    try:
        frames = iter(source)
        while next_frame(frames).index < 36:
            pass  # FFMPEG looks at a second of it before it begins
        seen = [next_frame(frames) for _ in range(6)]
    finally:
        source.close()
    assert source.live
    for one, other in itertools.pairwise(seen):
        assert other.captured - one.captured == pytest.approx((level(other) - level(one)) / 2 / 25, abs=0.05)


def transport_stream(path: Path, count: int, every: int) -> list[bytes]:
    """A picture's level is 20 and twice its number; a piece holds `every` of them."""
    with path.open("wb") as file, av.open(file, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 120, "yuv420p", 2_000_000
        places = [0]
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(20 + 2 * number, 120, 160), format="bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
            if number % every == every - 1:
                places.append(file.tell())
        container.mux(stream.encode(None))
    data = path.read_bytes()
    return [data[start:end] for start, end in itertools.pairwise([*places, len(data)])]


def test_playlist_that_is_complete_is_a_recording_whatever_its_type(tmp_path, server, monkeypatch):  # noqa: F811
    (piece,) = transport_stream(tmp_path / "all.ts", 30, 99)
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", "#EXTINF:1.2,", server.url("piece.ts"), ""]

    def all_m3u8(handler: MjpegHandler) -> None:
        handler.plain(200, "text/plain", "\n".join([*lines[:-1], "#EXT-X-ENDLIST", ""]).encode())

    def piece_ts(handler: MjpegHandler) -> None:
        handler.plain(200, "video/mp2t", piece)

    monkeypatch.setattr(MjpegHandler, "all_m3u8", all_m3u8, raising=False)
    monkeypatch.setattr(MjpegHandler, "piece_ts", piece_ts, raising=False)
    np.testing.assert_allclose(recorded_levels(server.url("all.m3u8")), range(20, 80, 2), atol=4)
