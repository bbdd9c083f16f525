"""What a loss costs beside torch's own cross entropy: `python tests/perf/bench_losses.py
[--compile]`.

Seconds of forward and backward from logits to their gradient, each the median over many, as a ratio
to nn.CrossEntropyLoss timed in turn with it.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable

import torch

import noisebench as nb
from noisebench.losses import LOSSES

SHAPES = ((128, 10), (128, 100), (2048, 1000))
REPEATS = 300
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc
ALONE = [
    entry
    for entry in LOSSES
    if not any(p.is_expression for p in entry.parameters) and not entry.facts.get("penalty")
]
TEXTS = [
    str(LOSSES.normal("el(eps=0.4)" if entry.name == "el" else entry.name))
    for entry in sorted(ALONE, key=lambda entry: not entry.facts.get("pointwise"))
]
TEXTS += ["lsr(ce)", "nce", "nce + rce", "logitclip(ce)", "eps_softmax(ce)"]


def seconds(loss: Callable[..., torch.Tensor], logits: torch.Tensor, target: torch.Tensor) -> float:
    """One step."""
    logits.grad = None
    started = time.perf_counter()
    loss(logits, target).backward()
    return time.perf_counter() - started


def ratio(text: str, shape: tuple[int, int], *, compiled: bool) -> float:
    """The median of the loss over that of torch's own."""
    logits = torch.randn(shape).requires_grad_()
    target = torch.randint(0, shape[1], shape[:1])
    ours, theirs = nb.loss(text), torch.nn.CrossEntropyLoss()
    torch._dynamo.reset()  # one module's compiled code does not count against another's
    pair = [torch.compile(module) if compiled else module for module in (ours, theirs)]
    times = [
        [seconds(loss, logits, target) for loss in pair]
        for _ in range(REPEATS if shape[0] < 1000 else REPEATS // 5)
    ]
    mine, torchs = (statistics.median(column) for column in zip(*times[5:], strict=True))
    return mine / torchs


def keep_memory() -> None:
    """Let glibc reuse large blocks: else each is fetched from the system anew, now and then, which
    takes longer than the sums.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)


def main() -> None:
    """Print one line a loss."""
    compiled = "--compile" in sys.argv
    torch.set_num_threads(1)
    keep_memory()
    print(f"torch {torch.__version__}, one thread, {'compiled' if compiled else 'eager'}")
    print("| loss | " + " | ".join(map(str, SHAPES)) + " |")
    print("| --- | " + " | ".join("---:" for _ in SHAPES) + " |")
    for text in TEXTS:
        print(
            f"| {text} | "
            + " | ".join(f"{ratio(text, shape, compiled=compiled):.1f}" for shape in SHAPES)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
