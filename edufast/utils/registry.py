"""Registries: what the names in a recipe stand for, open to users.

A name is either registered (with the package, or by a decorator), or an import path such as
``mypackage.losses:Mine``, or an entry point of an installed package.

Looking up an import path runs the code of that module, by design: it is the user's, who wrote the
path as an argument, on the command line, in a recipe, or in the recipe that a run folder's
config.yaml repeats. Names found in files of weights may come from anybody; they are not looked up
before the user has named the same path, see :func:`edufast.models.weights.load_model`.
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

F = TypeVar("F")  # the entries of one registry: functions or classes that are called alike
Entry = TypeVar("Entry", bound=Callable[..., Any])

_NAME = re.compile(r"[\w.-]+")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Registry(Generic[F]):
    """Functions and classes that make one kind of object, by name. Iterates the registered names.

    Args:
        kind: what an entry is, for messages: "algorithm".
        group: of the entry points that packages may declare: "edufast.algorithms".
        makes: type of what an entry returns when called, or several.
        entries: those of the package.
        also: what else may stand in place of a name, for messages.
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
        """A decorator that registers a function or class. It holds for this process.

        Raises:
            UserError: ``name`` has other characters than letters, digits and ``_ - .``, or is
                taken by another function. Registering the same one again replaces it, for
                instance when a notebook runs a cell twice.
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

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """What the entry ``name`` returns.

        Raises:
            UserError: likewise; or it does not take these arguments, raises an exception, or
                returns an object of another type.
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


def call_user(what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """``function(*arguments, **options)``, for code that is not ours.

    Raises:
        UserError: whatever it raised, in one line: ``what``, the exception, and where in the
            user's file it was.
    """
    try:
        return function(*arguments, **options)
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: {_told(error)}") from error


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
    """Tell what ``entry`` does not take before it runs, in the user's words."""
    try:
        signature = inspect.signature(entry)
    except ValueError:  # some functions written in C have none
        return
    taken = signature.parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        named = [p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for option in options:
            if option not in named:
                raise unknown(f"{what}: option", option, named[len(arguments) :])
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise UserError(f"{what}: {error}; it takes {signature}") from error


def _told(error: BaseException) -> str:
    message = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
    # Behind our own frame and those of the import system: the user's file, at its deepest.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]
        if not frame.filename.startswith("<") and frame.filename != importlib.__file__
    ]
    theirs = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"{message} ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else message


def _origin(entry: Any) -> str:
    name = getattr(entry, "__qualname__", None)  # a functools.partial has none
    return repr(entry) if name is None else f"{entry.__module__}:{name}"


def _describe(found: Any) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return "None" if found is None else _article(type(found).__name__)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"
