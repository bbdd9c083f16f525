"""The classes of published sets, in the published order."""

from __future__ import annotations

from importlib.resources import files

# ILSVRC 2012's identifiers in their order, each with WordNet's first word for it; two words stand for two classes each, which
# have their identifiers behind them.
_SYNSETS = files("noisebench.datasets").joinpath("data", "imagenet_synsets.txt").read_text(encoding="utf-8").splitlines()
WNIDS = tuple(line.partition(" ")[0] for line in _SYNSETS)
IMAGENET = tuple(line.partition(" ")[2] for line in _SYNSETS)

CLOTHING1M = ("T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker", "Jacket", "Downcoat", "Suit", "Shawl",
              "Dress", "Vest", "Underwear")  # fmt: skip
# As its authors list them; some who looked at the pictures take 4 and 5 for each other. No number depends on it.
ANIMAL10N = ("cat", "lynx", "wolf", "coyote", "cheetah", "jaguar", "chimpanzee", "orangutan", "hamster", "guinea pig")
FOOD101 = tuple(
    """apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap bread_pudding breakfast_burrito
    bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche cheese_plate cheesecake chicken_curry chicken_quesadilla
    chicken_wings chocolate_cake chocolate_mousse churros clam_chowder club_sandwich crab_cakes creme_brulee croque_madame cup_cakes
    deviled_eggs donuts dumplings edamame eggs_benedict escargots falafel filet_mignon fish_and_chips foie_gras french_fries
    french_onion_soup french_toast fried_calamari fried_rice frozen_yogurt garlic_bread gnocchi greek_salad grilled_cheese_sandwich
    grilled_salmon guacamole gyoza hamburger hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque
    lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings oysters pad_thai paella pancakes
    panna_cotta peking_duck pho pizza pork_chop poutine prime_rib pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa
    sashimi scallops seaweed_salad shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak strawberry_shortcake
    sushi tacos takoyaki tiramisu tuna_tartare waffles""".split()  # noqa: SIM905
)
