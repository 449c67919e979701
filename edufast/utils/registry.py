"""Registries: what names in a recipe stand for, extensible by users.

A name is registered (by this package, or by a user's decorator), an import path such as
``mypackage.losses:Mine``, or an entry point of an installed package.

Looking up an import path runs the code of its module. This is intended, so import paths must come
from the user: as an argument, on the command line, or in a recipe, of which the config.yaml of a
run folder is a copy. Names in a file of weights do not; they are only looked up if the user gives
the same path, see :func:`edufast.models.weights.load_model`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from edufast.utils.errors import UserError, one_line, unknown

F = TypeVar("F")  # type of a registry's entries: functions or classes
Entry = TypeVar("Entry", bound=Callable[..., Any])

_NAME = re.compile(r"[\w.-]+")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Registry(Generic[F]):
    """Functions and classes by name, for one kind of object; iterates over the registered names.

    Args:
        kind: of object, for messages, such as "algorithm".
        group: of entry points, such as "edufast.algorithms".
        makes: type or types of the objects that entries return.
        entries: registered from the start.
        also: alternatives to a name, for messages.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        makes: type | tuple[type, ...],
        entries: Mapping[str, F],
        *,
        also: str = "",
    ) -> None:
        self.kind, self.group = kind, group
        self._makes = makes if isinstance(makes, tuple) else (makes,)
        self._entries = dict(entries)
        self._also = f"{also} or an import path" if also else "an import path"

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        """Whether ``name`` is registered or an entry point. Import paths are neither."""
        return name in self._entries or bool(_NAME.fullmatch(name) and self._declared(name))

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that registers a function or class in this process.

        A function with the same module and name replaces the earlier one, for instance when a cell
        of a notebook runs twice.

        Raises:
            UserError: ``name`` has characters other than letters, digits and ``_ - .``, or another
                function is registered under it.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                f"{self.kind} name is {name!r}; expected letters, digits, '_', '-' or '.'"
            )

        def decorate(entry: Entry) -> Entry:
            self._check(name, entry)
            taken = self._entries.get(name)
            if taken is not None and _origin(taken) != _origin(entry):
                raise UserError(
                    f"{self.kind} {name!r} is registered already, as {_origin(taken)}; expected "
                    f"another name for {_origin(entry)}"
                )
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return decorate

    def find(self, name: str) -> F:
        """The entry that ``name`` stands for.

        Raises:
            UserError: there is none, it cannot be imported, or is of the wrong kind.
        """
        if not isinstance(name, str):
            raise UserError(f"{self.kind} is {name!r}; expected a name or an import path")
        if name in self._entries:
            return self._entries[name]
        paths = [name] if is_import_path(name) else self._declared(name)
        if len(paths) > 1:
            raise UserError(
                f"{self.kind} {name!r} is declared by several packages; expected one of their "
                f"import paths, {' or '.join(paths)}"
            )
        if not paths:
            declared = (entry.name for entry in entry_points(group=self.group))
            raise unknown(self.kind, name, [*self._entries, *declared], also=self._also)
        entry = _import(f"{self.kind} {name!r}", paths[0])
        self._check(name, entry)
        return entry

    def call(self, name: str, /, *arguments: Any, **options: Any) -> Any:
        """Call the entry ``name`` and check the type of what it returns.

        Raises:
            UserError: as :meth:`find`, or the entry does not accept the arguments, raises an
                exception, or returns another type.
        """
        what, entry = f"{self.kind} {name!r}", self.find(name)
        assert callable(entry)
        _check_arguments(what, entry, arguments, options)
        made = call_user(what, entry, *arguments, **options)
        if not isinstance(made, self._makes):
            raise UserError(f"{what} returned {_describe(made)}; expected {self._expected}")
        return made

    @property
    def _expected(self) -> str:
        return " or ".join(_article(made.__name__) for made in self._makes)

    def _check(self, name: str, entry: Any) -> None:
        is_other_class = isinstance(entry, type) and not issubclass(entry, self._makes)
        if is_other_class or not callable(entry):
            raise UserError(
                f"{self.kind} {name!r} is {_describe(entry)}; expected a class or function that "
                f"makes {self._expected}"
            )

    def _declared(self, name: str) -> list[str]:
        """Import paths that installed packages declare for ``name``."""
        return sorted({entry.value for entry in entry_points(group=self.group, name=name)})


def is_import_path(name: str) -> bool:
    """Whether ``name`` has the form ``package.module:attribute``."""
    return _IMPORT_PATH.fullmatch(name) is not None


def call_user(what: str, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
    """``function(*arguments, **options)``, for functions that users write.

    Raises:
        UserError: the function raised an exception; the message is one line with ``what``, the
            exception, and the place in the user's file.
    """
    try:
        return function(*arguments, **options)
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: {_summary(error)}") from error


def _import(what: str, path: str) -> Any:
    name, _, attribute = path.partition(":")
    try:
        module = call_user(f"{what}: cannot import {name}", importlib.import_module, name)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}."):
            raise UserError(
                f"{what}: there is no module {cause.name!r}; expected one that is installed or "
                "in a folder on PYTHONPATH"
            ) from cause
        raise
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise unknown(f"{what}: attribute of {name}", attribute, public)
    return getattr(module, attribute)


def _check_arguments(
    what: str, entry: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Raise a UserError if ``entry`` does not accept the arguments."""
    try:
        signature = inspect.signature(entry)
    except ValueError:  # some functions written in C have no signature
        return
    parameters = signature.parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for option in options:
            if option not in named:
                raise unknown(f"{what}: option", option, named[len(arguments) :])
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise UserError(f"{what}: {error}; it takes {signature}") from error


def _summary(error: BaseException) -> str:
    message = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
    # After our own frame and those of the import system comes the user's file.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]
        if not frame.filename.startswith("<") and frame.filename != importlib.__file__
    ]
    if not frames:
        return message
    deepest = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f"{message} ({deepest.filename}, line {deepest.lineno})"


def _origin(entry: Any) -> str:
    name = getattr(entry, "__qualname__", None)  # a functools.partial has none
    return repr(entry) if name is None else f"{entry.__module__}:{name}"


def _describe(found: Any) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return "None" if found is None else _article(type(found).__name__)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"
