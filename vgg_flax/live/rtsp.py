"""Why an RTSP camera does not answer, which FFMPEG keeps to itself."""

from __future__ import annotations

import http
import re
import socket
from urllib.parse import urlsplit

from vgg_flax.live import capture
from vgg_flax.live.web import shown, why

PORT = 554  # RFC 2326, 3.2
MOST = 4096  # bytes of an answer that are looked at
UNREADABLE = "it sends no video that OpenCV can read"


def why_not(url: str) -> str:
    """In a few words, by asking the server itself: it is not there, it is silent, or it refuses."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or PORT), capture.TIMEOUT) as connection:
            connection.sendall(f"DESCRIBE {shown(url)} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n".encode())
            answer = connection.recv(MOST)
    except (OSError, ValueError, UnicodeError) as error:
        return why(error, "no answer")
    status = re.match(rb"RTSP/1\.\d (\d{3})", answer)
    if status is None:
        return "it does not speak RTSP"
    return _in_words(int(status[1]), bool(parts.username))


def _in_words(code: int, login: bool) -> str:
    if code == http.HTTPStatus.UNAUTHORIZED:
        return "401 Unauthorized, " + ("name or password are wrong" if login else "it wants rtsp://name:password@...")
    if code < 400:
        return UNREADABLE
    phrases = {status.value: status.phrase for status in http.HTTPStatus}
    return f"{code} {phrases.get(code, '')}".strip()
