"""Rows are found by their key, come back bit for bit, and survive damaged files and other processes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from vgg_flax.cache import RowStore
from vgg_flax.cache.disk import RECORD

FIELDS = np.dtype([("block4", np.float32, (3, 2)), ("block5", np.float16, (5,)), ("label", np.int8)])


def key(number):
    return hashlib.sha256(f"{number}".encode()).digest()


def keys(*numbers):
    return [key(number) for number in numbers]


def rows(count, dtype=np.float32, shape=(4, 3)):
    size = count * int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    return np.random.default_rng(0).integers(0, 127, size, np.uint8).view(dtype).reshape(count, *shape)


def open_store(shape=(4, 3), dtype=np.float32):
    return RowStore("pooled", {"size": 224}, shape, dtype)


@pytest.fixture
def filled(cache):
    """A store of six rows on the disk, which nobody has open."""
    store = open_store()
    store.add(keys(*range(3)), rows(6)[:3])
    store.add(keys(*range(3, 6)), rows(6)[3:])
    return store.folder


def what_is_there(numbers=range(6)):
    """number -> whether its row is found, after checking that what is found is right."""
    store = open_store()
    positions = store.find(keys(*numbers))
    for number, position in zip(numbers, positions, strict=True):
        if position >= 0:
            np.testing.assert_array_equal(store.take(position), rows(6)[number])
    return [bool(position >= 0) for position in positions]


def add_all_and_check():
    store = open_store()
    store.add(keys(*range(6)), rows(6))
    assert what_is_there() == [True] * 6
    np.testing.assert_array_equal(store.rows(keys(*range(6)))[:], rows(6))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 3), np.float32), ((), np.float16), ((32, 32, 3), np.uint8), ((), FIELDS)]
)
def test_rows_come_back_bit_for_bit_in_the_order_asked_for(cache, shape, dtype):
    expected = rows(7, dtype, shape)
    open_store(shape, dtype).add(keys(*range(7)), expected)
    store = open_store(shape, dtype)
    order = [5, 0, 0, 6]
    positions = store.find(keys(*order))
    for chosen in (positions, positions.tolist(), positions.astype(np.uint8)):
        assert store.take(chosen).tobytes() == expected[order].tobytes()
    assert store.take(slice(5, None, -2)).tobytes() == expected[5::-2].tobytes()
    assert store.take(int(positions[0])).tobytes() == expected[5].tobytes()
    assert store.take(positions.reshape(2, 2)).shape == (2, 2, *shape)


def test_missing_keys_are_found_nowhere_and_not_taken_for_the_last_row(filled):
    store = open_store()
    assert store.find(keys(9, 2)).tolist() == [-1, 2]
    with pytest.raises(IndexError):
        store.take(store.find(keys(2, 9)))
    with pytest.raises(KeyError, match="1 of 2"):
        store.rows(keys(2, 9))


def test_what_is_taken_is_a_copy(filled):
    store = open_store()
    for index in (0, slice(0, 2), [0, 1]):
        store.take(index)[...] = 0
    assert what_is_there() == [True] * 6


def test_a_key_that_is_there_keeps_its_row(filled):
    store = open_store()
    store.add(keys(0, 7, 7), np.ones((3, 4, 3), np.float32))
    assert len(store) == 7
    np.testing.assert_array_equal(store.take(store.find(keys(0))[0]), rows(6)[0])


def test_rows_of_another_type_shape_or_key_length_are_refused(cache):
    store = open_store()
    for wrong in (rows(1).astype(np.float64), rows(1)[:, :2], rows(2)):
        with pytest.raises(ValueError, match="expected float32"):
            store.add(keys(0), wrong)
    with pytest.raises(ValueError, match="expected 32"):
        store.add([b"short"], rows(1))
    assert len(store) == 0


def test_another_description_shape_or_type_is_another_store(cache):
    kinds = {
        RowStore(*arguments).folder
        for arguments in (
            ("pooled", {"size": 224}, (4, 3)),
            ("pooled", {"size": 160}, (4, 3)),
            ("pooled", {"size": 224}, (12,)),
            ("pooled", {"size": 224}, (4, 3), np.float16),
            ("block4", {"size": 224}, (4, 3)),
        )
    }
    assert len(kinds) == 5
    assert RowStore("pooled", {"size": 224}, [4, 3]).folder in kinds


def test_chosen_rows_behave_like_an_array(cache):
    values = rows(6, FIELDS, ())
    store = open_store((), FIELDS)
    store.add(keys(*range(6)), values)
    chosen = store.rows(keys(4, 4, 1, 0), "block4")
    expected = values["block4"][[4, 4, 1, 0]]
    assert (len(chosen), chosen.shape, chosen.dtype) == (4, expected.shape, expected.dtype)
    for index in (2, -1, slice(1, 3), np.array([3, 0]), np.array([True, False, False, True])):
        assert chosen[index].tobytes() == expected[index].tobytes()
    assert np.asarray(chosen).tobytes() == expected.tobytes()
    assert chosen.only([2, 3])[0].tobytes() == expected[2].tobytes()
    assert [row.tobytes() for row in chosen] == [row.tobytes() for row in expected]


def test_another_store_sees_what_was_added_after_refresh(filled):
    one, other = open_store(), open_store()
    one.add(keys(8), rows(1))
    assert other.find(keys(8)).tolist() == [-1]
    other.refresh()
    np.testing.assert_array_equal(other.take(other.find(keys(8))), rows(1))


def cut(path, size):
    with path.open("rb+") as file:
        file.truncate(size)


@pytest.mark.parametrize("missing", range(1, RECORD.size + 1))
def test_half_a_record_is_no_row_and_the_next_writer_cuts_it(filled, missing):
    cut(filled / "keys", 6 * RECORD.size - missing)
    assert what_is_there() == [True] * 5 + [False]
    add_all_and_check()
    assert (filled / "keys").stat().st_size == 6 * RECORD.size


@pytest.mark.parametrize("missing", range(1, 4 * 3 * 4 + 1))
def test_half_a_row_is_no_row_and_its_record_never_gets_another_row(filled, missing):
    """The bug would be to extend the file, and so to fill the lost row with zeros or with the next one's values."""
    cut(filled / "rows", 6 * 48 - missing)
    assert what_is_there() == [True] * 5 + [False]
    store = open_store()
    with store.filling(keys(7)) as missing_rows:
        assert what_is_there() == [True] * 5 + [False]
        store.add([key(7)], rows(2)[missing_rows])
    assert what_is_there() == [True] * 5 + [False]
    add_all_and_check()


def test_a_writer_that_dies_after_damage_gives_no_key_the_row_of_another(filled, monkeypatch):
    cut(filled / "rows", 5 * 48)
    real, calls = os.pwrite, []

    def die_before_the_record(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", die_before_the_record)
    with pytest.raises(KeyboardInterrupt):
        open_store().add(keys(7), np.ones((1, 4, 3), np.float32))
    assert what_is_there([*range(6)]) == [True] * 5 + [False]


@pytest.mark.parametrize("byte", range(RECORD.size))
def test_a_flipped_bit_costs_one_row(filled, byte):
    data = bytearray((filled / "keys").read_bytes())
    data[2 * RECORD.size + byte] ^= 16
    (filled / "keys").write_bytes(data)
    assert what_is_there() == [True, True, False, True, True, True]
    add_all_and_check()


def test_records_at_another_place_or_of_another_store_do_not_count(filled, cache):
    other = RowStore("pooled", {"size": 160}, (4, 3))
    for name in ("rows", "keys"):
        shutil.copy(filled / name, other.folder / name)
    other.refresh()
    assert len(other) == 0
    data = (filled / "keys").read_bytes()
    (filled / "keys").write_bytes(data[RECORD.size :] + data[: RECORD.size])
    assert what_is_there() == [False] * 6


def test_rows_behind_damaged_records_keep_their_places(filled):
    (filled / "keys").write_bytes(bytes(4 * RECORD.size) + (filled / "keys").read_bytes()[4 * RECORD.size :])
    assert what_is_there() == [False] * 4 + [True] * 2
    add_all_and_check()


def test_a_system_that_writes_a_little_at_a_time_writes_all(cache, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:100], offset))
    add_all_and_check()


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"about": 1}'])
def test_a_lost_description_is_written_again_and_costs_no_row(filled, text):
    path = filled / "info.json"
    right = path.read_text()
    path.unlink() if text is None else path.write_text(text)
    assert what_is_there() == [True] * 6
    assert path.read_text() == right and json.loads(right)["about"] == {"size": 224}


@pytest.mark.parametrize("name", ["rows", "keys"])
@pytest.mark.parametrize("lost", ["file", "content"])
def test_a_lost_file_is_an_empty_store(filled, name, lost):
    (filled / name).unlink() if lost == "file" else (filled / name).write_bytes(b"")
    assert what_is_there() == [False] * 6
    add_all_and_check()


def test_room_is_reserved_inside_and_given_back_afterwards(filled):
    store = open_store()
    with store.filling(keys(*range(5, 100))) as missing:
        assert missing.tolist() == list(range(1, 95))
        assert (filled / "rows").stat().st_size == 100 * 48
        store.add(keys(50), rows(1))
    assert (filled / "rows").stat().st_size == 7 * 48
    with store.filling(keys(50, 51, 50, 51)) as missing:
        assert missing.tolist() == [1]
    assert what_is_there() == [True] * 6


def test_nothing_is_claimed_where_nothing_is_missing(filled):
    one, other = open_store(), open_store()
    with one.filling(keys(7)), other.filling(keys(*range(6))) as missing:
        assert missing.tolist() == []


def test_a_second_process_waits_says_so_once_and_computes_nothing_twice(filled, monkeypatch):
    said, looks = [], []
    monkeypatch.setattr("vgg_flax.cache.rows.say", said.append)
    monkeypatch.setattr("vgg_flax.cache.rows.POLL", 0.001)
    one, other = open_store(), open_store()
    inside, go_on, computed = threading.Event(), threading.Event(), []

    def first():
        with one.filling(keys(6, 7)):
            inside.set()
            go_on.wait(60)
            one.add(keys(6, 7), rows(2))

    def check():
        looks.append(None)
        if len(looks) == 3:
            go_on.set()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(60)
    with other.filling(keys(7, 8), check) as missing:
        computed.extend(missing)
    thread.join()
    assert computed == [1] and len(looks) >= 3
    assert said == ["another process is computing the same pooled; waiting for it"]


def test_waiting_ends_when_the_check_raises(filled):
    one, other = open_store(), open_store()

    def check():
        raise KeyboardInterrupt

    inside, end = threading.Event(), threading.Event()

    def first():
        with one.filling(keys(6)):
            inside.set()
            end.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(60)
    with pytest.raises(KeyboardInterrupt), other.filling(keys(6), check):
        pass
    end.set()
    thread.join()
    with other.filling(keys(6)) as missing:
        assert missing.tolist() == [0]


WRITER = """
import hashlib, sys, threading
import numpy as np
from vgg_flax.cache import RowStore
def write(numbers):
    store = RowStore("shared", {}, (64,), np.int64)
    for start in range(0, len(numbers), 7):
        chosen = numbers[start : start + 7]
        keys = [hashlib.sha256(b"%d" % number).digest() for number in chosen]
        store.add(keys, np.repeat(np.array(chosen)[:, None], 64, axis=1))
first, step = int(sys.argv[1]), int(sys.argv[2])
numbers = list(range(first, first + 200))[::step]
threads = [threading.Thread(target=write, args=(part,)) for part in (numbers[:150], numbers[50:])]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_two_processes_of_two_threads_add_overlapping_rows_at_once(cache):
    arguments = (("0", "1"), ("100", "-1"))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, *each]) for each in arguments]
    assert [writer.wait() for writer in writers] == [0, 0]
    store = RowStore("shared", {}, (64,), np.int64)
    assert len(store) == 300
    values = store.rows(keys(*range(300)))[:]
    assert (values == np.arange(300)[:, None]).all()
    assert (store.folder / "rows").stat().st_size == 300 * 64 * 8


KILLED = """
import hashlib, os, signal
import numpy as np
from vgg_flax.cache import RowStore
store = RowStore("pooled", {"size": 224}, (4, 3))
with store.filling([hashlib.sha256(b"%d" % number).digest() for number in range(1000)]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_room_and_claim_of_a_killed_process_are_free_for_the_next(filled):
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode == -9
    assert (filled / "rows").stat().st_size == 1000 * 48
    store = open_store()
    assert (filled / "rows").stat().st_size == 6 * 48
    with store.filling(keys(7)) as missing:
        assert missing.tolist() == [0]
        assert what_is_there() == [True] * 6
        assert (filled / "rows").stat().st_size == 7 * 48, "the room of a living process stays"
