"""The networks of a finished run asked again: about another data set's test images, or about those of the run itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import metrics
from .classes import have_names, same_classes
from .datasets import ImageArray, Images, Pictures
from .errors import DataError
from .estimates import Estimates
from .predictions import Predictions
from .runfolder import RunFolder
from .runner import find_device
from .spec import parse
from .strategies import STRATEGIES, build_strategy
from .truth import with_estimates

if TYPE_CHECKING:
    from .training.stored import StoredNetworks


def stored_networks(folder: RunFolder, device: str, training_images: Callable[[], ImageArray]) -> StoredNetworks:
    """The networks of a finished run, by its record and its weights alone.

    training_images: asked for the (N, H, W, C) of a run of an older version, which did not note how its images were normalised.
    Raises DataError where the weights are not there or not the run's, NoisebenchError for a device that is not.
    """
    from .training.networks import make_network, on_device
    from .training.pixels import Normalisation
    from .training.sources import normalisation_of
    from .training.stored import StoredNetworks, enlarges, load_weights

    folder.check_written(folder.weights)
    record = folder.full_record()
    data = record["data"]
    if "normalisation" in data:
        shape, normalise = tuple(data["shape"]), Normalisation.read(data["normalisation"])
    else:
        images = training_images()
        shape, normalise = images.shape[1:], normalisation_of(images)
    any_ = Estimates(0.5, np.eye(data["num_classes"]))  # what a run found out plays no part in what its networks say
    strategy = build_strategy(with_estimates(STRATEGIES, parse(record["strategy"]), any_))
    place = find_device(device)
    made = (
        make_network(record["model"]["name"], data["num_classes"], shape, 0, enlarged=enlarges(folder.weights))
        for _ in range(strategy.networks)
    )
    networks = [on_device(network, place) for network in made]
    load_weights(folder.weights, networks)
    return StoredNetworks(networks, strategy, shape, normalise, record["precision"], record["recipe"].get("centre", 0.0))


def evaluate_on(record: dict[str, Any], networks: StoredNetworks, images: Images) -> dict[str, Any]:
    """All numbers of another data set's test images, as of the run's own. Raises DataError where shape or classes do not fit."""
    own, other = record["data"], images.dataset
    shape, streamed = images.test_images.shape[1:], isinstance(images.test_images, Pictures)
    as_asked = bool(networks.centre) if streamed else shape == networks.shape  # a streamed run says how pictures are brought to its size
    if not as_asked:
        theirs = "streamed, of any size" if streamed else _size(shape)
        raise DataError(
            f"the images of {other.name} are {theirs}, those of {own['name']} {_size(networks.shape)}: "
            "no image is resized unasked, so write them in that size into a .npz or a folder"
        )
    labels = _labels(own, images)
    log_p = networks.predict(images.test_images)
    if not np.isfinite(log_p).all() or len(log_p) != len(labels):
        finite = int(np.isfinite(log_p).all(1).sum())
        raise DataError(f"of the {len(labels)} images of {other.name} {finite} have a prediction that is finite: no number comes of these")
    said = Predictions.of(log_p, labels, labels)
    return {
        "dataset": other.name,
        "expected": len(labels),
        "classes_by": "name" if have_names(own["classes"]) and have_names(other.classes) else "number",
        **metrics.of_test(said, labels, own["num_classes"]),
        "confusion": metrics.confusion(said.predicted, labels, own["num_classes"]).tolist(),
    }


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _labels(own: dict[str, Any], images: Images) -> np.ndarray:
    """Test labels as classes of the run."""
    try:
        number = np.asarray(same_classes(own["classes"], images.dataset.classes))
    except ValueError as error:
        raise DataError(f"{images.dataset.name} has not the classes of {own['name']}: {error}") from None
    labels: np.ndarray = number[images.test_labels]
    return labels
