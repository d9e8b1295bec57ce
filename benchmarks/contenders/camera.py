"""A camera on the loopback: MJPEG, 30 pictures a second, each with its number in it, from 0 again every ten seconds.

python -m benchmarks.contenders.camera   # prints its port, and when by the monotonic clock picture 0 was taken
"""

from __future__ import annotations

import http.server
import itertools
import sys
import time

import cv2
import numpy as np

RATE, WIDTH, HEIGHT = 30.0, 640, 480
BITS, SIDE = 9, 24  # of the number, in black and white squares
PICTURES = 300  # encoded beforehand: a camera does that itself


def stamped(picture: np.ndarray, number: int) -> np.ndarray:
    """The same uint8 BGR `[h, w, 3]` with its number in the first row of squares, in place."""
    for bit in range(BITS):
        picture[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 if number >> bit & 1 else 0
    return picture


def number_in(picture: np.ndarray) -> int:
    """The number that `stamped` has drawn."""
    row = picture[SIDE // 2, SIDE // 2 : BITS * SIDE : SIDE].mean(-1) > 127
    return int(sum(1 << bit for bit, white in enumerate(row) if white))


def jpegs() -> list[bytes]:
    """Of four scenes, two seconds each."""
    rng, found = np.random.default_rng(0), []
    scenes = [cv2.resize(rng.integers(0, 256, (8, 10, 3), np.uint8), (WIDTH, HEIGHT)) for _ in range(4)]
    for number in range(PICTURES):
        picture = stamped(scenes[number // 60 % len(scenes)].copy(), number)
        found.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        first = int((time.monotonic() - START) * RATE) + 1
        for number in itertools.count(first):
            jpeg = JPEGS[number % PICTURES]
            time.sleep(max(0.0, START + number / RATE - time.monotonic()))
            head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    JPEGS, START = jpegs(), time.monotonic()
    cv2.setNumThreads(1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, START, flush=True)
    sys.stdout.close()
    server.serve_forever()
