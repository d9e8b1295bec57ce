"""webcam.py from the command line to its last line: labels, files, messages and exit codes."""

from __future__ import annotations

import dataclasses
import errno
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
from vgg_flax.answers.predictor import Prediction, Predictor
from vgg_flax.commands import webcam
from vgg_flax.data.decode import load_image
from vgg_flax.errors import UserError
from vgg_flax.live import newest, output, overlay, progress, result, window
from vgg_flax.live.capture import Frame
from vgg_flax.live.recorded import VideoFile
from vgg_flax.network import model, preprocess
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


def test_every_frame_of_a_video_lands_in_json_and_in_the_saved_video(folder, tmp_path, capsys):
    rows, video = tmp_path / "out.jsonl", tmp_path / "out.avi"
    arguments = ("--model", folder / "run", "--source", folder / "clip.avi", "--headless")
    assert in_process(*arguments, "--json", rows, "--save", video) == 0
    lines = read_lines(rows)
    assert [line["frame"] for line in lines] == list(range(12))
    np.testing.assert_allclose([line["time_s"] for line in lines], np.arange(12) / 10)
    for line in lines:
        assert line["verdict"] in ("label", "unsure", "unlike")
        assert set(line) == {"frame", "time_s", "verdict", "label", "probability", "probabilities", "inference_ms"}
        assert tuple(line["probabilities"]) == CLASSES
        assert line["probability"] == max(line["probabilities"].values()) == line["probabilities"][line["label"]]
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert line["inference_ms"] > 0
    saved = read_video(video)
    assert len(saved) == 12
    assert saved[0].shape == (480, 640, 3), "the small frame is enlarged until text can be read"
    printed = capsys.readouterr().out
    assert "12 frames" in printed
    assert f"wrote {video} (12 frames)" in printed


def test_same_pixels_through_predictor_and_webcam_agree_to_1e_6(folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (3, 50, 70, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(noise):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), image)
    arguments = ("--model", folder / "run", "--source", tmp_path / "photos", "--headless")
    assert in_process(*arguments, "--json", tmp_path / "out.jsonl") == 0
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["file"] for line in lines] == ["0.png", "1.png", "2.png"]
    predictor = Predictor.load(folder / "run")
    files = [load_image(tmp_path / "photos" / line["file"], predictor.preprocessing) for line in lines]
    expected = [prediction.probabilities for prediction in predictor.predict(np.stack(files))]
    found = [list(line["probabilities"].values()) for line in lines]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert np.ptp(expected, axis=0).max() > 1e-3, "pictures that get the same answer would prove nothing"


def test_mirrored_view_leaves_the_model_its_own_picture(folder):
    predictor = Predictor.load(folder / "run")
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, :200] = 255  # white on the left
    frame = Frame(0, image.copy(), 0.0, time.monotonic())
    asked: list[np.ndarray] = []

    class Spy:
        classes, preprocessing, name = predictor.classes, predictor.preprocessing, predictor.name

        def predict(self, images: np.ndarray) -> list[Prediction]:
            asked.append(images.copy())
            return predictor.predict(images)

    labelled = result.label(frame, Spy(), progress.Stopwatch())  # type: ignore[arg-type]
    view = overlay.compose(labelled, mirror=True)
    assert view[300, 600].min() > 200, "in the mirror, white is on the right"
    assert view[300, 30].max() < 50
    np.testing.assert_array_equal(frame.image, image, "drawing must not touch the frame")
    np.testing.assert_array_equal(asked[0][0], preprocess.prepare_frame(image, predictor.preprocessing))


def test_text_on_a_mirrored_view_reads_as_on_a_plain_one():
    black = np.zeros((480, 640, 3), np.uint8)
    prediction = Prediction("a", 0.75, np.array([0.75, 0.25], np.float32))
    labelled = result.Result(Frame(0, black, 0.0, 0.0), prediction, ("a", "b"), "model", 1.0, 2.0, 3.0)
    np.testing.assert_array_equal(overlay.compose(labelled, mirror=True), overlay.compose(labelled))
    assert overlay.compose(labelled).max() > 200


@pytest.mark.parametrize(("verdict", "words", "line"), [
    ("label", "a", "a   75.0%   3.0 fps   2 ms"),
    ("unsure", "not sure: a or b", "not sure: a or b   3.0 fps   2 ms"),
    ("unlike", "unlike the training photos", "unlike the training photos   3.0 fps   2 ms"),
])  # fmt: skip
def test_a_verdict_is_said_in_words_and_only_a_plain_label_has_a_headline_in_green(verdict, words, line):
    black = np.zeros((480, 640, 3), np.uint8)
    probabilities = np.array([0.75, 0.25], np.float32)
    prediction = Prediction("a", 0.75, probabilities, verdict, ("a", "b"))
    labelled = result.Result(Frame(0, black, 0.0, 0.0), prediction, ("a", "b"), "model", 1.0, 2.0, 3.0)
    assert prediction.words == words and labelled.summary() == line
    view = overlay.compose(labelled)
    assert (view == overlay.ACCENT).all(-1).any() == (verdict == "label")
    assert (view == overlay.WARNING).all(-1).any() == (verdict != "label")


def test_max_frames_stops_after_as_many_predictions(folder, tmp_path):
    arguments = ("--model", folder / "run", "--source", folder / "clip.avi", "--headless", "--max-frames", 5)
    assert in_process(*arguments, "--json", tmp_path / "out.jsonl") == 0
    assert len(read_lines(tmp_path / "out.jsonl")) == 5


@pytest.mark.parametrize("size", [(1, 1), (37, 26), (2000, 60), (60, 2000), (3000, 4000), (481, 641)])
@pytest.mark.parametrize("classes", [2, 30])
def test_overlay_fits_any_picture(size, classes):
    view = overlay.fit(np.full((*size, 3), 128, np.uint8))
    assert max(view.shape[:2]) <= overlay.LONGEST
    assert view.shape[0] % 2 == view.shape[1] % 2 == 0, "video codecs want even sides"
    before = view.copy()
    probabilities = np.full(classes, 1 / classes, np.float32)
    prediction = Prediction("a very long name " * 9, 1 / classes, probabilities)
    overlay.draw_prediction(view, prediction, ["a very long name " * 9] * classes, "a very long footer " * 9)
    drawn = (view != before).any(axis=2)
    assert drawn.any()
    assert not drawn[:, -1][: view.shape[0] // 2].any(), "the panel must end inside the picture"


@pytest.mark.parametrize("option", ["--json", "--save"])
def test_files_that_exist_are_left_alone(folder, tmp_path, capsys, option):
    mine = tmp_path / "mine.avi"
    mine.write_text("mine")
    arguments = ("--model", folder / "run", "--source", folder / "clip.avi", "--headless", option, mine)
    assert in_process(*arguments) == 2
    assert mine.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_full_disk_ends_the_json_file_with_one_line(tmp_path):
    prediction = Prediction("a", 1.0, np.ones(1, np.float32))
    frame = Frame(0, np.zeros((4, 4, 3), np.uint8), 0.0, 0.0)
    labelled = result.Result(frame, prediction, ("a",), "model", 1.0, 2.0, 3.0)
    lines = output.JsonLines(tmp_path / "out.jsonl")
    lines.add(labelled)
    lines.close()

    class FullDisk:
        def write(self, line: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lines._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(UserError, match="No space left on device, after 1 lines"):
        lines.add(labelled)
    assert len(read_lines(lines.path)) == 1


def test_nothing_is_written_when_the_model_is_missing(folder, tmp_path):
    outputs = ("--json", tmp_path / "out.jsonl", "--save", tmp_path / "out.mp4")
    arguments = ("--model", tmp_path / "no_run", "--source", folder / "clip.avi", "--headless")
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
        (("--source", "CLIP", "--max-frames", "0"), "--max-frames is 0"),
        (("--source", "CLIP", "--sorce", "x"), "Did you mean --source?"),
        (("--source", "CLIP", "--model", "no_run"), "no trained model in no_run"),
        (("--source", "CLIP"), "no finished run in runs"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(folder, tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    given = [folder / "clip.avi" if argument == "CLIP" else argument for argument in arguments]
    assert in_process(*given, "--headless") == 2
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
    load = webcam.load_model
    loaded = load(folder / "run", progress.StatusLine())
    monkeypatch.setattr(webcam, "load_model", lambda *_: loaded)
    arguments = ("--source", server.url("close"), "--headless", "--json", tmp_path / "out.jsonl")
    assert in_process(*arguments) == 2
    lines = read_lines(tmp_path / "out.jsonl")
    printed = capsys.readouterr()
    assert 1 <= len(lines) <= 8
    assert "no frame for 1 seconds" in printed.err
    assert f"{len(lines)} frames" in printed.out


def test_status_in_a_pipe_is_one_line_a_second_at_most(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    status = progress.StatusLine()
    for i in range(25):
        now = 100 + i / 10
        status.show(f"{i} \x1b[31m")
    assert capsys.readouterr().out == "0 ?[31m\n10 ?[31m\n20 ?[31m\n"


@pytest.mark.parametrize("display", ["", ":765"])
def test_no_window_system_is_told_and_not_fatal(monkeypatch, display):
    if sys.platform != "linux":
        pytest.skip("only Linux can have no window system")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    warnings: list[str] = []
    source = dataclasses.make_dataclass("Still", [("live", bool, True), ("camera", bool, False)])()
    assert window.open_window("title", source, False, warnings.append) is None  # type: ignore[arg-type]
    assert len(warnings) == 1
    assert "going on as with --headless" in warnings[0]


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
    assert "12 frames" in done.stdout
    if sys.platform == "linux":
        assert done.stderr == "note: no window, because DISPLAY is not set; going on as with --headless\n"


def test_output_that_nobody_reads_ends_it_without_a_word_and_with_all_files_readable(folder, tmp_path):
    rows, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    arguments = command("--model", folder / "run", "--source", folder / "clip.avi", "--headless")
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does, only earlier
    with os.fdopen(writing) as pipe:
        written = [*arguments, "--json", str(rows), "--save", str(video)]
        done = subprocess.run(written, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (141, ""), "as a program that SIGPIPE ends"
    assert len(read_lines(rows)) == len(read_video(video)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_live_run_with_all_files_readable(folder, tmp_path, server: MjpegServer, number):  # noqa: F811
    rows, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    arguments = command("--model", folder / "run", "--source", server.url("ok"), "--headless")
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
    assert (running.returncode, err) == (0, "")
    assert len(read_lines(rows)) > 3
    assert f"wrote {video}" in out
    assert len(read_video(video)) >= 1, "an .mp4 without its last bytes can't be opened"
