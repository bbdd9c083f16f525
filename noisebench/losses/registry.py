"""The registry of losses, and from a text to a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from ..core.expressions import WORDS, Call, Expression, Sum, terms
from ..core.registry import Entry, Registry
from ..errors import LanguageError
from .scores import Loss, Penalty, Scores, Tensor

F = TypeVar("F", bound=Callable[..., Any])

LOSSES = Registry("loss", "losses", properties=("falls", "equivariant", "nonnegative"))
"""Laws a loss may declare: `falls` as p_y rises with the others in proportion; `equivariant` under
a permutation of the classes; `nonnegative`; `constant_sum` over the classes (symmetric in the sense
of Ghosh et al. 2017).
"""


@overload
def register_loss(function: F) -> F: ...
@overload
def register_loss(function: None = None, **facts: Any) -> Callable[[F], F]: ...
def register_loss(function: Any = None, **facts: Any) -> Any:
    """Register `log_p (N, K) -> cost (N, K)`, or a combinator, whose first parameter is `loss`, by
    its name.

    A combinator takes a loss and returns one, a function from `Scores` to a cost; the parameter
    `loss` needs no annotation: `def twice(loss): return lambda scores: 2 * loss(scores)`.

    Keywords: `paper`, `version`, `aliases`, `laws`; `pointwise`, that the cost of a class asks for
    that class's log_p alone (of a combinator: for that class's inner cost), which makes it cheaper;
    `penalty`, that it is given the network's parameters instead and returns a scalar, a term of a
    sum; `link`, which makes a way of the loss's own from logits to log_p out of the parameters that
    it names; `needs`, the law that a combinator's inner loss must obey; `optimum`, what it learns
    in the limit: label probabilities w (..., K) and its own parameters -> p (..., K), or None; of a
    combinator `target`, the label probabilities that the inner loss learns from in place of w.
    Other parameters of the function become the loss's own.
    """
    if function is None:
        return lambda decorated: register_loss(decorated, **facts)
    first = next(iter(inspect.signature(function).parameters))
    return LOSSES.register(function, injected=() if first == "loss" else (first,), **facts)


def build_loss(
    text: str | Expression,
    transitions: Mapping[str, Any] | None = None,
    *,
    num_classes: int | None = None,
) -> Loss:
    """The function scores -> cost of a text, without its penalties. `transitions` says what
    T='true' and T='empirical' are.

    Raises LanguageError, or UnknownName: for an `auto` that nobody resolved, a T that is none or
    not for `num_classes`, a penalty that is no term of the sum.
    """
    costs = [(weight, call) for weight, call in terms(LOSSES.normal(text)) if not is_penalty(call)]
    if not costs:
        raise LanguageError(
            f"{text} is a penalty on the network's parameters: add it to a loss, as in ce + {text}"
        )
    return _build(Sum.of(costs), num_classes, transitions or {})


def is_penalty(call: Call) -> bool:
    """Whether a call is a term on the parameters, not on examples."""
    return bool(LOSSES[call.name].facts.get("penalty"))


def build_penalty(text: str | Expression) -> Penalty | None:
    """The function parameters -> scalar of a text's penalties; None without one."""
    parts = [(weight, call) for weight, call in terms(LOSSES.normal(text)) if is_penalty(call)]
    if not parts:
        return None
    return lambda parameters: sum(
        weight * LOSSES[call.name].build(parameters, **dict(call.kwargs)) for weight, call in parts
    )


def _build(expression: Expression, num_classes: int | None, transitions: Mapping[str, Any]) -> Loss:
    if isinstance(expression, Sum):
        parts = [
            (weight, _build(call, num_classes, transitions)) for weight, call in expression.terms
        ]
        return lambda scores: sum(weight * part(scores) for weight, part in parts)  # type: ignore[return-value]
    if is_penalty(expression):
        raise LanguageError(
            f"{expression.name} is a penalty on the network's parameters: add it to the whole "
            f"loss, as in ce + {expression}"
        )
    values = {key: _value(expression, key, value, transitions) for key, value in expression.kwargs}
    if num_classes is not None and "T" in values and len(values["T"]) != num_classes:
        raise LanguageError(
            f"{expression.name}: T has {len(values['T'])} classes, the data {num_classes}"
        )
    entry = LOSSES[expression.name]
    build, link, pointwise = entry.build, entry.facts.get("link"), entry.facts.get("pointwise")
    if expression.args:
        inner = [_build(argument, num_classes, transitions) for argument in expression.args]  # type: ignore[arg-type]
        _check_inner(expression, entry.facts.get("needs"))
        loss = _combined(entry, inner, values)
        return loss if pointwise else lambda scores: scores.select(loss(scores.all_classes))
    if pointwise:
        return lambda scores: build(scores.log_p_of_requested, **values)
    if link:  # a way of its own from logits to log_p, made of some of the parameters
        own = link(
            **{name: values[name] for name in inspect.signature(link).parameters if name in values}
        )
        return lambda scores: scores.select(build(scores.with_link(own).log_p, **values))
    return lambda scores: scores.select(build(scores.log_p, **values))


def _combined(entry: Entry, inner: list[Loss], values: Mapping[str, Any]) -> Loss:
    """The loss that a combinator makes. Raises LanguageError where a plugin's makes none."""
    made: Any = None
    failed = ""
    try:
        made = entry.build(*inner, **values)
    except TypeError as error:
        if not entry.code:
            raise
        failed = f" ({error})"
    if callable(made):
        return made
    raise LanguageError(
        f"{entry.name} returns no loss{failed}: return a function of scores, as in"
        f" `def {entry.name}(loss): return lambda scores: 2 * loss(scores)`"
    )


def _check_inner(outer: Call, law: str | None) -> None:
    """Raises LanguageError where a loss within does not obey the law that the combinator needs."""
    for argument in outer.args:
        for call in LOSSES.calls(argument):  # type: ignore[arg-type]
            if law and law not in LOSSES[call.name].properties:
                raise LanguageError(f"{outer.name} needs a {law} loss, which {call.name} is not")


def _value(call: Call, key: str, value: Any, transitions: Mapping[str, Any]) -> Any:
    word = value in WORDS or (key == "T" and isinstance(value, str))
    if word and value not in transitions:
        raise LanguageError(
            f"{call.name}: {key}={value} is known only with a manifest; give a "
            "value, e.g. el(eps=0.4)"
        )
    return transitions[value] if key == "T" and isinstance(value, str) else value


def cost_of(loss: Loss, logits: Tensor, classes: Tensor | None = None) -> Tensor:
    """The cost (N, K) of logits (N, K) without any strategy; (N,) of the classes (N,) where these
    are given.
    """
    if classes is None:
        return loss(Scores(logits))
    return loss(Scores(logits, classes=classes.unsqueeze(1))).squeeze(1)
