"""The built-in data sets: classes in the published order, sizes, and the default network and
recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

from ..core.classes import SUPERCLASS, SUPERCLASS_NAMES
from .images import CENTRE, Fitting, Listed, Sizes

# ILSVRC 2012's identifiers in order, each with WordNet's first word for it. Two words occur for two
# classes each; these are followed by their identifiers.
_SYNSETS = (
    files("noisebench.datasets")
    .joinpath("data", "imagenet_synsets.txt")
    .read_text(encoding="utf-8")
    .splitlines()
)
WNIDS = tuple(line.partition(" ")[0] for line in _SYNSETS)
IMAGENET = tuple(line.partition(" ")[2] for line in _SYNSETS)

CLOTHING1M = (
    "T-Shirt",
    "Shirt",
    "Knitwear",
    "Chiffon",
    "Sweater",
    "Hoodie",
    "Windbreaker",
    "Jacket",
    "Downcoat",
    "Suit",
    "Shawl",
    "Dress",
    "Vest",
    "Underwear",
)
# In the authors' order; some reports exchange 4 and 5. No result depends on it.
ANIMAL10N = (
    "cat",
    "lynx",
    "wolf",
    "coyote",
    "cheetah",
    "jaguar",
    "chimpanzee",
    "orangutan",
    "hamster",
    "guinea pig",
)
FOOD101 = tuple(
    """apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap
    bread_pudding breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake
    ceviche cheese_plate cheesecake chicken_curry chicken_quesadilla chicken_wings
    chocolate_cake chocolate_mousse churros clam_chowder club_sandwich crab_cakes creme_brulee
    croque_madame cup_cakes deviled_eggs donuts dumplings edamame eggs_benedict escargots
    falafel filet_mignon fish_and_chips foie_gras french_fries french_onion_soup french_toast
    fried_calamari fried_rice frozen_yogurt garlic_bread gnocchi greek_salad
    grilled_cheese_sandwich grilled_salmon guacamole gyoza hamburger hot_and_sour_soup hot_dog
    huevos_rancheros hummus ice_cream lasagna lobster_bisque lobster_roll_sandwich
    macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings oysters pad_thai
    paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib
    pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops
    seaweed_salad shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak
    strawberry_shortcake sushi tacos takoyaki tiramisu tuna_tartare
    waffles""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Dataset:
    """One data set. `shape` is (height, width, channels); `crop` the padding of a random crop, in
    pixels.

    reader: `folder`, `tar`, `wds` or `hfds` for a streamed set, whose images are resized to
    `shape`; `area`: minimum share of the image in a random crop; `centre`: share of the shorter
    side that is used at inference. recorded: whether the default is to train on its own labels,
    since it is unknown which of them are incorrect. mixed: whether images of different sizes are
    resized to `shape`; sizes: the sizes in the files, of a folder in memory. mislabelled: whether
    some of its labels are known to be incorrect, so that it cannot be corrupted.
    """

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
    path: Path | None = None  # of a user data set
    test: Path | None = None  # of a user data set: directory of its test images, if elsewhere
    # of a folder: its label file, FILE or FILE:COLUMN
    labels: str | None = None
    # the data set with the same images, and the mapping of its classes to these
    merged: tuple[str, tuple[int, ...]] | None = None
    reader: str = ""
    area: float = 0.0
    centre: float = 0.0
    recorded: bool = False
    mislabelled: bool = False
    mixed: bool = False
    sizes: Sizes | None = field(default=None, compare=False, repr=False)
    # the content of its directory
    listed: Listed | None = field(default=None, compare=False, repr=False)
    # what was skipped and chosen, one line each
    decisions: tuple[str, ...] = field(default=(), compare=False)
    dimensions: int = 0  # of a set of features, whose `shape` is (1, 1, dimensions); 0: images

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def augmentation(self) -> dict[str, int | float | bool]:
        """Settings of the recipe with defaults from the data set."""
        if self.dimensions:
            return {}
        if self.reader:
            return {
                "size": self.shape[0],
                "area": self.area,
                "centre": self.centre,
                "flip": self.flip,
            }
        return {
            "crop": self.crop,
            "flip": self.flip,
            **({"size": self.shape[0]} if self.mixed else {}),
        }

    @property
    def fitting(self) -> Fitting:
        """How images are resized to `shape`, unless another size is requested."""
        return Fitting(*self.shape[:2], centre=self.centre or 1.0)


_DIGITS = tuple("0123456789")
_CIFAR10 = tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
)
_CIFAR100 = tuple(  # the official fine names, in the official order
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
    plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
    woman worm""".split()  # noqa: SIM905
)
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

AREA = 0.08  # minimum share of the image in a random crop, as usual


_streamed = partial(Dataset, flip=True, reader="folder", recorded=True, area=AREA, centre=CENTRE)
_small = partial(_streamed, area=0.5, centre=1.0)  # 64 pixels, all of which are used at inference

DATASETS = {
    entry.name: entry
    for entry in (
        Dataset(
            "digits",
            "1,797 handwritten digits, 8x8, in the package",
            _DIGITS,
            (8, 8, 1),
            1297,
            500,
            "mlp",
            "digits",
            map="digits",
            source="UCI Optical Recognition of Handwritten Digits, Alpaydin & "
            "Kaynak 1998, CC BY 4.0",
        ),
        Dataset(
            "cifar10",
            "60,000 color images, 32x32, of 10 classes",
            _CIFAR10,
            (32, 32, 3),
            50_000,
            10_000,
            "cnn8",
            "apl",
            map="cifar10",
            crop=4,
            flip=True,
            source="Krizhevsky 2009",
        ),
        Dataset(
            "cifar100",
            "60,000 color images, 32x32, of 100 classes",
            _CIFAR100,
            (32, 32, 3),
            50_000,
            10_000,
            "resnet34",
            "apl",
            map="superclass-next",
            crop=4,
            flip=True,
            source="Krizhevsky 2009",
        ),
        Dataset(
            "cifar20",
            "the images of cifar100, 20 superclasses",
            SUPERCLASS_NAMES,
            (32, 32, 3),
            50_000,
            10_000,
            "resnet34",
            "apl",
            crop=4,
            flip=True,
            source="Krizhevsky 2009",
            merged=("cifar100", SUPERCLASS),
        ),
        Dataset(
            "mnist",
            "70,000 handwritten digits, 28x28",
            _DIGITS,
            (28, 28, 1),
            60_000,
            10_000,
            "cnn4",
            "apl",
            map="digits",
            crop=2,
            source="LeCun et al. 1998",
        ),
        Dataset(
            "fashionmnist",
            "70,000 pieces of clothing, 28x28",
            _FASHION,
            (28, 28, 1),
            60_000,
            10_000,
            "cnn4",
            "apl",
            map="fashionmnist",
            crop=2,
            flip=True,
            source="Xiao et al. 2017, MIT",
        ),
        _streamed(
            "imagenet",
            "1,281,167 images of 1,000 classes, ILSVRC 2012",
            IMAGENET,
            (224, 224, 3),
            1_281_167,
            50_000,
            "timm:resnet50",
            "el-imagenet",
            source="Russakovsky et al. 2015; test: its validation set",
        ),
        _streamed(
            "clothing1m",
            "1,000,000 pieces of clothing from shops, labelled by the text next to them",
            CLOTHING1M,
            (224, 224, 3),
            1_000_000,
            10_526,
            "timm:resnet50",
            "apl",
            source="Xiao et al. 2015; test: its clean test set",
            mislabelled=True,
        ),
        _streamed(
            "webvision",
            "65,944 images that Google found for ImageNet's first 50 classes, mini WebVision",
            IMAGENET[:50],
            (224, 224, 3),
            65_944,
            2_500,
            "timm:resnet50",
            "apl",
            source="Li et al. 2017; test: its validation set",
            mislabelled=True,
        ),
        _small(
            "animal10n",
            "50,000 animals, five pairs of similar classes, about 8 % mislabelled",
            ANIMAL10N,
            (64, 64, 3),
            50_000,
            5_000,
            "timm:vgg19_bn",
            "apl",
            source="Song et al. 2019",
            mislabelled=True,
        ),
        _streamed(
            "food101n",
            "310,009 dishes from the web, about 20 % mislabelled",
            FOOD101,
            (224, 224, 3),
            310_009,
            25_250,
            "timm:resnet50",
            "apl",
            source="Lee et al. 2018; test: Food-101's, Bossard et al. 2014",
            mislabelled=True,
        ),
        _small(
            "tinyimagenet",
            "100,000 images, 64x64, of 200 classes of ImageNet",
            tuple(map(str, range(200))),
            (64, 64, 3),
            100_000,
            10_000,
            "timm:resnet18",
            "apl",
            source="Le & Yang 2015; test: its validation set",
        ),
    )
}
