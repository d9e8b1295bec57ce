"""The kernel as a shared library: compiled for this processor on first use, kept in the cache, loaded once.

A library runs with the user's rights, so one is only ever loaded from a folder that nobody else can write.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import jax.ffi

from vgg_flax.cache import usable_dir
from vgg_flax.console import say
from vgg_flax.files import sweep, temporary_name

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SOURCE = Path(__file__).with_name("kernel.cc")
TARGET = "vgg_flax_winograd_features"
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 300  # far beyond any honest build

_loading = threading.Lock()
_library: ctypes.CDLL | None = None


class Unavailable(RuntimeError):
    """The kernel can't run on this machine; the message is one line: the reason, and what to install or do."""


def load(folder: Path | None = None, say: Callable[[str], object] = say) -> None:
    """Builds the kernel if this processor has none in the cache yet (some seconds, announced through `say`),
    loads it, and registers it with JAX. Later calls return at once; any thread may call.

    Args:
      folder: where the library is kept; `winograd` in the cache unless given.
      say: takes one line of text.

    Raises:
      Unavailable: no compiler, a compiler or processor that can't, or a cache that is unwritable or not private.
    """
    global _library
    with _loading:
        if _library is not None:
            return
        path = build(folder or usable_dir("winograd"), say)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise Unavailable(f"{path} was built but can't be loaded: {_one_line(str(error))}") from error
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.VggFeatures), platform="cpu")
        _library = library


def build(folder: Path, say: Callable[[str], object]) -> Path:
    """The shared library's path in `folder`, compiled unless it is there. Raises Unavailable."""
    if fcntl is None:
        raise Unavailable("the Winograd kernel is built on Linux and macOS only")
    command = _command()
    path = folder / f"{_key(command)}.so"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(folder)
        if not path.exists():
            with _locked(folder / "lock"):
                sweep(folder)  # what a killed compilation left
                if not path.exists():
                    say("Compiling the Winograd kernel for this processor, once: about ten seconds.")
                    _compile(command, path)
        _refuse_foreign(path)
    except OSError as error:
        raise Unavailable(
            f"can't keep the Winograd kernel in {folder}: {error.strerror or error}; "
            "set VGG_FLAX_CACHE to a folder you can write"
        ) from error
    return path


def _command() -> list[str]:
    """The compiler and every flag but input and output."""
    compiler = shlex.split(os.environ.get("CXX", "")) or next(([c] for c in COMPILERS if shutil.which(c)), [])
    if not compiler or shutil.which(compiler[0]) is None:
        raise Unavailable(
            f"no C++ compiler found (looked for {compiler[0] if compiler else ', '.join(COMPILERS)}); "
            "install one: `apt install g++`, `dnf install gcc-c++`, or `xcode-select --install`"
        )
    native = "-march=native" if platform.machine().lower() in ("x86_64", "amd64") else "-mcpu=native"
    # XLA's headers are not free of warnings. Contraction is what turns a product and a sum into one instruction.
    flags = ["-std=c++17", "-O3", native, "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w"]
    return [*compiler, *flags, "-I", jax.ffi.include_dir()]


def _key(command: list[str]) -> str:
    """A digest of all that decides what the library contains and where it can run.

    The compiler's predefined macros name its version and each instruction set that `native` stands for here, so a
    cache shared by machines with different processors holds one library for each.
    """
    digest = hashlib.sha256(SOURCE.read_bytes())
    macros = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    for part in (*command, macros, importlib.metadata.version("jaxlib")):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]


def _compile(command: list[str], path: Path) -> None:
    """Compiles under a name of its own, so that `path` appears whole or not at all."""
    temporary = temporary_name(path)
    try:
        _run([*command, str(SOURCE), "-o", str(temporary)])
        temporary.chmod(0o700)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    """What `command` prints. Raises Unavailable with its first error."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=COMPILE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} can't be run: {_one_line(str(error))}") from error
    if done.returncode != 0:
        lines = done.stderr.splitlines() or [f"it ended with status {done.returncode}"]
        reason = next((line for line in lines if "error" in line), lines[-1])
        raise Unavailable(
            f"{command[0]} can't compile the Winograd kernel: {_one_line(reason)}; "
            "g++ 9 or clang 12 with the C++ standard library headers will do"
        )
    return done.stdout


@contextlib.contextmanager
def _locked(path: Path):
    """Holds a lock file, so that of two processes starting together one compiles and the other waits."""
    assert fcntl is not None
    with path.open("a") as file:
        # Without locks, as on some network file systems, both compile, and the renames don't clash.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_foreign(path: Path) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        reason = "is a symbolic link"
    elif status.st_uid != os.geteuid():
        reason = "belongs to another user"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = "can be written by other users"
    else:
        return
    raise Unavailable(
        f"{path} {reason}, so code from it is not run; make it yours alone (`chmod go-w`), delete it, "
        "or set VGG_FLAX_CACHE to a folder of your own"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
