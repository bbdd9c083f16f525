"""Names of the language and what they build, with parameters, paper, version and similar names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar, overload

from ..errors import LanguageError, UnknownName
from .expressions import Call, Expression, Sum, Value, parse, terms
from .parameters import Parameter, read_signature
from .plugins import code_of

F = TypeVar("F", bound=Callable[..., Any])
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# normal forms: a suite's runs have few texts, and each run needs them several times
_CACHE_SIZE = 512


@dataclass(frozen=True)
class Entry:
    """One name: `build(*injected, **parameters)` makes the object; the rest describes it."""

    name: str
    build: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    paper: str = ""
    version: int = 1
    aliases: tuple[str, ...] = ()
    properties: frozenset[str] = frozenset()
    fill_defaults: Callable[[dict[str, Value]], dict[str, Value]] | None = None
    facts: dict[str, Any] = field(default_factory=dict, compare=False)
    code: str = ""  # of a plugin: the hash of its source when it was loaded

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.build) or ""

    @property
    def summary(self) -> str:
        return " ".join(self.doc.partition("\n\n")[0].split())

    @property
    def fingerprint(self) -> str:
        """The version, and for a plugin the hash of its source, which decide a result. Raises
        LanguageError where the source is unknown.
        """
        if _is_ours(self.build):
            return str(self.version)
        if not self.code:
            raise LanguageError(
                f"{self.name} is of no file, so that no run can be told by its "
                "code: write it into a plugin's .py"
            )
        return f"{self.version}:{self.code}"

    @property
    def signature(self) -> str:
        """`gce(q=0.7)`: how it is written with its defaults."""
        shown = [p.name if p.required else f"{p.name}={p.default}" for p in self.parameters]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def _is_ours(build: Callable[..., Any]) -> bool:
    return build.__module__.partition(".")[0] == "noisebench"


class Registry:
    """The names of one kind.

    `listing` is the word after `noisebench list`; `injected` are the parameters that code
    supplies, not the text; `properties` are the default of an entry's.
    """

    def __init__(
        self,
        kind: str,
        listing: str,
        injected: tuple[str, ...] = (),
        properties: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.listing = kind, listing
        self._injected, self._properties = injected, properties
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._short: dict[str, Call] = {}
        # cleared when a name is added
        self._of_text = lru_cache(_CACHE_SIZE)(lambda text: self._normal(parse(text)))

    @overload
    def register(self, build: None = None, *, name: str = "", **facts: Any) -> Callable[[F], F]: ...
    @overload
    def register(self, build: F, *, name: str = "", **facts: Any) -> F: ...
    def register(self, build: Any = None, *, name: str = "", **facts: Any) -> Any:
        """Decorator; keywords are Entry's `paper`, `version`, `aliases`, `properties`,
        `fill_defaults`, or land in `facts`.
        """
        if build is None:
            return lambda function: self.register(function, name=name, **facts)
        fields = ("paper", "version", "aliases", "fill_defaults")
        values = {key: facts.pop(key) for key in fields if key in facts}
        properties = frozenset(facts.pop("properties", self._properties))
        parameters = read_signature(build, facts.pop("injected", self._injected))
        code = ""
        if not _is_ours(build):
            with suppress(TypeError):  # what was typed into an interpreter has no file
                code = code_of(inspect.getsourcefile(build))
        self.add(
            Entry(
                name or build.__name__,
                build,
                parameters,
                properties=properties,
                facts=facts,
                code=code,
                **values,
            )
        )
        return build

    def add(self, entry: Entry) -> None:
        for name in (entry.name, *entry.aliases):
            if not _NAME.fullmatch(name):
                raise LanguageError(
                    f"the {self.kind} {name!r} cannot be written: a name is "
                    "letters, digits and _, a letter first"
                )
            if name in self._entries or name in self._aliases:
                raise LanguageError(f"the {self.kind} {name!r} exists already: choose another name")
        self._of_text.cache_clear()
        self._entries[entry.name] = entry
        self._aliases.update(dict.fromkeys(entry.aliases, entry.name))

    def abbreviate(self, name: str, text: str) -> None:
        """A short name for a call around another: `nfl` is `normalized(focal(gamma=0.5))`,
        `nfl(gamma=2)` sets the inner one's.
        """
        call = parse(text)
        if not isinstance(call, Call) or name in self:
            raise LanguageError(f"{name!r} cannot be short for {text}")
        self._of_text.cache_clear()
        self._short[name] = call

    def short_names(self, entry: Entry) -> list[str]:
        """The short names of calls of an entry."""
        return [name for name, call in self._short.items() if call.name == entry.name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._aliases or name in self._short

    def __getitem__(self, name: str) -> Entry:
        if name not in self:
            raise UnknownName(
                self.kind, name, [*self._entries, *self._aliases, *self._short], self.listing
            )
        return self._entries[
            self._short[name].name if name in self._short else self._aliases.get(name, name)
        ]

    def canonical(self, expression: str | Expression) -> str:
        """The one text of this meaning. Raises UnknownName or LanguageError."""
        return str(self.normal(expression))

    def normal(self, expression: str | Expression) -> Expression:
        """The expression in its one form, every name known and every value checked."""
        return (
            self._of_text(expression) if isinstance(expression, str) else self._normal(expression)
        )

    def _normal(self, expression: Expression) -> Expression:
        return Sum.of((weight, self._normal_call(call)) for weight, call in terms(expression))

    def calls(self, expression: Expression) -> Iterator[Call]:
        """Every call of a normal expression, the outer ones first."""
        for _, call in terms(expression):
            yield call
            for argument in call.args:
                if isinstance(argument, Call | Sum):
                    yield from self.calls(argument)

    def fingerprints(self, expression: Expression) -> dict[str, str]:
        """`{"loss:gce": "1"}`: the versions of every name in a normal expression."""
        return {
            f"{self.kind}:{call.name}": self[call.name].fingerprint
            for call in self.calls(expression)
        }

    def arguments(self, expression: Expression) -> Iterator[tuple[Call, Parameter, Value]]:
        """Every named argument of a normal expression: its call, its parameter and its value."""
        for call in self.calls(expression):
            parameters = {p.name: p for p in self[call.name].parameters}
            yield from ((call, parameters[name], value) for name, value in call.kwargs)

    def map_arguments(
        self, expression: Expression, change: Callable[[Call, Parameter, Value], Value]
    ) -> Expression:
        """The normal expression with `change` applied to every named argument."""

        def visit(call: Call) -> Call:
            parameters = {p.name: p for p in self[call.name].parameters}
            values = ((name, change(call, parameters[name], value)) for name, value in call.kwargs)
            return replace(call, kwargs=tuple(values))

        return self.normal(self.substitute(expression, visit))

    def substitute(self, expression: Expression, change: Callable[[Call], Call]) -> Expression:
        """The expression with `change` applied to every call, the inner ones first."""

        def visit(call: Call) -> Call:
            args = tuple(
                self.substitute(a, change) if isinstance(a, Call | Sum) else a for a in call.args
            )
            return change(replace(call, args=args))

        return Sum.of((weight, visit(call)) for weight, call in terms(expression))

    def _expanded(self, call: Call) -> Call:
        """A short name written out, with its arguments in the inner call."""
        short = self._short[call.name]
        inner = short.args[0]
        if call.args or not isinstance(inner, Call):
            raise LanguageError(
                f"{call.name} is short for {short}: name its parameters, as in "
                f"{call.name}(name=value)"
            )
        defaults = tuple(pair for pair in inner.kwargs if pair[0] not in dict(call.kwargs))
        return replace(short, args=(replace(inner, kwargs=(*defaults, *call.kwargs)),))

    def _normal_call(self, call: Call) -> Call:
        call = self._expanded(call) if call.name in self._short else call
        entry = self[call.name]
        values = self._bind(entry, call)
        if entry.fill_defaults:
            values = entry.fill_defaults(values)
        inner = tuple(
            self.normal(values[p.name])  # type: ignore[arg-type]
            for p in entry.parameters
            if p.is_expression and values[p.name] is not None
        )
        kwargs = tuple(
            (p.name, values[p.name])
            for p in entry.parameters
            if not p.is_expression and not p.unset(values[p.name])
        )
        return Call(entry.name, inner, kwargs)

    def _bind(self, entry: Entry, call: Call) -> dict[str, Value]:
        known = {p.name: p for p in entry.parameters}
        if len(call.args) > len(known):
            raise LanguageError(
                f"{entry.name} takes {len(known)} parameters, got "
                f"{len(call.args)}: {entry.signature}"
            )
        written = [*zip(known, call.args, strict=False), *call.kwargs]
        for key, _ in written:
            if key not in known:
                raise LanguageError(f"{entry.name} has no parameter {key!r}: {entry.signature}")
            if [other for other, _ in written].count(key) > 1:
                raise LanguageError(f"{entry.name} is given {key!r} twice")
        values = {p.name: p.default for p in entry.parameters if not p.required}
        values.update((key, known[key].accept(value, entry.name)) for key, value in written)
        if missing := [p for p in entry.parameters if p.name not in values]:
            raise LanguageError(
                f"{entry.name} needs {missing[0].name} ({missing[0].describe()}): {entry.signature}"
            )
        return values
