"""Which published files there are, how one knows them, and where they lie: at their authors', and where a library keeps the same bytes."""

from __future__ import annotations

from .fetching import Published

_TORONTO = ("https://www.cs.toronto.edu/~kriz/", "https://dataset.bj.bcebos.com/cifar/")  # then PaddlePaddle's
_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)  # PyTorch's, TensorFlow's
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",  # Keras's
)
HUMAN_HOSTS = ("https://github.com/UCSC-REAL/cifar-10-100n/raw/main/data/",)
_HUMAN_MOST = 1 << 24  # nobody published their sizes


def _idx(shelf: str, hosts: tuple[str, ...], *files: tuple[str, int, str]) -> tuple[Published, ...]:
    return tuple(Published(shelf, f"{name}-ubyte.gz", size, f"sha256:{sha256}", hosts) for name, size, sha256 in files)


def human_file(name: str, md5: str) -> Published:
    """A file of CIFAR-N."""
    return Published("human", name, _HUMAN_MOST, f"md5:{md5}", HUMAN_HOSTS)


FILES = {
    "cifar10": (
        Published("cifar10", "cifar-10-python.tar.gz", 170_498_071,
                  "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", _TORONTO),
    ),
    "cifar100": (
        Published("cifar100", "cifar-100-python.tar.gz", 169_001_437,
                  "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7", _TORONTO),
    ),
    "mnist": _idx(
        "mnist", _MNIST,
        ("train-images-idx3", 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        ("train-labels-idx1", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        ("t10k-images-idx3", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ("t10k-labels-idx1", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    "fashionmnist": _idx(
        "fashionmnist", _FASHION,
        ("train-images-idx3", 26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        ("train-labels-idx1", 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        ("t10k-images-idx3", 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        ("t10k-labels-idx1", 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
}  # fmt: skip
