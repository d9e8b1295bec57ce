"""What `--source` means."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vgg_flax.data import named
from vgg_flax.errors import UserError
from vgg_flax.live.capture import Source, open_camera, open_stream
from vgg_flax.live.newest import LiveSource
from vgg_flax.live.recorded import PICTURES, Pictures, VideoFile

# A URL that ends so is a recording, which has an end; any other is a live stream.
VIDEOS = {*named.VIDEOS, ".gif"}


def open_source(text: str, warn: Callable[[str], None]) -> Source:
    """The source that `--source` means: a camera number, a video or picture, a folder of pictures, or a URL.

    Args:
      warn: told, in one line each, what was left out and why.

    Raises:
      UserError: there is no such source, or it can't be opened.
    """
    if re.fullmatch(r"\d{1,9}", text):
        return LiveSource(f"camera {text}", functools.partial(open_camera, int(text)), camera=True, hint=_cameras())
    url = urlsplit(text)
    if "://" in text and url.scheme != "file":
        shown = text.replace(f"{url.username}:{url.password}@", "")  # a password is not for the screen
        if url.scheme in ("http", "https") and Path(url.path).suffix.lower() in VIDEOS:
            return VideoFile(text, shown, warn)
        return LiveSource(shown, functools.partial(open_stream, text))
    path = Path(unquote(url.path)) if url.scheme == "file" else Path(text).expanduser()
    if path.is_dir():
        return Pictures.of_folder(path, warn)
    if path.is_char_device():  # /dev/video0
        return LiveSource(str(path), functools.partial(open_camera, str(path)), camera=True)
    if not path.is_file():
        raise UserError(f"--source {text}: no such file. Expected a camera number, a file, a folder or a URL.")
    if path.suffix.lower() in PICTURES:
        return Pictures([path], str(path), warn)
    return VideoFile(str(path), str(path), warn)


def _cameras() -> str:
    if sys.platform != "linux":
        return " Another number, or --source FILE, may help."
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f" Cameras here: {', '.join(found) or 'none'}. --source also takes a file, a folder or a URL."
