"""The executor `ray`: which cluster, and that one of our own is seen from this machine alone. Ray
is imported after that is settled.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .job import WorkerConfig
from .registry import ExecutorOptions

if TYPE_CHECKING:
    from .ray_pool import RayPool

OWN = "local"  # Ray's word for a cluster that begins and ends with us
# seconds in which a cluster answers; Ray itself would try for minutes, saying so on stderr
_REACHED = 5.0


def open_pool(place: WorkerConfig, request: ExecutorOptions) -> RayPool:
    """The executor `ray`. Raises ConfigError for an address that is none, or where nobody
    answers.
    """
    address = request.address or os.environ.get("RAY_ADDRESS") or OWN
    _check(address)
    if address == OWN or address.rpartition(":")[0] in ("127.0.0.1", "localhost"):
        # Ray replaces the loopback address by the machine's on Linux, and who reaches a cluster may
        # run anything on it. By this name it leaves that, on every system; read once, when Ray is
        # imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # a run without a share of a GPU sees none
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    from .ray_pool import RayPool

    return RayPool(place, request, address)


def _check(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address in (OWN, "auto"):
        return
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(
            "--address is auto or HOST:PORT, on a node of the cluster (ray job "
            f"submit gets there), got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), _REACHED).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}): ray start --head makes "
            "one, and says its address"
        ) from None
