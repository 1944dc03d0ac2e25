"""Reads a pickle of foreign objects as data: nothing that it names is imported or called.

A pickle is a program for a stack machine that may call anything. `read_pickle` runs such a program
on a machine of its own that knows the 31 instructions of the files it is made for and
turns what is no plain value into inert ones: a class that we do not have becomes a `Record` of its
arguments and state, a tensor the `TensorPlace` where its values lie in the archive. Any other call
is refused (A246). No step takes longer than in proportion to the bytes it has read, so no small
file can keep the reader busy.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

DTYPES: Final = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
# Calls whose arguments are kept and whose value is of no use to us: sets, sizes, devices, numbers.
_VALUES: Final = frozenset(
    {
        ("__builtin__", "set"),
        ("builtins", "set"),
        ("torch", "Size"),
        ("torch", "device"),
        ("_codecs", "encode"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
    }
)
_GETATTR: Final = (("__builtin__", "getattr"), ("builtins", "getattr"))
ORIGINAL: Final = "ultralytics."  # modules of the package whose networks are read
_MAX_AXES, _MAX_LENGTH, _MAX_KEY = 8, 1 << 32, 1 << 32


class Global(NamedTuple):
    """The name of a class or function; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return repr(f"{self.module}.{self.name}"[:100])


class StoragePlace(NamedTuple):
    """A storage of the archive: its number, dtype and number of elements."""

    key: str
    dtype: torch.dtype
    numel: int


class TensorPlace(NamedTuple):
    """A view into a storage, inside it and with no more elements than it has."""

    storage: StoragePlace
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Record:
    """What a pickle says of an object: its class, arguments and state. It does nothing.

    Attributes:
        kind: its class, or the function whose value it would be.
        arguments: as given.
        state: as given, None where there is none.
    """

    kind: Global
    arguments: tuple[Any, ...]
    state: Any = None


def read_pickle(data: bytes) -> Any:
    """Return what a pickle describes, without importing or calling anything.

    Args:
        data: a pickle of protocol 2 as ``torch.save`` writes it, whose tensors lie in an archive.

    Returns:
        None, bool, int, float, str, list, tuple, dict, and `Record`, `TensorPlace`,
        `StoragePlace` and `Global` for everything else. Containers can contain themselves.

    Raises:
        ValueError: a call, an instruction, a storage or a tensor is refused, or the pickle is
            broken. The message names what it is.
    """
    machine = _Machine()
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name == "STOP":
            break
        act = _ACTIONS.get(instruction.name)
        if act is None:
            raise ValueError(f"its pickle uses the instruction {instruction.name}, refused")
        act(machine, argument)
    if len(machine.stack) != 1 or machine.marks:
        raise ValueError("its pickle is broken: it does not end with one value")
    return machine.stack[0]


class _Machine:
    """Stack, marks and memo of a running pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle is broken: a value is missing")
        return self.stack[-1]

    def pop(self, count: int = 1) -> list[Any]:
        values = [(self.top(), self.stack.pop())[0] for _ in range(count)]
        return values[::-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("its pickle is broken: a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def put(self, number: int) -> None:
        self.memo[number] = self.top()

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError("its pickle is broken: it uses a value that it has not stored")
        self.push(self.memo[number])

    def name(self, argument: str) -> None:
        if not argument.isprintable():  # it is shown to users
            raise ValueError(f"its pickle names a class {argument[:40]!r}")
        self.push(Global(*argument.split(" ", 1)))

    def append(self, _: Any) -> None:
        self._extend(self.pop())

    def appends(self, _: Any) -> None:
        self._extend(self.pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        _expect(self.top(), list).extend(values)

    def set_item(self, _: Any) -> None:
        self._update(self.pop(2))

    def set_items(self, _: Any) -> None:
        self._update(self.pop_to_mark())

    def _update(self, values: list[Any]) -> None:
        target, keys = _expect(self.top(), dict), values[::2]
        # Hashing other keys, tuples within tuples, could exhaust the interpreter's stack; numbers
        # that differ by multiples of 2^61 - 1 have one hash and take quadratic time.
        if len(values) % 2 or not all(
            isinstance(key, str) or (isinstance(key, int) and abs(key) < _MAX_KEY) for key in keys
        ):
            raise ValueError(
                "its pickle has a key of a dictionary that is neither text nor number below 2^32"
            )
        target.update(zip(keys, values[1::2], strict=True))

    def new_object(self, _: Any) -> None:
        kind, arguments = self.pop(2)
        self.push(Record(_expect(kind, Global), _expect(arguments, tuple)))

    def build(self, _: Any) -> None:
        (state,) = self.pop()
        target = self.top()
        if isinstance(target, dict):
            return  # attributes of an ordered dictionary
        if _expect(target, Record).state is not None:
            raise ValueError(f"its pickle gives the state of a {target.kind} twice")
        target.state = state

    def call(self, _: Any) -> None:
        function, arguments = self.pop(2)
        self.push(_call(_expect(function, Global), _expect(arguments, tuple)))

    def storage(self, _: Any) -> None:
        (identity,) = self.pop()
        self.push(_storage(identity))


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(
            f"its pickle is broken or made to deceive: a {type(value).__name__} stands where a "
            f"{kind.__name__} belongs"
        )
    return value


def _call(function: Global, arguments: tuple[Any, ...]) -> Any:
    """Do what a call of a pickle asks for, if it is one of the few that we know."""
    if function in _VALUES:
        return Record(function, arguments)
    if function == ("collections", "OrderedDict") and not arguments:
        return {}
    if function == ("torch._utils", "_rebuild_tensor_v2"):
        return _tensor(*_at_least(arguments, 4, function))
    if function == ("torch._utils", "_rebuild_parameter"):
        return _expect(_at_least(arguments, 1, function)[0], TensorPlace)
    if _names_their_own(function, arguments):
        return Record(function, arguments)
    raise ValueError(f"it asks for a call of {function} with {len(arguments)} arguments")


def _names_their_own(function: Global, arguments: tuple[Any, ...]) -> bool:
    """Return whether it is an empty namespace or a method of the original, kept by name (A246)."""
    if function.module.startswith(ORIGINAL):
        return not arguments
    if function not in _GETATTR or tuple(map(type, arguments[1:])) != (str,):
        return False
    owner = arguments[0].kind if isinstance(arguments[0], Record) else arguments[0]
    return isinstance(owner, Global) and owner.module.startswith(ORIGINAL)


def _at_least(arguments: tuple[Any, ...], count: int, function: Global) -> tuple[Any, ...]:
    if len(arguments) < count:
        raise ValueError(f"it asks for a call of {function} with {len(arguments)} arguments")
    return arguments[:count]


def _storage(identity: Any) -> StoragePlace:
    """Read what an archive's pickle says of a storage."""
    kinds = (str, Global, str, str, int)
    found = _expect(identity, tuple)
    if tuple(map(type, found)) != kinds or found[0] != "storage":
        raise ValueError("its pickle names something in the archive that is not a storage")
    _, kind, key, _, numel = found
    if kind.module != "torch" or kind.name not in DTYPES:
        raise ValueError(f"it holds a {kind}; read are {', '.join(DTYPES)}")
    # The key becomes part of the name of an archive's entry.
    if not re.fullmatch(r"[0-9]{1,9}", key) or numel < 0:
        raise ValueError(f"it names a storage {key[:40]!r} of {numel} elements")
    return StoragePlace(key, DTYPES[kind.name], numel)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> TensorPlace:
    """Check that a view stays inside its storage and repeats nothing."""
    numel = _expect(storage, StoragePlace).numel
    _expect(size, tuple)
    numbers = (offset, *size, *_expect(stride, tuple))
    sound = (
        all(type(number) is int and number >= 0 for number in numbers)
        and len(size) == len(stride) <= _MAX_AXES
        and all(length < _MAX_LENGTH for length in size)
        and math.prod(size) <= numel
    )
    if sound and math.prod(size):
        last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        sound = offset + last < numel
    if not sound:
        raise ValueError(
            f"it has a tensor of shape {_shown(size)}, strides {_shown(stride)} and offset "
            f"{_shown((offset,))[1:-2]} in a storage of {numel} elements, which do not agree"
        )
    return TensorPlace(storage, offset, size, stride)


def _shown(values: tuple[Any, ...]) -> str:
    """Return numbers as text; the text of others, tuples within tuples, could be endless."""
    first = values[: _MAX_AXES + 1]
    return str(tuple(v if type(v) is int else type(v).__name__ for v in first))[:80]


_ACTIONS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda _, __: None,
    "MARK": _Machine.mark,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "REDUCE": _Machine.call,
    "BINPERSID": _Machine.storage,
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "BINFLOAT": _Machine.push,
    "BINUNICODE": _Machine.push,
}
