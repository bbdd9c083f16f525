"""The networks of a finished run, asked again without the training that made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor, nn

from ..datasets import Fitting, ImageArray
from ..errors import DataError
from ..strategies import Strategy
from .images.pixels import Normalisation
from .images.source import Look, source_of
from .inference import log_p_parts


@dataclass(frozen=True)
class StoredNetworks:
    """Networks with a run's weights, and what they know of images: their `shape` (H, W, C), how they are brought to it (see Fitting;
    centre is 0 where it was in memory) and normalised, and the precision. The strategy says what the networks say together."""

    networks: Sequence[nn.Module]
    strategy: Strategy
    shape: tuple[int, ...]
    normalise: Normalisation
    precision: str
    centre: float = 0.0
    fit: str = "crop"

    @property
    def fitting(self) -> Fitting:
        """How the networks' run brought images to their size."""
        return Fitting(self.shape[0], self.shape[1], self.fit, self.centre or 1.0)

    def predict(self, images: ImageArray) -> np.ndarray:
        """log_p (n, K), float32, of images (n, H, W, C)."""
        return np.concatenate(list(self.parts(images)))

    def parts(self, images: ImageArray) -> Iterator[np.ndarray]:
        """The same, one part of the images after the other."""
        device = next(self.networks[0].parameters()).device
        pixels = source_of(images, self.normalise, device, Look(self.shape[0], self.fitting.centre, fit=self.fit))
        for log_ps in log_p_parts(self.networks, pixels, self.precision):
            yield self.strategy.predict(log_ps).cpu().numpy()


def load_weights(path: Path, networks: Sequence[nn.Module]) -> None:
    """Give networks the weights of a run's model.safetensors. Raises DataError where these are missing, damaged or of others."""
    try:
        found = load(path.read_bytes())
        for number, network in enumerate(networks):
            network.load_state_dict(_state(found, f"network{number}."))
    except FileNotFoundError:
        raise DataError(f"{path} is not there: without the weights no network can be asked again") from None
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:  # a type that torch does not know, a size that lies
        raise DataError(f"{path} does not hold this run's networks ({str(error).splitlines()[0]})") from None
    if strange := [name for name in found if not name.startswith(tuple(f"network{n}." for n in range(len(networks))))]:
        raise DataError(f"{path} holds more than this run's networks: {strange[0]}")


def enlarges(path: Path) -> bool:
    """Whether the networks of a run's model.safetensors enlarge small images; not where the file is missing or damaged."""
    try:
        with safe_open(path, "pt") as found:
            return any(".enlarge." in name for name in found.keys())  # noqa: SIM118 it is no dict
    except (OSError, SafetensorError):
        return False


def _state(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
