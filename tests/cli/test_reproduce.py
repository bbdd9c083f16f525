"""The command that a report gives for a run plans that very run again: the same key, from an empty
workspace.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisebench.cli import main
from noisebench.datasets import Images
from noisebench.experiments.command import repro_command
from noisebench.runs.folder import RunFolder, run_folders

SUITE = """
version: 1
suites:
  tiny:
    defaults: {dataset: digits, epochs: 1, seeds: [3], trusted: 0.1, weight_decay: 0.001}
    matrix: {noise: [symmetric(rate=0.4)], strategy: [standard, cleannet], loss: [el]}
"""
WISHES = [
    "--sym 0.4 --loss ce",
    "--sym 0.4 --inclusive --bernoulli --method el --noise-seed 5 --seed 2",
    "--asym 0.3 --method forward",
    "--asym 0.3 --map next --loss 'lsr(el, alpha=0.2)' --strategy 'bootstrap(kind=soft)'",
    (
        "--sym 0.2 --loss '10*normalized(ce) + 0.1*mae' --lr 0.05 --no-nesterov --schedule "
        "'step(1, "
        "2)' --hflip --clip 1.5"
    ),
    "--sym 0.4 --method coteaching --precision fp32 --recipe apl",
    "--sym 0.2 --val-fraction 0.1234567 --val-split before --loss gce --q 0.5",
    "--sym 0.4 --trusted 0.1 --method distill --val-fraction 0.1",
    "--sym 0.4 --convention apl2020",
    "--idn 0.3 --loss ce --model cnn4",
    "--labels own --loss 'el(eps=0.2)'",
]


def key_again(folder: RunFolder, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The key of what the run's command, split as a shell does, plans in an empty workspace."""
    words = shlex.split(repro_command(folder.about()).command)
    capsys.readouterr()
    assert (
        words[0] == "noisebench"
        and main(["-C", str(place), *words[1:], "--dry-run", "--json"]) == 0
    ), capsys.readouterr().err
    return json.loads(capsys.readouterr().out)["key"]


def only(root: Path) -> RunFolder:
    (folder,) = run_folders([root])
    return folder


@pytest.mark.parametrize("wish", WISHES)
def test_a_runs_command_has_its_key(
    wish: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "-q",
                "-C",
                str(tmp_path / "a"),
                "train",
                "digits",
                *shlex.split(wish),
                "--epochs",
                "1",
            ]
        )
        == 0
    )
    folder = only(tmp_path / "a")
    assert key_again(folder, tmp_path / "b", capsys) == folder.record()["key"]
    assert repro_command(folder.about()).needs == ()


def test_a_command_names_the_source_of_open_set_images(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_a_runs_command_has_its_key(
        "--openset 0.3 --source fashionmnist --sym 0.2", tmp_path, capsys
    )


def test_a_suites_runs_have_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    assert (
        main(["-q", "-C", str(tmp_path / "a"), "run", str(tmp_path / "suite.yaml"), "--jobs", "1"])
        == 0
    )
    folders = run_folders([tmp_path / "a"])
    assert [key_again(folder, tmp_path / "b", capsys) for folder in folders] == [
        folder.record()["key"] for folder in folders
    ]


def test_a_foreign_set_and_file_are_named_as_needed(
    digits: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {
        f"{part}_{kind}": getattr(digits, f"{part}_{kind}")[:200]
        for part in ("train", "test")
        for kind in ("images", "labels")
    }
    place = tmp_path / "a"
    place.mkdir()
    np.savez(place / "mine.npz", **few)
    np.save(place / "theirs.npy", np.roll(few["train_labels"], 1))
    assert (
        main(
            [
                "-q",
                "-C",
                str(place),
                "train",
                "mine.npz",
                "--labels",
                "theirs.npy",
                "--loss",
                "ce",
                "--epochs",
                "1",
            ]
        )
        == 0
    )
    made = repro_command(only(place).about())
    assert [need.split()[:3] for need in made.needs] == [
        ["the", "data", "set"],
        ["the", "file", "theirs.npy"],
    ]
    assert (
        "mine.npz" in made.needs[0]
        and key_again(only(place), place, capsys) == only(place).record()["key"]
    )


def test_a_loss_of_a_plugin_is_named_as_needed() -> None:
    about = {"dataset": "digits", "noise": "symmetric(rate=0.4)", "noise_seed": 0, "loss": "nobodys(p=1)", "strategy": "standard",
             "model": "mlp", "recipe_name": "digits", "recipe": {"epochs": 40}, "seed": 0, "precision": "fp32"}  # fmt: skip
    assert repro_command(about).needs == (
        "the file that defines the loss nobodys: noisebench --plugin FILE train ...",
    )


def test_a_shell_reads_every_word_as_it_was() -> None:
    for name in ("a b", "it's", "$(touch x)", "`x`", "a\"b'c", "!x", "a\nb", "a;b"):
        made = repro_command(about_of(name))
        assert tuple(shlex.split(made.command)) == made.words and made.words[2] == name


def about_of(name: str) -> dict[str, Any]:
    return {"dataset": name, "noise": "imported(file='own')", "noise_seed": None, "loss": "ce", "strategy": "standard",
             "model": "mlp", "recipe_name": "digits", "recipe": {"epochs": 40}, "seed": 0, "precision": "fp32"}  # fmt: skip
