"""Installs the contenders from other projects, each into a virtual environment of its own.

python -m benchmarks.peers                      # all of them, into benchmarks/.peers
python -m benchmarks.peers ncnn torch --into /tmp/peers

What can't be installed is written down with its reason, and the tables name it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).with_name(".peers")
PACKAGES = {
    "ncnn": ["ncnn==1.0.20261020"],
    "onnxruntime": ["onnxruntime==1.32.0"],
    "openvino": ["openvino==2026.4.1"],
    "torch": ["torch==2.13.0", "numpy"],
    # With what Keras's ImageDataGenerator and the notebook's loop need beside it.
    "tensorflow": ["tensorflow-cpu==2.21.0", "keras==3.15.1", "scipy", "opencv-python-headless", "scikit-learn"],
    "keras": ["keras==3.15.1", "jax==0.10.2", "scipy", "opencv-python-headless", "scikit-learn"],
}
INSTALL_SECONDS = 900


def python_of(peer: str, folder: Path = FOLDER) -> Path:
    """The interpreter of a peer's environment."""
    return folder / peer / "bin" / "python"


def why_missing(peer: str, folder: Path = FOLDER) -> str | None:
    """None for a peer that can be started, otherwise the reason why not, in one line."""
    try:
        record = json.loads((folder / peer / "installed.json").read_text())
    except (OSError, ValueError):
        return "not installed (python -m benchmarks.peers)"
    return record["error"] if record["packages"] == PACKAGES[peer] else "installed with other versions"


def install(peer: str, folder: Path = FOLDER) -> str | None:
    """Makes a peer's environment unless it is there. Returns why that failed, or None."""
    if (reason := why_missing(peer, folder)) is None:
        return None
    home = folder / peer
    try:
        venv.create(home, with_pip=True, clear=True)
        command = [str(python_of(peer, folder)), "-m", "pip", "install", "--quiet", *PACKAGES[peer]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = None if done.returncode == 0 else (errors or [f"pip ended with {done.returncode}"])[-1]
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{type(error).__name__}: {error}"
    home.mkdir(parents=True, exist_ok=True)
    (home / "installed.json").write_text(json.dumps({"packages": PACKAGES[peer], "error": reason}))
    return reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", default=[], help=f"some of {', '.join(PACKAGES)}; all unless given")
    parser.add_argument("--into", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    if unknown := set(arguments.peers) - PACKAGES.keys():
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PACKAGES)}")
    failures = {}
    for peer in arguments.peers or PACKAGES:
        print(f"{peer}: ", end="", flush=True)
        failures[peer] = install(peer, arguments.into)
        print(failures[peer] or "ready", flush=True)
    sys.exit(1 if any(failures.values()) else 0)


if __name__ == "__main__":
    main()
