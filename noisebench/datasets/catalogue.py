"""What is known of a data set before a byte of it is read: classes, sizes, and what one trains on it by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..classes import SUPERCLASS, SUPERCLASS_NAMES


@dataclass(frozen=True)
class Dataset:
    """One data set. `shape` is (height, width, channels); `crop` the padding of a random crop, in pixels."""

    name: str
    summary: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    n_train: int
    n_test: int
    model: str
    recipe: str
    map: str | None = None
    crop: int = 0
    flip: bool = False
    source: str = ""
    path: Path | None = None  # of a foreign set
    test: Path | None = None  # of a foreign set: where its test images lie, if elsewhere
    merged: tuple[str, tuple[int, ...]] | None = None  # another set's images, and its class -> this one's

    @property
    def num_classes(self) -> int:
        return len(self.classes)


_DIGITS = tuple("0123456789")
_CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())  # noqa: SIM905
_CIFAR100 = tuple(  # the official fine names, in the official order
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm""".split()  # noqa: SIM905
)
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

DATASETS = {
    entry.name: entry
    for entry in (
        Dataset("digits", "1,797 handwritten digits, 8x8, inside the package", _DIGITS, (8, 8, 1), 1297, 500, "mlp", "digits",
                map="digits", source="UCI Optical Recognition of Handwritten Digits, Alpaydin & Kaynak 1998, CC BY 4.0"),
        Dataset("cifar10", "60,000 small photographs of 10 things", _CIFAR10, (32, 32, 3), 50_000, 10_000, "cnn8", "apl",
                map="cifar10", crop=4, flip=True, source="Krizhevsky 2009"),
        Dataset("cifar100", "60,000 small photographs of 100 things", _CIFAR100, (32, 32, 3), 50_000, 10_000, "resnet34", "apl",
                map="superclass-next", crop=4, flip=True, source="Krizhevsky 2009"),
        Dataset("cifar20", "cifar100's photographs, 20 superclasses", SUPERCLASS_NAMES, (32, 32, 3), 50_000, 10_000, "resnet34", "apl",
                crop=4, flip=True, source="Krizhevsky 2009", merged=("cifar100", SUPERCLASS)),
        Dataset("mnist", "70,000 handwritten digits, 28x28", _DIGITS, (28, 28, 1), 60_000, 10_000, "cnn4", "apl",
                map="digits", crop=2, source="LeCun et al. 1998"),
        Dataset("fashionmnist", "70,000 pieces of clothing, 28x28", _FASHION, (28, 28, 1), 60_000, 10_000, "cnn4", "apl",
                map="fashionmnist", crop=2, flip=True, source="Xiao et al. 2017, MIT"),
    )
}  # fmt: skip
