"""Cameras of this computer: which there are, and how one is opened."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import cv2

from vgg_flax.live.capture import OpenCV, Unavailable, frame_rate, opened

QUERYCAP = 0x80685600  # VIDIOC_QUERYCAP of linux/videodev2.h, as are the next ones
CAPABILITIES, OF_DEVICE = 84, 88  # offsets of two uint32 in its answer of 104 bytes
HAS_OF_DEVICE = 0x80000000
CAPTURES = 0x1 | 0x1000  # video capture, single- and multi-planar
TRIES = 10  # camera numbers that are tried where nothing lists them

Camera = tuple[int, str, str]  # number, path, name


def list_cameras(
    folder: Path = Path("/sys/class/video4linux"),
    devices: Path = Path("/dev"),
    capabilities: Callable[[Path], int | None] | None = None,
) -> list[Camera]:
    """(Number, path, name) of each camera. A USB camera has a second node, for metadata, which is none.

    Args:
      folder, devices: where Linux names them, and where they are.
      capabilities: of a device; None where it can't be asked, as when another user has it.
    """
    if sys.platform != "linux":
        return [(number, str(number), f"camera {number}") for number in _numbers_that_open()]
    ask, cameras = capabilities or _capabilities, []
    for entry in folder.glob("video*"):
        number, path = entry.name.removeprefix("video"), devices / entry.name
        found = ask(path)
        if number.isdecimal() and (found is None or found & CAPTURES):
            cameras.append((int(number), str(path), _name(entry)))
    return sorted(cameras)


def _name(entry: Path) -> str:
    with contextlib.suppress(OSError):
        text = (entry / "name").read_text(errors="replace").strip()
        return "".join(c for c in text if c.isprintable()) or entry.name
    return entry.name


def _capabilities(path: Path) -> int | None:
    import fcntl

    answer = bytearray(104)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:  # a container sees the cameras of its host in /sys
        return 0
    except OSError:
        return None
    try:
        fcntl.ioctl(descriptor, QUERYCAP, answer)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    every, device = struct.unpack_from("=II", answer, CAPABILITIES)
    return device if every & HAS_OF_DEVICE else every


def _numbers_that_open() -> list[int]:
    found = []
    for number in range(TRIES):
        if (capture := opened(cv2.VideoCapture(number, _backend()))) is not None:
            capture.release()
            found.append(number)
    return found


def _backend() -> int:
    # Named, because otherwise OpenCV tries every backend it has, each with its own complaint.
    return {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION}.get(sys.platform, cv2.CAP_ANY)


def open_camera(
    camera: int | str, resolution: tuple[int, int] | None, fps: float | None, note: Callable[[str], None]
) -> OpenCV:
    """A camera by number or path, set up as far as it lets us; `note` is told where it does otherwise.

    Raises:
      Unavailable: it can't be opened.
    """
    capture = opened(cv2.VideoCapture(camera, _backend()))
    if capture is None:
        raise Unavailable(_why_closed(camera))
    if resolution is not None or fps is not None:
        # Uncompressed pictures of more than 640x480 don't fit through USB 2 at a camera's full rate.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if resolution is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, resolution[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, resolution[1])
        given = round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if given != resolution:
            asked = "x".join(map(str, resolution))
            note(f"camera {camera} gives {given[0]}x{given[1]} pixels, not the {asked} of --resolution")
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
        if abs(frame_rate(capture) - fps) > 0.5:
            note(f"camera {camera} gives {frame_rate(capture):g} pictures a second, not the {fps:g} of --fps")
    return OpenCV(capture, camera=True)


def _why_closed(camera: int | str) -> str:
    path = Path(f"/dev/video{camera}" if isinstance(camera, int) else camera)
    if sys.platform != "linux":
        return "there is no such camera, or another program has it"
    if not path.exists():
        return f"there is no {path}"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{path} is closed to this user, who may have to be in the group 'video'"
    return "it gives no pictures, or another program has it"
