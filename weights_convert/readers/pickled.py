"""Pickles read as data: a small stack machine that builds containers and arrays, and can do nothing else.

Python's own unpickler calls whatever a file names. Here a name is only ever compared with `NAMES`; any other is
refused, and so are all operations that tensors and containers don't need. Source: the opcodes in `pickletools`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weights_convert.readers import foreign
from weights_convert.readers.pickled_values import Name, NumpyArray, NumpyType, Scripted, Storage, TorchTensor, text
from weights_convert.tensor import checked_shape, printable, refuse

MAX_OPERATIONS = 1_000_000
FLOATS = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
}
INTEGERS = ("LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage")
SCRIPTED = "__torch__."  # classes that torch.jit.save writes as code beside the pickle
RESAVE = "Save the bare weights instead: torch.save(model.state_dict(), 'vgg.pth')."


class Machine:
    """Runs one pickle in `data` from `start`; afterwards `end` is the position behind it."""

    def __init__(self, path: Path, data: memoryview, start: int = 0):
        self.path, self.data, self.end = path, data, start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object. Raises WeightFileError."""
        try:
            for _ in range(MAX_OPERATIONS):
                code = self.take(1)[0]
                if code == 0x2E:  # STOP
                    return self.stack.pop()
                operation = OPERATIONS.get(code)
                if operation is None:
                    refuse(self.path, f"its pickle holds operation {code:#04x}, which weights don't need. {RESAVE}")
                operation(self)
        except (IndexError, struct.error, UnicodeError, TypeError, ValueError, KeyError, OverflowError):
            refuse(self.path, f"its pickle is damaged or cut short at byte {self.end:,}.")
        refuse(self.path, f"its pickle has more than {MAX_OPERATIONS:,} operations.")

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if count < 0 or self.end + count > len(self.data):
            raise IndexError
        self.end += count
        return self.data[self.end - count : self.end]

    def number(self, form: str) -> Any:
        """The next number, in one of struct's formats."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The rest of a line of text."""
        rest = bytes(self.data[self.end : self.end + 300])
        length = rest.index(b"\n")
        self.end += length + 1
        return rest[:length].decode("ascii")

    def to_mark(self) -> list[Any]:
        """Pop everything above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def name(self, module: str, name: str) -> None:
        """Push a name, if it is one of ours."""
        text = f"{module}.{name}"
        if text not in NAMES and not text.startswith(SCRIPTED):
            why = f"its pickle names {printable(text)}, which is never loaded"
            refuse(self.path, f"{why}. {foreign.pickled(self.path, text, self.stack)}")
        self.stack.append(Name(text))

    def reduce(self) -> None:
        """A call, in an ordinary unpickler."""
        arguments, function = self.stack.pop(), self.stack.pop()
        build = NAMES.get(function.text) if isinstance(function, Name) else None
        if build is None or not isinstance(arguments, tuple):
            refuse(self.path, f"its pickle calls something that is no function. {RESAVE}")
        self.stack.append(build(self, *arguments))

    def new(self) -> None:
        """An object without a call: modules of TorchScript have no others."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Name) or not kind.text.startswith(SCRIPTED) or arguments != ():
            refuse(self.path, f"its pickle builds something that is no tensor. {RESAVE}")
        self.stack.append(Scripted())

    def build(self) -> None:
        """Set an object's state."""
        state, thing = self.stack.pop(), self.stack[-1]
        if isinstance(thing, NumpyArray):
            _, shape, thing.dtype, fortran, data = state
            thing.shape, thing.fortran = checked_shape(self.path, "of a pickled array", shape), bool(fortran)
            if not isinstance(data, (memoryview, bytes, list)) or not isinstance(thing.dtype, NumpyType):
                raise TypeError
            thing.data = data
        elif isinstance(thing, NumpyType):
            thing.order = text(state[1])
        elif isinstance(thing, Scripted):
            thing.update(state)
        elif not isinstance(thing, dict):  # of a state_dict, only the version numbers of its layers; not needed
            refuse(self.path, f"its pickle sets attributes of something that has none. {RESAVE}")

    def set_items(self, pairs: list[Any]) -> None:
        """Fill the dict on top of the stack."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise TypeError
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[key if isinstance(key, (int, float, type(None))) else text(key)] = value

    def extend(self, items: list[Any]) -> None:
        """Fill the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise TypeError
        self.stack[-1].extend(items)

    def persistent(self) -> None:
        """torch's storages: ("storage", type, key, location, size), and in old files a view, which must be None."""
        kind, storage, key, _, size, *view = self.stack.pop()
        if text(kind) != "storage" or not isinstance(storage, Name) or (view and view[0] is not None):
            raise TypeError
        dtype = storage.text.removeprefix("torch.")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise TypeError
        self.stack.append(Storage(FLOATS.get(dtype, dtype), text(key), size))


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(type(v) is int and 0 <= v < 2**40 for v in values):
        raise TypeError
    return tuple(values)


def _tensor(machine: Machine, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TorchTensor:
    shape, strides, (offset,) = _integers(shape), _integers(strides), _integers((offset,))
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise TypeError
    checked_shape(machine.path, "of a pickled tensor", shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        refuse(machine.path, f"a tensor of shape {shape} reaches beyond its storage of {storage.size:,} values.")
    return TorchTensor(storage, offset, shape, strides)


def _ordered_dict(machine: Machine, pairs: Any = ()) -> dict[Any, Any]:
    machine.stack.append({})
    machine.set_items([entry for key, value in pairs for entry in (key, value)])
    return machine.stack.pop()


def _encode(machine: Machine, string: Any, encoding: Any) -> bytes:
    if text(encoding) not in ("latin1", "latin-1"):
        raise TypeError
    return string.encode("latin1") if isinstance(string, str) else bytes(string)


def _frombuffer(machine: Machine, data: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    if not isinstance(dtype, NumpyType) or not isinstance(data, (memoryview, bytes)):
        raise TypeError
    return NumpyArray(checked_shape(machine.path, "of a pickled array", shape), dtype, text(order) == "F", data)


NAMES: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda machine, data, *_: data,
    "numpy.ndarray": None,
    "numpy.dtype": lambda machine, code, *_: NumpyType(text(code)),
    "numpy.core.multiarray._reconstruct": lambda machine, *_: NumpyArray(),
    "numpy._core.multiarray._reconstruct": lambda machine, *_: NumpyArray(),
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
    **{f"torch.jit._pickle.build_{kind}list": lambda machine, items: items for kind in ("int", "double", "bool")},
    **{f"torch.{name}": None for name in (*FLOATS, *INTEGERS)},
}


def _push(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value(machine))


def _counted(form: str, convert: Callable[[memoryview], Any] = lambda data: data) -> Callable[[Machine], None]:
    return _push(lambda machine: convert(machine.take(machine.number(form))))


def _unicode(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "surrogatepass")


def _long(machine: Machine) -> int:
    size = machine.number("B")
    if size > 16:
        raise ValueError
    return int.from_bytes(machine.take(size), "little", signed=True)


def _last(count: int) -> Callable[[Machine], None]:
    def tuple_of(machine: Machine) -> None:
        if len(machine.stack) < count:
            raise IndexError
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return tuple_of


def _remember(index: Callable[[Machine], int]) -> Callable[[Machine], None]:
    return lambda machine: machine.memo.__setitem__(index(machine), machine.stack[-1])


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(text(module), text(name))


OPERATIONS: dict[int, Callable[[Machine], Any]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): lambda m: m.stack.pop(),
    ord("N"): _push(lambda m: None),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    ord("J"): _push(lambda m: m.number("<i")),
    ord("K"): _push(lambda m: m.number("B")),
    ord("M"): _push(lambda m: m.number("<H")),
    0x8A: _push(_long),
    ord("G"): _push(lambda m: m.number(">d")),
    ord("X"): _counted("<I", _unicode),
    0x8C: _counted("B", _unicode),
    0x8D: _counted("<Q", _unicode),
    ord("T"): _counted("<i"),  # byte strings stay where they are
    ord("U"): _counted("B"),
    ord("B"): _counted("<I"),
    ord("C"): _counted("B"),
    0x8E: _counted("<Q"),
    0x96: _counted("<Q"),  # BYTEARRAY8, of protocol 5
    ord(")"): _push(lambda m: ()),
    0x85: _last(1),
    0x86: _last(2),
    0x87: _last(3),
    ord("t"): _push(lambda m: tuple(m.to_mark())),
    ord("]"): _push(lambda m: []),
    ord("a"): lambda m: m.extend([m.stack.pop()]),
    ord("e"): lambda m: m.extend(m.to_mark()),
    ord("}"): _push(lambda m: {}),
    ord("s"): lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    ord("u"): lambda m: m.set_items(m.to_mark()),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: _stack_global,
    ord("R"): Machine.reduce,
    0x81: Machine.new,
    ord("b"): Machine.build,
    ord("Q"): Machine.persistent,
    ord("q"): _remember(lambda m: m.number("B")),
    ord("r"): _remember(lambda m: m.number("<I")),
    0x94: _remember(lambda m: len(m.memo)),
    ord("h"): _push(lambda m: m.memo[m.number("B")]),
    ord("j"): _push(lambda m: m.memo[m.number("<I")]),
}
