"""However a program ends, it says so in one line, with the right exit code, and leaves nothing half done behind."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import write_photos

from vgg_flax import cli
from vgg_flax.data import tfds as tensorflow_datasets
from vgg_flax.errors import UserError
from vgg_flax.settings import TrainSettings, anchored, from_flat, nearby
from vgg_flax.training import opening

ROOT = Path(__file__).parents[1]
QUICK = ["--weights", "random", "--image-size", "32", "--engine", "xla", "--head", "linear", "--views", "1"]
GO_ON = "Nothing is lost; go on with: vgg-flax train --resume --name "
AGAIN = ("It had not begun: start it again with the same command.", "Start it again with the same command.")
# Seconds after our first statement: the command line, the imports of libraries, photos and features, epochs.
MOMENTS = (0.0, 0.05, 0.15, 0.3, 0.4, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with photos, a cache, and `runs/done`, a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("endings")
    write_photos(folder / "photos", {"blue": 20, "red": 20})
    done = train(folder, "--data", "photos", "--epochs", "2", "--name", "done")
    assert done.returncode == 0, done.stderr
    return folder


def start(folder, *options, **how):
    environment = os.environ | {"VGG_FLAX_CACHE": str(how.pop("cache", folder / "cache")), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", str(ROOT / "train.py"), *QUICK, *options]
    if how.pop("ignored", False):  # Ctrl-C; by a shell, as a fork of this process may hold locks of JAX
        command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes, **how)


def train(folder, *options, **how):
    process = start(folder, *options, **how)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def error_of(done, code=2):
    """The one line, with nothing else beside what the run had said before."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.endswith(errors[0] + "\n")
    return errors[0]


def _answers(pid):
    """Whether a process has handlers of ours; Python's own is for Ctrl-C alone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say which signals are caught")
@pytest.mark.parametrize("seconds", MOMENTS)
def test_ctrl_c_at_any_moment_is_one_line_and_nothing_is_left_behind(workplace, seconds):
    """At every second moment where the parent had it ignored, as for `command &` in a script."""
    ignored = MOMENTS.index(seconds) % 2 == 1
    name = f"at-{seconds}-{ignored}"
    process = start(workplace, "--data", "photos", "--epochs", "3000", "--name", name, ignored=ignored)
    while not _answers(process.pid):
        assert process.poll() is None
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=8)
    assert process.returncode == 130, err
    assert "Traceback" not in err and err.count("stopped by SIGINT. ") == 1 and out == ""
    last, run = err.splitlines()[-1].removeprefix("stopped by SIGINT. "), workplace / "runs" / name
    if run.exists():
        assert last == GO_ON + name
        left = {path.name for path in run.iterdir() if not path.name.startswith("events")}
        known = {"config.yaml", "split.csv", "bad_files.csv", ".lock", "metrics.csv", "checkpoints", "unfinished_epoch"}
        assert left <= known and "digests" in yaml.safe_load((run / "config.yaml").read_text())
    else:
        assert last in AGAIN
    assert not [path for path in workplace.rglob("*") if "tmp" in path.name and "photos" not in path.parts]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_comes_with_the_first_statement_is_answered(number, code):
    """`vgg_flax.ending` imports nothing heavy, so its handlers are there milliseconds after Python is."""
    code_line = (
        "import os, sys; from vgg_flax import __main__ as p\n"
        f"import vgg_flax.ending as e; own = e.own_signals\n"
        f"e.own_signals = lambda: (own(), os.kill(os.getpid(), {int(number)}))\n"
        "loaded = set(sys.modules); assert not loaded & {'tyro', 'numpy', 'jax', 'rich', 'dataclasses'}, loaded\n"
        "p.program(['train', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code_line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    name = signal.Signals(number).name
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"stopped by {name}. Start it again with the same command.\n"


def test_what_nohup_ignores_stays_ignored():
    code = "import os, signal; from vgg_flax import ending; ending.own_signals(); os.kill(os.getpid(), signal.SIGHUP)"
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " + code + "; print('still here')"
    done = subprocess.run([sys.executable, "-c", ignoring], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")


LONG = """
import sys, time
from vgg_flax import ending
ending.GRACE = 0.3
ending.own_signals()
ending.last_steps.append(lambda: "Last words.")
with ending.listening() as check:
    print("ready", flush=True)
    {work}
"""


@pytest.mark.parametrize("work", ["while True: pass", "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)"])
def test_a_program_that_does_not_look_for_signals_is_ended(work):
    """Also in the middle of C, as in a long compilation: no handler of Python's runs there."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG.format(work=work)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, "stopped by SIGTERM. Last words.\n")


def test_what_is_saved_is_not_cut_but_a_second_signal_does():
    work = "with ending.saving(): time.sleep(1)\n    print('saved', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", LONG.format(work=work)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.terminate()
    assert process.communicate(timeout=20)[0] == "saved\n"
    assert process.returncode == 143


def typed(*options):
    """Open the run that these options ask for in the working folder, as `vgg-flax train` does, and close it."""
    settings = cli.read(TrainSettings, [*QUICK, *options])
    with opening.open_run(settings, lambda default: cli.read(TrainSettings, [*options], default=default)) as run:
        run.begun = True
    return run


def test_a_typed_setting_that_is_the_default_is_compared_with_that_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed("--data", "photos", "--seed", "3", "--strict", "--lr", "0.1", "--name", "run")
    for options, message in {
        ("--seed", "0"): "--seed is 0 but runs/run was started with 3",
        ("--batch-size", "33"): "--batch-size is 33 but runs/run was started with 32",
        ("--data", "other"): f"--data is {tmp_path}/other but runs/run was started with {tmp_path}/photos",
        ("--image-size", "auto"): "--image-size is auto but runs/run was started with 32",
    }.items():
        with pytest.raises(UserError, match=message):
            typed("--resume", "--name", "run", *options)
    for options in ((), ("--strict", "--seed", "3"), ("--data", "./photos/"), ("--batch", "32", "--lr", "1e-1")):
        again = typed("--resume", "--name", "run", *options)
        assert (again.settings.split.seed, again.settings.split.strict, again.settings.data) == (3, True, "photos")
    typed("--data", "photos", "--name", "lax")
    with pytest.raises(UserError, match="--strict is True but runs/lax was started with False"):
        typed("--resume", "--name", "lax", "--strict")


@pytest.mark.slow
def test_a_run_goes_on_from_another_folder(workplace, tmp_path):
    process = start(workplace, "--data", "photos", "--epochs", "4000", "--name", "moved")
    while not any((workplace / "runs" / "moved" / "checkpoints").glob("[0-9]*")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    record = yaml.safe_load((workplace / "runs" / "moved" / "config.yaml").read_text())
    assert record["settings"]["data"] == str(workplace / "photos")
    options = ["--resume", "--project", str(workplace / "runs"), "--name", "moved"]
    process = start(tmp_path, *options, cache=workplace / "cache")
    said = ""
    while "going on after epoch" not in said and process.poll() is None:
        said += process.stderr.readline()
    process.terminate()
    process.communicate(timeout=20)
    assert "going on after epoch" in said


def test_paths_are_kept_whole_and_shown_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prepared").mkdir()
    settings = from_flat(TrainSettings, {"data": "a/photos/", "weights": "../other.h5"})
    whole = {"data": str(tmp_path / "a" / "photos"), "weights": str(tmp_path.parent / "other.h5")}
    assert anchored(settings) == whole
    assert (nearby(settings).data, nearby(settings).weights) == ("a/photos", str(tmp_path.parent / "other.h5"))
    assert anchored(TrainSettings()) == anchored(from_flat(TrainSettings, {"data": "tfds:mnist"})) == {}
    assert anchored(from_flat(TrainSettings, {"data": "tfds:prepared"})) == {"data": f"tfds:{tmp_path}/prepared"}


DAMAGED = {
    "settings:": "lacks the key 'settings'",
    "settings: {}": "lacks the setting data, label, weights",
    "- a": "holds no settings",
    "settings: {": "can't be read as YAML in line 1",
    "settings: {wieghts: random}": "has the unknown setting 'wieghts'. Did you mean weights?",
    "head: banana": "--head is 'banana', expected one of auto",
    "lr: fast": "--lr is 'fast', expected",
    "epochs: 0": "--epochs is 0, expected at least 1",
    "batch_size: [1, 2]": "--batch-size is '[1,",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.items())
def test_a_damaged_config_is_one_line_that_names_it(tmp_path, monkeypatch, damage, message):
    monkeypatch.chdir(tmp_path)
    path = typed("--data", "photos", "--name", "run").folder / "config.yaml"
    record = yaml.safe_load(path.read_text())
    name, _, value = damage.partition(": ")
    if name in record["settings"]:
        record["settings"][name] = yaml.safe_load(value)
        damage = yaml.safe_dump(record)
    path.write_text(damage)
    with pytest.raises(UserError) as refused:
        typed("--resume", "--name", "run")
    line = str(refused.value)
    assert message in line and "runs/run/config.yaml" in line and "All options" not in line and "\n" not in line
    assert path.read_text() == damage


def test_a_name_that_is_no_run_is_refused_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed("--data", "photos", "--name", "flowers")
    with pytest.raises(UserError, match=r"runs/flower does not exist\. Did you mean flowers\? Runs in runs: flowers\."):
        typed("--resume", "--name", "flower")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["flowers"]


def test_the_folder_of_another_program_is_never_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "runs" / "hydra"
    foreign.mkdir(parents=True)
    (foreign / "config.yaml").write_text("model: resnet")
    with pytest.raises(UserError, match="runs/hydra is no run"):
        typed("--resume", "--name", "hydra")
    with pytest.raises(UserError, match="no run in runs to go on with"):
        typed("--resume")
    assert typed("--data", "photos", "--name", "hydra").folder.name == "hydra2"
    assert [path.read_text() for path in foreign.iterdir()] == ["model: resnet"]


def test_a_name_that_is_taken_becomes_another_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed("--name", "same")
    typed("--name", "same")
    assert capsys.readouterr().err == "run: runs/same\nrun: runs/same2 (runs/same is taken)\n"


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a file system with these options and gives its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if mounted.returncode != 0:
            pytest.skip("mounting a file system needs root")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["ro", "size=4k", "size=40k", "size=600k", "size=20m"])
def test_a_project_that_takes_nothing_more_is_one_line_and_exit_code_3(workplace, disk, options):
    folder = disk(options)
    reason = "Read-only file system" if options == "ro" else "No space left on device"
    done = train(workplace, "--data", "photos", "--epochs", "3", "--head", "mlp", "--project", str(folder))
    assert f"{folder}/train can't be written ({reason}): make room" in error_of(done, code=3)
    if done.stderr.endswith("--name train\n"):
        assert f"go on with: vgg-flax train --resume --project {folder} --name train" in done.stderr
    else:
        assert list(folder.iterdir()) == []


def test_a_project_below_a_file_is_one_line_and_exit_code_3(tmp_path):
    (tmp_path / "file").touch()
    assert "Not a directory" in error_of(train(tmp_path, "--data", "photos", "--project", "file"), code=3)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["ro", "size=4k"])
def test_a_cache_that_takes_nothing_is_one_warning(workplace, disk, options):
    done = train(workplace, "--data", "photos", "--epochs", "1", "--name", "uncached", cache=disk(options))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: cache folder") == done.stderr.count("can't be written") == 1
    assert "Error" not in done.stderr and "UserWarning" not in done.stderr


def test_a_data_set_without_a_network_is_one_line(monkeypatch, tmp_path):
    def refuse(url, timeout):
        assert timeout <= 15
        raise OSError("Name or service not known")

    class Builder:
        data_dir = tmp_path / "flowers"

        @property
        def url_infos(self):
            return {"http://flowers.example/photos.tgz": None}

    assert tensorflow_datasets._unreachable("http://x", refuse) == "Name or service not known"
    monkeypatch.setattr(tensorflow_datasets, "_unreachable", lambda url: "Name or service not known")
    with pytest.raises(UserError, match=r"could not be downloaded: flowers\.example does not answer"):
        tensorflow_datasets._download(None, Builder(), "flowers")


def test_a_server_that_accepts_and_is_silent_is_not_waited_for(monkeypatch):
    answer = threading.Event()

    def silent(url, timeout):
        answer.wait()
        return io.BytesIO()

    monkeypatch.setattr(tensorflow_datasets, "PATIENCE", 0.2)
    assert tensorflow_datasets._unreachable("http://x", silent) == "no answer within 0 seconds"
    answer.set()


def test_the_front_of_a_missing_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="tfds:mnist needs the package tensorflow_datasets"):
        tensorflow_datasets.open_dataset("mnist")


def test_a_list_that_nobody_reads_ends_as_the_system_ends_it(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"VGG_FLAX_CACHE": str(tmp_path / "cache")}
    with os.fdopen(writing) as pipe:
        command = [sys.executable, "-m", "vgg_flax", "cache"]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")
