"""Label what a camera, a video, a stream or a folder of pictures shows, with a trained model."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_flax import console, ending
from vgg_flax.settings import WebcamSettings

if TYPE_CHECKING:  # the names in annotations; nothing is imported
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.live.capture import Source
    from vgg_flax.live.output import JsonLines
    from vgg_flax.live.progress import StatusLine, Stopwatch
    from vgg_flax.live.recording import Recording
    from vgg_flax.live.window import Window

# The libraries read these once, when they are imported; `run` imports them, so that --help needn't wait.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # one picture at a time needs little of a GPU
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what goes wrong is said once, by us
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("QT_LOGGING_RULES", "*=false")

NO_SIGNAL_AFTER = 1.0  # seconds without a frame until the old label is taken off the screen


def main(settings: WebcamSettings) -> None:
    """Label until somebody has had enough; a signal that comes before the first frame is exit code 130 or 143."""
    try:
        run(settings)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def run(settings: WebcamSettings) -> None:
    """From the source to the last frame. Whatever happens, files end up readable and the camera free."""
    from vgg_flax.live import output, progress, recording, sources, window

    watch, files = progress.Stopwatch(), []
    try:
        with contextlib.ExitStack() as stack:
            status = stack.enter_context(progress.StatusLine())
            # What can fail at once comes first: the files to write, then the source, and only then the slow model.
            if settings.json is not None:
                files.append(stack.enter_context(contextlib.closing(output.JsonLines(settings.json))))
            source = stack.enter_context(contextlib.closing(sources.open_source(settings.source, status.note)))
            if settings.save is not None:
                files.append(stack.enter_context(contextlib.closing(recording.Recording(settings.save, source.fps))))
            predictor = load_model(settings.model, status)
            screen = None
            if not settings.headless:
                screen = window.open_window(f"vgg_flax: {predictor.name}", source, not settings.no_mirror, status.note)
            if screen:
                stack.enter_context(contextlib.closing(screen))
                console.show_line(window.KEYS)
            with contextlib.suppress(KeyboardInterrupt), ending.interrupting():
                label_frames(source, predictor, screen, files, status, watch, settings.max_frames)
    finally:
        if watch.frames:
            for line in (watch.summary(), *(f"wrote {file}" for file in files if file.frames)):
                console.show_line(line)


def load_model(path: Path | None, status: StatusLine) -> Predictor:
    """The model, compiled, so that the first frame is answered at full speed."""
    status.busy("loading the model ...")
    import numpy as np

    from vgg_flax.answers import predictor as predict
    from vgg_flax.compilation import keep_compiled_programs

    keep_compiled_programs()
    predictor = predict.Predictor.load(path or predict.newest_run(), say=status.note)
    size = predictor.preprocessing.image_size
    predictor.predict(np.zeros((1, size, size, 3), np.uint8))
    return predictor


def label_frames(
    source: Source,
    predictor: Predictor,
    screen: Window | None,
    files: list[Recording | JsonLines],
    status: StatusLine,
    watch: Stopwatch,
    max_frames: int | None,
) -> None:
    """Label each frame of the source, write it down and show it, until somebody has had enough."""
    from vgg_flax.live.overlay import compose
    from vgg_flax.live.recording import Recording
    from vgg_flax.live.result import label

    watch.start()
    seen = time.monotonic()
    for frame in source:
        if frame is not None:
            watch.lap("capture")
            result = label(frame, predictor, watch)
            seen = time.monotonic()
            for file in files:  # first: what was said is written down, whatever happens to the screen
                if isinstance(file, Recording):
                    file.add_view(compose(result), frame.time_s)
                else:
                    file.add(result)
            status.show(f"{frame.index:6d}   {result.summary()}")
            if screen:
                screen.add(result)
            watch.lap("output")
        elif time.monotonic() - seen > NO_SIGNAL_AFTER:
            status.show(f"no signal from {source.name}")
            if screen:
                screen.no_signal(source.name)
        elif screen:
            screen.wait()
        if watch.frames == max_frames or (screen and screen.closed):
            return
    if screen and source.still:
        screen.hold()  # the last picture of a folder stays until it is closed
