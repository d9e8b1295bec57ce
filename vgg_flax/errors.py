"""Errors that a person can fix, told apart from bugs: these are one line, a bug is a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the person at the keyboard can fix: one line with what was expected, found, where, and what to do."""
