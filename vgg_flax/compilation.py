"""Compiled programs kept between runs, so that the second start does not compile again."""

from __future__ import annotations

import hashlib
import platform
import warnings
from importlib.metadata import version
from pathlib import Path

import jax

from vgg_flax.cache import usable_dir


def keep_compiled_programs() -> None:
    """Have JAX keep what it compiles in the cache folder, apart for each version and processor.

    Compiled code is executed: the folder is the user's own, and closed to others.
    """
    kind = f"{jax.__version__} {version('jaxlib')} {_processor()}"
    folder = usable_dir("xla") / hashlib.sha256(kind.encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # compiled again, no more
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """Model and instruction sets: code compiled for one processor may crash another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
