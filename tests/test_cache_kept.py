"""The cache is listed and pruned without touching what somebody uses; leftovers of dead processes go away."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from test_cache import keys, rows

from vgg_flax import files
from vgg_flax.cache import RowStore, entries, parse_size, prune
from vgg_flax.commands import cache as command
from vgg_flax.errors import UserError


def make(kind, age, megabytes=1):
    """A store that was used `age` seconds ago and that nobody has open. Its folder."""
    store = RowStore(kind, {"size": 224, "weights": "ab" * 32, "deep": {"x": 1}}, (2**18,))
    store.add(keys(*range(megabytes)), np.ones((megabytes, 2**18), np.float32))
    used = time.time() - age
    os.utime(store.folder / "info.json", (used, used))
    return store.folder


def test_the_least_recently_used_stores_go_first_and_no_more_than_needed(cache):
    folders = {kind: make(kind, age) for kind, age in (("pooled", 20), ("pictures", 30), ("block4", 10))}
    total = sum(entry.bytes for entry in entries())
    assert total >= 3 * 2**20
    assert prune(total) == []
    assert [entry.path for entry in prune(2 * 2**20 + 2**18)] == [folders["pictures"]]
    assert [entry.kind for entry in prune(2**20)] == ["pooled", "block4"]
    assert list((cache / "rows").iterdir()) == []


def test_opening_a_store_is_using_it(cache):
    make("pooled", 30), make("pictures", 20)
    RowStore("pooled", {"size": 224, "weights": "ab" * 32, "deep": {"x": 1}}, (2**18,))
    assert [entry.kind for entry in prune(2**20 + 2**18)] == ["pictures"]


def test_only_row_stores_are_dropped_and_everything_counts(cache):
    make("pooled", 10)
    for name in ("weights/vgg16-imagenet/weights.safetensors", "winograd/a.so", "xla/1234/program", "strange/file"):
        path = cache / name
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2**20))
    (cache / "weights" / ".vgg16.lock").touch()
    assert {entry.kind for entry in entries()} == {
        "pooled", "weights", "compiled kernel", "compiled programs", "other"
    }  # fmt: skip
    assert sum(entry.bytes for entry in entries()) >= 5 * 2**20
    assert [entry.kind for entry in prune(0)] == ["pooled"]
    assert len(entries()) == 4


HOLDER = """
import sys
from vgg_flax.cache import RowStore
store = RowStore("pooled", {"size": 224, "weights": "ab" * 32, "deep": {"x": 1}}, (2**18,))
print("open", flush=True)
sys.stdin.read()
print(store.take(0).sum())
"""


def test_a_store_that_another_process_uses_is_left_alone(cache):
    folder = make("pooled", 10)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "open\n"
        assert prune(0) == [] and folder.is_dir()
        assert holder.communicate("")[0] == f"{2**18:.1f}\n"
    assert [entry.path for entry in prune(0)] == [folder]


def test_dropping_that_is_cut_off_is_finished_by_the_next_start(cache, monkeypatch):
    folder = make("pooled", 10)
    code = (
        "import os, shutil, signal; shutil.rmtree = lambda *a, **b: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from vgg_flax.cache import prune; prune(0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not folder.exists()
    assert [entry.kind for entry in entries()] == ["leftover"]
    assert len(files.sweep(cache)) == 1
    assert entries() == []


@pytest.mark.parametrize("remade", [False, True])
def test_a_store_opened_while_it_is_dropped_is_made_again(cache, monkeypatch, remade):
    """The bug would be rows that are written to a folder that is no longer there."""
    folder = make("pooled", 10)
    real = os.open

    def drop_just_after_opening(path, flags, *rest, **options):
        descriptor = real(path, flags, *rest, **options)
        if os.fspath(path) == str(folder / "keys"):
            monkeypatch.setattr(os, "open", real)
            folder.rename(cache / "gone")
            if remade:
                make("pooled", 0, 0)
        return descriptor

    monkeypatch.setattr(os, "open", drop_just_after_opening)
    store = RowStore("pooled", {"size": 224, "weights": "ab" * 32, "deep": {"x": 1}}, (2**18,))
    assert len(store) == 0
    store.add(keys(5), np.ones((1, 2**18), np.float32))
    del store
    again = RowStore("pooled", {"size": 224, "weights": "ab" * 32, "deep": {"x": 1}}, (2**18,))
    assert again.find(keys(5)).tolist() == [0]


def test_pruning_removes_leftovers_first_and_then_drops_no_more_than_needed(cache):
    folder = make("pooled", 10)
    leftover(cache / "weights", dead_process()).write_bytes(bytes(2**21))
    assert prune(2**21) == [] and folder.is_dir()


@pytest.mark.parametrize(
    ("text", "count"),
    [("10GB", 10**10), ("1.5 kib", 1536), ("0B", 0), ("3MiB", 3 * 2**20), ("2 tb", 2 * 10**12), (" 7KB ", 7000)],
)
def test_sizes(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "10", "GB", "-1GB", "10XB", "1e3MB", "10GB more", "nanGB", "1,5GB"])
def test_sizes_that_cannot_be_read_are_one_line(text):
    with pytest.raises(UserError, match="such as 10GB") as refused:
        parse_size(text)
    assert "\n" not in str(refused.value) and repr(text) in str(refused.value)


def test_the_table_fits_eighty_columns_and_is_plain_in_a_pipe(cache, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "")
    make("pooled", 10)
    RowStore("pictures", {"what": "decoded pictures of a very long description " * 3}, (3,)).add(
        keys(0), rows(1, shape=(3,))
    )
    command.main(command.CacheSettings())
    output = capsys.readouterr().out
    table = output.splitlines()[:-1]
    assert max(map(len, table)) <= 80 and "\x1b" not in output
    assert "size 224, weights abababab" in output and "1.1 MB" in output
    assert output.splitlines()[-1].endswith(f"in {cache}")


def test_pruning_says_what_it_dropped(cache, capsys):
    make("pooled", 10)
    command.main(command.CacheSettings(prune="1KB"))
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("dropped pooled (size 224, weights abababab), 1.1 MB, last used 20")
    assert last == f"1 dropped; 0 kB in {cache}"
    holder = RowStore("pooled", {}, (3,))
    command.main(command.CacheSettings(prune="1KB"))
    assert "what is left is in use" in capsys.readouterr().out
    del holder


def test_an_empty_or_missing_cache_is_no_error(cache, capsys):
    command.main(command.CacheSettings())
    command.main(command.CacheSettings(prune="0B"))
    assert capsys.readouterr().out.splitlines() == [f"0 kB in {cache}", f"0 dropped; 0 kB in {cache}"]


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leftover(folder, pid=None, host=None, age=0.0, name="weights.bin", is_folder=False):
    folder.mkdir(parents=True, exist_ok=True)
    path = files.temporary_name(folder / name)
    text = path.name.replace(f"-{os.getpid()}-", f"-{pid or os.getpid()}-")
    path = path.with_name(text.replace(files._host(), host or files._host()))
    if is_folder:
        (path / "inside").mkdir(parents=True)
        (path / "inside" / "file").write_text("")
        os.utime(path / "inside" / "file", (time.time() - age,) * 2)
        os.utime(path / "inside", (time.time() - age,) * 2)
    else:
        path.write_text("")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("is_folder", [False, True])
def test_only_what_a_dead_process_left_is_removed(cache, is_folder):
    week = files.WEEK
    dead = dead_process()
    gone = [
        leftover(cache, dead, is_folder=is_folder),
        leftover(cache / "weights" / "deep", dead, is_folder=is_folder),
        leftover(cache, host="0" * 8, age=week + 60, is_folder=is_folder),
    ]
    stays = [
        leftover(cache, is_folder=is_folder),
        leftover(cache, age=week + 60, is_folder=is_folder),
        leftover(cache, os.getppid(), is_folder=is_folder),
        leftover(cache, dead, host="0" * 8, age=week - 60, is_folder=is_folder),
        cache / ".weights.tmp",
        cache / f".{dead}-weights.tmp",
    ]
    for path in stays[-2:]:
        path.write_text("of somebody else")
    assert set(files.sweep(cache)) == set(gone)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in stays)


def test_a_folder_of_another_machine_is_as_young_as_its_newest_file(cache):
    path = leftover(cache, host="0" * 8, age=files.WEEK + 60, is_folder=True)
    (path / "inside" / "file").write_text("still writing")
    assert files.sweep(cache) == [] and path.exists()


def test_temporary_names_keep_folder_and_suffix_and_differ(cache):
    names = {files.temporary_name(cache / name) for name in ("a.onnx", "a.onnx", "b-c.h5", "folder") for _ in range(5)}
    assert len(names) == 20 and {name.suffix for name in names} == {".onnx", ".h5", ".tmp"}
    assert all(name.parent == cache and name.name.startswith(".") for name in names)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    files.write_atomic(path, "old")

    def fail(descriptor):
        raise OSError("no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_temporary_folder_is_gone_afterwards(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.temporary_folder(tmp_path / "whole") as folder:
        (folder / "file").write_text("")
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
