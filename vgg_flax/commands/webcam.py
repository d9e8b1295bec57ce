"""Label what a camera, a video, a stream or a folder of pictures shows, with a trained model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_flax import console, ending
from vgg_flax.webcam_settings import WebcamSettings

if TYPE_CHECKING:  # the names in annotations; nothing is imported
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.live.capture import Source
    from vgg_flax.live.painter import Painter
    from vgg_flax.live.session import Session
    from vgg_flax.live.terminal import Terminal
    from vgg_flax.live.window import Window

# The libraries read these once, when they are imported; `run` imports them, so that --help needn't wait.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # one picture at a time needs little of a GPU
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what goes wrong is said once, by us
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("QT_LOGGING_RULES", "*=false")


def main(settings: WebcamSettings) -> None:
    """Label until somebody has had enough. A signal ends it in order, with exit code 128 + its number."""
    if settings.list_cameras:
        return list_cameras()
    try:
        run(settings)
    except ending.Stopped as stopped:
        raise SystemExit(stopped.code) from None


def run(settings: WebcamSettings) -> None:
    """From the source to the last frame. Whatever happens, files end up readable and the camera free."""
    from vgg_flax.live import sinks, sources
    from vgg_flax.live.session import new_recording
    from vgg_flax.live.terminal import Terminal

    with contextlib.ExitStack() as stack:
        # What can fail at once comes first: the files to write, then the source, and only then the slow model.
        terminal = stack.enter_context(Terminal())
        named = (("--json", settings.json), ("--csv", settings.csv))
        rows = [sinks.Rows(option, path) for option, path in named if path is not None]
        asked = (settings.size, settings.fps)
        source = stack.enter_context(contextlib.closing(sources.open_source(settings.source, terminal.note, *asked)))
        recording = new_recording(settings.save, source) if settings.save else None
        predictor = load_model(settings.model, terminal)
        painter, watched = make_painter(predictor), settings.show == "window" and can_open_window(terminal)
        session = make_session(settings, source, predictor, painter, rows, recording, watched)
        faces: list[Any] = [terminal]
        if watched:
            faces.append(stack.enter_context(contextlib.closing(open_window(session, painter()))))
            console.show_line("keys: h shows them, q quits")
        try:
            with ending.listening() as check:
                session.run(faces, check, hold=source.still and watched and settings.max_frames is None)
        finally:
            session.finish()
            say_what_came(session)
        if session.board.state.error:
            raise session.board.state.error


def load_model(path: Path | None, terminal: Terminal) -> Predictor:
    """The model, compiled, so that the first frame is answered at full speed."""
    terminal.busy("loading the model ...")
    import numpy as np

    from vgg_flax.answers import predictor as predict
    from vgg_flax.compilation import keep_compiled_programs

    keep_compiled_programs()
    predictor = predict.Predictor.load(path or predict.newest_run(), say=terminal.note, maps=True)
    size = predictor.preprocessing.image_size
    predictor.predict(np.zeros((1, size, size, 3), np.uint8))
    return predictor


def make_painter(predictor: Predictor) -> Callable[[], Painter]:
    """What makes a painter for each face and file; all show the same training photos."""
    from vgg_flax.answers.training_photos import TrainingPhotos
    from vgg_flax.live.album import Album
    from vgg_flax.live.painter import Painter

    album = Album(TrainingPhotos(predictor.bundle))
    return lambda: Painter(album)


def make_session(
    settings: WebcamSettings,
    source: Source,
    predictor: Predictor,
    painter: Callable[[], Painter],
    rows: list[Any],
    recording: Any,
    watched: bool,
) -> Session:
    """What the settings ask for: all frames of a recording that nobody watches or that fills files, else the newest."""
    from vgg_flax.live.session import Session
    from vgg_flax.live.state import State

    first = State(
        source=source.name,
        model=predictor.name,
        classes=tuple(predictor.classes),
        region=settings.region or predictor.preprocessing.region,
        mirror=source.camera and not settings.no_mirror,
        evidence=settings.evidence,
    )
    paced = watched and not rows and not recording
    return Session(
        source,
        predictor,
        first,
        every=not source.live and (source.still or not paced),
        paced=paced,
        smooth=0.0 if source.still else settings.smooth,
        most=settings.max_frames,
        rows=rows,
        recording=recording,
        folder=settings.project / "live",
        painter=painter,
    )


def can_open_window(terminal: Terminal) -> bool:
    """Where there can be none it is said why."""
    from vgg_flax.live.window import why_no_window

    obstacle = why_no_window()
    if obstacle:
        terminal.note(f"no window, because {obstacle}; going on as with --show terminal")
    return not obstacle


def open_window(session: Session, painter: Painter) -> Window:
    """A window for a session, which takes its keys."""
    from vgg_flax.live.window import Window

    first = session.board.state
    return Window(f"vgg_flax: {first.model} - {first.source}", painter, session.control.commands.put)


def say_what_came(session: Session) -> None:
    """How many labels, how fast, and which files can be read now."""
    if (labelled := session.board.state.labelled) and (seconds := session.seconds):
        console.show_line(f"{labelled} labels in {seconds:.1f} s, {labelled / seconds:.1f} a second")
    for line in session.written:
        console.show_line(f"wrote {line}")


def list_cameras() -> None:
    """A line for each camera."""
    from vgg_flax.live.cameras import list_cameras

    found = list_cameras()
    for index, path, name in found:
        console.show_line(f"{index}   {name}   {path}")
    if not found:
        console.say("no camera found. --source also takes a file, a folder or a URL.")
