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
"""Properties a loss may declare: `falls` as p_y rises with the others in proportion; `equivariant`
under a permutation of the classes; `nonnegative`; `constant_sum` over the classes (symmetric in the
sense of Ghosh et al. 2017).
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

    Keywords: `paper`, `version`, `aliases`, `properties`; `pointwise`, that the cost of a class
    needs that class's log_p alone (of a combinator: for that class's inner cost), which makes it
    cheaper; `penalty`, that it takes the network's parameters instead and returns a scalar, a term
    of a sum; `link`, which makes a way of the loss's own from logits to log_p out of the parameters
    that it names; `needs`, the property that a combinator's inner loss must have; `optimum`, what
    minimizes its expectation: label probabilities w (..., K) and its own parameters -> p (..., K),
    or None; of a combinator `target`, the label probabilities that the inner loss learns from in
    place of w. Other parameters of the function become the loss's own.
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
    """The function scores -> cost of a text, without its penalties. `transitions` maps
    'true' and 'empirical' to T.

    Raises LanguageError, or UnknownName: for an `auto` that is not resolved, a T that is none or
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
    pointwise = entry.facts.get("pointwise")
    if expression.args:
        inner = [_build(argument, num_classes, transitions) for argument in expression.args]  # type: ignore[arg-type]
        _check_inner(expression, entry.facts.get("needs"))
        loss = _combined(entry, inner, values)
        return loss if pointwise else lambda scores: scores.select(loss(scores.all_classes))
    return _pointwise(entry, values) if pointwise else _all_classes(entry, values)


def _pointwise(entry: Entry, values: dict[str, Any]) -> Loss:
    """A loss whose cost of a class needs the log_p of that class alone."""
    build = entry.build

    def cost(scores: Scores) -> Tensor:
        return build(scores.log_p_of_requested, **values)

    return cost


def _all_classes(entry: Entry, values: dict[str, Any]) -> Loss:
    """A loss that needs the log_p of all classes, perhaps by a link of its own, made of some of its
    parameters.
    """
    build, make_link = entry.build, entry.facts.get("link")
    link = None
    if make_link:
        names = inspect.signature(make_link).parameters
        link = make_link(**{name: values[name] for name in names if name in values})

    def cost(scores: Scores) -> Tensor:
        linked = scores if link is None else scores.with_link(link)
        return scores.select(build(linked.log_p, **values))

    return cost


def _combined(entry: Entry, inner: list[Loss], values: Mapping[str, Any]) -> Loss:
    """The loss that a combinator makes. Raises LanguageError where a plugin's makes none."""
    loss, failed = None, ""
    try:
        loss = entry.build(*inner, **values)
    except TypeError as error:
        if not entry.code:
            raise
        failed = f" ({error})"
    if callable(loss):
        return loss
    raise LanguageError(
        f"{entry.name} returns no loss{failed}: return a function of scores, as in"
        f" `def {entry.name}(loss): return lambda scores: 2 * loss(scores)`"
    )


def _check_inner(outer: Call, needed: str | None) -> None:
    """Raises LanguageError where an inner loss lacks the property that the combinator needs."""
    for argument in outer.args:
        for call in LOSSES.calls(argument):  # type: ignore[arg-type]
            if needed and needed not in LOSSES[call.name].properties:
                raise LanguageError(f"{outer.name} needs a {needed} loss, which {call.name} is not")


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
