"""The language: texts of every registry, cut up and put together again -> parsed, brought to their
normal form, and built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from noisebench.core.expressions import parse, parse_value
from noisebench.core.registry import Registry
from noisebench.errors import NoisebenchError
from noisebench.experiments.backbones import canonical_backbone
from noisebench.experiments.methods import METHODS
from noisebench.experiments.recipes import read_schedule
from noisebench.experiments.resolve import price_of
from noisebench.losses import LOSSES, build_loss, build_penalty
from noisebench.noise import NOISES, build_noise, is_random, normal_noise
from noisebench.strategies import STRATEGIES, build_strategy, normal_strategy

from .choices import Choices, mutated

_VALUES = ("0", "1", "-1", "0.4", "1e400", "1e-400", "nan", "inf", "-inf", "True", "None", "auto", "estimated", "'x'", "'a.csv'", "[1, 2]",
           "[]",
           "10**9", "2**31", "9" * 30, "9" * 300, f"{'9' * 300}*{'9' * 300}",
           "*".join(["9" * 300] * 30), "1e308*10", "9" * 5000, "ce", "1j", "b'x'", "...", "f'{1}'", "'\\ud800'", "'\\x00'", "lambda: 0",
           "[x for x in y]")  # fmt: skip


def _words() -> list[str]:
    registries: tuple[Registry, ...] = (LOSSES, NOISES, STRATEGIES)
    texts = [
        f"{entry.name}({p.name}={value})"
        for r in registries
        for entry in r
        for p in entry.parameters
        for value in ("0.5", "1", "auto")
    ]
    texts += (
        [entry.name for r in registries for entry in r]
        + [m.loss for m in METHODS.values()]
        + [m.strategy for m in METHODS.values()]
    )
    return [*texts, "10*normalized(ce) + 0.1*mae", "lsr(el(eps=auto), alpha=0.1)", "asymmetric(rate=0.3, map='cifar10')", "timm:resnet50",
            "reviewed(symmetric(rate=0.2), action=drop, suspects='a.csv')", "openset(rate=0.2, source='digits')",
            "step(at=[1, 2], by=0.1)"]  # fmt: skip


def _text(choices: Choices, words: list[str]) -> str:
    text = choices.of(words)
    for _ in range(choices.below(3)):
        way = choices.below(5)
        if way == 0:
            text = f"{text} + {choices.of(_VALUES)}*{choices.of(words)}"
        elif way == 1:
            text = f"{choices.of(words).partition('(')[0]}({text})"
        elif way == 2:
            text = re.sub(r"(?<==)[^,)]+", lambda _: choices.of(_VALUES), text)
        elif way == 3:
            text = (
                f"{text[:-1]}, {choices.of(words).partition('(')[2] or 'x=1)'}"
                if text.endswith(")")
                else f"{text}({choices.of(_VALUES)})"
            )
        else:
            text = mutated(choices, text.encode()).decode("utf-8", "replace")
    return text


def _same_again(registry: Registry, text: str) -> None:
    once = registry.canonical(text)
    assert registry.canonical(once) == once, f"{text!r} -> {once!r} -> {registry.canonical(once)!r}"


_USES: tuple[Callable[[str], Any], ...] = (
    lambda text: _same_again(LOSSES, text),
    lambda text: normal_noise(str(normal_noise(text))),
    lambda text: normal_strategy(str(normal_strategy(text))),
    canonical_backbone,
    read_schedule,
    parse_value,
    is_random,
    build_loss,
    build_penalty,
    build_strategy,
    lambda text: build_noise(text, 10, tuple(map(str, range(10)))),
    lambda text: price_of(text, "standard"),
    lambda text: price_of("ce", text),
)


def prepare(folder: Path) -> Callable[[bytes], None]:
    """Refused is what cannot be parsed; what can is used in every way that there is."""
    words = _words()

    def attempt(data: bytes) -> None:
        text = _text(Choices(data), words)
        for use in _USES:
            with suppress(NoisebenchError):
                use(text)
        assert parse(str(parse(text))) == parse(str(parse(str(parse(text)))))

    return attempt
