"""Streams and pictures over HTTP, by Python's own client: every wait has a limit, and every failure its true reason."""

from __future__ import annotations

import base64
import contextlib
import functools
import http
import http.client
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from vgg_flax.live import capture
from vgg_flax.live.capture import Unavailable
from vgg_flax.live.jpegs import LARGEST

PIECE = 1 << 20  # bytes that are read at once, at most
SAFE = "!$%&'()*+,/:;=?@[]~"  # what stays as it is in the path and query of a URL that a person typed
AGENT = "vgg-flax"
ANSWER = 3.0  # time limits of one wait in which an answer must begin
LOGIN = re.compile(r"(?<=://)[^/?#]*@")
SECRET = re.compile(r"([?&;][^=&;#]*(?:pass|pwd|token|secret|key|auth)[^=&;#]*=)[^&;#]*", re.IGNORECASE)


def shown(url: str) -> str:
    """A URL for the screen, without name and password."""
    return SECRET.sub(r"\1***", LOGIN.sub("", url))


class Answer:
    """What a server sends.

    Attributes:
      status: of HTTP: 200, or 304 where the picture is the one before.
      type: its content type, such as `image/jpeg`, without parameters; "" where it names none.
      length: bytes that it announces; None of a stream.
      validators: headers that ask next time whether it has changed.
    """

    def __init__(self, response: Any, connection: socket.socket | None):
        self.status: int = response.status
        self.type = response.headers.get_content_type() if "content-type" in response.headers else ""
        length = response.headers.get("content-length", "")
        self.length = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        names = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
        self.validators = {ask: response.headers[have] for ask, have in names.items() if response.headers[have]}
        self._response, self._connection = response, connection
        self._ahead = b""

    def first(self) -> bytes:
        """Its first bytes, which `some` gives once more."""
        self._ahead = self._ahead or self.some()
        return self._ahead

    def some(self) -> bytes:
        """The next bytes, as soon as there are any; b"" at the end. Raises Unavailable."""
        ahead, self._ahead = self._ahead, b""
        if ahead:
            return ahead
        try:
            return self._response.read1(PIECE)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(why(error, "no data")) from None

    def whole(self, alive: Callable[[], object]) -> bytes:
        """All of it; `alive` is told of every piece. Raises Unavailable where that is too much, or takes too long."""
        data, latest = bytearray(), time.monotonic() + 3 * capture.TIMEOUT
        while piece := self.some():
            alive()
            data += piece
            if len(data) > LARGEST:
                raise Unavailable(f"a picture of more than {LARGEST >> 20} MB")
            if time.monotonic() > latest:
                raise Unavailable("it sends too slowly")
        return bytes(data)

    def interrupt(self) -> None:
        """End a read that waits in another thread."""
        shut(self._connection)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._response.close()


class Login(NamedTuple):
    name: str
    password: str


class Client:
    """Asks for one URL. Name and password in it answer the server that asks for them: digest, or basic."""

    def __init__(self, url: str):
        self.url = url
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  (it is parsed here)
        except ValueError as error:
            raise Unavailable(f"not a URL ({error})") from None
        self._login = Login(unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        path, query = quote(parts.path, safe=SAFE), quote(parts.query, safe=SAFE)
        self._target = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))
        self._basic = self._late = False
        self._connection: socket.socket | None = None
        handlers: list[Any] = [_Plain(self._keep), _Secure(self._keep), _Redirects]
        if self._login:
            passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, self._target, *self._login)
            handlers.append(_Digest(passwords))
        self._opener = urllib.request.build_opener(*handlers)

    def _keep(self, connection: socket.socket) -> None:
        self._connection = connection

    def interrupt(self) -> None:
        """End what waits for an answer in another thread."""
        shut(self._connection)

    def ask(self, headers: dict[str, str] | None = None) -> Answer:
        """Raises Unavailable."""
        late = threading.Timer(ANSWER * capture.TIMEOUT, self._hurry)  # a byte now and then is not an answer
        late.daemon, self._late = True, False
        late.start()
        try:
            answer = self._ask(headers or {})
            if self._late:
                answer.close()
                raise TimeoutError
            return answer
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.NOT_MODIFIED:
                return Answer(error, None)
            if error.code == http.HTTPStatus.UNAUTHORIZED and self._may_be_basic(error):
                self._basic = True
                return self.ask(headers)
            raise Unavailable(self._refusal(error.code)) from None
        except urllib.error.URLError as error:
            raise Unavailable(why(error.reason, "no answer")) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable("it answers too slowly" if self._late else why(error, "no answer")) from None
        finally:
            late.cancel()

    def _hurry(self) -> None:
        self._late = True
        self.interrupt()

    def _ask(self, headers: dict[str, str]) -> Answer:
        request = urllib.request.Request(self._target, headers={"User-Agent": AGENT, **headers})
        if self._login and self._basic:  # not sent on where the server points elsewhere
            request.add_unredirected_header("Authorization", _basic(self._login))
        response = self._opener.open(request, timeout=capture.TIMEOUT)
        if urlsplit(response.url).scheme not in ("http", "https"):
            response.close()
            raise Unavailable("it points to something that is no web address")
        return Answer(response, self._connection)

    def _may_be_basic(self, error: urllib.error.HTTPError) -> bool:
        """Whether the password may be sent as it is: not to a server that asks for its digest."""
        asked = (error.headers.get("www-authenticate") or "").lower()
        return self._login is not None and not self._basic and not asked.startswith("digest")

    def _refusal(self, code: int) -> str:
        if code == http.HTTPStatus.UNAUTHORIZED:
            asked = "name or password are wrong" if self._login else "it wants http://name:password@..."
            return f"401 Unauthorized, {asked}"
        if code in (301, 302, 303, 307, 308):
            return f"{code}, it redirects without end"
        with contextlib.suppress(ValueError):
            return f"{code} {http.HTTPStatus(code).phrase}"
        return f"status {code}"


def shut(connection: socket.socket | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError, ValueError):
            connection.shutdown(socket.SHUT_RDWR)


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.name}:{login.password}".encode()).decode()


class _Connection(http.client.HTTPConnection):
    """Hands its socket over once it is connected, so that another thread can end a wait."""

    def __init__(self, keep: Callable[[socket.socket], None], *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._keep = keep

    def connect(self) -> None:
        super().connect()
        self._keep(self.sock)


class _SecureConnection(_Connection, http.client.HTTPSConnection): ...


class _Digest(urllib.request.HTTPDigestAuthHandler):
    def http_error_401(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        try:
            answer = super().http_error_401(req, fp, code, msg, headers)
        except ValueError:  # the server asks for something else
            return None
        except BaseException:
            fp.close()
            raise
        if answer is not None:
            fp.close()
        return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Python would read all that comes with a redirection, however much it is."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, keep: Callable[[socket.socket], None]):
        super().__init__()
        self._make: Any = functools.partial(_Connection, keep)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._make, req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, keep: Callable[[socket.socket], None]):
        super().__init__()
        self._make: Any = functools.partial(_SecureConnection, keep, context=ssl.create_default_context())

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._make, req)


def why(error: object, silence: str) -> str:
    """What went wrong with a connection, in a few words; `silence` where nothing came."""
    if isinstance(error, TimeoutError):
        return f"{silence} for {capture.TIMEOUT:g} s"
    if isinstance(error, socket.gaierror):
        return (
            "no name can be looked up: is there a network?"
            if error.errno == socket.EAI_AGAIN
            else "the name is unknown"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); SSL_CERT_FILE=FILE names one that is"
    if isinstance(error, ssl.SSLError):
        return "it does not speak HTTPS"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionError | http.client.IncompleteRead):
        return "the connection was closed"
    if isinstance(error, http.client.InvalidURL):
        return "not a URL"
    if isinstance(error, http.client.HTTPException):
        return "it does not speak HTTP"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "".join(c for c in str(error) if c.isprintable())[:80] or type(error).__name__
