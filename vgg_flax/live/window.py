"""The window on the screen, and whether there can be one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np

from vgg_flax.live.capture import Source
from vgg_flax.live.overlay import compose, draw_notice, fit
from vgg_flax.live.result import Result

ESCAPE = 27
KEYS = "q, Esc: quit   space: pause   m: mirror"

# Qt ends the whole process when it finds no screen, so the question is put to a process that may die of it.
_PROBE = "import cv2; cv2.namedWindow('vgg_flax'); cv2.destroyAllWindows()"


def why_no_window() -> str | None:
    """Why no window can be opened here, in a few words; None when one can."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "DISPLAY is not set"
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "the window system does not answer"
    if probe.returncode == 0:
        return None
    if b"not implemented" in probe.stderr:
        return "this OpenCV is built without windows (opencv-python-headless)"
    return f"the window system at DISPLAY={os.environ.get('DISPLAY', '')} can't be reached"


def open_window(title: str, source: Source, mirror: bool, warn: Callable[[str], None]) -> Window | None:
    """A window for what `source` shows; None where none can be had, and `warn` is told why."""
    if obstacle := why_no_window():
        warn(f"no window, because {obstacle}; going on as with --headless")
        return None
    # A video plays no faster than it was filmed; a live picture is shown as soon as it is there.
    return Window(title, mirror and source.camera, 0.0 if source.live else 1 / source.fps)


class Window:
    """A window that shows views, `pace` seconds each or longer, and takes keys.

    Attributes:
      closed: the person has quit: q, Esc, or the window's own button.
      mirror: show pictures as in a mirror; `m` switches.
    """

    def __init__(self, title: str, mirror: bool = False, pace: float = 0.0):
        self.closed = False
        self.mirror = mirror
        self._pace = pace
        self._title = title
        self._paused = False
        self._seen = False  # whether the window was visible at some time
        self._shown_at = -1e9
        self._last: Result | None = None
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    def add(self, result: Result) -> None:
        """Show a result at its time; see `show`."""
        self._last = result
        self.show(compose(result, self.mirror))

    def no_signal(self, name: str) -> None:
        """Take the label off: the last picture, darkened, and that the source called `name` is silent."""
        image = np.zeros((480, 640, 3), np.uint8) if self._last is None else self._last.frame.image
        view = fit(image, self.mirror)
        draw_notice(view, "no signal", name)
        self.show(view)

    def show(self, view: np.ndarray) -> None:
        """Show uint8 BGR `[height, width, 3]`, `pace` seconds after the view before, and answer keys.

        Returns when the view is on the screen, after a pause when the person asked for one.
        """
        due = self._shown_at + self._pace
        while not self.closed and (early := due - time.monotonic()) > 0:
            self._answer(early)
        if self.closed:
            return  # imshow would open the window once more
        if not self._seen:
            cv2.resizeWindow(self._title, view.shape[1], view.shape[0])
        cv2.imshow(self._title, view)
        self._shown_at = time.monotonic()
        self._answer(0.001)
        while self._paused and not self.closed:
            self._answer(0.05)

    def wait(self) -> None:
        """Answer keys, with nothing new to show."""
        self._answer(0.001)

    def hold(self) -> None:
        """Keep the last view until the person quits."""
        while not self.closed:
            self._answer(0.05)

    def close(self) -> None:
        cv2.destroyAllWindows()

    def _answer(self, seconds: float) -> None:
        key = cv2.waitKey(max(1, min(50, int(1000 * seconds)))) & 0xFF
        visible = self._visible()
        if key in (ord("q"), ord("Q"), ESCAPE) or (self._seen and not visible):
            self.closed = True
        self._seen = self._seen or visible
        if key in (ord("m"), ord("M")):
            self.mirror = not self.mirror
        if key == ord(" ") and not self.closed:
            self._paused = not self._paused
            cv2.setWindowTitle(self._title, f"{self._title} (paused)" if self._paused else self._title)

    def _visible(self) -> bool:
        # GTK says -1 all along, so only a window that was visible before counts as closed.
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # Qt, once its last window is gone
            return False
