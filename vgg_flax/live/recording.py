"""Views as a video file that plays, whatever ends it: the last frame, `kill -9`, or a disk that is full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from vgg_flax import files
from vgg_flax.errors import NotSaved, UserError

LONGEST_GAP = 3.0  # seconds
EVERY = 0.5  # seconds of video that a killed process may lose
FINEST = 1001  # denominator of frame rates, as in 30000/1001


class Kind(NamedTuple):
    """Attributes:
    container: FFmpeg's name of it.
    codecs: those that play in most places, the best first; FFmpeg may be built without it.
    pixels: FFmpeg's name of how they are kept.
    encoding, muxing: FFmpeg's options.
    """

    container: str
    codecs: tuple[str, ...]
    pixels: str
    encoding: dict[str, str]
    muxing: dict[str, str]


# A frame is on its way to the disk as soon as it is encoded: no frame is held back to look ahead.
_H264 = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0", "lag-in-frames": "0"}
_AT_ONCE = {"flush_packets": "1"}
# "Hybrid": in fragments, each of them complete, until the end, which makes a plain file of them.
_FRAGMENTS = {"movflags": "hybrid_fragmented+frag_keyframe", **_AT_ONCE}
KINDS = {
    ".mp4": Kind("mp4", ("libx264", "mpeg4"), "yuv420p", _H264, _FRAGMENTS),
    ".mkv": Kind("matroska", ("libx264", "mpeg4"), "yuv420p", _H264, _AT_ONCE),
    ".webm": Kind("webm", ("libvpx-vp9", "libvpx"), "yuv420p", _VP9, _AT_ONCE),
    ".avi": Kind("avi", ("mjpeg",), "yuvj420p", {"qscale": "3"}, _AT_ONCE),
}


class Recording:
    """A video with a constant frame rate and a fixed size, which the first view sets.

    A live source is uneven, so a view is repeated or left out as its time demands; a longer gap, as a pause or a lost
    signal leaves, is cut. In a recorded source something may well last that long. The file is made when the first view
    comes, and plays at any time from then on.

    Args:
      fps: frames a second.
      longest_gap: seconds.

    Attributes:
      frames: written so far; once it is closed, or the disk has refused, what a reader finds in the file.

    Raises:
      UserError: the file exists, its folder is missing or closed to us, its ending is no video's, or FFmpeg is
        built without what it takes.
    """

    def __init__(self, path: Path, fps: float, longest_gap: float = LONGEST_GAP):
        check_name(path)
        codec_for(path)
        self.path, self.frames = path, 0
        self._fps, self._longest_gap = fps, longest_gap
        self._shift = 0  # frames cut out so far
        self._film: _Film | None = None

    def add_view(self, view: np.ndarray, time_s: float) -> None:
        """Append uint8 BGR `[height, width, 3]`, seen `time_s` seconds after the start of the source.

        Raises:
          NotSaved: the disk refuses; what is there plays, and the message says how much that is.
        """
        if self._film is None:
            check_name(self.path)  # again: loading the model took a while
            self._shift = round(time_s * self._fps)
            with self._refused():
                self._film = _Film(self.path, self._fps, view.shape[1], view.shape[0])
        missing = round(time_s * self._fps) - self._shift + 1 - self.frames
        if abs(missing) > self._longest_gap * self._fps:
            self._shift += missing - 1
            missing = 1
        for _ in range(missing):
            with self._refused():
                self._film.add(view)
            self.frames += 1

    def close(self) -> None:
        """Raises NotSaved when the disk refuses the end of the file."""
        if self._film is not None and not self._film.closed:
            with self._refused():
                self._film.close()
            self.frames = count_frames(self.path)

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if self._film is not None:
                self._film.give_up()
                self.frames = count_frames(self.path)
                if not self.frames:
                    self.path.unlink(missing_ok=True)
            kept = f"its first {self.frames} frames are there and play" if self.frames else "nothing was kept"
            raise NotSaved(f"--save {self.path}: {reason}; {kept}.") from None

    def __str__(self) -> str:
        return f"{self.path} ({self.frames} frames)"


class _Film:
    """An open video file. Whatever goes wrong with the disk comes as OSError."""

    def __init__(self, path: Path, fps: float, width: int, height: int):
        import av

        kind = KINDS[path.suffix.lower()]
        self.closed = False
        self._file = _File(path.open("xb", buffering=0))
        self._size = (width + width % 2, height + height % 2)  # colours are kept for two by two pixels
        self._container = av.open(self._file, "w", format=kind.container, options=kind.muxing)
        options = {**kind.encoding, "g": str(max(1, round(EVERY * fps))), "colorspace": "smpte170m"}
        rate = Fraction(fps).limit_denominator(FINEST)
        self._stream: Any = self._container.add_stream(codec_for(path), rate=rate, options=options)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = kind.pixels
        self._stream.codec_context.thread_count = 1  # the other processors are the model's
        self._count = 0
        self._complete = 0  # bytes that end with a whole frame

    def add(self, view: np.ndarray) -> None:
        import av

        if (view.shape[1], view.shape[0]) != self._size:
            view = letterbox(view, *self._size)
        if self._stream.pix_fmt == "yuv420p":  # OpenCV takes half of the time that FFmpeg would
            planes: Any = cv2.cvtColor(view, cv2.COLOR_BGR2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        else:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(view), format="bgr24")
        frame.pts = self._count
        self._mux(frame)
        self._count += 1
        self._complete = self._file.tell()

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        self._mux(None)
        self._container.close()
        self._file.close()
        self.closed = True

    def give_up(self) -> None:
        """Keep what is whole; the disk takes no more."""
        self.closed = True
        with contextlib.suppress(Exception):  # it can't write its last words, which is known
            self._container.close()
        self._file.end_at(self._complete)


class _File:
    """A file that takes all of what it is given, or says why not; FFmpeg writes nothing more after an error."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:  # a disk that is nearly full takes a part
            rest = rest[self._file.write(rest) :]
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def end_at(self, size: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # it may be closed, with an error
            self._file.truncate(size)
            self._file.close()

    def close(self) -> None:
        self._file.close()


def check_name(path: Path) -> None:
    """Raise UserError unless `path` is a new file with a video's ending in a folder that we may write to."""
    if path.suffix.lower() not in KINDS:
        raise UserError(f"--save {path}: expected a name that ends in {', '.join(KINDS)}.")
    files.check_new("--save", path)


def codec_for(path: Path) -> str:
    """FFmpeg's name of the codec for a file with this ending. Raises UserError where it has none."""
    import av

    for name in KINDS[path.suffix.lower()].codecs:
        if name in av.codecs_available:
            return name
    raise UserError(f"--save {path}: the FFmpeg of this PyAV can't write {path.suffix}: try another ending.")


def count_frames(path: Path) -> int:
    """Frames that a reader finds in a video file; they are not decoded. 0 where it can't be read."""
    import av
    from av.error import FFmpegError

    count = 0
    with contextlib.suppress(FFmpegError, OSError), path.open("rb") as file, av.open(file, "r") as container:
        for packet in container.demux(video=0):
            count += bool(packet.size) and not packet.is_corrupt
    return count


def letterbox(view: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 BGR `[h, w, 3]` -> `[height, width, 3]`: shrunk if it must be, and centred on black."""
    scale = min(1.0, width / view.shape[1], height / view.shape[0])
    if scale < 1:
        size = (max(1, int(view.shape[1] * scale)), max(1, int(view.shape[0] * scale)))
        view = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - view.shape[0]) // 2, (width - view.shape[1]) // 2
    canvas[top : top + view.shape[0], left : left + view.shape[1]] = view
    return canvas
