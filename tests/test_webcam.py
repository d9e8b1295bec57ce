"""webcam.py from the command line to its last line: labels, files, messages and exit codes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from misbehaving import MjpegServer
from test_webcam_sources import server  # noqa: F401  (a fixture)

from vgg_flax.__main__ import main
from vgg_flax.answers import bundle
from vgg_flax.answers.predictor import Predictor
from vgg_flax.answers.rows import SAID
from vgg_flax.commands import webcam
from vgg_flax.data.decode import load_image
from vgg_flax.live import newest, terminal
from vgg_flax.live.recorded import VideoFile
from vgg_flax.live.terminal import Terminal
from vgg_flax.network import model
from vgg_flax.network.spec import BackboneSpec, HeadSpec, ModelSpec, Preprocessing

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("dark", "Löwenzahn <b>", "犬")
SIZE = 32


def save_tiny_model(folder: Path) -> Path:
    """A bundle with a VGG of a few channels and a head whose answers differ from picture to picture."""
    blocks = ((16, 16), (16, 16), (16, 16), (32, 32), (32, 32))
    spec = ModelSpec(BackboneSpec("tiny", blocks), HeadSpec(len(CLASSES)), SIZE)
    params = {
        "backbone": model.init_backbone(spec.backbone, jax.random.key(0)),
        "head": model.init_head(spec, jax.random.key(1)),
    }
    kernel = params["head"]["predictions"]["kernel"]
    params["head"]["predictions"]["kernel"] = np.random.default_rng(0).normal(0, 0.01, kernel.shape).astype("f4")
    bundle.save(bundle.Bundle(spec, params, CLASSES, Preprocessing(SIZE)), folder)
    return folder


def save_clip(path: Path, frames: int = 12) -> Path:
    """A video of coloured squares at 10 frames per second, no two frames alike."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for i in range(frames):
        image = np.full((120, 160, 3), 15 * i % 200, np.uint8)
        image[20:70, 10 + 5 * i % 90 : 60 + 5 * i % 90] = (250, 40, 10 * i % 256)
        writer.write(image)
    writer.release()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds `run`, a finished run, and `clip.avi`."""
    base = tmp_path_factory.mktemp("webcam")
    save_tiny_model(base / "run" / "model")
    save_clip(base / "clip.avi")
    Predictor.load(base / "run", say=lambda line: None)  # compiles the kernel where no test reads what is said of it
    return base


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test run keeps its own handlers


def in_process(*arguments: Any) -> int:
    """Run the command in this process, which has JAX loaded already; its exit code."""
    try:
        main(["webcam", *map(str, arguments)])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code
    return 0


def command(*arguments: Any) -> list[str]:
    return [sys.executable, str(ROOT / "webcam.py"), *map(str, arguments)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_video(path: Path) -> list[np.ndarray]:
    source = VideoFile(str(path), str(path), lambda text: None)
    frames = [frame.image for frame in source]
    source.close()
    return frames


# What comes out

COLUMNS = ("source", "file", "frame", "time_s", *SAID, "inference_ms", "age_ms", "trouble", "hint")


def test_every_frame_of_a_video_lands_in_both_files_and_in_the_saved_video(folder, tmp_path, capsys):
    lines, table, video = tmp_path / "out.jsonl", tmp_path / "out.csv", tmp_path / "out.avi"
    arguments = ("--model", folder / "run", "--source", folder / "clip.avi", "--show", "terminal")
    assert in_process(*arguments, "--json", lines, "--csv", table, "--save", video) == 0
    rows = read_lines(lines)
    assert [row["frame"] for row in rows] == list(range(12))
    np.testing.assert_allclose([row["time_s"] for row in rows], np.arange(12) / 10)
    for row in rows:
        assert tuple(row) == COLUMNS
        assert row["source"] == str(folder / "clip.avi")
        assert row["verdict"] in ("label", "unsure", "unlike")
        assert set(row["probabilities"]) == set(CLASSES)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=2e-6)
        assert row["inference_ms"] > 0
    with table.open(newline="", encoding="utf-8") as file:
        same = list(csv.DictReader(file))
    assert tuple(same[0]) == COLUMNS
    assert [row["label"] for row in same] == [row["label"] for row in rows]
    assert [json.loads(row["probabilities"]) for row in same] == [row["probabilities"] for row in rows]
    saved = read_video(video)
    assert len(saved) == 12
    assert min(saved[0].shape[:2]) >= 360, "the small frame is enlarged until text can be read"
    printed = capsys.readouterr().out
    assert "12 labels in" in printed
    for wrote in (f"{lines} (12 lines)", f"{table} (12 lines)", f"{video} (12 frames)"):
        assert f"wrote {wrote}" in printed


def test_same_pixels_through_predictor_and_webcam_agree_to_1e_6(folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (3, 50, 70, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(noise):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), image)
    arguments = ("--model", folder / "run", "--source", tmp_path / "photos", "--show", "terminal")
    assert in_process(*arguments, "--json", tmp_path / "out.jsonl") == 0
    rows = read_lines(tmp_path / "out.jsonl")
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png"]
    predictor = Predictor.load(folder / "run")
    files = [load_image(tmp_path / "photos" / row["file"], predictor.preprocessing) for row in rows]
    expected = [prediction.probabilities for prediction in predictor.predict(np.stack(files))]
    found = [[row["probabilities"][name] for name in CLASSES] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert np.ptp(expected, axis=0).max() > 1e-3, "pictures that get the same answer would prove nothing"


def test_a_region_on_the_command_line_is_what_the_model_sees(folder, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), image)
    cv2.imwrite(str(tmp_path / "part.png"), image[:, 20:80])
    arguments = ("--model", folder / "run", "--show", "terminal")
    for name, region in (("wide", "center"), ("wide2", "0.2,0,0.6,1"), ("part", "full")):
        source = tmp_path / f"{name.removesuffix('2')}.png"
        assert in_process(*arguments, "--source", source, "--region", region, "--json", tmp_path / f"{name}.jsonl") == 0
    answers = [read_lines(tmp_path / f"{name}.jsonl")[0]["probabilities"] for name in ("wide", "wide2", "part")]
    assert answers[0] == answers[1] == answers[2]


def test_max_frames_stops_after_as_many_predictions(folder, tmp_path):
    arguments = ("--model", folder / "run", "--source", folder / "clip.avi", "--show", "terminal", "--max-frames", 5)
    assert in_process(*arguments, "--json", tmp_path / "out.jsonl") == 0
    assert len(read_lines(tmp_path / "out.jsonl")) == 5


@pytest.mark.parametrize("option", ["--json", "--save"])
def test_files_that_exist_are_left_alone(folder, tmp_path, capsys, option):
    mine = tmp_path / "mine.avi"
    mine.write_text("mine")
    arguments = ("--model", folder / "run", "--source", folder / "clip.avi", "--show", "terminal", option, mine)
    assert in_process(*arguments) == 2
    assert mine.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_nothing_is_written_when_the_model_is_missing(folder, tmp_path):
    outputs = ("--json", tmp_path / "out.jsonl", "--save", tmp_path / "out.mp4")
    arguments = ("--model", tmp_path / "no_run", "--source", folder / "clip.avi", "--show", "terminal")
    assert in_process(*arguments, *outputs) == 2
    assert list(tmp_path.iterdir()) == [], "a left-over empty file would stop the next try"


# Messages


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--source", "nowhere.mp4"), "no such file"),
        (("--source", "765432"), "camera 765432 can't be opened"),
        (("--source", "CLIP", "--save", "out.txt"), "expected a name that ends in .mp4"),
        (("--source", "CLIP", "--save", "nowhere/out.mp4"), "there is no folder nowhere"),
        (("--source", "CLIP", "--json", "out", "--csv", "./out"), "name the same file"),
        (("--source", "CLIP", "--json", "x" * 300), "File name too long"),
        (("--source", "CLIP", "--region", ""), "--region is ''"),
        (("--source", "CLIP", "--max-frames", "0"), "--max-frames is 0"),
        (("--source", "CLIP", "--sorce", "x"), "Did you mean --source?"),
        (("--source", "CLIP", "--model", "no_run"), "no trained model in no_run"),
        (("--source", "CLIP"), "no finished run in runs"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(folder, tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    given = [folder / "clip.avi" if argument == "CLIP" else argument for argument in arguments]
    assert in_process(*given, "--show", "terminal") == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_stream_that_ends_keeps_what_it_gave_and_says_so(
    folder,
    tmp_path,
    monkeypatch,
    capsys,
    server: MjpegServer,  # noqa: F811
):
    monkeypatch.setattr(newest, "PATIENCE", 1.0)
    monkeypatch.setattr(newest, "FIRST_DELAY", 60.0)  # it is not reopened in this test
    loaded = webcam.load_model(folder / "run", Terminal())
    monkeypatch.setattr(webcam, "load_model", lambda *_: loaded)
    arguments = ("--source", server.url("close"), "--show", "terminal", "--json", tmp_path / "out.jsonl")
    assert in_process(*arguments) == 2
    lines = read_lines(tmp_path / "out.jsonl")
    printed = capsys.readouterr()
    assert 1 <= len(lines) <= 8
    assert "no frame for 1 seconds" in printed.err
    assert f"{sum(line['label'] is not None for line in lines)} labels in" in printed.out


def test_a_line_in_a_pipe_comes_once_a_second_at_most(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    status = Terminal()
    for i in range(25):
        now = 100 + i / 10
        status.line(f"{i} \x1b[31m")
    assert capsys.readouterr().out == "0 ?[31m\n10 ?[31m\n20 ?[31m\n"


@pytest.mark.parametrize("display", ["", ":765"])
def test_no_window_system_is_told_and_not_fatal(monkeypatch, capsys, display):
    if sys.platform != "linux":
        pytest.skip("only Linux can have no window system")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not webcam.can_open_window(Terminal())
    assert "going on as with --show terminal" in capsys.readouterr().err


# The command itself


def test_help_is_answered_before_anything_heavy_is_imported():
    code = "import runpy, sys\nsys.argv = ['webcam.py', '--help']\n"
    code += "try: runpy.run_path('webcam.py', run_name='__main__')\nexcept SystemExit as stop: assert stop.code == 0\n"
    heavy = "assert not {'jax', 'cv2', 'numpy'} & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", code + heavy], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--source" in done.stdout


def test_command_without_a_display_goes_on_in_text_and_keeps_quiet(folder):
    quiet = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    arguments = command("--model", folder / "run", "--source", folder / "clip.avi")
    done = subprocess.run(arguments, env=quiet, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "12 labels in" in done.stdout
    if sys.platform == "linux":
        assert done.stderr == "note: no window, because DISPLAY is not set; going on as with --show terminal\n"


def test_output_that_nobody_reads_ends_it_without_a_word_and_with_all_files_readable(folder, tmp_path):
    rows, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    arguments = command("--model", folder / "run", "--source", folder / "clip.avi", "--show", "terminal")
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does, only earlier
    with os.fdopen(writing) as pipe:
        written = [*arguments, "--json", str(rows), "--save", str(video)]
        done = subprocess.run(written, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (141, ""), "as a program that SIGPIPE ends"
    assert 1 <= len(read_lines(rows)) <= 12
    assert len(read_video(video)) >= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_on_a_full_disk_is_one_line_and_exit_code_3(folder, tmp_path):
    arguments = command("--model", folder / "run", "--source", folder / "clip.avi", "--show", "terminal")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_live_run_with_all_files_readable(folder, tmp_path, server: MjpegServer, number):  # noqa: F811
    rows, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    arguments = command("--model", folder / "run", "--source", server.url("ok"), "--show", "terminal")
    running = subprocess.Popen(
        [*arguments, "--json", str(rows), "--save", str(video)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.read_text().count("\n") > 3) and time.monotonic() < deadline:
        server.stopping.wait(0.05)
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (128 + number, "")
    assert len(read_lines(rows)) > 3
    assert f"wrote {video}" in out
    frames = int(out.split(f"wrote {video} (")[1].split(" ")[0])
    assert len(read_video(video)) == frames >= 1, "what is reported as written can be read"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_model_is_loaded_ends_it_at_once_and_leaves_no_file(folder, tmp_path, number):
    code = (
        "import os, sys; from vgg_flax import __main__ as program; from vgg_flax.commands import webcam\n"
        f"webcam.load_model = lambda *_: os.kill(os.getpid(), {int(number)})\n"
        "program.program(['webcam', *sys.argv[1:]])"
    )
    outputs = ("--json", tmp_path / "out.jsonl", "--save", tmp_path / "out.mp4", "--show", "terminal")
    arguments = ["--model", folder / "run", "--source", folder / "clip.avi", *outputs]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == f"stopped by {signal.Signals(number).name}. Start it again with the same command.\n"
    assert list(tmp_path.iterdir()) == []
