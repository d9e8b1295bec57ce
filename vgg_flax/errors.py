"""What can go wrong and be fixed by the person at the keyboard, or be noted and passed over."""

from __future__ import annotations

import errno

# What a disk answers that is full, read-only, closed to us or broken.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENOTDIR)
REFUSALS += (errno.ENAMETOOLONG,)


class UserError(Exception):
    """Something the person at the keyboard can fix: one line with what was expected, found, and what to do."""

    code = 2  # the program's exit code


class NotSaved(UserError):
    """The disk does not take what a run leaves behind."""

    code = 3


class BadImage(Exception):
    """A picture that can't be used; the message is the reason."""
