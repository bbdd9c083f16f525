"""Verified labels: a share of a manifest that is right and says so, and the strategies that live on
it.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from noisebench.cli import main
from noisebench.datasets import DATASETS, Labels
from noisebench.errors import ConfigError, ManifestError
from noisebench.labels.build import LabelRequest, make_manifest
from noisebench.labels.manifest import file_name, read_manifest
from noisebench.strategies import TrainingInfo, build_strategy
from noisebench.strategies.verified import cosine_to_prototypes
from tests.conftest import Case
from tests.contracts.test_strategy_cards import a_batch, said

DIGITS = DATASETS["digits"]
DATA = Labels(DIGITS, np.arange(1297) % 10)


def made(trusted: float, noise: str = "symmetric(rate=0.4)", seed: int = 0, **more: object):
    return make_manifest(DATA, LabelRequest(noise, seed, trusted=trusted, **more))  # type: ignore[arg-type]


def test_a_share_of_each_class_is_set_right_and_the_rest_stays() -> None:
    plain, manifest = made(0), made(0.1)
    counts = np.bincount(DATA.labels[manifest.trusted], minlength=10)
    assert counts.sum() == 130 and counts.min() >= 12 and counts.max() <= 13
    assert (manifest.labels[manifest.trusted] == DATA.labels[manifest.trusted]).all()
    np.testing.assert_array_equal(
        manifest.labels[~manifest.trusted], plain.labels[~manifest.trusted]
    )
    assert manifest.meta["nominal_rate"] == 0.4
    assert manifest.meta["realised_rate"] == pytest.approx((manifest.labels != DATA.labels).mean())
    assert 0.3 < manifest.meta["realised_rate"] < plain.meta["realised_rate"]


def test_who_is_trusted_depends_on_the_seed_alone() -> None:
    one, again, other = made(0.1), made(0.1, "symmetric(rate=0.2)"), made(0.1, seed=1)
    np.testing.assert_array_equal(one.trusted, again.trusted)
    assert (one.trusted != other.trusted).any()


def test_trust_is_read_back_as_it_was_written(tmp_path: Path, case: Case) -> None:
    for suffix in [".csv", ".csv.gz", ".parquet"]:
        with case(suffix=suffix):
            if suffix == ".parquet":
                pytest.importorskip("pyarrow", reason="a .parquet manifest needs pyarrow")
            manifest = made(0.1, val_fraction=0.2)
            manifest.write(tmp_path / f"m{suffix}")
            again = read_manifest(tmp_path / f"m{suffix}")
            np.testing.assert_array_equal(again.trusted, manifest.trusted)
            assert again.meta == manifest.meta and again.sha256 == manifest.sha256
            assert manifest.held_out_text == "0.2 held out after corruption, 0.1 trusted"
            assert file_name(manifest, DIGITS) == "digits-sym0.4-val0.2-trusted0.1-s0.csv"


def test_no_example_is_both_trusted_and_held_out() -> None:
    manifest = made(0.3, val_fraction=0.3)
    assert not (manifest.trusted & manifest.val).any()
    assert manifest.trusted.sum() == pytest.approx(0.3 * manifest.in_training.sum(), abs=1)


def test_without_trust_a_manifest_is_what_it_was() -> None:
    manifest = made(0)
    assert (
        manifest.trusted is None
        and "trusted" not in manifest.meta
        and b"trusted" not in manifest.content
    )


def test_a_share_that_is_none_is_refused(case: Case) -> None:
    for share in [-0.1, 1.0, 1.5]:
        with case(share=share), pytest.raises(ConfigError, match=r"--trusted must be a share"):
            LabelRequest("symmetric(rate=0.4)", trusted=share)


def test_too_small_a_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="selects none"):
        made(1e-6)


def test_a_trusted_label_that_is_not_the_clean_one_is_refused(tmp_path: Path) -> None:
    manifest = made(0.1)
    manifest.labels[np.flatnonzero(manifest.trusted)[0]] += 1
    manifest.labels[:] %= 10
    manifest.write(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="a trusted label differs from the clean label"):
        read_manifest(tmp_path / "m.csv")


def test_without_verified_labels_these_strategies_say_what_they_need(case: Case) -> None:
    for name in ["cleannet", "distill", "mentornet(kind='data_driven')"]:
        with (
            case(name=name),
            pytest.raises(ConfigError, match=re.escape(name) + " needs verified labels"),
        ):
            build_strategy(name).setup(TrainingInfo(torch.tensor([0, 1]), 2, 10, torch.Generator()))


def test_on_the_command_line_that_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    for name in ["cleannet", "distill", "mentornet(kind='data_driven')"]:
        with case(name=name):
            assert (
                main(
                    [
                        "-q",
                        "-C",
                        str(tmp_path),
                        "train",
                        "digits",
                        "--sym",
                        "0.4",
                        "--epochs",
                        "1",
                        "--strategy",
                        name,
                    ]
                )
                == 2
            )
            said_by_it = capsys.readouterr()
            assert (
                not said_by_it.out
                and said_by_it.err.count("\n") == 1
                and "--trusted 0.1" in said_by_it.err
            )


# CleanNet


def test_an_example_is_weighed_by_its_cosine_with_the_verified_ones_of_its_class() -> None:
    features = torch.tensor([[2.0, 0], [0, 5], [0, 1], [3, 3], [-1, 0]])
    labels, trusted = torch.tensor([0, 1, 0, 0, 0]), torch.tensor([True, True, False, False, False])
    torch.testing.assert_close(
        cosine_to_prototypes(features, labels, trusted, 3),
        torch.tensor([1.0, 1.0, 0.0, 0.5**0.5, -1.0]),
    )


def test_a_prototype_is_a_mean_of_directions() -> None:
    features = torch.tensor([[100.0, 0], [0, 0.1], [1, 1]])
    cosine = cosine_to_prototypes(
        features, torch.zeros(3, dtype=int), torch.tensor([True, True, False]), 1
    )
    torch.testing.assert_close(cosine[2], torch.tensor(1.0))


def test_a_class_without_a_verified_label_has_no_prototype() -> None:
    cosine = cosine_to_prototypes(
        torch.eye(2), torch.tensor([0, 1]), torch.tensor([True, False]), 2
    )
    assert cosine.tolist() == [1, 0]


def test_the_weights_of_cleannet_by_hand() -> None:
    strategy = build_strategy("cleannet(threshold=0.2, wait=0.5)")
    labels, trusted = torch.tensor([0, 1, 0, 0]), torch.tensor([True, True, False, False])
    strategy.setup(TrainingInfo(labels, 2, 4, torch.Generator(), trusted))
    whole = SimpleNamespace(features=lambda: torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [0, 1]]))
    batch, output = a_batch([0, 1, 0, 0]), said([[0.5, 0.5]] * 4)
    strategy.on_epoch_end(1, whole)  # type: ignore[arg-type]
    assert (
        strategy.supervise(batch, [[output]])[0].sample_weights is None
    )  # half of the run is waited for
    strategy.on_epoch_end(2, whole)  # type: ignore[arg-type]
    torch.testing.assert_close(
        strategy.supervise(batch, [[output]])[0].sample_weights, torch.tensor([1.0, 1.0, 0.5, 0.0])
    )


def test_cleannet_waits_for_a_share_of_whole_epochs() -> None:
    strategy = build_strategy("cleannet(wait=0.07)")
    # 0.07 * 100 is 7.000000000000001
    strategy.setup(
        TrainingInfo(torch.tensor([0, 1]), 2, 100, torch.Generator(), torch.tensor([True, True]))
    )
    weighing = []
    for epoch in (6, 7):
        strategy.on_epoch_end(epoch, SimpleNamespace(features=lambda: torch.eye(2)))  # type: ignore[arg-type]
        weighing.append(strategy.state["weighing"])
    assert weighing == [False, True]


# Distillation


def test_the_teacher_learns_verified_labels_alone_and_then_corrects_the_rest() -> None:
    strategy = build_strategy("distill(share=0.25, first=0.5)")
    labels, trusted = torch.tensor([0, 1, 0]), torch.tensor([True, False, False])
    strategy.setup(TrainingInfo(labels, 2, 4, torch.Generator(), trusted))
    batch, output, restarts = a_batch([0, 1, 0]), said([[0.5, 0.5]] * 3), []
    p = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    whole = SimpleNamespace(log_p=p.log, restart=lambda: restarts.append(1))
    [belief] = strategy.supervise(batch, [[output]])
    assert belief.sample_weights.tolist() == [1, 0, 0] and belief.targets is batch.targets
    strategy.on_epoch_end(1, whole)  # type: ignore[arg-type]
    assert not restarts
    strategy.on_epoch_end(2, whole)  # type: ignore[arg-type]
    [belief] = strategy.supervise(a_batch([0, 1, 0], epoch=3), [[output]])
    torch.testing.assert_close(belief.targets, torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.55, 0.45]]))
    assert belief.sample_weights is None and restarts == [1]


def test_a_warm_temperature_softens_the_teacher() -> None:
    strategy = build_strategy("distill(share=0, first=0.5, temperature=2)")
    strategy.setup(TrainingInfo(torch.tensor([0]), 2, 2, torch.Generator(), torch.tensor([False])))
    whole = SimpleNamespace(log_p=lambda: torch.tensor([[0.2, 0.8]]).log(), restart=lambda: None)
    strategy.on_epoch_end(1, whole)  # type: ignore[arg-type]
    # square roots of 1 : 4
    torch.testing.assert_close(strategy.state["targets"], torch.tensor([[1 / 3, 2 / 3]]))
