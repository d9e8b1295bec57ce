"""A cache that is full, read-only or on a broken disk: one warning, and the run goes on in memory."""

import errno
import os
import subprocess

import numpy as np
import pytest
from test_cache import key, keys, open_store, rows, what_is_there

from vgg_flax.cache import usable_dir
from vgg_flax.errors import UserError


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr("vgg_flax.cache.folder.warn", said.append)
    return said


@pytest.fixture
def read_only(monkeypatch):
    """Call it, and nothing can be opened for writing any more, or made. Permissions would not stop root."""

    def begin():
        real = os.open

        def refuse(path, flags, *rest, **options):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, flags, *rest, **options)

        def no_folder(path, *rest, **options):
            if not os.path.isdir(path):  # noqa: PTH112
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "mkdir", no_folder)

    return begin


def use_in_memory():
    """Fill what is missing of rows 0 to 9, in two batches, and check all of it."""
    values, wanted = rows(10), keys(*range(10))
    store = open_store()
    known = len(store)
    with store.filling(wanted) as missing:
        assert len(missing) == 10 - known
        half = len(missing) // 2
        for chosen in (missing[:half], missing[half:]):
            store.add([wanted[i] for i in chosen], values[chosen])
    np.testing.assert_array_equal(store.rows(wanted)[:], values)
    np.testing.assert_array_equal(store.rows(wanted)[[9, 0, 9, 5]], values[[9, 0, 9, 5]])
    np.testing.assert_array_equal(store.rows(wanted)[8], values[8])
    store.add(keys(8, 11), np.zeros((2, 4, 3), np.float32))
    np.testing.assert_array_equal(store.take(store.find(keys(8)))[0], values[8])
    assert len(store) == 11
    return store


@pytest.mark.parametrize("known", [0, 4])
def test_a_read_only_cache_is_read_and_the_rest_is_kept_in_memory(cache, read_only, warnings, known):
    if known:
        open_store().add(keys(*range(known)), rows(10)[:known])
    read_only()
    use_in_memory()
    use_in_memory()
    assert len(warnings) == 1 and str(cache) in warnings[0] and "Read-only file system" in warnings[0]


def test_a_read_only_cache_with_all_rows_is_used_without_a_warning(cache, read_only, warnings):
    open_store().add(keys(0, 1), rows(2))
    read_only()
    store = open_store()
    with store.filling(keys(0, 1)) as missing:
        assert not len(missing)
    np.testing.assert_array_equal(store.rows(keys(1, 0))[:], rows(2)[::-1])
    assert not warnings


def test_a_cache_that_is_a_file_is_a_cache_that_cannot_be_written(cache, warnings):
    cache.write_text("")
    use_in_memory()
    assert len(warnings) == 1 and "Not a directory" in warnings[0]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
@pytest.mark.parametrize("good", range(4))
def test_a_disk_that_fills_up_at_any_call_costs_no_row(cache, warnings, monkeypatch, call, good):
    """Of writes, half is done when the room ends: the half must not count."""
    open_store().add(keys(0), rows(10)[:1])
    real, calls = getattr(os, call), []

    def fail(*arguments):
        calls.append(None)
        if len(calls) <= good:
            return real(*arguments)
        if call == "pwrite" and len(calls) == good + 1:
            descriptor, data, offset = arguments
            return real(descriptor, data[: len(data) // 2], offset)
        return full()

    monkeypatch.setattr(os, call, fail)
    use_in_memory()
    monkeypatch.setattr(os, call, real)
    assert len(warnings) == (1 if call != "posix_fallocate" or good == 0 else 0)
    there = open_store()
    found = [number for number in range(10) if there.find([key(number)])[0] >= 0]
    np.testing.assert_array_equal(there.rows(keys(*found))[:], rows(10)[found])
    assert 0 in found
    there.add(keys(*range(10)), rows(10))
    np.testing.assert_array_equal(there.rows(keys(*range(10)))[:], rows(10))


def test_room_that_was_half_reserved_is_given_back(cache, warnings, monkeypatch):
    def half(descriptor, offset, size):
        os.ftruncate(descriptor, offset + size // 2)
        full()

    store = open_store()
    store.add(keys(0), rows(1))
    monkeypatch.setattr(os, "posix_fallocate", half)
    store.reserve(10)
    assert (store.folder / "rows").stat().st_size == 48 and len(warnings) == 1


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_that_cannot_reserve_are_asked_for_their_free_room(cache, warnings, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    store = open_store()
    with store.filling(keys(0)):
        store.add(keys(0), rows(1))
    assert not warnings and len(open_store()) == 1
    usage = type("Usage", (), {"free": 47})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with store.filling(keys(1)):
        assert len(warnings) == 1


def test_rows_that_fit_neither_disk_nor_memory_are_refused_in_one_line(cache, warnings, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("vgg_flax.cache.rows.available_memory", lambda: 10 * 48 * 4 // 3)
    with open_store().filling(keys(*range(10))):
        pass
    with pytest.raises(UserError) as refused, open_store().filling(keys(*range(11))):
        pass
    message = str(refused.value)
    assert "11 rows of pooled need 0.0 GB" in message and str(cache) in message and "\n" not in message
    assert "No space left on device" in message
    assert "VGG_FLAX_CACHE" in message and "--image-size" in message


def test_a_disk_that_fills_up_in_the_middle_asks_for_memory_for_the_rest(cache, warnings, monkeypatch):
    monkeypatch.setattr("vgg_flax.cache.rows.available_memory", lambda: 5 * 48)
    store = open_store()
    with pytest.raises(UserError, match="6 rows of pooled"), store.filling(keys(*range(10))):
        store.add(keys(*range(4)), rows(4))
        monkeypatch.setattr(os, "fsync", full)
        store.add(keys(4), rows(1))


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A real file system of 4 MB as cache."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a file system needs root; the tests above simulate it")
    monkeypatch.setenv("VGG_FLAX_CACHE", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_small_disk_takes_what_it_can_and_gives_unused_room_back(small_disk, warnings):
    shape, values = (256, 256), rows(20, np.float32, (256, 256))  # 5 MB
    store = open_store(shape)
    with store.filling(keys(*range(8))) as missing:
        store.add([key(i) for i in missing], values[missing])
    used = (store.folder / "rows").stat().st_blocks * 512
    assert not warnings and used == 8 * 2**18
    with store.filling(keys(*range(20))) as missing:
        store.add([key(i + 8) for i in range(12)], values[missing])
    assert len(warnings) == 1 and "No space left on device" in warnings[0]
    np.testing.assert_array_equal(store.rows(keys(*range(20)))[:], values)
    assert (store.folder / "rows").stat().st_blocks * 512 == used
    assert len(open_store(shape)) == 8
    (small_disk / "filler").write_bytes(bytes(2 * 2**20 - 64 * 1024))
    with pytest.raises(OSError, match="No space"):
        (small_disk / "more").write_bytes(bytes(2**20))
    assert usable_dir("xla").parent != small_disk
    np.testing.assert_array_equal(open_store(shape).rows(keys(*range(8)))[:], values[:8])


def test_what_runs_code_gets_a_private_folder(cache, read_only, warnings):
    assert usable_dir("xla") == cache / "xla"
    assert (cache / "xla").stat().st_mode & 0o777 == 0o700
    assert list((cache / "xla").iterdir()) == []


@pytest.mark.parametrize("name", ["winograd", "weights"])
def test_an_unusable_folder_is_replaced_by_one_of_this_process(cache, warnings, name):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("")
    folder = usable_dir(name)
    (folder / "file").write_text("usable")
    assert folder == usable_dir(name) and folder.stat().st_mode & 0o777 == 0o700
    assert len(warnings) == 1
    assert what_is_there() == [False] * 6
