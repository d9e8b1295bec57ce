"""What `--source` means."""

from __future__ import annotations

import functools
import glob
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vgg_flax.data import named
from vgg_flax.errors import UserError
from vgg_flax.live.cameras import list_cameras, open_camera
from vgg_flax.live.capture import Capture, OpenCV, Source, Unavailable, open_stream
from vgg_flax.live.newest import LiveSource
from vgg_flax.live.pipes import open_fifo, open_stdin
from vgg_flax.live.recorded import PICTURES, Pictures, VideoFile
from vgg_flax.live.rtsp import UNREADABLE, why_not
from vgg_flax.live.streams import Bytes, MotionJpeg, Snapshot
from vgg_flax.live.web import Answer, Client, shown

# A URL that ends so is a recording, which has an end; any other is a live stream.
VIDEOS = {*named.VIDEOS, ".gif"}
STDIN = "-"
UNCHANGED = 60.0  # seconds after which a picture that is polled is taken to be frozen
UNKNOWN = ("", "application/octet-stream", "binary/octet-stream")  # what servers say that don't know
FFMPEG = ("application/dash+xml", "application/ogg", "application/mp4", *UNKNOWN)
PLAYLIST, PLAYLIST_END = b"#EXTM3U", b"#EXT-X-ENDLIST"  # RFC 8216, 4.3


def open_source(
    text: str,
    warn: Callable[[str], None],
    resolution: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Source:
    """The source that `--source` means.

    Args:
      text: the number of a camera or its /dev/video0, a video or picture, a folder or pattern of pictures, the URL
        of a stream or of a picture, a named pipe, or `-` for JPEG pictures on standard input.
      warn: told, in one line each, what was left out and why.
      resolution: (width, height) in pixels that a camera is asked for.
      fps: pictures a second that a camera is asked for.

    Raises:
      UserError: there is no such source, or it can't be opened; with the reason.
    """
    try:
        url = urlsplit(text)
        if re.fullmatch(r"\d{1,9}", text):
            return _camera(int(text), warn, resolution, fps)
        if "://" in text and url.scheme != "file":
            _no_camera(text, warn, resolution, fps)
            return _web(text, warn) if url.scheme in ("http", "https") else _stream(text)
        path = Path(unquote(url.path)) if url.scheme == "file" else Path(text).expanduser()
        if path.is_char_device() and text != STDIN:  # /dev/video0
            return _camera(str(path), warn, resolution, fps)
        _no_camera(text, warn, resolution, fps)
        return _local(path, text, warn)
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a closed folder, "[" in a URL, ~nobody
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"--source {shown(text)}: {reason.rstrip('.')}.") from None


def _camera(
    camera: int | str, warn: Callable[[str], None], resolution: tuple[int, int] | None, fps: float | None
) -> Source:
    name = f"camera {camera}" if isinstance(camera, int) else camera
    opening = functools.partial(open_camera, camera, resolution, fps, functools.cache(warn))  # each is said once
    return LiveSource(name, opening, camera=True, hint=_cameras())


def _no_camera(text: str, warn: Callable[[str], None], resolution: tuple[int, int] | None, fps: float | None) -> None:
    if resolution or fps:
        warn(f"--resolution and --fps are for cameras, and {shown(text)} is none")


def _local(path: Path, text: str, warn: Callable[[str], None]) -> Source:
    if text == STDIN:
        return LiveSource("standard input", open_stdin, reopen=False)
    if path.is_dir():
        return Pictures.of_folder(path, warn)
    if path.is_fifo():
        return LiveSource(str(path), functools.partial(open_fifo, path))
    if not path.exists() and glob.has_magic(str(path)):
        return _matching(str(path), warn)
    if not path.is_file():
        what = "neither a file nor a folder" if path.exists() else "no such file"
        raise UserError(f"--source {text}: {what}. Expected a camera number, a file, a folder, a pattern or a URL.")
    if path.suffix.lower() in PICTURES:
        return Pictures([path], str(path), warn)
    return VideoFile(str(path), str(path), warn)


def _matching(pattern: str, warn: Callable[[str], None]) -> Source:
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - it may be absolute
    pictures = [path for path in found if path.suffix.lower() in PICTURES and path.is_file()]
    if not pictures:
        raise UserError(f"--source {pattern}: no picture fits this pattern; {len(found)} other files or folders do.")
    return Pictures(pictures, pattern, warn)


def _stream(url: str) -> Source:
    """What only FFMPEG can read, such as RTSP."""

    def opening() -> Capture:
        capture = open_stream(url)
        if capture is None:
            raise Unavailable(why_not(url) if url.startswith("rtsp:") else UNREADABLE)
        return OpenCV(capture)

    return LiveSource(shown(url), opening)


def _web(url: str, warn: Callable[[str], None]) -> Source:
    name = shown(url)
    try:
        client = Client(url)
        first = client.ask()
        if _is_recording(url, first):
            first.close()
            return VideoFile(url, name, warn)
        polled = _is_picture(first)
    except Unavailable as error:
        raise UserError(f"{name} can't be opened: {error}.") from None
    answers = [first]

    def opening() -> Capture:
        return _capture(client, answers.pop() if answers else client.ask())

    return LiveSource(name, opening, frozen_after=UNCHANGED if polled else None)


def _is_recording(url: str, answer: Answer) -> bool:
    suffix = Path(urlsplit(url).path).suffix.lower()
    named_so = suffix in VIDEOS and not answer.type.startswith(("text/", "multipart/"))
    finished = _is_playlist(answer) and PLAYLIST_END in answer.first()
    return named_so or finished or (answer.type.startswith("video/") and answer.length is not None)


def _is_playlist(answer: Answer) -> bool:
    """Of HLS; servers call it many things."""
    return not answer.type.startswith(("multipart/", "image/", "video/")) and answer.first().startswith(PLAYLIST)


def _is_picture(answer: Answer) -> bool:
    unnamed = answer.type in UNKNOWN and answer.length is not None and answer.first().startswith(b"\xff\xd8\xff")
    return unnamed or answer.type.startswith("image/")


def _capture(client: Client, answer: Answer) -> Capture:
    """What reads an answer. Raises Unavailable."""
    if _is_picture(answer):
        return Snapshot(client, answer)
    if answer.type.startswith("multipart/") or (answer.type in UNKNOWN and answer.first().startswith(b"\xff\xd8\xff")):
        end = Unavailable("the connection was closed")
        return MotionJpeg(Bytes(answer.some, answer.interrupt, answer.close, end))
    readable = answer.type.startswith("video/") or answer.type in FFMPEG or _is_playlist(answer)
    answer.close()
    if not readable:
        sent = "".join(c for c in answer.type if c.isprintable())[:60]
        raise Unavailable(f"it sends {sent}, expected multipart/x-mixed-replace, image/* or video/*")
    capture = open_stream(client.url)
    if capture is None:
        raise Unavailable(UNREADABLE)
    return OpenCV(capture)


def _cameras() -> str:
    if sys.platform != "linux":
        return " Another number, or --source FILE, may help."
    found = ", ".join(f"{number} ({name})" for number, _, name in list_cameras())
    return f" Cameras here: {found or 'none'}. --source also takes a file, a folder or a URL."
