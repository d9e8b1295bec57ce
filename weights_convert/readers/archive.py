"""A zip archive from a stranger: members are read by exact name and never extracted."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from weights_convert.tensor import MAX_TENSORS, printable, refuse

MAX_SMALL = 1 << 24
MAX_RATIO = 20  # deflate makes trained weights smaller by a tenth


class Archive:
    """An open zip archive whose directory has been checked."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self.archive = path, archive
        self.names: dict[str, zipfile.ZipInfo] = {}
        entries = archive.infolist()
        if len(entries) > MAX_TENSORS:
            refuse(path, f"is an archive of {len(entries):,} files. Expected at most {MAX_TENSORS:,}.")
        for entry in entries:
            name = printable(entry.filename)
            if entry.filename in self.names:
                refuse(path, f"holds {name} twice. Expected every name once.")
            if entry.flag_bits & 1:
                refuse(path, f"holds {name} encrypted, which is not read.")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                refuse(path, f"holds {name} packed by method {entry.compress_type}. Expected none or deflate.")
            if entry.file_size > MAX_SMALL and entry.file_size > MAX_RATIO * entry.compress_size:
                refuse(path, f"holds {name}, which unpacks to {entry.file_size:,} bytes. Weights never pack that well.")
            self.names[entry.filename] = entry
        if sum(entry.compress_size for entry in entries) > path.stat().st_size:
            refuse(path, "is an archive whose files overlap.")

    def read(self, name: str, most: int) -> bytes:
        """A whole member, which must have at most `most` bytes."""
        if self.names[name].file_size > most:
            refuse(
                self.path, f"{printable(name)} claims {self.names[name].file_size:,} bytes. Expected at most {most:,}."
            )
        return self.slice(name, 0, self.names[name].file_size)

    def slice(self, name: str, start: int, count: int) -> bytes:
        """Some bytes of a member."""
        try:
            with self.archive.open(name) as file:
                file.seek(start)
                data = file.read(count)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, ValueError) as error:
            refuse(self.path, f"{printable(name)} can't be unpacked ({printable(error)[:80]}). Is the file damaged?")
        if len(data) != count:
            refuse(self.path, f"{printable(name)} has {len(data):,} bytes where {count:,} were declared.")
        return data
