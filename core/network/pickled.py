"""What a pickle says, read as data: plain values, and the calls that it asks for, none of which is made."""

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final

MOST_STEPS: Final = 10_000_000
"""Of one pickle; the scores of 1000 epochs with a hundred labels take a tenth."""

LONGEST_NUMBER: Final = 2**80
"""Beyond what torch writes; larger ones take long to compute with."""

ORDERED: Final = "collections.OrderedDict"
"""The one call that is understood here: an ordered dictionary is a dictionary."""


class PickleError(Exception):
    """A pickle is damaged, or says what is not admitted."""

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        """What it names that is not admitted."""


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """The dotted name of a class or function, never looked up."""

    dotted: str


@dataclass(slots=True, eq=False)
class Call:
    """What a pickle would have called, and with what."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    """What the result would have been given afterwards."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a pickle says of something that lies outside of it, such as the values of a tensor."""

    description: Any


@dataclass(slots=True)
class _State:
    """What has been read so far."""

    admitted: Collection[str]
    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)
    """Stacks below the marks that are open."""
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        """Take what came since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def named(self, dotted: str) -> Name:
        """Return a name if it is admitted."""
        if dotted not in self.admitted:
            raise PickleError(f"{dotted} is not admitted", dotted)
        return Name(dotted)


def read_pickle(stream: BinaryIO, admitted: Collection[str]) -> Any:
    """Read one pickle up to its end; nothing that it names is imported or run.

    Args:
        stream: In memory: what a pickle says of lengths is believed no further than its bytes go.
        admitted: Dotted names that it may hold. Calls of them are returned as `Call`.

    Returns:
        None, booleans, numbers, text, bytes, lists, tuples and dictionaries with keys of text or whole numbers,
        and among them `Name`, `Call` and `Reference`.

    Raises:
        PickleError: It is damaged, too long, names something else, or does what plain data has no need of.
    """
    state = _State(admitted)
    try:
        for opcode, argument, _ in islice(pickletools.genops(stream), MOST_STEPS):
            if opcode.name == "STOP":
                (value,) = state.stack
                return value
            _step(state, opcode.name, argument)
    except PickleError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise PickleError(f"it is damaged: {error}") from error
    raise PickleError(f"it has no end within {MOST_STEPS} steps")


def _step(state: _State, name: str, argument: Any) -> None:
    """Do one step."""
    if name in PLAIN:
        if isinstance(argument, int) and abs(argument) > LONGEST_NUMBER:
            raise PickleError("it holds a number of absurd size")
        state.stack.append(argument)
    elif name in CONSTANTS:
        state.stack.append(CONSTANTS[name]())
    elif name in TUPLES:
        count = TUPLES[name]
        items = [state.stack.pop() for _ in range(count)]
        state.stack.append(tuple(reversed(items)))
    elif name in STEPS:
        STEPS[name](state, argument)
    elif name not in IGNORED:
        raise PickleError(f"it holds {name}, which plain data has no need of")


IGNORED: Final = frozenset({"PROTO", "FRAME"})

PLAIN: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *(
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "UNICODE",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE8",
        ),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
"""Steps that bring a value."""

CONSTANTS: Final[dict[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}

TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _mark(state: _State, _: Any) -> None:
    state.outer.append(state.stack)
    state.stack = []


def _append(state: _State, _: Any) -> None:
    item = state.stack.pop()
    _extend(state, [item])


def _appends(state: _State, _: Any) -> None:
    _extend(state, state.since_mark())


def _extend(state: _State, items: list[Any]) -> None:
    if not isinstance(state.stack[-1], list):
        raise PickleError("it adds to something that is no list")
    state.stack[-1].extend(items)


def _set_item(state: _State, _: Any) -> None:
    value, key = state.stack.pop(), state.stack.pop()
    _update(state.stack[-1], [key, value])


def _set_items(state: _State, _: Any) -> None:
    items = state.since_mark()
    _update(state.stack[-1], items)


def _update(target: Any, items: list[Any]) -> None:
    """Set keys and values, which take turns; a key's hash must not take long."""
    keys = items[::2]
    if not isinstance(target, dict) or not all(isinstance(key, str | int) for key in keys):
        raise PickleError("it has a dictionary whose keys are neither text nor whole numbers")
    target.update(zip(keys, items[1::2], strict=True))


def _list(state: _State, _: Any) -> None:
    items = state.since_mark()
    state.stack.append(items)


def _tuple(state: _State, _: Any) -> None:
    items = state.since_mark()
    state.stack.append(tuple(items))


def _dict(state: _State, _: Any) -> None:
    items, made = state.since_mark(), dict[Any, Any]()
    _update(made, items)
    state.stack.append(made)


def _put(state: _State, argument: int) -> None:
    state.memo[argument] = state.stack[-1]


def _memoize(state: _State, _: Any) -> None:
    state.memo[len(state.memo)] = state.stack[-1]


def _get(state: _State, argument: int) -> None:
    state.stack.append(state.memo[argument])


def _pop(state: _State, _: Any) -> None:
    if state.stack:
        state.stack.pop()
    else:
        state.since_mark()


def _pop_mark(state: _State, _: Any) -> None:
    state.since_mark()


def _global(state: _State, argument: str) -> None:
    module, _, name = argument.partition(" ")
    state.stack.append(state.named(f"{module}.{name}"))


def _stack_global(state: _State, _: Any) -> None:
    name, module = state.stack.pop(), state.stack.pop()
    state.stack.append(state.named(f"{module}.{name}"))


def _call(state: _State, _: Any) -> None:
    arguments, called = state.stack.pop(), state.stack.pop()
    if not isinstance(called, Name) or not isinstance(arguments, tuple):
        raise PickleError("it calls something that is no name")
    is_dictionary = called.dotted == ORDERED and not arguments
    state.stack.append({} if is_dictionary else Call(called.dotted, arguments))


def _build(state: _State, _: Any) -> None:
    """Note what an object would be given after it was made; what a dictionary would be given is left out."""
    given, target = state.stack.pop(), state.stack[-1]
    if not isinstance(target, Call | dict):
        raise PickleError("it completes something that it did not call")
    if isinstance(target, Call):
        target.state = given


def _refer(state: _State, argument: Any) -> None:
    state.stack.append(Reference(state.stack.pop() if argument is None else argument))


STEPS: Final[dict[str, Callable[[_State, Any], None]]] = {
    "MARK": _mark,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "LIST": _list,
    "TUPLE": _tuple,
    "DICT": _dict,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "PERSID": _refer,
    "BINPERSID": _refer,
}
