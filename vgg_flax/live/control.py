"""What a person can do while a view is live, and what it changes."""

from __future__ import annotations

import queue
from collections.abc import Callable

from vgg_flax.live.state import Board, Command

# Key, command, what it does. The names of switches are those of State.
KEYS = (
    ("q Esc", "quit", "quit"),
    ("space", "paused", "pause, go on"),
    ("s", "snapshot", "keep this picture and its verdict"),
    ("r", "record", "record, stop recording"),
    ("m", "mirror", "mirror the view"),
    ("g", "evidence", "where the model looks"),
    ("n", "nearest", "the nearest training photos"),
    ("0", "region", "the model sees the whole frame again"),
    ("h", "help", "show these keys"),
)
SWITCHES = ("paused", "mirror", "evidence", "nearest", "help")
CODES = {"q": "quit", "\x1b": "quit", " ": "paused", "0": "region"} | {
    key: command for key, command, _ in KEYS if len(key) == 1 and key not in "q0"
}


def command_of(key: int) -> Command | None:
    """What a key asks for, by its code as OpenCV gives it; None where it asks for nothing."""
    name = CODES.get(chr(key & 0xFF).lower())
    return Command(name, "full" if name == "region" else "") if name else None


class Control:
    """Takes commands from every thread, and carries them out in the one that calls `obey`.

    Args:
      actions: {name: what to do} of the commands that are no switch of State.
    """

    def __init__(self, board: Board, actions: dict[str, Callable[[], object]]):
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.quit = False
        self._board, self._actions = board, actions

    def obey(self) -> None:
        """Carry out what waits, in its order."""
        while not self.commands.empty():
            self._carry_out(self.commands.get())

    def _carry_out(self, command: Command) -> None:
        state = self._board.state
        if command.name == "quit":
            self.quit = True
        elif command.name in SWITCHES:
            self._board.update(**{command.name: not getattr(state, command.name)})
        elif command.name == "region":
            self._board.update(region=command.value)
        else:
            self._actions[command.name]()
