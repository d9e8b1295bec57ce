"""Pictures out of streams of JPEG, and out of a picture that is asked for again and again."""

from __future__ import annotations

import contextlib
import http
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vgg_flax.data.decode import decode
from vgg_flax.data.header import read_header
from vgg_flax.errors import BadImage
from vgg_flax.live.capture import Shot, Unavailable
from vgg_flax.live.jpegs import MOST_PIXELS, JpegParser
from vgg_flax.live.jpegs import decode as decode_jpeg
from vgg_flax.live.web import Answer, Client

OFTEN, SELDOM = 0.2, 1.0  # seconds between two polls of a picture that changes, and of one that doesn't


class Bytes(NamedTuple):
    """Where the pictures of a stream come from. `some` gives b"" at the end, which means `end`."""

    some: Callable[[], bytes]
    interrupt: Callable[[], None]
    close: Callable[[], None]
    end: Exception


class MotionJpeg:
    """Pictures that follow each other in a stream of bytes. Of those that came together, the last one is read."""

    def __init__(self, source: Bytes):
        self._source = source
        self._parser = JpegParser()

    def read(self, alive: Callable[[], object]) -> Shot | None:
        while True:
            data = self._source.some()
            if not data:
                raise self._source.end
            alive()
            arrived = time.monotonic()
            if pictures := self._parser.feed(data):
                decoded = decode_jpeg(pictures[-1])
                return decoded and Shot(decoded[0], arrived, pictures[-1].stamp, decoded[1])

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()


class Snapshot:
    """A picture that the server renews, asked for again and again.

    Args:
      answer: the first one.
    """

    def __init__(self, client: Client, answer: Answer):
        self._client, self._answer = client, answer
        self._fresh = True  # the answer was not looked at yet
        self._data = b""
        self._image: np.ndarray | None = None
        self._fault: str | None = None
        self._wait = OFTEN
        self._closing = threading.Event()

    def read(self, alive: Callable[[], object]) -> Shot | None:
        if not self._fresh:
            self._closing.wait(self._wait)
            alive()
            known = self._answer.validators if self._image is not None else {}
            self._answer = self._client.ask(known)
            self._answer.validators = {**known, **self._answer.validators}
        alive()
        self._fresh = False
        data = self._data if self._answer.status == http.HTTPStatus.NOT_MODIFIED else self._answer.whole(alive)
        arrived = time.monotonic()
        self._answer.close()
        if data == self._data and self._image is not None:
            self._wait = min(2 * self._wait, SELDOM)
            return Shot(self._image, arrived, fault=self._fault, same=True)
        self._data, self._wait = data, OFTEN
        decoded = decode_picture(data)
        self._image, self._fault = decoded or (None, None)
        return decoded and Shot(decoded[0], arrived, fault=decoded[1])

    def interrupt(self) -> None:
        self._closing.set()
        self._client.interrupt()

    def close(self) -> None:
        self._answer.close()


def decode_picture(data: bytes) -> tuple[np.ndarray, str | None] | None:
    """(uint8 BGR `[height, width, 3]`, its fault or None) of any format; None where nothing can be shown."""
    if data.startswith(b"\xff\xd8"):
        with contextlib.suppress(Unavailable):
            # The start of a next picture ends one that was cut.
            if pictures := JpegParser().feed(data + b"\xff\xd8\xff"):
                return decode_jpeg(pictures[0])
        return None
    header = read_header(data)
    if not 0 < header.width * header.height <= MOST_PIXELS:
        return None
    with contextlib.suppress(BadImage):
        return np.ascontiguousarray(decode(data)[:, :, ::-1]), None
    return None
