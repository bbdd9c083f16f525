"""An audit of given labels: out-of-fold predictions of several methods, and from these the noise
rate, the label issues and a comparison of the methods, without correct labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..datasets import Dataset, Images
from ..datasets.images import SIDE
from ..errors import ConfigError, DataError
from ..experiments.backbones import PRETRAINED, TIMM
from ..experiments.features import FeatureNetwork
from ..experiments.methods import METHODS
from ..experiments.resolve import RunConfig, RunRequest
from ..labels.issues import LabelQuality, combine
from ..labels.manifest import Manifest
from ..metrics.confident_learning import Estimates, wilson_interval
from ..metrics.feature_neighbours import (
    NUM_NEIGHBOURS,
    Neighbours,
    hoc,
    nearest,
    neighbour_log_p,
)
from ..metrics.predictions import Predictions
from .checkpoint import RunOptions
from .folder import RunFolder
from .session import execute_run, judged, make_folds, make_trainer, train_folds
from .workspace import Workspace

# simplest first: of methods that are not distinguishable, the first is recommended
ON_FEATURES = ("ce", "gce", "sl", "elr")
ON_IMAGES = ("ce", "gce", "elr")
FOLDS = 5
_IMAGE_EPOCHS, _FEATURE_SIDE = 20, 128
_SMALLEST = 24  # pixels of the shorter side from which convolutions are used
_NETWORKS = ("resnet18", "resnet50", "tf_efficientnet_lite0")  # whose weights are looked for
# P(given label is incorrect) of a confident issue, from predictions and neighbours, and without
# neighbours; and by each of the two if they are read as P(given label | image)
_SURE, _SURE_ALONE, _SURE_CORRECTED = 0.95, 0.99, 0.8
_FEWEST = 5  # examples with the suggested class as given label
HIGH_RATE = 0.6  # noise rate from which given labels are no basis for a recommendation
_UNCERTAIN = 0.3  # width of the rate's interval from which the predictions are none either


@dataclass(frozen=True)
class MethodScore:
    """A method's accuracy on the given labels of the folds it was not trained on, with its 95 %
    interval; lead: of the best method over this one, by fold, its interval; None for the best.
    """

    method: str
    accuracy: float
    interval: tuple[float, float]
    lead: tuple[float, float] | None
    test_accuracy: float | None
    run: RunFolder

    @property
    def ties(self) -> bool:
        """Whether it is not distinguishable from the best method."""
        return self.lead is None or self.lead[0] <= 0


@dataclass(frozen=True)
class Audit:
    """The result for a manifest of N examples. second: the estimates from neighbours and HOC, by
    name; confident (N,): mask of the short list; neighbours: of the examples of the training split,
    on features; predictions: out-of-fold, the mean of all methods.
    """

    manifest: Manifest
    quality: LabelQuality
    confident: np.ndarray
    estimates: Estimates | None
    second: dict[str, tuple[float, tuple[float, float]]]
    methods: tuple[MethodScore, ...]
    neighbours: Neighbours | None
    predictions: Predictions

    @property
    def chosen(self) -> MethodScore:
        """The simplest method that is not distinguishable from the best."""
        return next(score for score in self.methods if score.ties)

    def confused_pairs(self, most: int = 10) -> list[tuple[int, int, int]]:
        """(given, suggested, number of label issues), most frequent first."""
        issues = self.quality.issues & self.manifest.included
        pairs = np.stack([self.manifest.labels[issues], self.quality.suggested[issues]], 1)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        return [(int(found[i, 0]), int(found[i, 1]), int(counts[i])) for i in order]


def features_at_hand(
    workspace: Workspace, network: str | None, weights: str | None
) -> FeatureNetwork | None:
    """The feature network that is named, or else the first whose pretrained weights are in the data
    directory or in the hub's cache; None without any.
    """
    if network is not None:
        return workspace.feature_network(network, weights)
    if weights is not None:
        raise ConfigError("--feature-weights has no effect without --features timm:NAME")
    for name in _NETWORKS:
        file = workspace.data_dir / f"{name}.safetensors"
        if file.is_file():
            return workspace.feature_network(f"{TIMM}{name}", str(file))
    local = Workspace(workspace.root, workspace.data_dir, offline=True)
    for name in _NETWORKS:
        try:
            return local.feature_network(f"{TIMM}{name}", PRETRAINED)
        except (ConfigError, DataError):  # not in the cache
            continue
    return None


def resolve_methods(
    workspace: Workspace,
    data: Dataset,
    manifest: Manifest,
    network: FeatureNetwork | None,
    methods: Sequence[str] | None = None,
    *,
    seed: int = 0,
    size: int | None = None,
    epochs: int | None = None,
    device: str = "auto",
) -> list[RunConfig]:
    """The runs of an audit, one per method: linear heads on features, else the data set's small
    network. methods: names of methods, or losses. Raises NoisebenchError.
    """
    on_features = network is not None or data.dimensions > 0
    names = methods or (ON_FEATURES if on_features else ON_IMAGES)
    changes: dict[str, object] = {}
    if network is not None:
        changes["size"] = size or _FEATURE_SIDE
    if epochs or not on_features:
        changes["epochs"] = epochs or _IMAGE_EPOCHS
    small = None if on_features else "cnn8" if min(data.shape[:2]) >= _SMALLEST else "mlp"
    if data.listed and not on_features and max(data.shape[:2]) > SIDE:
        changes["size"] = SIDE
    runs = []
    for name in names:
        known = name if name in METHODS else None
        request = RunRequest(known, None if known else name, model=small, seed=seed, device=device)
        request = replace(request, features=network, changes=dict(changes))
        run = workspace.plan(request, data, manifest)
        if run.oracle:
            raise ConfigError(
                f"--methods {name} uses the true labels, which an audit does not know: leave it out"
            )
        runs.append(run)
    return runs


def audit_labels(
    workspace: Workspace,
    runs: Sequence[RunConfig],
    options: Callable[[str], RunOptions],
    device: str = "auto",
) -> Audit:
    """Train what is not finished and combine the out-of-fold predictions. options: called with the
    name of a stage. Raises Interrupted (state saved) or another NoisebenchError.
    """
    manifest, images = runs[0].manifest, workspace.training_images(runs[0], device)
    count = min(FOLDS, int(manifest.in_training.sum()))
    predictions, folders = [], []
    for number, run in enumerate(runs, 1):
        stage = f"{run.method} ({number} of {len(runs)} methods)"
        folder = RunFolder(workspace.runs / run.folder_name)
        if folder.finished(run.key) is None:
            trainer = make_trainer(run, images, device)
            execute_run(run, images, trainer, folder, options(f"{stage}, all labels"))
        folds = make_folds(run, folder, count)
        train_folds(
            folds,
            images,
            device,
            lambda left, stage=stage: options(  # type: ignore[misc]
                f"{stage}, fold {count - left + 1} of {count}"
            ),
        )
        predictions.append(judged(folds))
        folders.append(folder)
    scores = _compare(runs, folders, predictions, [fold.held_out for fold in folds])
    return _combined(manifest, images, predictions, scores)


def _compare(
    runs: Sequence[RunConfig],
    folders: Sequence[RunFolder],
    predictions: Sequence[Predictions],
    folds: Sequence[np.ndarray],
) -> tuple[MethodScore, ...]:
    """The methods in the order of the runs, compared on the same folds."""
    from scipy.stats import t

    manifest = runs[0].manifest
    used = manifest.in_training
    right = np.array([p.predicted == manifest.labels for p in predictions])
    by_fold = np.array([[row[fold & used].mean() for fold in folds] for row in right])
    best, scores = int(right[:, used].mean(1).argmax()), []
    for number, (run, folder) in enumerate(zip(runs, folders, strict=True)):
        lead = None
        if number != best:
            gaps, n = by_fold[best] - by_fold[number], int(used.sum())
            # the folds' training sets overlap: Nadeau and Bengio 2003 correct the variance for it.
            # As in tables, never below that of the examples that only one method predicts correctly
            variance = gaps.var(ddof=1) * (1 / len(gaps) + 1 / (len(gaps) - 1))
            differ = float((right[best] != right[number])[used].mean())
            half = t.ppf(0.975, len(gaps) - 1) * np.sqrt(max(variance, differ / n / len(gaps)))
            lead = float(gaps.mean() - half), float(gaps.mean() + half)
        accuracy = float(right[number, used].mean())
        test = folder.full_record()["metrics"]["test_acc"]["last"]
        interval = wilson_interval(accuracy, int(used.sum()))
        scores.append(MethodScore(run.method, accuracy, interval, lead, test, folder))
    return tuple(scores)


def _combined(
    manifest: Manifest,
    images: Images,
    predictions: Sequence[Predictions],
    scores: tuple[MethodScore, ...],
) -> Audit:
    used, labels, K = manifest.in_training, manifest.labels, manifest.num_classes
    combined = combine(predictions, labels)
    quality = LabelQuality.of(combined, labels)
    estimates = None
    if combined.dense is not None:
        estimates = Estimates.of(np.asarray(combined.dense)[used], labels[used])
    second: dict[str, tuple[float, tuple[float, float]]] = {}
    near = votes = None
    if images.train_images.ndim == 2 and used.sum() > NUM_NEIGHBOURS:
        near = nearest(np.asarray(images.train_images[used]), NUM_NEIGHBOURS)
        votes = neighbour_log_p(near, labels[used], K)
        by = Estimates.of(votes, labels[used])
        second["neighbours"] = by.rate, by.interval
        if K <= 100:
            found = hoc(near, labels[used], K)
            second["hoc"] = found.rate, found.interval
        near = Neighbours(np.flatnonzero(used)[near.indices], near.similarities)
    confident = np.zeros(len(labels), bool)
    if combined.dense is not None and estimates is not None and reliable(estimates):
        log_p = np.asarray(combined.dense, np.float64)[used]
        confident[used] = confident_issues(log_p, labels[used], estimates.transition, votes)
    confident &= quality.issues
    return Audit(manifest, quality, confident, estimates, second, scores, near, combined)


def reliable(estimates: Estimates) -> bool:
    """Whether the noise rate is certain and low enough to trust a list of label issues."""
    low, high = estimates.interval
    return estimates.rate < HIGH_RATE and high - low < _UNCERTAIN


def confident_issues(
    log_p: np.ndarray, labels: np.ndarray, transition: np.ndarray, votes: np.ndarray | None
) -> np.ndarray:
    """Mask (N,) of the labels that are incorrect with a high probability.

    By Bayes' rule P(true class k | image, given label j) is proportional to p_k T_kj, with the
    transition matrix T (K, K). p is the geometric mean of the out-of-fold predictions log_p (N, K)
    and, on features, of the shares of the neighbours' labels, votes (N, K) as log p: their errors
    differ. Both are also read as P(given label | image) = p T, which is inverted, and each has to
    agree. A class that fewer than five labels have is not suggested: too little is known of it.
    """
    sources = [log_p] if votes is None else [log_p, votes]
    sources = [np.exp(np.asarray(source, np.float64)) for source in sources]
    inverse = np.linalg.pinv(transition)
    mean = np.exp(np.mean([np.log(np.maximum(p, 1e-12)) for p in sources], 0))
    readings = [mean, *(np.maximum(_normalized(p) @ inverse, 1e-6) for p in sources)]
    posteriors = [
        _normalized(_normalized(p) * np.maximum(transition[:, labels].T, 1e-12)) for p in readings
    ]
    incorrect, *corrected = [1 - p[np.arange(len(labels)), labels] for p in posteriors]
    known = np.bincount(labels, minlength=log_p.shape[1])[posteriors[0].argmax(1)] >= _FEWEST
    mask: np.ndarray = known & (incorrect >= (_SURE_ALONE if votes is None else _SURE))
    return mask & (np.min(corrected, 0) >= _SURE_CORRECTED)


def _normalized(p: np.ndarray) -> np.ndarray:
    shares: np.ndarray = p / p.sum(1, keepdims=True)
    return shares


def audit_folder(out: Path | None, root: Path, manifest: Path) -> Path:
    """The directory of an audit's files."""
    return out or root / "audit" / manifest.name.partition(".csv")[0].removesuffix(".parquet")
