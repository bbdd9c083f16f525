"""Predictions of a finished run's networks, for its own images or for the test images of another
data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor, nn

from ..core.classes import have_names, same_classes
from ..core.expressions import parse
from ..core.progress import ProgressCallback, silent, track
from ..datasets import Dataset, Fitting, ImageArray, LazyImages, at_hand, fit_set, number_in
from ..errors import DataError, NoisebenchError
from ..experiments.oracle import with_estimates
from ..metrics import scores
from ..metrics.confident_learning import Estimates
from ..metrics.predictions import Predictions
from ..strategies import STRATEGIES, Strategy, build_strategy
from ..training.images import Normalisation, StreamTransform
from ..training.inference import find_device, log_p_parts, source_of
from .folder import RunFolder
from .workspace import Workspace, extraction_of

if TYPE_CHECKING:
    from ..labels.manifest import Manifest


def load_ensemble(
    folder: RunFolder,
    record: dict[str, Any],
    device: str,
    training_images: Callable[[], ImageArray],
) -> StoredNetworks:
    """Load the networks of a finished run from its record and its weights.

    training_images: returns the training images (N, H, W, C) or features (N, D); called if the
    record lacks the normalization, as for features and in older versions. Raises DataError if the
    weights are missing or do not belong to the run, NoisebenchError if the device is not available.
    """
    from ..training.networks import make_network, on_device

    folder.check_written(folder.weights)
    data = record["data"]
    if "normalisation" in data:
        shape, normalise = tuple(data["shape"]), Normalisation.read(data["normalisation"])
    else:
        images = training_images()
        # of features (N, D), (1, 1, D)
        shape = images.shape[1:] if images.ndim == 4 else (1, 1, images.shape[1])
        normalise = Normalisation.of(images)
    # noise estimates do not affect predictions
    estimates = Estimates(0.5, np.eye(data["num_classes"]))
    strategy = build_strategy(with_estimates(STRATEGIES, parse(record["strategy"]), estimates))
    name, num_classes = record["model"]["name"], data["num_classes"]
    enlarged = False  # whether they enlarge small images
    with suppress(OSError, SafetensorError), safe_open(folder.weights, "pt") as stored:
        enlarged = any(".enlarge." in name for name in stored.keys())  # noqa: SIM118 it is no dict
    to = find_device(device)
    networks = [
        on_device(make_network(name, num_classes, shape, 0, enlarged=enlarged), to)
        for _ in range(strategy.num_networks)
    ]
    load_weights(folder.weights, networks)
    recipe = record["recipe"]
    return StoredNetworks(
        networks,
        strategy,
        shape,
        normalise,
        record["precision"],
        recipe.get("centre", 0.0),
        recipe.get("fit", "crop"),
    )


def evaluate_on(
    record: dict[str, Any],
    networks: StoredNetworks,
    workspace: Workspace,
    dataset: Dataset,
    manifest_of_run: Callable[[], Manifest] | None = None,
) -> dict[str, Any]:
    """All metrics on another data set's test images, resized as the run resized its own.

    In the result, `images` lists what was done with the images; `trained_on` is the number of them
    among the run's training images according to its manifest, None if unknown. Raises DataError if
    the classes differ.
    """
    run_data, channels = record["data"], networks.shape[2]
    if dataset.reader and channels == 1:
        raise DataError(
            f"{dataset.name} is streamed in color, and {run_data['name']} is grayscale: name it "
            "without its reader, to load it into memory"
        )
    extraction = extraction_of(record, workspace)
    on_features = networks.shape[:2] == (1, 1)
    if on_features != bool(extraction or dataset.dimensions):
        kinds = ("features", "images") if on_features else ("images", "features")
        raise DataError(f"{run_data['name']} has {kinds[0]}, and {dataset.name} {kinds[1]}")
    if extraction and dataset.dimensions:
        raise DataError(f"the run computes features of images, and {dataset.name} has no images")
    images = workspace.images(dataset, None if on_features else networks.fitting)
    if extraction:
        device = next(networks.networks[0].parameters()).device
        images = workspace.features(images, extraction, str(device))
    if on_features and images.test_images.shape[1] != networks.shape[2]:
        raise DataError(
            f"{dataset.name} has {images.test_images.shape[1]} features, and {run_data['name']} "
            f"{networks.shape[2]}"
        )
    if not on_features and not dataset.reader and images.test_images.shape[3] != channels:
        images = fit_set(
            images, Fitting(networks.shape[0], networks.shape[1]), channels, tell=workspace.tell
        )
    tests = images.test_images
    changes = [sentence for sentence in images.changed if "training images" not in sentence]
    if isinstance(tests, LazyImages):
        changes = [f"evaluated at {networks.fitting}", *tests.changes("test")]
    try:
        number = np.asarray(same_classes(run_data["classes"], dataset.classes))
    except ValueError as error:
        raise DataError(
            f"{dataset.name} does not have the classes of {run_data['name']}: {error}"
        ) from None
    labels: np.ndarray = number[images.test_labels]
    log_p = np.concatenate(list(networks.parts(images.test_images, workspace.tell)))
    if not np.isfinite(log_p).all() or len(log_p) != len(labels):
        finite = int(np.isfinite(log_p).all(1).sum())
        raise DataError(
            f"only {finite} of the {len(labels)} images of {dataset.name} have a finite "
            "prediction, so no metric can be computed"
        )
    predictions = Predictions.of(log_p, labels, labels)
    confusion = scores.confusion(predictions.predicted, labels, run_data["num_classes"])
    return {
        "dataset": dataset.name,
        "expected": len(labels),
        "classes_by": "name"
        if have_names(run_data["classes"]) and have_names(dataset.classes)
        else "number",
        **scores.of_test(predictions, labels, run_data["num_classes"]),
        "confusion": confusion.tolist(),
        "images": changes or ["used unchanged"],
        "trained_on": None
        if manifest_of_run is None
        else _trained_on(tests, networks, workspace, manifest_of_run),
    }


def _trained_on(
    tests: ImageArray,
    networks: StoredNetworks,
    workspace: Workspace,
    manifest_of_run: Callable[[], Manifest],
) -> int | None:
    """The number of test images (M, H, W, C) that are, at the run's size, among its training
    images; None if these are streamed or not available.
    """
    try:
        manifest = manifest_of_run()
        data = workspace.dataset_of(manifest)
        if isinstance(tests, LazyImages) or data.reader or not at_hand(data, workspace.data_dir):
            return None
        trained = workspace.images(data, networks.fitting).train_images[manifest.in_training]
    except NoisebenchError:
        return None
    return number_in(tests, np.asarray(trained))


@dataclass(frozen=True)
class StoredNetworks:
    """Networks with a run's weights, and how images are prepared for them: the `shape` (H, W, C),
    how images are resized to it (see Fitting; centre is 0 for images in memory), the normalization
    and the precision. The strategy combines the networks' predictions.
    """

    networks: Sequence[nn.Module]
    strategy: Strategy
    shape: tuple[int, ...]
    normalise: Normalisation
    precision: str
    centre: float = 0.0
    fit: str = "crop"

    @property
    def fitting(self) -> Fitting:
        """How the run resized images."""
        return Fitting(self.shape[0], self.shape[1], self.fit, self.centre or 1.0)

    def parts(self, images: ImageArray, tell: ProgressCallback = silent) -> Iterator[np.ndarray]:
        """Yields log_p (n, K), float32, of images (n, H, W, C), batch by batch."""
        device = next(self.networks[0].parameters()).device
        pixels = source_of(
            images,
            self.normalise,
            device,
            StreamTransform(self.shape[0], self.fitting.centre, fit=self.fit),
        )
        for log_ps in track(
            log_p_parts(self.networks, pixels, self.precision),
            "predicting",
            tell,
            total=len(images),
            unit="images",
            size=lambda log_ps: len(log_ps[0]),
        ):
            yield self.strategy.predict(log_ps).cpu().numpy()


def load_weights(path: Path, networks: Sequence[nn.Module]) -> None:
    """Load the weights in a run's model.safetensors into networks. Raises DataError if they are
    missing, damaged, or belong to other networks.
    """
    left: dict[str, Tensor] = {}
    try:
        left = load(path.read_bytes())
        for number, network in enumerate(networks):
            prefix = f"network{number}."
            names = [name for name in left if name.startswith(prefix)]
            network.load_state_dict({name.removeprefix(prefix): left.pop(name) for name in names})
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: predictions need the weights of the run's networks"
        ) from None
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        # a type that torch does not know, a size that lies
        raise DataError(
            f"{path} does not contain this run's networks ({str(error).splitlines()[0]})"
        ) from None
    if left:
        raise DataError(f"{path} contains tensors of other networks: {next(iter(left))}")
