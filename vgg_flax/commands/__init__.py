"""A command a file, read from top to bottom."""
