"""Instance-dependent noise: the probability of each incorrect label depends on the image. Rows of
probabilities are computed in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Annotated, TypeAlias

import numpy as np

from ..core.expressions import Value
from ..core.parameters import Interval, OneOf, Rate
from ..core.progress import ProgressCallback, track
from ..core.seeds import CORRUPTED, PROJECTION, RATES, VIEWS
from ..errors import LanguageError
from ..metrics.predictions import Teaching
from .registry import Examples, NoiseOption, NoisyLabels, register_noise
from .sampling import Rows, choose, chunks, grouped, members, sample, uniforms

_PIXELS = 1 << 22  # numbers in memory at a time: of images, of W, and of a tile of images
_ENDLESS = 1e12  # a factor at which no label stays
_BORDER = 4  # pixels of padding before a training view is cropped

# examples (n,) -> their images (n, H, W, C), uint8
ImageRows: TypeAlias = Callable[[np.ndarray], np.ndarray]
PIXELS = ("normalised", "bytes")  # how pdn scales the pixels


def _complete_pdn(values: dict[str, Value]) -> dict[str, Value]:
    """Omits the default of `pixels`."""
    return {**values, "pixels": None} if values["pixels"] == PIXELS[0] else values


@register_noise(
    short="pdn",
    option=NoiseOption(
        "--idn",
        "RATE",
        "Instance-dependent noise: part-dependent (pdn), a paper's own with --convention, or "
        "based on a teacher's --predictions (plc).",
    ),
    overall="about rate",
    paper="Xia et al. 2020",
    fill_defaults=_complete_pdn,
)
def pdn(
    examples: Examples,
    rate: Rate,
    std: Annotated[float, Interval("(0, inf)")] = 0.1,
    pixels: Annotated[str | None, OneOf(PIXELS)] = None,
) -> NoisyLabels:
    """Part-dependent noise: each image has its own noise rate and its own likely incorrect labels.

    An image's rate q is sampled from a normal distribution with mean rate and standard deviation
    std, truncated to [0, 1]; for a small rate the overall rate is therefore slightly larger. The
    incorrect labels have the probabilities q * softmax(x W) over the other classes, where x is the
    flattened image and W (pixels, K) is standard normal, one for each true class.

    - rate: mean noise rate of an image; 0 is no noise.
    - std: standard deviation of the rates.
    - pixels: normalised (default), x has mean 0 and deviation 1 per channel over the data set, as
      in the code of Co-learning; or bytes, x is 0 to 255, as in the authors' generator
      (--convention pdn2020).

    With bytes, whose mean is far from 0, most images of a class get the same incorrect label: on
    CIFAR-10 58 to 77 % of a class's incorrect labels, depending on the seed; with normalized pixels
    about 25 %. LogitClip, epsilon-softmax and JAL use another noise, `dependent`.
    """
    images, n, tell = examples.sources.images(), len(examples.labels), examples.sources.tell
    rates = (
        truncated_normal(rate, std, uniforms((examples.seed, RATES), n)) if rate else np.zeros(n)
    )
    statistics = np.zeros(1), np.ones(1)
    if pixels != "bytes":
        statistics = _channel_statistics(images, n, tell)
    return _by_image(examples, rate, _part_dependent(examples, rates, images, statistics))


@register_noise(overall="rate", paper="Wei et al. 2023, LogitClip, code")
def dependent(examples: Examples, rate: Rate) -> NoisyLabels:
    """Exactly rate of all labels are incorrect; a random linear map of the image decides which.

    The "dependent" noise of the code of LogitClip, epsilon-softmax and JAL (--convention
    logitclip2023, epssoftmax2024, jal2025). Unlike `pdn`, images have no rate of their own. An
    incorrect label is sampled from softmax(x W) over the other classes, where x is the flattened
    image and W (pixels, K) is standard normal, one for each true class and the same for every rate.
    As in their code, x is a training view: flipped at random, randomly cropped after padding with 4
    black pixels, and normalised per channel over the data set. This was checked against their
    labels of CIFAR-10, not of CIFAR-100, whose images Epsilon-Softmax's code also rotates. The
    papers use one file of labels per rate for every seed: keep one --noise-seed.

    - rate: share of incorrect labels.
    """
    seed, n = examples.seed, len(examples.labels)
    images, tell = examples.sources.images(), examples.sources.tell
    group = grouped(np.zeros_like(examples.labels), 1, examples.parts)
    wrong = choose(group, [rate], (seed, CORRUPTED)).astype(np.float64)
    views = _training_views(images, n, seed)
    rows = _part_dependent(examples, wrong, views, _channel_statistics(images, n, tell))
    return _by_image(examples, rate, rows)


def _by_image(examples: Examples, rate: float, rows: Rows) -> NoisyLabels:
    reported = track(
        rows,
        "sampling labels",
        examples.sources.tell,
        total=len(examples.labels),
        unit="images",
        size=lambda part: len(part[1]),
    )
    recorded = sample(examples.labels, reported, examples.seed)
    return NoisyLabels(
        recorded, nominal_rate=rate, facts={"images_sha256": examples.sources.images_sha256()}
    )


def _part_dependent(
    examples: Examples,
    wrong: np.ndarray,
    images: ImageRows,
    statistics: tuple[np.ndarray, np.ndarray],
) -> Rows:
    """Rows of probabilities: an image is mislabelled with probability `wrong` (N,), and then gets a
    label by softmax(x W).
    """
    labels, K = examples.labels, examples.num_classes
    if K < 2:
        raise LanguageError(f"part-dependent noise needs two or more classes, got {K}")
    size = _images_at_a_time(images)
    mean, deviation = statistics
    for k, of_class in enumerate(members(labels, K)):
        for part in chunks(len(of_class), size):
            which = of_class[part]
            pixels = images(which)
            scores = _scores(
                pixels.reshape(len(which), -1),
                np.tile(mean, pixels[0].size // len(mean)),
                np.tile(deviation, pixels[0].size // len(mean)),
                (examples.seed, PROJECTION, k),
                K,
            )
            scores[:, k] = -np.inf
            rows = np.exp(scores - scores.max(1, keepdims=True))
            rows *= (wrong[which] / rows.sum(1))[:, None]
            rows[:, k] = 1 - wrong[which]
            yield which, rows


def _training_views(images: ImageRows, n: int, seed: int) -> ImageRows:
    """The images, each flipped at random and randomly cropped after padding with black."""
    num_offsets = 2 * _BORDER + 1
    down, across = ((uniforms((seed, VIEWS, axis), n) * num_offsets).astype(int) for axis in (0, 1))
    flipped = uniforms((seed, VIEWS, 2), n) < 0.5

    def views(which: np.ndarray) -> np.ndarray:
        pixels = images(which)
        height, width = pixels.shape[1:3]
        padded = np.pad(pixels, ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0)))
        rows = down[which][:, None] + np.arange(height)
        columns = np.where(flipped[which][:, None], np.arange(width)[::-1], np.arange(width))
        columns += across[which][:, None]
        return padded[np.arange(len(which))[:, None, None], rows[:, :, None], columns[:, None, :]]

    return views


def truncated_normal(mean: float, std: float, uniform: np.ndarray) -> np.ndarray:
    """Uniform numbers (n,) -> a normal truncated to [0, 1], by the inverse CDF."""
    normal = NormalDist(mean, std)
    low, high = normal.cdf(0), normal.cdf(1)
    tiny = np.finfo(float).tiny
    inverse = (
        normal.inv_cdf(min(max(low + u * (high - low), tiny), 1 - 2**-53)) for u in uniform.tolist()
    )
    return np.fromiter(inverse, np.float64, len(uniform)).clip(0, 1)


def _channel_statistics(
    images: ImageRows, n: int, tell: ProgressCallback
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all images, in bytes, from exact counts of
    each byte value.
    """
    counts = np.zeros((images(np.arange(1)).shape[3], 256), np.int64)
    for part in track(
        chunks(n, _images_at_a_time(images)),
        "averaging pixels",
        tell,
        total=n,
        unit="images",
        size=lambda part: part.stop - part.start,
    ):
        pixels = images(np.arange(part.start, part.stop))
        counts += [
            np.bincount(pixels[..., channel].reshape(-1), minlength=256)
            for channel in range(len(counts))
        ]
    values, count = np.arange(256), counts[0].sum()
    mean = counts @ values / count
    # images of a single colour stay finite
    return mean, np.sqrt(np.maximum(counts @ values**2 / count - mean**2, 1.0))


def _images_at_a_time(images: ImageRows) -> int:
    return max(1, _PIXELS // images(np.arange(1)).size)


def _scores(
    pixels: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    seed: tuple[int, ...],
    num_classes: int,
) -> np.ndarray:
    """x W (n, K) for images (n, D); W is generated a few rows at a time."""
    scores = np.zeros((len(pixels), num_classes))
    for part in chunks(pixels.shape[1], max(1, _PIXELS // max(num_classes, len(pixels)))):
        x = (pixels[:, part] - mean[part]) / deviation[part]
        scores += x @ _normals(seed, part, num_classes)
    return scores


def _normals(seed: tuple[int, ...], rows: slice, columns: int) -> np.ndarray:
    """Some rows of a standard normal table, by Box and Muller from raw bits: the same with every
    numpy version.
    """
    words = (
        np.random.PCG64(seed)
        .advance(2 * rows.start * columns)
        .random_raw(((rows.stop - rows.start) * columns, 2))
    )
    u = ((words >> np.uint64(11)) + np.uint64(1)) * 2.0**-53  # in (0, 1]
    return (np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * np.pi * u[:, 1])).reshape(-1, columns)


# Probability of the teacher's first class as label, by its margin over the second: 1 minus the
# paper's tau.
_KEPT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "I": lambda gap: 0.5 + gap**2 / 2,
    "II": lambda gap: gap**3,
    "III": lambda gap: (gap**3 + gap**2 + gap) / 3,
}


def _complete_plc(values: dict[str, Value]) -> dict[str, Value]:
    if (values["rate"] is None) == (values["factor"] is None):
        raise LanguageError(
            "plc needs either rate (the overall share of incorrect labels) or factor (the "
            "authors' constant)"
        )
    return values


@register_noise(short="plc", overall="rate", paper="Zhang et al. 2021", fill_defaults=_complete_plc)
def plc(
    examples: Examples,
    predictions: str,
    *,
    kind: Annotated[str, OneOf(tuple(_KEPT))] = "I",
    rate: Annotated[float | None, Interval("[0, 1)")] = None,
    factor: Annotated[float | None, Interval("(0, inf)")] = None,
    sha256: str | None = None,
) -> NoisyLabels:
    """Polynomial-margin-diminishing noise: the smaller a teacher's margin, the likelier a flip.

    The given label is the teacher's first class with probability (1 - tau) / factor, else its
    second, regardless of the true label, as in the authors' code; the teacher's own errors are
    therefore incorrect labels too.

    - predictions: a file written by `noisebench evaluate RUN --predictions FILE`, or probabilities
      (N, K) as .npy.
    - kind: tau as a function of the margin d. I: (1 - d^2) / 2; II: 1 - d^3;
      III: 1 - (d^3 + d^2 + d) / 3.
    - rate: overall share of incorrect labels, for which the factor is solved.
    - factor: the factor itself, instead of rate. For 0.35 on CIFAR-10 the paper has 1.43, 1.32 and
      1.35.
    - sha256: prefix of the file's checksum, which is verified; manifests contain it.
    """
    teacher = examples.sources.teacher(predictions, sha256)
    if factor is None:
        factor = _solve(teacher, examples.labels, kind, rate or 0.0)
    recorded = sample(
        examples.labels, _margin_rows(teacher, kind, factor, examples.num_classes), examples.seed
    )
    return NoisyLabels(recorded, nominal_rate=rate, facts={"factor": factor})


def _kept(teacher: Teaching, kind: str, factor: float, part: slice = slice(None)) -> np.ndarray:
    """Probability (n,) that the label is the teacher's first class."""
    p = teacher.p[part]
    return np.clip(_KEPT[kind](np.clip(p[:, 0] - p[:, 1], 0, 1).astype(np.float64)) / factor, 0, 1)


def _margin_rows(
    teacher: Teaching, kind: str, factor: float, num_classes: int
) -> Iterator[tuple[slice, np.ndarray]]:
    for part in chunks(len(teacher.p), max(1, (1 << 22) // num_classes)):
        kept, rows_of_part = _kept(teacher, kind, factor, part), np.arange(part.stop - part.start)
        rows = np.zeros((len(rows_of_part), num_classes))
        rows[rows_of_part, teacher.classes[part, 0]] = kept
        rows[rows_of_part, teacher.classes[part, 1]] = 1 - kept
        yield part, rows


def _solve(teacher: Teaching, labels: np.ndarray, kind: str, rate: float) -> float:
    """The largest factor at which the expected share of incorrect labels is `rate`. Raises
    LanguageError if there is none.

    The expected number of correct labels is A + B / factor, where A and B change only at factors
    that equal `kept` of an example: between two of these the factor follows in closed form.
    """
    kept = _kept(teacher, kind, 1.0)
    first, second = teacher.classes[:, 0] == labels, teacher.classes[:, 1] == labels
    order = np.argsort(kept, kind="stable")[int((kept == 0).sum()) :]
    factors, gain = kept[order], (first.astype(np.float64) - second)[order]
    below = np.concatenate([[0.0], np.cumsum(gain * factors)])
    above = np.concatenate([[0.0], np.cumsum(gain[::-1])])[::-1]
    # at each of the factors, and at infinity
    right = np.append(above[:-1] + below[:-1] / factors, 0.0)
    target = len(labels) * (1 - rate) - second.sum()
    crossed = ((right[:-1] - target) * (right[1:] - target) <= 0).nonzero()[0]
    if not len(crossed):
        shares = 1 - (second.sum() + right) / len(labels)
        raise LanguageError(
            "plc: with this teacher rate must be between "
            f"{shares.min():.4f} and {shares.max():.4f}, got {rate}"
        )
    at = crossed[-1] + 1
    if target == above[at] or not below[at]:
        return float(factors[at]) if at < len(factors) else _ENDLESS
    return float(below[at] / (target - above[at]))
