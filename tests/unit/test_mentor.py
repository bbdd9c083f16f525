"""MentorNet's data-driven mentor: the wrong labels it is taught by, what it learns of costs, and
its course through a run.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from noisebench.errors import LanguageError
from noisebench.strategies import Strategy, TrainingInfo, build_strategy, normal_strategy
from noisebench.strategies.verified import (
    Seen,
    fit_mentor,
    mentor_logits,
    new_mentor,
    with_incorrect_labels,
)
from noisebench.training.trainer import Trainer
from tests.conftest import Case, same, weights
from tests.contracts.test_strategy_cards import a_batch, said

DATA_DRIVEN = "mentornet(kind='data_driven')"
WHOLE = SimpleNamespace()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def taught_by(
    labels: list[int], trusted: list[bool], text: str = DATA_DRIVEN, epochs: int = 10
) -> Strategy:
    strategy = build_strategy(text)
    strategy.setup(
        TrainingInfo(torch.tensor(labels), 3, epochs, generator(), torch.tensor(trusted))
    )
    return strategy


def wrong_places(strategy: Strategy, labels: list[int]) -> list[int]:
    return (strategy.state["labels"] != torch.tensor(labels)).nonzero()[:, 0].tolist()


# The wrong labels


def test_half_of_the_verified_labels_are_wrong_and_no_other(case: Case) -> None:
    for num_classes in [2, 3, 10]:
        with case(num_classes=num_classes):
            labels, trusted = (
                torch.randint(num_classes, (400,), generator=generator()),
                torch.arange(400) % 5 == 0,
            )
            strategy = build_strategy(DATA_DRIVEN)
            strategy.setup(TrainingInfo(labels, num_classes, 10, generator(), trusted))
            wrong = strategy.state["labels"] != labels
            assert int(wrong.sum()) == 40 and not (wrong & ~trusted).any()
            assert (
                strategy.state["labels"].min() >= 0 and strategy.state["labels"].max() < num_classes
            )


def test_wrong_labels_are_drawn_by_what_a_class_is_mistaken_for() -> None:
    labels, places = torch.arange(3).repeat(4000), torch.arange(6000)
    found = with_incorrect_labels(
        labels, places, torch.tensor([[9.0, 3, 1], [0, 9, 2], [1, 1, 9]]), generator()
    )
    assert (found[6000:] == labels[6000:]).all()
    counts = torch.zeros(3, 3).index_put_(
        (labels[:6000], found[:6000]), torch.tensor(1.0), accumulate=True
    )
    # 4 sigma
    torch.testing.assert_close(
        counts / 2000, torch.tensor([[0, 0.75, 0.25], [0, 0, 1], [0.5, 0.5, 0]]), rtol=0, atol=0.04
    )


def test_a_class_of_which_nothing_is_known_is_mistaken_for_any_other() -> None:
    labels = torch.zeros(3000, dtype=torch.long)
    found = with_incorrect_labels(labels, torch.arange(3000), torch.zeros(3, 3), generator())
    torch.testing.assert_close(
        found.bincount() / 3000, torch.tensor([0, 0.5, 0.5]), rtol=0, atol=0.04
    )


def test_from_the_middle_of_the_burn_in_on_wrong_labels_are_those_that_the_student_finds() -> None:
    labels = [0, 1, 2] * 4
    strategy = taught_by(labels, [True] * 12, "mentornet(kind='data_driven', burn_in=0.4)")
    places = wrong_places(strategy, labels)
    after = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]  # each class for the next
    strategy.supervise(
        strategy.prepare_batch(a_batch(labels, epoch=2), None),
        [[said([after[label] for label in labels])]],
    )
    strategy.on_epoch_end(2, WHOLE)  # type: ignore[arg-type]
    assert wrong_places(strategy, labels) == places
    assert all(strategy.state["labels"][place] == (labels[place] + 1) % 3 for place in places)


# The mentor


def costs_of(count: int, seed: int) -> tuple[Seen, torch.Tensor]:
    """Right labels that cost little, wrong ones that cost more."""
    g, right = generator(seed), torch.arange(count) % 2 == 0
    cost = torch.where(right, 0.5, 3.0)[:, None] + 0.5 * torch.randn(count, 2, generator=g)
    seen = torch.stack([cost[:, 0], cost[:, 0] - 1, cost[:, 1], cost[:, 1] - 1], 1)
    return Seen(seen, torch.randint(3, (count,), generator=g), torch.full((count,), 20)), right


def test_a_mentor_tells_right_from_wrong_labels_that_it_was_not_taught() -> None:
    mentor = fit_mentor(new_mentor(3, generator()), *costs_of(100, 1))
    seen, right = costs_of(400, 2)
    logits = mentor_logits(mentor, seen)
    # the area under the ROC curve
    assert (logits[right][:, None] > logits[~right]).float().mean() > 0.99
    assert logits[right].sigmoid().mean() > 0.95 and logits[~right].sigmoid().mean() < 0.05


def test_the_scale_of_the_costs_does_not_matter_to_a_mentor() -> None:
    seen, right = costs_of(100, 1)
    small = seen._replace(costs=seen.costs / 64)
    torch.testing.assert_close(mentor_logits(fit_mentor(new_mentor(3, generator()), small, right), small),
                               mentor_logits(fit_mentor(new_mentor(3, generator()), seen, right), seen))  # fmt: skip


def test_a_mentor_is_decided_by_its_generator_alone() -> None:
    one, again, other = (
        fit_mentor(new_mentor(3, generator(seed)), *costs_of(50, 1)) for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["hidden"], other["hidden"])


# Its course


def run_of(
    strategy: Strategy, labels: list[int], right: list[float], epochs: int
) -> list[list[float] | None]:
    """The weights in each epoch, of a student that gives every right label its probability here."""
    p, found = torch.full((len(labels), 3), 0.0), []
    p += ((1 - torch.tensor(right)) / 2)[:, None]
    p[torch.arange(len(labels)), torch.tensor(labels)] = torch.tensor(right)
    for epoch in range(1, epochs + 1):
        [belief] = strategy.supervise(
            strategy.prepare_batch(a_batch(labels, epoch), None), [[said(p.tolist())]]
        )
        found.append(None if belief.sample_weights is None else belief.sample_weights.tolist())
        strategy.on_epoch_end(epoch, WHOLE)  # type: ignore[arg-type]
    return found


def test_all_count_alike_until_the_first_lesson_and_the_verified_fully_after_the_last() -> None:
    labels, trusted = [0, 1, 2] * 10, [True] * 20 + [False] * 10
    strategy = taught_by(labels, trusted, "mentornet(kind='data_driven', burn_in=0.3)")
    wrong = wrong_places(strategy, labels)
    seen = run_of(strategy, labels, [0.9] * 25 + [0.01] * 5, 10)
    assert seen[:3] == [None] * 3
    for during in seen[3:7]:  # lessons after epochs 3 and 7
        assert during is not None and all(
            (during[n] < 0.1) == (n in wrong or n >= 25) for n in range(30)
        )
    for after in seen[7:]:
        assert (
            after is not None
            and after[:20] == [1] * 20
            and min(after[20:25]) > 0.9
            and max(after[25:]) < 0.1
        )
    assert not wrong_places(strategy, labels)


def test_the_student_learns_the_wrong_labels_as_it_learns_the_others() -> None:
    labels = [0, 1, 2] * 4
    strategy = taught_by(labels, [True] * 12)
    batch = strategy.prepare_batch(a_batch(labels), None)
    assert torch.equal(batch.labels, strategy.state["labels"]) and torch.equal(
        batch.targets, batch.labels
    )
    [belief] = strategy.supervise(batch, [[said([[0.2, 0.3, 0.5]] * 12)]])
    assert torch.equal(belief.targets, batch.labels) and belief.sample_weights is None


def test_a_run_that_ends_with_the_first_lesson_is_plain_training(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text in ["mentornet(kind='data_driven', burn_in=1)", DATA_DRIVEN]:
        with case(text=text):
            epochs = 2 if "burn_in" in text else 1
            trainer, plain = make_trainer(strategy=text, epochs=epochs), make_trainer(epochs=epochs)
            for _ in range(epochs):
                trainer.run_epoch(), plain.run_epoch()
            assert same(weights(trainer), weights(plain))


def test_an_example_that_was_never_looked_at_teaches_nothing() -> None:
    labels = [0, 1, 2] * 4
    strategy = taught_by(labels, [True] * 12, "mentornet(kind='data_driven', burn_in=0.1)")
    # the twelfth stands in a last batch of one, which is left out
    seen = run_of(strategy, labels[:11], [0.9] * 11, 10)
    assert seen[0] is None and all(
        torch.isfinite(torch.tensor(during)).all() for during in seen[1:]
    )


def test_a_short_run_ends_on_labels_that_are_right(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for epochs in [2, 3, 4]:
        with case(epochs=epochs):
            trainer = make_trainer(strategy=DATA_DRIVEN, epochs=epochs)
            assert not torch.equal(trainer.strategy.state["labels"], trainer.state.labels)
            for _ in range(epochs - 1):
                trainer.run_epoch()
            assert torch.equal(trainer.strategy.state["labels"], trainer.state.labels)
            assert torch.isfinite(torch.tensor(trainer.run_epoch().loss))


def test_a_single_verified_label_teaches_nothing_and_breaks_nothing() -> None:
    labels = [0, 1, 2]
    strategy = taught_by(labels, [True, False, False])
    assert not wrong_places(strategy, labels)
    assert all(
        torch.isfinite(torch.tensor(seen or [0.0])).all()
        for seen in run_of(strategy, labels, [0.5] * 3, 10)
    )


def test_the_state_is_read_back_without_pickled_code(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(strategy=DATA_DRIVEN)
    trainer.run_epoch()
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)["strategy"]
    assert saved["taught"] == 1 and torch.equal(
        saved["mentor"]["hidden"], trainer.strategy.state["mentor"]["hidden"]
    )


# What may be written


def test_each_kind_has_its_own_burn_in_and_width() -> None:
    assert str(normal_strategy("mentornet")) == (
        "mentornet(kind='self_paced', percentile=0.75, decay=0.9, burn_in=0.18)"
    )
    assert dict(normal_strategy("mentornet(kind='predefined')").kwargs)["width"] == 1
    assert dict(normal_strategy(DATA_DRIVEN).kwargs)["burn_in"] == 0.21
    with pytest.raises(LanguageError, match="width needs kind='predefined'"):
        normal_strategy("mentornet(width=2)")
