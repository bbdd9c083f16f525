"""The registry of losses, the input of a loss, from a text to a function, and the predictions that
minimize it.

Shapes: logits, log_p, cost (N, K); (N, 1) where the cost of one class each is requested.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np

from ..core.expressions import AUTO, WORDS, Call, Expression, Sum, Value, terms
from ..core.parameters import Inner, Parameter
from ..core.registry import Registry
from ..errors import LanguageError
from ..noise import build_noise

if TYPE_CHECKING:
    from torch import Tensor as Tensor  # noqa: PLC0414 exported
else:
    Tensor = Any

TensorMap: TypeAlias = Callable[[Tensor], Tensor]

_FEW = 2**14
_TINY = 1e-300  # floor before the logarithm; float64
_LEAST = 1e-37  # float32's smallest sum whose inverse is finite


def at_loss_precision(values: Tensor, logits: Tensor) -> Tensor:
    """The values in the precision in which a loss of these logits is computed: float64 for float64
    logits, else float32.
    """
    from torch import float64

    return values.double() if logits.dtype == float64 else values.float()


def log_softmax(logits: Tensor) -> Tensor:
    """The default link: float32 whatever the autocast dtype (float64 for float64 logits), and never
    softmax then log.
    """
    # In float64 inside: float32's own is off by 6e-8 where a class is nearly sure, and rce
    # multiplies that by -A = 9.21.
    return at_loss_precision(logits.double().log_softmax(1), logits)


def log_through(p: Tensor, T: Tensor) -> Tensor:
    """log(p T) (N, K), of recorded labels where p (N, K) is of clean ones and T (K, K), both
    float64; never -inf.
    """
    return (p @ T).clamp_min(_TINY).log()


def log_softmax_at(logits: Tensor, classes: Tensor) -> Tensor:
    """log_p (N, 1) of one class each, to float32's full relative accuracy where p is nearly 1
    too.
    """
    from torch import arange, float64
    from torch.compiler import is_compiling
    from torch.nn.functional import cross_entropy, softplus

    compiled = is_compiling()
    if logits.dtype == float64 or (logits.numel() < _FEW and not compiled):
        # A small batch takes less time in one call in float64 than in seven in float32.
        log_p = -cross_entropy(logits.double(), classes.squeeze(1), reduction="none").unsqueeze(1)
        return at_loss_precision(log_p, logits)
    logits = logits.float()  # by the odds of all the others, which cancel nothing
    largest = logits.detach().amax(1, keepdim=True)
    odds = (logits - largest).exp()
    # A compiler melts a mask into the sum, but not a scatter, which alone is the cheaper.
    others = (
        odds.masked_fill(classes == arange(odds.shape[1], device=odds.device), 0)
        if compiled
        else odds.scatter(1, classes, 0)
    )
    return -softplus(
        others.sum(1, keepdim=True).clamp_min(_LEAST).log() + (largest - logits.gather(1, classes))
    )


def unchanged(log_p: Tensor) -> Tensor:
    """The default transform."""
    return log_p


@dataclass
class Scores:
    """A batch's logits, the link to log_p, and a strategy's adaptation of log_p (a learned T, SOP's
    u and v).

    classes (N, 1): those whose cost alone is requested, which is cheaper; None for all.
    """

    logits: Tensor
    link: TensorMap = log_softmax
    transform: TensorMap = unchanged
    classes: Tensor | None = None
    _log_p: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def log_p(self) -> Tensor:
        if self._log_p is None:  # a cached_property would break a compiled graph
            self._log_p = self.transform(self.link(self.logits))
        return self._log_p

    @property
    def log_p_of_requested(self) -> Tensor:
        """log_p of the requested classes: (N, K), or (N, 1)."""
        if self.classes is not None and self.link is log_softmax and self.transform is unchanged:
            return log_softmax_at(self.logits, self.classes)
        return self.select(self.log_p)

    def select(self, values: Tensor) -> Tensor:
        """Of (N, K) the requested classes."""
        return values if self.classes is None else values.gather(1, self.classes)

    @property
    def all_classes(self) -> Scores:
        """The same with all classes requested."""
        return self if self.classes is None else replace(self, classes=None)

    def with_log_p(self, change: TensorMap) -> Scores:
        """The same with a further change of log_p."""
        return replace(self, transform=lambda log_p: change(self.transform(log_p)))


Loss: TypeAlias = Annotated[Callable[[Scores], Tensor], Inner()]
"""scores -> cost (N, K) of each possible label, or (N, 1) of the requested ones. A pure function
without labels or device.
"""

Penalty: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""A network's parameters -> a scalar."""


LOSSES = Registry(
    "loss", "losses", injected=None, properties=("falls", "equivariant", "nonnegative")
)
"""Properties a loss may declare: `falls` as p_y rises with the others in proportion; `equivariant`
under a permutation of the classes; `nonnegative`; `constant_sum` over the classes (symmetric in the
sense of Ghosh et al. 2017).
"""


register_loss = LOSSES.register
"""Register `log_p (N, K) -> cost (N, K)`, or a combinator, whose first parameter is `loss`, by its
name.

A combinator takes a loss and returns one, a function from `Scores` to a cost; the parameter `loss`
needs no annotation: `def twice(loss): return lambda scores: 2 * loss(scores)`.

Keywords: `paper`, `version`, `aliases`, `properties`; `pointwise`, that the cost of a class needs
that class's log_p alone (of a combinator: for that class's inner cost), which makes it cheaper;
`penalty`, that it takes the network's parameters instead and returns a scalar, a term of a sum;
`link`, which makes a way of the loss's own from logits to log_p out of the parameters that it
names; `needs`, the property that a combinator's inner loss must have; `optimum`, what minimizes its
expectation: label probabilities w (..., K) and its own parameters -> p (..., K), or None; of a
combinator `target`, the label probabilities that the inner loss learns from in place of w. Other
parameters of the function become the loss's own.
"""


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
        return lambda scores: sum(  # type: ignore[return-value]
            weight * part(scores) for weight, part in parts
        )
    name = expression.name
    if is_penalty(expression):
        raise LanguageError(
            f"{name} is a penalty on the network's parameters: add it to the whole "
            f"loss, as in ce + {expression}"
        )
    values: dict[str, Any] = dict(expression.kwargs)
    for key, value in expression.kwargs:
        is_matrix = key == "T" and isinstance(value, str)
        if (is_matrix or value in WORDS) and value not in transitions:
            raise LanguageError(
                f"{name}: {key}={value} is known only with a manifest; give a "
                "value, e.g. el(eps=0.4)"
            )
        if is_matrix:
            values[key] = transitions[str(value)]
    if num_classes is not None and "T" in values and len(values["T"]) != num_classes:
        raise LanguageError(f"{name}: T has {len(values['T'])} classes, the data {num_classes}")
    entry = LOSSES[name]
    build, pointwise = entry.build, entry.facts.get("pointwise")
    if expression.args:
        loss = _combined(expression, num_classes, transitions, values)
        return loss if pointwise else lambda scores: scores.select(loss(scores.all_classes))
    if pointwise:
        return lambda scores: build(scores.log_p_of_requested, **values)
    link, make_link = None, entry.facts.get("link")
    if make_link:
        names = inspect.signature(make_link).parameters
        link = make_link(**{key: values[key] for key in names if key in values})

    def cost(scores: Scores) -> Tensor:
        linked = replace(scores, link=link) if link else scores
        return scores.select(build(linked.log_p, **values))

    return cost


def _combined(
    outer: Call, num_classes: int | None, transitions: Mapping[str, Any], values: dict[str, Any]
) -> Loss:
    """The loss that a combinator makes of its inner ones. Raises LanguageError where one of these
    lacks the property that it needs, or a plugin's combinator makes none.
    """
    entry, inner = LOSSES[outer.name], []
    needed = entry.facts.get("needs")
    for argument in outer.args:
        inner.append(_build(argument, num_classes, transitions))  # type: ignore[arg-type]
        for call in LOSSES.calls(argument):  # type: ignore[arg-type]
            if needed and needed not in LOSSES[call.name].properties:
                raise LanguageError(f"{outer.name} needs a {needed} loss, which {call.name} is not")
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


def cost_of(loss: Loss, logits: Tensor, classes: Tensor | None = None) -> Tensor:
    """The cost (N, K) of logits (N, K) without any strategy; (N,) of the classes (N,) where these
    are given.
    """
    if classes is None:
        return loss(Scores(logits))
    return loss(Scores(logits, classes=classes.unsqueeze(1))).squeeze(1)


def predicted(
    noise: str | Expression, loss: str | Expression, num_classes: int
) -> np.ndarray | None:
    """p (K, K), rows = clean class, that a network learns which sees of an image its class alone,
    under noise by class.

    None for a loss without a closed form, or with a value that only data decide; eps=auto is the
    noise's nominal rate. Raises LanguageError or UnknownName for a text that is no noise by class,
    or no loss.
    """
    model = build_noise(noise, num_classes)

    def fill(call: Call, parameter: Parameter, value: Value) -> Value:
        is_rate = parameter.auto == "rate" and value == AUTO
        return model.rate if is_rate and model.rate is not None else value

    return optimum_of(LOSSES.map_arguments(LOSSES.normal(loss), fill), model.transition)


def optimum_of(loss: str | Expression, w: np.ndarray) -> np.ndarray | None:
    """The probabilities (..., K) at which the expected cost under label probabilities w (..., K) is
    least; None as above.
    """
    ((weight, call), *others) = terms(LOSSES.normal(loss))
    facts, values = LOSSES[call.name].facts, dict(call.kwargs)
    if others or weight < 0 or any(isinstance(value, str) for value in values.values()):
        return None
    if call.args:
        inner = call.args[0]
        return (
            optimum_of(inner, facts["target"](w, **values))
            if "target" in facts and isinstance(inner, Expression)
            else None
        )
    return facts["optimum"](w, **values) if "optimum" in facts else None
