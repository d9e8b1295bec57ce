"""Sources that do as they are told: a scripted camera, and a server on loopback that behaves, or doesn't."""

from __future__ import annotations

import base64
import hashlib
import http.server
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import cv2
import numpy as np

from vgg_flax.live.capture import Frame

PATIENT = 10.0  # seconds after which a test that waits has failed
HALF = 1160  # bytes of a `jpeg`: its header, and half of its 1100 bytes of rows
NAME, PASSWORD = "me", "p@ss:word"


def picture(value: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def jpeg(value: int, height: int = 48, width: int = 64) -> bytes:
    """Of one grey level, with a pattern on it that needs some bytes."""
    image = picture(value, height, width)
    image[::4, ::4] += 20
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def level(frame: Frame) -> int:
    return round(float(np.median(frame.image)))


def next_frame(frames: Iterator[Frame | None]) -> Frame:
    """The next frame that comes, however often the source says before that there is none."""
    deadline = time.monotonic() + PATIENT
    for frame in frames:
        if frame is not None:
            return frame
        assert time.monotonic() < deadline, "no frame came"
    raise AssertionError("the source ended")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.01)


def no_warning(text: str) -> None:
    raise AssertionError(f"unexpected: {text}")


class ScriptedCapture:
    """A camera of OpenCV: pictures, False (a failed read), None, an empty array, or an exception."""

    def __init__(self) -> None:
        self.script: queue.Queue[Any] = queue.Queue()
        self.waiting = threading.Semaphore(0)  # released each time the reader has used up the script
        self.released = threading.Event()
        self.milliseconds = 0.0  # its own clock

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

    def get(self, what: int) -> float:
        return self.milliseconds

    def release(self) -> None:
        self.released.set()


class MjpegServer(http.server.ThreadingHTTPServer):
    """Its paths are the methods of MjpegHandler; what follows a slash is a number for it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MjpegHandler)
        self.stopping = threading.Event()
        self.connections = 0
        self.paths: list[str] = []
        self.asked: list[dict[str, str]] = []  # headers of each request
        self.changed = threading.Event()  # what a test may set, to make a server go on to something else
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, mode: str, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.server_address[1]}/{mode}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client hanging up is part of the game


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    server: MjpegServer

    def do_GET(self) -> None:
        self.server.connections += 1
        self.server.paths.append(self.path)
        self.server.asked.append({key.lower(): value for key, value in self.headers.items()})
        mode = re.split(r"[/?]", self.path.strip("/"))[0]
        if mode.isdecimal():
            self.plain(int(mode), "text/html", b"<html>no</html>")
        elif "." in mode:
            getattr(self, mode.replace(".", "_"))()
        else:
            getattr(self, mode)()

    # Answers

    def plain(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        self.end_headers()

    def part(self, data: bytes, *headers: str) -> None:
        lines = ["--part", "Content-Type: image/jpeg", f"Content-Length: {len(data)}", *headers, "", ""]
        self.wfile.write("\r\n".join(lines).encode() + data + b"\r\n")

    def parts(self, pictures: Iterator[bytes] | list[bytes], seconds: float = 0.02) -> None:
        self.begin()
        for data in pictures:
            self.part(data)
            if self.server.stopping.wait(seconds):
                return

    # Streams

    def ok(self) -> None:
        self.parts(jpeg(60 + number % 100) for number in count())

    def close(self) -> None:
        self.parts(jpeg(60 + number) for number in range(8))

    def stall(self) -> None:
        self.close()
        self.server.stopping.wait()

    def junk(self) -> None:
        self.parts(b"junk" * 50 if number in (6, 7, 8) else jpeg(100 + number % 2) for number in count())

    def nothing_but_junk(self) -> None:
        self.parts(b"junk" * 50_000 for _ in count())

    def half(self) -> None:
        """Pictures lack half of their rows, until the test says that they don't."""
        self.parts(one if self.server.changed.is_set() else one[:HALF] for one in self.turning())

    def third(self) -> None:
        """Every third picture lacks half of its rows."""
        self.parts(one[:HALF] if number % 3 == 2 else one for number, one in enumerate(self.turning()))

    def turning(self) -> Iterator[bytes]:
        return (jpeg(60 + number % 100) for number in count())

    def frozen(self) -> None:
        """The same picture, until the test says that it has changed."""
        self.parts(self.turning_late())

    def turning_late(self) -> Iterator[bytes]:
        for number in count():
            yield jpeg(60 + number % 100 if self.server.changed.is_set() else 90)

    def bursts(self) -> None:
        """Thirty pictures a second with time stamps, held back and sent all at once, 0.4 s late the first of them."""
        self.begin()
        for number in count():
            stamp = 1000.0 + number * 12 / 30
            pieces = [(60 + (number * 12 + i) % 100, stamp + i / 30) for i in range(12)]
            for value, taken in pieces:
                self.part(jpeg(value), f"X-Timestamp: {taken:.6f}")
            if self.server.stopping.wait(0.4):
                return

    def resize(self) -> None:
        size = 40 + 20 * (self.server.connections % 2)
        self.parts([jpeg(60 + number, size, size) for number in range(5)])

    def slow(self) -> None:
        self.parts(self.turning(), 1.0)

    def fast(self) -> None:
        self.parts(self.turning(), 0.005)

    def raw(self) -> None:
        """Pictures without anything between them, of no type."""
        self.send_response(200)
        self.end_headers()
        for data in self.turning():
            self.wfile.write(data)
            if self.server.stopping.wait(0.02):
                return

    def large(self) -> None:
        self.begin()
        self.wfile.write(b"--part\r\nContent-Length: 99999999\r\n\r\n" + jpeg(9)[:-2])
        for _ in range(40):
            self.wfile.write(bytes(1 << 20))

    def grey(self) -> None:
        flat = cv2.imencode(".jpg", picture(128, 48, 64))[1].tobytes()
        self.parts(flat for _ in count())

    # Pictures

    def snapshot(self) -> None:
        """A picture that changes when the test says so, with an ETag."""
        value, tag = (120, '"b"') if self.server.changed.is_set() else (90, '"a"')
        if self.headers["If-None-Match"] == tag:
            self.send_response(304)
            self.end_headers()
        else:
            self.plain(200, "image/jpeg", jpeg(value), ETag=tag)

    def camera_png(self) -> None:
        self.plain(200, "image/png", cv2.imencode(".png", picture(self.server.connections % 200))[1].tobytes())

    def half_jpg(self) -> None:
        self.plain(200, "image/jpeg", jpeg(60)[:HALF])

    def untyped_picture(self) -> None:
        self.plain(200, "application/octet-stream", jpeg(60))

    # Refusals

    def silent(self) -> None:
        self.server.stopping.wait()

    def rude(self) -> None:
        self.wfile.write(b"hello\r\n")

    def gone(self) -> None:
        pass

    def drip(self) -> None:
        """A byte now and then, for ever."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Drip: ")
        while not self.server.stopping.wait(0.1):
            self.wfile.write(b".")

    def html(self) -> None:
        self.plain(200, "text/html", b"<html>log in</html>")

    def endless(self) -> None:
        self.plain(302, "text/html", b"", Location=f"/endless/{self.server.connections}")

    def chatty(self) -> None:
        """A redirection with a text that has no end."""
        self.send_response(302)
        self.send_header("Location", "/ok")
        self.end_headers()
        while not self.server.stopping.is_set():
            self.wfile.write(bytes(1 << 16))

    def elsewhere(self) -> None:
        self.plain(302, "text/html", b"", Location="/ok")

    def missing_mp4(self) -> None:
        self.plain(404, "text/html", b"no")

    def zero_mp4(self) -> None:
        self.plain(200, "video/mp4", b"")

    def basic(self) -> None:
        expected = "Basic " + base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
        if self.headers["Authorization"] == expected:
            self.ok()
        else:
            self.plain(401, "text/html", b"", WWW_Authenticate='Basic realm="camera"')

    def bearer(self) -> None:
        self.plain(401, "text/html", b"", WWW_Authenticate='Bearer realm="camera"')

    def mute(self) -> None:
        """Wants basic authorization without saying so."""
        if self.headers["Authorization"]:
            self.ok()
        else:
            self.plain(401, "text/html", b"")

    def digest(self) -> None:
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', self.headers["Authorization"] or ""))

        def md5(*words: str) -> str:
            return hashlib.md5(":".join(words).encode()).hexdigest()

        if "response" in fields:
            secret, what = md5(NAME, "camera", PASSWORD), md5("GET", "/digest")
            if fields["response"] == md5(secret, "abc", fields["nc"], fields["cnonce"], "auth", what):
                return self.ok()
        self.plain(401, "text/html", b"", WWW_Authenticate='Digest realm="camera", nonce="abc", qop="auth"')

    def log_message(self, format: str, *args: Any) -> None:
        pass
