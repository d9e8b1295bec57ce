"""The face on the screen: a window, and whether there can be one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np

from vgg_flax.live.control import command_of
from vgg_flax.live.painter import Painter
from vgg_flax.live.scene import natural_size
from vgg_flax.live.state import Command, State

AGAIN = 0.3  # seconds after which the same State is painted again
SMALLEST = 0.03  # of the picture's side: a region dragged smaller than that is a click

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


class Window:
    """Shows one State after the other in a size that the person chooses, and takes keys and the mouse.

    Also of a State that stays, as in a pause, the view changes: notices go, and training photos come.

    All its methods are called in the main thread.

    Args:
      want: told what the person wants.
    """

    def __init__(self, title: str, painter: Painter, want: Callable[[Command], object]):
        self._title = title.encode(errors="replace").decode()  # OpenCV crashes at a name that is no text
        self._painter, self._want = painter, want
        self._size: tuple[int, int] | None = None
        self._visible_once = False
        self._from: tuple[int, int] | None = None  # where the mouse was pressed
        self._shown: State | None = None
        self._due = 0.0  # when it is painted again
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)

    def show(self, state: State) -> None:
        """Show a State, unless it was shown just now, and pass on what the person did meanwhile."""
        if state.frame is not None or state.trouble or self._size:
            if self._size is None:
                self._open(state)
            size = self._current_size()
            if state is not self._shown or size != self._size or time.monotonic() > self._due:
                self._size, self._shown, self._due = size, state, time.monotonic() + AGAIN
                cv2.imshow(self._title, self._painter.paint(state, *size))
        while (key := cv2.waitKey(1)) >= 0:
            if command := command_of(key):
                self._want(command)
        if self._closed():
            self._want(Command("quit"))

    def _open(self, state: State) -> None:
        high, wide = state.frame.image.shape[:2] if state.frame else (480, 640)
        self._size = natural_size(wide, high, len(state.classes))
        cv2.imshow(self._title, np.zeros((self._size[1], self._size[0], 3), np.uint8))
        cv2.resizeWindow(self._title, *self._size)
        cv2.setMouseCallback(self._title, self._mouse)
        cv2.waitKey(1)

    def _current_size(self) -> tuple[int, int]:
        assert self._size is not None
        try:
            _, _, width, height = cv2.getWindowImageRect(self._title)
        except cv2.error:
            return self._size
        return (width, height) if width >= 64 and height >= 64 else self._size

    def _mouse(self, event: int, x: int, y: int, flags: int, _: object) -> None:
        """A rectangle drawn on the picture becomes the region that the model sees."""
        if event == cv2.EVENT_LBUTTONDOWN:
            self._from = x, y
        elif event == cv2.EVENT_LBUTTONUP and self._from and self._painter.scene and self._shown:
            region = dragged(self._from, (x, y), self._painter.scene.picture, self._shown.mirror)
            self._from = None
            if region:
                self._want(Command("region", region))

    def _closed(self) -> bool:
        # GTK says -1 all along, so only a window that was visible before counts as closed.
        try:
            visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # Qt, once its last window is gone
            visible = False
        closed = self._visible_once and not visible
        self._visible_once = self._visible_once or visible
        return closed

    def close(self) -> None:
        cv2.destroyAllWindows()


def dragged(start: tuple[int, int], end: tuple[int, int], picture: tuple[int, int, int, int], mirror: bool) -> str:
    """The region between two points of a view, as `region.shares` reads it; empty where it is too small.

    Args:
      picture: left, top, width and height of the picture in the view.
    """
    left, top, width, height = picture
    x = sorted(min(1.0, max(0.0, (point[0] - left) / width)) for point in (start, end))
    y = sorted(min(1.0, max(0.0, (point[1] - top) / height)) for point in (start, end))
    x = [1 - x[1], 1 - x[0]] if mirror else x
    if x[1] - x[0] < SMALLEST or y[1] - y[0] < SMALLEST:
        return ""
    return ",".join(f"{value:.3f}" for value in (x[0], y[0], x[1] - x[0], y[1] - y[0]))
