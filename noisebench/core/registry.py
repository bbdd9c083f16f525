"""Registries of losses, strategies and noises: names, parameters, papers, versions, aliases."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from ..errors import LanguageError, UnknownName
from .expressions import Call, Expression, Sum, Value, parse, terms
from .parameters import Parameter, read_signature
from .plugins import code_of

F = TypeVar("F", bound=Callable[..., Any])
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Entry:
    """A registered name: `build(*injected, **parameters)` returns the object."""

    name: str
    build: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    paper: str = ""
    version: int = 1
    aliases: tuple[str, ...] = ()
    properties: frozenset[str] = frozenset()
    fill_defaults: Callable[[dict[str, Value]], dict[str, Value]] | None = None
    facts: dict[str, Any] = field(default_factory=dict, compare=False)
    # of a plugin: the hash of its source when it was loaded, empty without a file
    code: str | None = None

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.build) or ""

    @property
    def summary(self) -> str:
        return " ".join(self.doc.partition("\n\n")[0].split())

    @property
    def fingerprint(self) -> str:
        """The version, and for a plugin the hash of its source, as part of a run's key. Raises
        LanguageError if the source is unknown.
        """
        if self.code is None:
            return str(self.version)
        if not self.code:
            raise LanguageError(
                f"{self.name} is not defined in a file, so its code cannot be part of a run's key: "
                "put it into a plugin file (.py)"
            )
        return f"{self.version}:{self.code}"

    @property
    def signature(self) -> str:
        """`gce(q=0.7)`: the text with all defaults."""
        shown = [p.name if p.required else f"{p.name}={p.default}" for p in self.parameters]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


class Registry:
    """The names of one kind.

    `listing`: the word after `noisebench list`; `injected`: parameters that the code supplies, not
    the text (None: the first one, unless it is called `loss`); `properties`: the default of an
    entry's.
    """

    def __init__(
        self,
        kind: str,
        listing: str,
        injected: tuple[str, ...] | None = (),
        properties: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.listing = kind, listing
        self._injected, self._properties = injected, properties
        self._entries: dict[str, Entry] = {}  # by name, alias and short name
        self._short: dict[str, Call] = {}
        # a suite has few texts, which each run needs several times
        self._normal_forms: dict[str, Expression] = {}

    def register(self, build: Any = None, *, name: str = "", **facts: Any) -> Any:
        """Decorator that registers a function or class. Keywords: `name`, default that of the
        function; Entry's `paper`, `version`, `aliases`, `properties`, `fill_defaults`; all others
        become `facts`. Raises LanguageError for a name that exists or is not allowed.
        """
        if build is None:
            return partial(self.register, name=name, **facts)
        fields = ("paper", "version", "aliases", "fill_defaults")
        values = {key: facts.pop(key) for key in fields if key in facts}
        properties = frozenset(facts.pop("properties", self._properties))
        injected = self._injected
        if injected is None:
            first = next(iter(inspect.signature(build).parameters))
            injected = () if first == "loss" else (first,)
        code = None
        if build.__module__.partition(".")[0] != "noisebench":
            try:
                code = code_of(inspect.getsourcefile(build))
            except TypeError:  # code typed into an interpreter has no file
                code = ""
        entry = Entry(
            name or build.__name__,
            build,
            read_signature(build, injected),
            properties=properties,
            facts=facts,
            code=code,
            **values,
        )
        names = (entry.name, *entry.aliases)
        for new in names:
            if not _NAME.fullmatch(new):
                raise LanguageError(
                    f"invalid name of a {self.kind}, {new!r}: a name consists of "
                    "letters, digits and _, and begins with a letter"
                )
            if new in self._entries:
                raise LanguageError(f"the {self.kind} {new!r} already exists: choose another name")
        self._entries.update(dict.fromkeys(names, entry))
        return build

    def abbreviate(self, name: str, text: str) -> None:
        """Define a short name for a nested call: `nfl` is `normalized(focal(gamma=0.5))`, and
        `nfl(gamma=2)` sets the inner parameter.
        """
        call = parse(text)
        assert isinstance(call, Call)
        self._short[name], self._entries[name] = call, self[call.name]

    def short_names(self, entry: Entry) -> list[str]:
        """The short names of calls of an entry."""
        return [name for name, call in self._short.items() if call.name == entry.name]

    def __iter__(self) -> Iterator[Entry]:
        return (entry for name, entry in self._entries.items() if name == entry.name)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries, self.listing)
        return self._entries[name]

    def canonical(self, expression: str | Expression) -> str:
        """The canonical text. Raises UnknownName or LanguageError."""
        return str(self.normal(expression))

    def normal(self, expression: str | Expression) -> Expression:
        """The canonical expression. Raises UnknownName or LanguageError."""
        if not isinstance(expression, str):
            return Sum.of((weight, self._normal_call(c)) for weight, c in terms(expression))
        if expression not in self._normal_forms:
            self._normal_forms[expression] = self.normal(parse(expression))
        return self._normal_forms[expression]

    def calls(self, expression: Expression) -> Iterator[Call]:
        """All calls of a normal expression, outer ones first."""
        for _, call in terms(expression):
            yield call
            for argument in call.args:
                if isinstance(argument, Call | Sum):
                    yield from self.calls(argument)

    def fingerprints(self, expression: Expression) -> dict[str, str]:
        """`{"loss:gce": "1"}`: the versions of all names in a normal expression."""
        return {
            f"{self.kind}:{call.name}": self[call.name].fingerprint
            for call in self.calls(expression)
        }

    def arguments(self, expression: Expression) -> Iterator[tuple[Call, Parameter, Value]]:
        """All named arguments of a normal expression: call, parameter and value."""
        for call in self.calls(expression):
            parameters = {p.name: p for p in self[call.name].parameters}
            yield from ((call, parameters[name], value) for name, value in call.kwargs)

    def map_arguments(
        self, expression: Expression, change: Callable[[Call, Parameter, Value], Value]
    ) -> Expression:
        """The normal expression with `change` applied to all named arguments."""
        changed: list[tuple[float, Call]] = []
        for weight, call in terms(expression):
            parameters = {p.name: p for p in self[call.name].parameters}
            values = ((name, change(call, parameters[name], value)) for name, value in call.kwargs)
            args = (
                self.map_arguments(a, change) if isinstance(a, Call | Sum) else a for a in call.args
            )
            changed.append((weight, Call(call.name, tuple(args), tuple(values))))
        return self.normal(Sum(tuple(changed)))

    def substitute(self, expression: Expression, change: Callable[[Call], Call]) -> Expression:
        """The expression with `change` applied to all calls, inner ones first."""
        changed: list[tuple[float, Call]] = []
        for weight, call in terms(expression):
            args = tuple(
                self.substitute(a, change) if isinstance(a, Call | Sum) else a for a in call.args
            )
            changed.append((weight, change(replace(call, args=args))))
        return Sum.of(changed)

    def _normal_call(self, call: Call) -> Call:
        if call.name in self._short:  # expanded, with its arguments in the inner call
            short = self._short[call.name]
            inner = short.args[0]
            if call.args or not isinstance(inner, Call):
                raise LanguageError(
                    f"{call.name} is short for {short}: name its parameters, as in "
                    f"{call.name}(name=value)"
                )
            defaults = tuple(pair for pair in inner.kwargs if pair[0] not in dict(call.kwargs))
            call = replace(short, args=(replace(inner, kwargs=(*defaults, *call.kwargs)),))
        entry = self[call.name]
        values = _bind(entry, call)
        if entry.fill_defaults:
            values = entry.fill_defaults(values)
        # omit None, and switches at their default
        given = {
            p.name: values[p.name]
            for p in entry.parameters
            if values[p.name] is not None
            and not (isinstance(values[p.name], bool) and values[p.name] is p.default)
        }
        args = tuple(self.normal(v) for v in given.values() if isinstance(v, Call | Sum))
        kwargs = tuple((key, v) for key, v in given.items() if not isinstance(v, Call | Sum))
        return Call(entry.name, args, kwargs)


def _bind(entry: Entry, call: Call) -> dict[str, Value]:
    """The value of each parameter. Raises LanguageError if the arguments do not fit."""
    known = {p.name: p for p in entry.parameters}
    if len(call.args) > len(known):
        raise LanguageError(
            f"{entry.name} takes {len(known)} parameters, got {len(call.args)}: {entry.signature}"
        )
    written = [*zip(known, call.args, strict=False), *call.kwargs]
    values = {p.name: p.default for p in entry.parameters if not p.required}
    names = [name for name, _ in written]
    for name, value in written:
        if name not in known:
            raise LanguageError(f"{entry.name} has no parameter {name!r}: {entry.signature}")
        if names.count(name) > 1:
            raise LanguageError(f"{entry.name} has {name!r} twice")
        values[name] = known[name].accept(value, entry.name)
    for p in entry.parameters:
        if p.name not in values:
            raise LanguageError(f"{entry.name} needs {p.name} ({p.describe()}): {entry.signature}")
    return values
