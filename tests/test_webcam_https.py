"""Streams over HTTPS, from a server whose certificate is trusted, is not, or that does not speak TLS."""

import ssl

import pytest
import trustme
from misbehaving import MjpegServer, next_frame, no_warning

from vgg_flax.errors import UserError
from vgg_flax.live.sources import open_source


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def secure(authority, monkeypatch):
    """A server with a certificate for its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    monkeypatch.setattr(
        MjpegServer, "get_request", lambda self: wrapped(context, super(MjpegServer, self).get_request())
    )
    with MjpegServer() as server:
        yield server.url("ok").replace("http:", "https:")
        server.stopping.set()
        server.shutdown()


def wrapped(context, accepted):
    connection, address = accepted
    return context.wrap_socket(connection, server_side=True), address


def frames(url):
    source = open_source(url, no_warning)
    try:
        found = iter(source)
        return [next_frame(found) for _ in range(5)]
    finally:
        source.close()


def test_a_trusted_camera_is_read(secure, authority, tmp_path, monkeypatch):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert len(frames(secure)) == 5


def test_a_camera_that_nobody_vouches_for_is_refused_with_the_way_out(secure):
    with pytest.raises(UserError, match=r"its certificate is not trusted \(.*\); SSL_CERT_FILE=FILE names one"):
        frames(secure)


def test_a_camera_without_tls_is_told_so():
    with MjpegServer() as server:
        with pytest.raises(UserError, match="it does not speak HTTPS"):
            frames(server.url("ok").replace("http:", "https:"))
        server.stopping.set()
        server.shutdown()
