"""Noise: contracts over the models and maps, and the one draw."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import noisebench as nb
from noisebench.core.classes import SUPERCLASS
from noisebench.datasets import DATASETS
from noisebench.errors import DataError, LanguageError, NoisebenchError, UnknownName
from noisebench.labels.manifest import short_noise
from noisebench.noise import (
    MAPS,
    NOISES,
    build_noise,
    class_map,
    label_file_of,
    normal_noise,
    sample,
    takes,
    transition,
)

RATES = (0.0, 0.1, 0.37, 0.8, 0.999)
LIGHT = settings(max_examples=40, deadline=None)
MAP_OF = {entry.name for entry in NOISES if any(p.name == "map" for p in entry.parameters)}
CAT, DOG = 3, 5


def exchanges(name):
    """Whether two classes of a map exchange labels."""
    flips = MAPS[name].flips(MAPS[name].num_classes or 7, 0)
    return any(flips.get(b) == a for a, b in flips.items())


def cases():
    """(text with {rate}, K) of every class-conditional model with a rate, every map and every
    switch but `exact`.
    """
    for entry in NOISES:
        if takes(entry, "examples") or "rate" not in {p.name for p in entry.parameters}:
            continue
        switches = [
            "",
            *(
                f", {p.name}=True"
                for p in entry.parameters
                if p.type is bool and p.default is False
            ),
        ]
        maps = (
            [(f", map='{name}'", MAPS[name].num_classes or 7) for name in MAPS]
            if entry.name in MAP_OF
            else [("", 10), ("", 100)]
        )
        for switch in switches:
            for which, K in maps:
                if "flip_back" in switch and not exchanges(which.split("'")[1]):
                    continue
                yield f"{entry.name}(rate={{rate}}{which}{switch})", K


CASES = list(cases())
of_every_noise = pytest.mark.parametrize(
    ("text", "K"), CASES, ids=[f"{text.replace('rate={rate}', '')} {K}" for text, K in CASES]
)


def T_of(text, K, rate):
    return transition(text.format(rate=rate), K)


def clean(K, per_class=100):
    """Shuffled labels, each class as often."""
    return np.random.default_rng(7).permutation(np.repeat(np.arange(K), per_class))


def pieces(T, labels, size=999):
    """T by example, in slices."""
    return ((slice(at, at + size), T[labels[at : at + size]]) for at in range(0, len(labels), size))


def wrong_per_class(recorded, labels, K):
    return np.bincount(labels[recorded != labels], minlength=K)


# Contracts over the models and maps


def test_every_row_is_a_distribution(case):
    for rate in RATES:
        for text, K in CASES:
            with case(text=text, K=K, rate=rate):
                T = T_of(text, K, rate)
                assert T.shape == (K, K)
                assert (T >= 0).all()
                np.testing.assert_allclose(T.sum(1), 1, atol=1e-12)


def test_rate_zero_is_the_identity_and_leaves_every_label(case):
    for text, K in CASES:
        with case(text=text, K=K):
            labels = clean(K)
            np.testing.assert_array_equal(T_of(text, K, 0), np.eye(K))
            for exact in (True, False):
                np.testing.assert_array_equal(
                    sample(labels, T_of(text, K, 0), 0, exact=exact), labels
                )


def test_the_share_of_wrong_labels_grows_with_the_rate(case):
    for text, K in CASES:
        with case(text=text, K=K):
            wrong = [1 - np.diag(T_of(text, K, rate)).mean() for rate in RATES]
            assert all(a < b for a, b in pairwise(wrong))


def test_exact_counts_are_the_expected_ones_in_each_class(case):
    for rate in RATES:
        for text, K in CASES:
            with case(text=text, K=K, rate=rate):
                T, labels = T_of(text, K, rate), clean(K, 37)
                wrong = wrong_per_class(sample(labels, T, 0), labels, K)
                assert (np.abs(wrong - 37 * (1 - np.diag(T))) <= 0.5 + 1e-6).all()


def test_independent_counts_are_within_four_sigma_in_each_class(case):
    for rate in [0.1, 0.37, 0.8]:
        for text, K in CASES:
            with case(text=text, K=K, rate=rate):
                T, labels = T_of(text, K, rate), clean(K, 500)
                q = 1 - np.diag(T)
                wrong = wrong_per_class(sample(labels, T, 0, exact=False), labels, K)
                assert (np.abs(wrong - 500 * q) <= 4 * np.sqrt(500 * q * (1 - q)) + 1e-9).all()


def test_labels_go_only_where_the_transition_allows(case):
    for exact in [True, False]:
        for text, K in CASES:
            with case(text=text, K=K, exact=exact):
                T, labels = T_of(text, K, 0.8), clean(K)
                assert (T[labels, sample(labels, T, 3, exact=exact)] > 0).all()


def test_wrong_labels_spread_as_the_transition_says(case):
    for exact in [True, False]:
        with case(exact=exact):
            T, labels = (
                np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]]),
                np.zeros(20_000, int),
            )
            shares = np.bincount(sample(labels, T, 0, exact=exact), minlength=3) / 20_000
            assert (np.abs(shares - T[0]) < 4 * np.sqrt(0.25 / 20_000)).all()


def test_the_same_seed_gives_the_same_labels_and_another_seed_others(case):
    for exact in [True, False]:
        for text, K in CASES:
            with case(text=text, K=K, exact=exact):
                T, labels = T_of(text, K, 0.4), clean(K)
                first = sample(labels, T, 5, exact=exact)
                np.testing.assert_array_equal(first, sample(labels, T, 5, exact=exact))
                assert (first != sample(labels, T, 6, exact=exact)).any()


def test_adding_examples_changes_none_before(case):
    for text, K in CASES:
        with case(text=text, K=K):
            T, labels = T_of(text, K, 0.4), clean(K)
            longer = np.concatenate([labels, labels[::-1]])
            np.testing.assert_array_equal(
                sample(longer, T, 1, exact=False)[: len(labels)], sample(labels, T, 1, exact=False)
            )


def test_rows_by_example_draw_what_the_transition_draws(case):
    for rate in RATES:
        for text, K in CASES:
            with case(text=text, K=K, rate=rate):
                T, labels = T_of(text, K, rate), clean(K, 5000 // K + 50)
                np.testing.assert_array_equal(
                    sample(labels, pieces(T, labels), 2), sample(labels, T, 2, exact=False)
                )


def test_pieces_of_any_size_and_order_draw_the_same(case):
    for size in [1, 7, 999, 1000, 5000]:
        with case(size=size):
            T, labels = transition("symmetric(0.4)", 10), clean(10)
            parts = list(pieces(T, labels, size))
            np.testing.assert_array_equal(sample(labels, parts, 2), sample(labels, parts[::-1], 2))
            np.testing.assert_array_equal(
                sample(labels, parts, 2), sample(labels, T, 2, exact=False)
            )


def test_every_example_needs_one_row(case):
    for which in [np.arange(99), np.r_[np.arange(100), 5]]:
        with (
            case(n=len(which)),
            pytest.raises(LanguageError, match="one row of probabilities"),
        ):
            sample(np.zeros(100, int), [(np.array([at]), np.eye(2)[[0]]) for at in which], 0)


def test_rows_may_differ_between_examples_of_one_class():
    labels = np.zeros(100, int)
    rows = np.eye(2)[np.arange(100) % 2]
    np.testing.assert_array_equal(sample(labels, [(slice(0, 100), rows)], 0), np.arange(100) % 2)


def test_the_draw_leaves_its_input_alone():
    labels = clean(10)
    before = labels.copy()
    sample(labels, transition("symmetric(0.5)", 10), 0)
    np.testing.assert_array_equal(labels, before)


def test_no_examples_give_no_labels(case):
    for exact in [True, False]:
        with case(exact=exact):
            assert sample(
                np.array([], int), transition("symmetric(0.5)", 10), 0, exact=exact
            ).shape == (0,)


def test_classes_without_examples_are_no_obstacle(case):
    for exact in [True, False]:
        with case(exact=exact):
            labels = np.array([2, 2, 7, 7])
            recorded = sample(labels, transition("pairflip(0.5)", 10), 0, exact=exact)
            assert set(recorded[:2]) <= {2, 3}
            assert set(recorded[2:]) <= {7, 8}


@LIGHT
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0, 0.99),
    st.integers(0, 2**32),
    st.sampled_from(["symmetric({})", "symmetric({}, inclusive=True)", "pairflip({})"]),
)
def test_exact_counts_hold_for_any_labels_rate_and_seed(labels, rate, seed, text):
    labels, T = np.array(labels), transition(text.format(rate), 5)
    wrong, counts = (
        wrong_per_class(sample(labels, T, seed), labels, 5),
        np.bincount(labels, minlength=5),
    )
    assert (np.abs(wrong - counts * (1 - np.diag(T))) <= 0.5 + 1e-6).all()


@LIGHT
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60),
    st.floats(0, 0.99),
    st.integers(0, 2**32),
    st.data(),
)
def test_a_prefix_is_drawn_as_in_the_whole(labels, rate, seed, data):
    n, T = data.draw(st.integers(1, len(labels))), transition(f"symmetric({rate})", 5)
    whole = sample(np.array(labels), T, seed, exact=False)
    np.testing.assert_array_equal(sample(np.array(labels[:n]), T, seed, exact=False), whole[:n])


# The models


def test_symmetric_noise_spreads_over_the_other_classes(case):
    for K in [2, 10, 100]:
        with case(K=K):
            T = transition("symmetric(rate=0.4)", K)
            np.testing.assert_allclose(T, 0.4 / (K - 1) + (0.6 - 0.4 / (K - 1)) * np.eye(K))


def test_inclusive_noise_has_fewer_wrong_labels_than_it_says(case):
    for K, rate, real in [
        (10, 0.2, 0.18),
        (10, 0.5, 0.45),
        (10, 0.8, 0.72),
        (10, 0.9, 0.81),
        (100, 0.5, 0.495),
    ]:
        with case(K=K, rate=rate, real=real):
            T = transition(f"symmetric({rate}, inclusive=True)", K)
            np.testing.assert_allclose(1 - np.diag(T), real)


def test_symmetric_noise_of_ten_percent_on_a_hundred_classes_is_ten_percent():
    labels = clean(100, 500)
    recorded = sample(labels, transition("symmetric(0.1)", 100), 0)
    assert set(wrong_per_class(recorded, labels, 100)) == {50}


def test_cats_and_dogs_never_flip_back(case):
    for rate in [0.1, 0.2, 0.3, 0.4]:
        with case(rate=rate):
            labels = clean(10, 5000)
            recorded = sample(labels, transition(f"asymmetric({rate}, map='cifar10')", 10), 0)
            for animal, other in ((CAT, DOG), (DOG, CAT)):
                assert np.mean(recorded[labels == animal] == other) == pytest.approx(rate, abs=1e-9)


def test_pairflip_goes_to_the_next_class_and_from_the_last_to_the_first():
    T = transition("pairflip(0.45)", 3)
    np.testing.assert_allclose(T, [[0.55, 0.45, 0], [0, 0.55, 0.45], [0.45, 0, 0.55]])


def test_a_model_knows_its_rate_and_count():
    noise = build_noise("symmetric(0.40, exact=False)", 10)
    assert (noise.rate, noise.exact) == (0.4, False)


def test_one_class_has_nothing_to_be_mistaken_for(case):
    for text in ["symmetric(0.2)", "pairflip(0.2)"]:
        with case(text=text), pytest.raises(LanguageError, match="two or more classes"):
            transition(text, 1)


# The maps

OVERALL = {
    "cifar10": 0.5,
    "cifar10-two-way": 0.8,
    "superclass-next": 1.0,
    "superclass-pair": 0.4,
    "block5-next": 1.0,
    "block5-pair": 0.4,
    "digits": 0.5,
    "fashionmnist": 0.5,
    "next": 1.0,
}


def flips(name, seed=0):
    return MAPS[name].flips(MAPS[name].num_classes or 10, seed)


def same_superclass(name, seed=0):
    return sum(SUPERCLASS[a] == SUPERCLASS[b] for a, b in flips(name, seed).items())


def test_a_map_sends_classes_to_other_classes_that_exist(case):
    for name in MAPS:
        with case(name=name):
            K = MAPS[name].num_classes or 10
            assert all(0 <= a < K and 0 <= b < K and a != b for a, b in flips(name).items())


def test_a_map_names_its_paper_and_its_share(case):
    for name in MAPS:
        with case(name=name):
            assert MAPS[name].paper and MAPS[name].summary
            assert MAPS[name].share == OVERALL[name]


def test_the_overall_rate_of_a_map_is_the_known_share_of_the_rate(case):
    for rate in [0.1, 0.4]:
        for name, share in OVERALL.items():
            with case(name=name, share=share, rate=rate):
                T = transition(f"asymmetric({rate}, map='{name}')", MAPS[name].num_classes or 10)
                assert 1 - np.diag(T).mean() == pytest.approx(share * rate)


def test_the_cifar10_maps_are_those_of_their_papers(case):
    for name, words in [
        ("cifar10", "truck>automobile bird>airplane deer>horse cat>dog dog>cat"),
        (
            "cifar10-two-way",
            "truck>automobile automobile>truck bird>airplane airplane>bird "
            "deer>horse horse>deer cat>dog dog>cat",
        ),
    ]:
        with case(name=name):
            classes = DATASETS["cifar10"].classes
            assert {f"{classes[a]}>{classes[b]}" for a, b in flips(name).items()} == set(
                words.split()
            )


def test_the_digits_map_is_that_of_its_paper():
    assert flips("digits") == {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}


def test_a_hundred_classes_make_twenty_superclasses_of_five():
    assert np.bincount(SUPERCLASS).tolist() == [5] * 20


def test_the_superclasses_are_those_of_the_official_list():
    classes = DATASETS["cifar100"].classes
    flowers = SUPERCLASS[classes.index("rose")]
    members = {name for name, group in zip(classes, SUPERCLASS, strict=True) if group == flowers}
    assert members == {"orchid", "poppy", "rose", "sunflower", "tulip"}


def test_superclass_maps_stay_within_the_true_superclass(case):
    for seed in [0, 1, 2]:
        for name in ["superclass-next", "superclass-pair"]:
            with case(name=name, seed=seed):
                assert same_superclass(name, seed) == len(flips(name, seed))


def test_only_six_of_a_hundred_block_neighbours_share_a_superclass():
    assert same_superclass("block5-next") == 6


def test_block_maps_stay_within_five_consecutive_ids(case):
    for name in ["block5-next", "block5-pair"]:
        with case(name=name):
            assert all(a // 5 == b // 5 for a, b in flips(name).items())


def test_next_is_one_circle_in_each_group_of_five(case):
    for name in ["superclass-next", "block5-next"]:
        with case(name=name):
            step = flips(name)
            for start in range(100):
                walk = [start]
                while (following := step[walk[-1]]) != start:
                    walk.append(following)
                assert len(walk) == 5


def test_pairs_exchange_labels_in_every_group(case):
    for name in ["superclass-pair", "block5-pair"]:
        with case(name=name):
            pairs = flips(name)
            assert len(pairs) == 40
            assert all(pairs[b] == a for a, b in pairs.items())


def test_the_pairs_depend_on_their_own_seed(case):
    for name in [name for name in MAPS if MAPS[name].random]:
        with case(name=name):
            assert flips(name, 1) == flips(name, 1) != flips(name, 2)


def test_a_fixed_map_does_not_depend_on_the_seed(case):
    for name in [name for name in MAPS if not MAPS[name].random]:
        with case(name=name):
            assert flips(name, 1) == flips(name, 2)


def test_the_text_holds_the_seed_of_the_pairs():
    one, other = (
        transition(f"asymmetric(0.4, map='superclass-pair', pairs_seed={seed})", 100)
        for seed in (1, 2)
    )
    assert (one != other).any()


def test_flipping_back_is_refused_where_no_classes_exchange_labels(case):
    for name in [name for name in MAPS if not exchanges(name)]:
        with case(name=name), pytest.raises(LanguageError, match="flip_back has no effect"):
            transition(
                f"asymmetric(0.3, map='{name}', flip_back=True)", MAPS[name].num_classes or 7
            )


def test_a_map_for_other_classes_is_refused():
    with pytest.raises(LanguageError, match="for 10 classes, the data have 100"):
        transition("asymmetric(0.3, map='cifar10')", 100)


def test_an_unknown_map_names_what_is_near():
    with pytest.raises(UnknownName, match="did you mean 'cifar10'"):
        class_map("cifar-10", 10)


def test_asymmetric_noise_asks_for_a_map():
    with pytest.raises(LanguageError, match="needs a map"):
        transition("asymmetric(0.3)", 10)


# From Python


def test_corrupt_draws_as_its_parts_do():
    labels = clean(10)
    expected = sample(labels, transition("symmetric(0.4)", 10), 3)
    np.testing.assert_array_equal(
        nb.corrupt(labels, "symmetric(0.4)", num_classes=10, seed=3), expected
    )


def test_corrupt_heeds_the_switch_in_the_text():
    labels = clean(10)
    expected = sample(labels, transition("symmetric(0.4)", 10), 3, exact=False)
    np.testing.assert_array_equal(
        nb.corrupt(labels, "symmetric(0.4, exact=False)", num_classes=10, seed=3), expected
    )


def test_corrupt_refuses_what_are_no_classes(case):
    for labels in [[0, 10], [-1, 0], [0.5, 1], [], [[0, 1]], ["a", "b"]]:
        with case(labels=labels), pytest.raises(DataError):
            nb.corrupt(np.array(labels), "symmetric(0.4)", num_classes=10)


def test_corrupt_takes_a_list_and_gives_int64():
    recorded = nb.corrupt([0, 1, 2], "pairflip(0.5)", num_classes=3)
    assert recorded.dtype == np.int64


def test_the_short_notation_of_tables_is_read_back() -> None:
    texts = (
        "symmetric(rate=0.4)", "symmetric(rate=0.25, inclusive=True, exact=False)", "symmetric(rate=0.4, exact_over='set')",
        "asymmetric(rate=0.3, map='cifar10-two-way')", "asymmetric(rate=0.3, flip_back=True)", "pairflip(rate=0.45, exact=False)",
        "pdn(rate=0.2, std=0.3)", "human(column='worse_label')", "imported(file='own')",
        "openset(symmetric(rate=0.1), rate=0.2, source='cifar100')",
    )  # fmt: skip
    for text in texts:
        assert normal_noise(short_noise(text)) == normal_noise(text), short_noise(text)
    assert normal_noise("idn 0.2") == normal_noise("pdn(rate=0.2)")
    files = {
        "sym 0.4": None,
        "imported own": None,
        "imported('a.csv')": "a.csv",
        "imported a.csv:y": "a.csv:y",
    }
    assert {text: label_file_of(text) for text in files} == files
    for wrong in (
        "symm 0.4",
        "sym 0.4 inclusiv",
        "sym 0.4 0.5",
        "sym half",
        "sym 1.5",
        "asym cifar10",
    ):
        with pytest.raises(NoisebenchError):
            normal_noise(wrong)
