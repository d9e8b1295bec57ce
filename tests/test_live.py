"""The middle of a live view: the slot, the pump, smoothing, commands, files, and one snapshot that all faces read."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from misbehaving import wait_for

from vgg_flax import files
from vgg_flax.answers.judge import Judge, Judgement
from vgg_flax.answers.predictor import Prediction
from vgg_flax.answers.training_photos import TrainingPhotos
from vgg_flax.errors import NotSaved, UserError
from vgg_flax.live import control, health, session
from vgg_flax.live.album import Album
from vgg_flax.live.capture import Frame
from vgg_flax.live.latest import Latest
from vgg_flax.live.painter import Painter
from vgg_flax.live.pump import Pump
from vgg_flax.live.rate import Rate
from vgg_flax.live.sinks import Rows, Sink, row
from vgg_flax.live.smoothing import Smoother
from vgg_flax.live.snapshots import Snapshots
from vgg_flax.live.state import Answer, Board, Command, State


def frame(index: int, fault: str | None = None, seconds: float = 0.0) -> Frame:
    return Frame(index, np.full((48, 64, 3), 120, np.uint8), seconds, time.monotonic(), None, fault)


def answer(label: str = "a", index: int = 0) -> Answer:
    probabilities = np.array([0.9, 0.1] if label == "a" else [0.1, 0.9], np.float32)
    prediction = Prediction(label, 0.9, probabilities)
    return Answer(frame(index), prediction, prediction, 10.0, 20.0)


class Script:
    """A source that brings what it is told, `None` for a moment without anything."""

    name, camera, still, fps, quiet, trouble = "script", False, False, 10.0, 0.0, None

    def __init__(self, steps: list[Any], live: bool = True):
        self.steps, self.live = steps, live

    def __iter__(self) -> Iterator[Frame | None]:
        for step in self.steps:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, float):
                deadline = time.monotonic() + step
                while time.monotonic() < deadline:
                    time.sleep(0.02)
                    yield None
            else:
                yield step

    def close(self) -> None: ...


# The slot


def test_a_slow_reader_gets_the_newest_frame_once():
    latest = Latest()
    for index in range(5):
        latest.put(frame(index))
    taken = latest.take()
    assert taken is not None and taken.index == 4
    latest.put(frame(5))
    latest.drop()
    latest.put(frame(6))
    latest.end()
    taken = latest.take()
    assert taken is not None and taken.index == 6, "what was there at the end is still given out"
    assert latest.take() is None


def test_nothing_is_lost_where_every_frame_counts():
    latest, found = Latest(every=True), []

    def read() -> None:
        while (one := latest.take()) is not None:
            found.append(one.index)
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(50):
        latest.put(frame(index))
    latest.end()
    reader.join(10)
    assert found == list(range(50))


def test_a_frame_can_be_looked_at_again_also_after_the_end_but_never_before_a_newer_one():
    latest, first, second = Latest(), frame(0), frame(1)
    latest.put(first)
    latest.put(second)
    latest.again(first)
    assert latest.take() is second
    latest.end()
    assert latest.take() is None
    latest.again(second)
    assert latest.take(after_end=True) is second
    latest.end(at_once=True)
    latest.again(second)
    assert latest.take(after_end=True) is None


def test_an_end_at_once_lets_nobody_wait():
    latest = Latest(every=True)
    latest.put(frame(0))
    blocked = threading.Thread(target=latest.put, args=[frame(1)])
    blocked.start()
    latest.end(at_once=True)
    blocked.join(10)
    assert not blocked.is_alive() and latest.take() is None


# The pump


def pumped(source: Script, board: Board, latest: Latest | None = None, paced: bool = False) -> list[State]:
    seen: list[State] = []
    Pump(source, latest or Latest(), board, paced, seen.append).run()
    return seen


def test_no_verdict_while_there_is_no_signal_and_the_reason_is_said():
    board, script = Board(State()), Script([frame(0), 1.3])
    script.trouble = "connection refused"  # type: ignore[assignment]
    board.answered(answer())
    states = pumped(script, board)
    assert states[0].answer is not None and states[0].trouble is None, "one silent moment is no lost signal"
    assert states[-1].answer is None and states[-1].trouble == "no signal: connection refused"
    assert board.answered(answer()).answer is None, "a late label of an old frame is not shown either"


def test_the_signal_comes_back_at_once():
    board = Board(State())
    states = pumped(Script([1.2, frame(0)]), board)
    assert [one.trouble for one in (states[-2], states[-1])] == ["no signal", None]
    assert board.answered(answer()).answer is not None


@pytest.mark.parametrize("fault", ["damaged picture", "frozen picture"])
def test_a_picture_with_a_fault_is_shown_but_never_labelled(fault):
    board, latest = Board(State()), Latest()
    bad = [part for index in range(1, 70) for part in (frame(index, fault), 0.02)]
    states = pumped(Script([frame(0), *bad]), board, latest)
    taken = latest.take()
    assert taken is None, "the only good one is too old by now"
    assert states[5].hint == fault and states[5].frame is not None and states[5].frame.fault == fault
    assert states[-1].trouble == f"no signal: {fault}"


def test_a_recording_plays_at_its_own_rate_however_slow_the_model_is():
    script = Script([frame(index, seconds=index / 20) for index in range(11)], live=False)
    board, latest = Board(State()), Latest()
    started = time.monotonic()
    pumped(script, board, latest, paced=True)
    assert time.monotonic() - started >= 0.5, "eleven frames at twenty a second last half a second"
    taken = latest.take()
    assert taken is not None and taken.index == 10, "nobody waited for a label"
    assert time.monotonic() - taken.captured < 0.4, "its age counts from when it was shown, not from when it was read"


def test_a_pause_holds_a_recording_and_what_a_camera_shows_meanwhile_is_not_seen():
    board = Board(State())
    script = Script([frame(index, seconds=index / 50) for index in range(20)], live=False)
    pump = Pump(script, Latest(), board, True, lambda state: None)
    pump.start()
    wait_for(lambda: board.state.frame and board.state.frame.index > 2, "a few frames")
    board.update(paused=True)
    time.sleep(0.1)
    before = board.state.frame
    time.sleep(0.4)
    assert board.state.frame is before
    board.update(paused=False)
    wait_for(lambda: board.state.frame and board.state.frame.index == 19, "the last frame")

    camera = Board(State(paused=True))
    assert all(one.frame is None for one in pumped(Script([frame(0), frame(1), 1.5]), camera))
    assert camera.state.trouble is None, "a paused view does not say that the signal is lost"


def test_a_signal_that_was_there_during_a_pause_is_not_called_lost_after_it():
    board, states = Board(State(paused=True)), []

    class Slow(Script):
        quiet = 0.0

        def __iter__(self) -> Iterator[Frame | None]:
            for index in range(8):
                time.sleep(0.2)
                yield frame(index)
            board.update(paused=False)
            yield None  # a moment without a picture, as between any two

    pump = Pump(Slow([]), Latest(), board, False, states.append)
    pump.run()
    assert states and all(one.trouble is None for one in states)


def test_an_error_of_the_source_reaches_the_main_thread():
    board = Board(State())
    pumped(Script([frame(0), UserError("gone")]), board)
    assert str(board.state.error) == "gone"


def test_dark_pictures_are_doubted():
    rng = np.random.default_rng(0)
    assert health.hint(rng.integers(0, 12, (480, 640, 3)).astype(np.uint8)) == "too dark"
    night = rng.integers(0, 12, (480, 640, 3)).astype(np.uint8)
    night[100:140, 100:200] = 200
    assert health.hint(night) is None, "a lamp at night is a picture"
    assert health.hint(np.zeros((1, 1, 3), np.uint8)) == "too dark"


def test_swapped_colours_are_found_by_what_is_nearer_to_the_training_photos():
    check = health.ColourCheck()
    for i in range(100):
        now = i / 7
        if check.wants(now):
            check.add(0.5 if i % 2 else 1.4, 0.6 if i % 2 else 2.0, now)
    assert check.swapped and not check.wants(1e9), "it has decided, and costs nothing any more"
    right, strange = health.ColourCheck(), health.ColourCheck()
    for i in range(20):
        right.add(2.0, 1.4, float(i))
        strange.add(0.5, 0.9, float(i))
        strange.add(None, None, float(i))
    assert not right.swapped and not strange.swapped
    assert strange.wants(1e9), "strangers say nothing of colours"
    assert "red and blue swapped?" in State(hint="too dark", swapped=True).doubts


def test_rates_are_those_of_the_last_two_seconds():
    rate = Rate()
    assert rate.value == 0.0
    for tick in range(200):
        rate.tick(tick / 30)
    assert rate.value == pytest.approx(30.0)
    rate.tick(100.0)
    assert rate.value == 0.0


# Smoothing


def judgement(first: float, familiarity: float = 2.0, sure: float = 0.6) -> Judgement:
    probabilities = np.array([first, 1 - first], np.float32)
    verdict = Judge(sure=sure).verdicts(probabilities[None], np.array([familiarity]))[0]
    return Judgement(str(verdict), int(probabilities.argmax()), probabilities, (0, 1), familiarity, ())  # type: ignore[arg-type]


def shown(smoother: Smoother, values: list[float], rate: float, familiarity: float = 2.0) -> list[str]:
    """What is said at each moment: the verdict, or the label."""
    said = []
    for i, value in enumerate(values):
        one = smoother.add(judgement(value, familiarity), i / rate)
        said.append("ab"[one.label] if one.verdict == "label" else one.verdict)
    return said


def changes(said: list[str]) -> int:
    return sum(one != other for one, other in itertools.pairwise(said))


def test_noise_around_a_threshold_or_an_even_chance_changes_the_label_at_most_once_a_minute():
    rng = np.random.default_rng(0)
    for middle, noise in ((0.5, 0.05), (0.6, 0.05), (0.75, 0.15), (0.97, 0.05)):
        values = np.clip(rng.normal(middle, noise, 7 * 60), 0, 1).tolist()
        assert changes(shown(Smoother(Judge(sure=0.6), 0.3), values, 7.0)) <= 1, middle
        raw = shown(Smoother(Judge(sure=0.6), 0.0), values, 7.0)
        assert middle > 0.9 or changes(raw) > 10, "without smoothing there is something to smooth"


@pytest.mark.parametrize("rate", [4.0, 7.0, 15.0, 30.0])
def test_a_real_change_is_shown_within_half_a_second(rate):
    values = [0.99] * 20 + [0.02] * 20
    said = shown(Smoother(Judge(sure=0.6), 0.3), values, rate)
    assert said[19] == "a"
    assert said[20 + int(0.5 * rate) - 1] == "b"
    blip = shown(Smoother(Judge(sure=0.6), 0.3), [0.99] * 20 + [0.02] + [0.99] * 5, 7.0)
    assert set(blip) == {"a"}, "one odd answer is no change"


@pytest.mark.parametrize("rate", [4.0, 7.0, 30.0])
def test_a_class_that_only_leads_takes_over_soon(rate):
    values = [0.99] * int(3 * rate) + [0.25] * int(3 * rate)
    said = shown(Smoother(Judge(sure=0.5), 0.3), values, rate)
    assert said[-int(1.4 * rate)] == said[-1] == "b"


def test_a_stranger_is_called_one_within_half_a_second_and_let_go_as_soon():
    smoother = Smoother(Judge(sure=0.6), 0.3)
    said = [smoother.add(judgement(0.99, 2.0 if i < 20 or i >= 40 else 0.5), i / 7).verdict for i in range(60)]
    assert said[19] == "label" and said[22] == "unlike" and said[39] == "unlike" and said[42] == "label"


def test_the_past_is_forgotten_after_a_gap_and_without_smoothing():
    smoother = Smoother(Judge(), 0.3)
    smoother.add(judgement(0.99), 0.0)
    assert smoother.add(judgement(0.3), 5.0).probabilities[0] == np.float32(0.3)
    plain = judgement(0.3)
    assert Smoother(Judge(), 0.0).add(plain, 0.0) is plain


def test_probabilities_are_averaged_with_the_time_constant():
    smoother = Smoother(Judge(), 0.3)
    smoother.add(judgement(0.8), 0.0)
    blended = smoother.add(judgement(0.6), 0.1)
    assert blended.probabilities[0] == pytest.approx(0.6 + 0.2 * np.exp(-0.1 / 0.3), abs=1e-6)
    assert blended.probabilities.sum() == pytest.approx(1)


# Commands


def test_ten_keys_in_a_row_are_ten_keys_handled():
    board = Board(State())
    done: list[str] = []
    keys = control.Control(board, {"snapshot": lambda: done.append("s"), "record": lambda: done.append("r")})
    for key in "msgsrnmshr":
        command = control.command_of(ord(key))
        assert command is not None
        keys.commands.put(command)
    keys.obey()
    assert done == list("ssrsr")
    assert (board.state.mirror, board.state.evidence, board.state.nearest, board.state.help) == (
        False,
        True,
        True,
        True,
    )
    assert not keys.quit
    for key in (27, ord("q"), ord("Q")):
        assert control.command_of(key) == Command("quit")
    assert control.command_of(ord("0")) == Command("region", "full")
    assert control.command_of(ord("x")) is None


# Files


def test_a_row_that_the_disk_takes_half_of_is_taken_back(tmp_path):
    rows = Rows("--json", tmp_path / "out.jsonl")
    rows.add({"label": "a"})

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(bytes(data)[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert rows._file is not None
    rows._file.close()
    rows._file = Full(rows.path, "r+")  # type: ignore[assignment]
    rows._file.seek(0, os.SEEK_END)
    with pytest.raises(NotSaved, match="No space left on device, after 1 lines"):
        rows.add({"label": "b"})
    rows.close()
    assert rows.path.read_text() == '{"label": "a"}\n'


def test_a_disk_that_refuses_is_said_by_the_main_thread_and_stops_that_file_only(tmp_path):
    board = Board(State())

    class Refusing:
        count, closed = 0, False

        def add(self, thing: int, /) -> None:
            if thing == 2:
                raise NotSaved("--json x: No space left on device, after 1 lines.")
            self.count += 1

        def close(self) -> None:
            self.closed = True

    target = Refusing()
    sink: Sink[int] = Sink(target, board.fail)
    for thing in (1, 2, 3):
        sink.add(thing)
    sink.close()
    assert (target.count, target.closed) == (1, True)
    assert isinstance(board.state.error, NotSaved) and board.state.error.code == 3


def test_a_recording_that_a_key_asked_for_and_the_disk_refuses_ends_without_the_view(tmp_path, monkeypatch):
    class Refusing:
        frames = 3

        def add_view(self, view: np.ndarray, at: float) -> None:
            raise NotSaved("--save a.mp4: No space left on device; its first 3 frames are there and play.")

        def close(self) -> None: ...

    monkeypatch.setattr(session, "new_recording", lambda path, source: Refusing())
    predictor = SimpleNamespace(bundle=SimpleNamespace(judge=Judge()))
    live = session.Session(
        Script([]), predictor, State(), every=False, paced=False, smooth=0.3, most=None, rows=[], recording=None,
        folder=tmp_path / "live", painter=Painter,
    )  # type: ignore[arg-type]  # fmt: skip
    live.control.commands.put(Command("record"))
    live.control.obey()
    assert live.board.state.recording
    live._seen(live.board.update(frame=frame(0)))
    wait_for(lambda: not live.board.state.recording, "the end of the recording")
    assert live.board.state.error is None
    assert live.board.state.notice[0].startswith("a.mp4: No space left on device; its first 3 frames")
    live.control.commands.put(Command("record"))
    live.control.obey()
    assert live.board.state.recording, "the next press begins another one"
    live.finish()


def test_not_a_number_never_becomes_a_line(tmp_path):
    rows = Rows("--json", tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        rows.add({"probability": float("nan")})
    rows.close()


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_name_that_is_no_text_is_written_with_escapes(tmp_path, option):
    rows = Rows(option, tmp_path / "out")
    rows.add({"file": "a\udcff.png"})
    rows.close()
    assert r"a\udcff.png" in (tmp_path / "out").read_text(encoding="utf-8")


def test_a_snapshot_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    told: list[tuple[Path | None, str]] = []
    state = State(source="camera 0", classes=("a", "b"), answer=answer("b", 7))
    snapshots = Snapshots(tmp_path / "live", Painter(), lambda path, words: told.append((path, words)))
    for _ in range(2):
        snapshots.add(state)
    names = {path.name.split(".", 1)[1] for path in (tmp_path / "live").iterdir()}
    assert snapshots.count == 2 and names == {"json", "png", "view.png"} and told[0][0] != told[1][0]
    before, write = sorted((tmp_path / "live").iterdir()), files.write_atomic

    def full(path: Path, data: bytes) -> None:
        if ".view" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(files, "write_atomic", full)
    snapshots.add(state)
    assert told[-1] == (None, "not kept: No space left on device")
    assert sorted((tmp_path / "live").iterdir()) == before


def test_rows_say_what_and_of_what_and_nothing_while_there_is_no_signal():
    state = State(source="camera 0", classes=("a", "b"), trouble="no signal: timed out")
    silent = row(None, state)
    assert silent["label"] is silent["verdict"] is silent["probabilities"] is None
    assert (silent["source"], silent["trouble"]) == ("camera 0", "no signal: timed out")
    said = row(answer("b", 7), State(source="camera 0", classes=("a", "b")))
    assert list(said) == list(silent)
    assert (said["frame"], said["label"], said["trouble"], said["age_ms"]) == (7, "b", None, 20.0)
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_file_that_appears_while_the_model_loads_is_left_alone(tmp_path, option):
    rows = Rows(option, tmp_path / "out")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        rows.add({"label": "a"})
    rows.close()
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_is_closed_to_us_is_named_before_the_model_is_loaded(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="can't be written to"):
        Rows("--json", tmp_path / "closed" / "out.jsonl")


def test_training_photos_are_found_by_their_names_unless_another_one_has_it(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.full((300, 600, 3), (50, 90, 130), np.uint8))
    cv2.imwrite(str(tmp_path / "b" / "1.png"), np.zeros((300, 600, 3), np.uint8))  # since the training
    seen = hashlib.sha256((tmp_path / "a" / "1.png").read_bytes()).digest()

    def album(data: Path) -> Album:
        training = {"data": str(data), "settings": {}}
        return Album(TrainingPhotos(SimpleNamespace(training=training, judge=Judge(seen=seen))))  # type: ignore[arg-type]

    photos, gone = album(tmp_path), album(tmp_path / "gone")
    wait_for(lambda: photos("a/1.png") is not None, "the photo")
    photo = photos("a/1.png")
    assert photo is not None and photo.shape == (80, 160, 3) and photo[40, 80].tolist() == [50, 90, 130]
    for one, name in ((photos, "b/1.png"), (photos, "a/2.png"), (gone, "a/1.png")):
        assert one(name) is None
        wait_for(lambda one=one: not one._wanted, "a look at it")
        time.sleep(0.1)
        assert one(name) is None, name
