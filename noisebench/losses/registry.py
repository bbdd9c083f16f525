"""The registry of losses, their input, the parser from text to function, and the predictions that
minimize a loss.

Shapes: logits, log_p, cost (N, K); (N, 1) where the cost of one class per example is requested.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, overload

import numpy as np

from ..core.expressions import AUTO, WORDS, Call, Expression, Sum, Value, terms
from ..core.parameters import Inner, Parameter
from ..core.registry import F, Registry
from ..errors import LanguageError
from ..noise import build_noise

if TYPE_CHECKING:
    from torch import Tensor as Tensor  # noqa: PLC0414 exported
else:
    Tensor = Any

TensorMap: TypeAlias = Callable[[Tensor], Tensor]

_FEW = 2**14
_TINY = 1e-300  # floor before the logarithm; float64
_LEAST = 1e-37  # the smallest float32 sum whose inverse is finite


def at_loss_precision(values: Tensor, logits: Tensor) -> Tensor:
    """The values in the precision in which a loss of these logits is computed: float64 for float64
    logits, else float32.
    """
    from torch import float64

    return values.double() if logits.dtype == float64 else values.float()


def log_softmax(logits: Tensor) -> Tensor:
    """The default link, logits (N, K) -> log_p: float32 whatever the autocast dtype (float64 for
    float64 logits).
    """
    # Computed in float64: in float32 the error is 6e-8 where p is near 1, and rce multiplies it by
    # -A = 9.21.
    if _classes_first(logits):
        return at_loss_precision(logits.T.double().log_softmax(0).T, logits)
    return at_loss_precision(logits.double().log_softmax(1), logits)


def _classes_first(logits: Tensor) -> bool:
    """Whether logits (N, K) lie in memory as (K, N), as those of packed heads do. torch's softmax
    is then six times as fast for ten classes, but only when it is called on (K, N).
    """
    return logits.stride(0) == 1 < logits.stride(1)


def log_through(p: Tensor, T: Tensor) -> Tensor:
    """log(p T) (N, K): log-probabilities of the noisy labels, from p (N, K) of the clean labels and
    T (K, K), both float64; never -inf.
    """
    return (p @ T).clamp_min(_TINY).log()


def log_softmax_at(logits: Tensor, classes: Tensor) -> Tensor:
    """log_p (N, 1) of one class per example, with float32's full relative accuracy even where p is
    near 1.
    """
    from torch import arange, float64
    from torch.compiler import is_compiling
    from torch.nn.functional import cross_entropy, softplus

    compiled = is_compiling()
    few = logits.numel() < _FEW and not compiled and not _classes_first(logits)
    if logits.dtype == float64 or few:
        # For a small batch one call in float64 is faster than seven in float32.
        log_p = -cross_entropy(logits.double(), classes.squeeze(1), reduction="none").unsqueeze(1)
        return at_loss_precision(log_p, logits)
    logits = logits.float()  # from the odds of all other classes, without cancellation
    largest = logits.detach().amax(1, keepdim=True)
    odds = (logits - largest).exp()
    # The compiler fuses a mask into the sum, but not a scatter, which is cheaper in eager mode.
    others = (
        odds.masked_fill(classes == arange(odds.shape[1], device=odds.device), 0)
        if compiled
        else odds.scatter(1, classes, 0)
    )
    return -softplus(
        others.sum(1, keepdim=True).clamp_min(_LEAST).log() + (largest - logits.gather(1, classes))
    )


def unchanged(log_p: Tensor) -> Tensor:
    """Returns log_p unchanged, the default transform."""
    return log_p


@dataclass
class Scores:
    """The input of a loss: a batch's logits, the link to log_p, and a strategy's transform of log_p
    (a learned T, SOP's u and v).

    classes (N, 1): compute the cost of these classes only, which is cheaper; None for all.
    """

    # changed by calls of Scores, since dataclasses.replace breaks a graph that torch 2.6 compiles

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
        """The requested classes of values (N, K)."""
        return values if self.classes is None else values.gather(1, self.classes)

    @property
    def all_classes(self) -> Scores:
        """A copy with all classes requested."""
        return self if self.classes is None else Scores(self.logits, self.link, self.transform)

    def with_log_p(self, change: TensorMap) -> Scores:
        """Returns a copy with a further change of log_p."""
        return Scores(
            self.logits, self.link, lambda log_p: change(self.transform(log_p)), self.classes
        )


Loss: TypeAlias = Annotated[Callable[[Scores], Tensor], Inner()]
"""scores -> cost (N, K) of each possible label, or (N, 1) of the requested ones. A pure function
without labels or device.
"""

Penalty: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""A network's parameters -> a scalar."""


LOSSES = Registry(
    "loss", "losses", injected=None, properties=("falls", "equivariant", "nonnegative")
)
"""Properties a loss may declare: `falls`, it decreases as p_y rises and the others keep their
ratios; `equivariant` under permutations of the classes; `nonnegative`; `constant_sum` over the
classes (symmetric in the sense of Ghosh et al. 2017).
"""


@overload
def register_loss(build: F) -> F: ...
@overload
def register_loss(*, name: str = "", **facts: Any) -> Callable[[F], F]: ...
def register_loss(build: Any = None, *, name: str = "", **facts: Any) -> Any:
    """Decorator that registers a function as a loss, usable by its name in `--loss`, in suites and
    in `noisebench.loss`.

    The function gets log_p (N, K), the log-probabilities of K classes for N examples, and returns
    the cost (N, K): for each example, the loss of every class as if it were the label. Its further
    parameters become the loss's parameters.

        @register_loss(paper="Author Year")
        def tail(log_p, q: float = 0.5):
            return (1 - log_p.exp()) ** q

    A function whose first parameter is named `loss` is a combinator: it gets a loss and returns
    one, a function from `Scores` to the cost, as in `def twice(loss): return lambda scores: 2 *
    loss(scores)`.

    Keywords:

    * `name`: default the function's; `aliases`; `paper`.
    * `version`: to be raised when results change.
    * `properties`: by default `falls`, `equivariant` and `nonnegative`; `constant_sum` if the costs
      of all classes have a constant sum. `needs`: the property that a combinator's inner loss must
      have.
    * `pointwise`: the cost of a class depends only on the log_p of that class (for a combinator, on
      its inner cost), which makes it cheaper.
    * `penalty`: the function gets the network's parameters and returns a scalar, a term of a sum.
    * `link`: a function of some of the loss's parameters that returns its map from logits to log_p.
    * `optimum`: label probabilities w (..., K) and the loss's parameters -> p (..., K) that
      minimizes the expected cost, or None; `target`, of a combinator: the label probabilities that
      the inner loss is trained on in place of w.

    Returns the function unchanged. Raises LanguageError for a name that exists or is not letters,
    digits and _.
    """
    return LOSSES.register(build, name=name, **facts)


def build_loss(
    text: str | Expression,
    transitions: Mapping[str, Any] | None = None,
    *,
    num_classes: int | None = None,
) -> Loss:
    """Returns the function scores -> cost of a text, without its penalties. `transitions` maps
    'true' and 'empirical' to T.

    Raises LanguageError or UnknownName: for an `auto` that is not resolved, for a T that is not a
    transition matrix of `num_classes` classes, and for a penalty that is not a term of the sum.
    """
    costs = [(weight, call) for weight, call in terms(LOSSES.normal(text)) if not is_penalty(call)]
    if not costs:
        raise LanguageError(
            f"{text} is a penalty on the network's parameters: add it to a loss, as in ce + {text}"
        )
    return _build(Sum.of(costs), num_classes, transitions or {})


def is_penalty(call: Call) -> bool:
    """Whether a call is a penalty on the parameters rather than a loss of examples."""
    return bool(LOSSES[call.name].facts.get("penalty"))


def build_penalty(text: str | Expression) -> Penalty | None:
    """Returns the function parameters -> scalar of a text's penalties; None without one."""
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
            f"{name} is a penalty on the network's parameters: add it to the outermost "
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
        linked = Scores(scores.logits, link, scores.transform, scores.classes) if link else scores
        return scores.select(build(linked.log_p, **values))

    return cost


def _combined(
    outer: Call, num_classes: int | None, transitions: Mapping[str, Any], values: dict[str, Any]
) -> Loss:
    """Returns the loss that a combinator makes of its inner ones. Raises LanguageError if an inner
    loss lacks the required property, or if a plugin's combinator does not return a loss.
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
        f"{entry.name} does not return a loss{failed}: return a function of scores, as in"
        f" `def {entry.name}(loss): return lambda scores: 2 * loss(scores)`"
    )


def cost_of(loss: Loss, logits: Tensor, classes: Tensor | None = None) -> Tensor:
    """Returns the cost (N, K) of logits (N, K) without any strategy; with classes (N,), the cost
    (N,) of these classes.
    """
    if classes is None:
        return loss(Scores(logits))
    return loss(Scores(logits, classes=classes.unsqueeze(1))).squeeze(1)


def predicted(
    noise: str | Expression, loss: str | Expression, num_classes: int
) -> np.ndarray | None:
    """Returns p (K, K), rows = clean class: what a network learns under class-conditional noise if
    it distinguishes images only by their class.

    None for a loss without a closed form, or with a parameter that depends on data; eps=auto is the
    nominal noise rate. Raises LanguageError or UnknownName if a text is not class-conditional
    noise, or not a loss.
    """
    model = build_noise(noise, num_classes)

    def fill(call: Call, parameter: Parameter, value: Value) -> Value:
        is_rate = parameter.auto == "rate" and value == AUTO
        return model.rate if is_rate and model.rate is not None else value

    return optimum_of(LOSSES.map_arguments(LOSSES.normal(loss), fill), model.transition)


def optimum_of(loss: str | Expression, w: np.ndarray) -> np.ndarray | None:
    """Returns the probabilities (..., K) that minimize the expected cost under label probabilities
    w (..., K); None if there is no closed form, as in `predicted`.
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
