"""The confusion matrix of a manifest, drawn: the numbers are the manifest's, in every form."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from noisebench.cli import main
from noisebench.labels.manifest import read_manifest

K100 = ["corrupt", "cifar100", "--asym", "0.4"]
K10 = ["corrupt", "cifar10", "--asym", "0.3"]


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(K10) == 0
    capsys.readouterr()
    return tmp_path


def test_without_a_manifest_it_asks_for_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--figure", "transition"]) == 2
    assert "name a manifest to draw" in capsys.readouterr().err


def test_the_numbers_are_the_shares_of_each_clean_class(place, capsys):
    assert main(["report", "--figure", "transition", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)[0]
    manifest = read_manifest(next((place / "manifests").glob("*.csv")))
    expected = [
        [np.mean(manifest.labels[manifest.clean_labels == i] == j) for j in range(10)]
        for i in range(10)
    ]
    np.testing.assert_allclose(said["transition"], expected, atol=1e-12)
    assert np.sum(said["counts"]) == 50_000 and said["counts"][9][1] == 1500


def test_the_terminal_shows_every_class_of_ten_in_percent(place, capsys):
    assert main(["report", "--figure", "transition"]) == 0
    out = capsys.readouterr().out
    truck = next(line.split() for line in out.splitlines() if line.startswith("truck"))
    assert "15.00 % wrong" in out
    assert truck == ["truck", ".", "30.0", ".", ".", ".", ".", ".", ".", ".", "70.0"]


def test_of_many_classes_it_shows_the_worst_and_their_mistakes(place, capsys):
    assert main(K100) == 0
    capsys.readouterr()
    assert main(["report", "--figure", "transition"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 23 and "the 20 of 100 classes" in out[-1]
    assert out[2].split() == ["apple", "60.0", "mushroom", "40.0"]


def test_a_picture_is_written_and_is_one(place, capsys, case):
    for suffix in ["svg", "png", "pdf"]:
        with case(suffix=suffix):
            assert main(["report", "--figure", "transition", "-o", f"f.{suffix}"]) == 0
            raw = (place / f"f.{suffix}").read_bytes()
            if suffix == "svg":
                texts = "".join(ET.fromstring(raw).itertext())
                assert "automobile" in texts and "given label" in texts and "30.0" in texts
            elif suffix == "png":
                assert min(Image.open(io.BytesIO(raw)).size) > 500
            else:
                assert raw.startswith(b"%PDF")


def test_the_same_picture_is_the_same_bytes(place):
    for name in ("a.svg", "b.svg"):
        assert main(["report", "--figure", "transition", "-o", name]) == 0
    assert (place / "a.svg").read_bytes() == (place / "b.svg").read_bytes()


def test_the_csv_has_a_line_for_each_pair_that_occurs(place):
    assert main(["report", "--figure", "transition", "-o", "f.csv"]) == 0
    rows = list(csv.DictReader((place / "f.csv").read_text().splitlines()))
    assert len(rows) == 15
    assert {row["recorded"]: float(row["share"]) for row in rows if row["clean"] == "cat"} == {
        "cat": 0.7,
        "dog": 0.3,
    }


def test_what_cannot_be_drawn_is_said(place, capsys, case):
    for arguments, what in [
        (["--figure", "transitions"], "unknown figure 'transitions'"),
        (["--figure", "transition", "-o", "f.gif"], "unknown format of a figure"),
        (["--figure", "transition", "none.csv"], "no such manifest"),
    ]:
        with case(arguments=arguments, what=what):
            assert main(["report", *arguments]) == 2
            assert what in capsys.readouterr().err


def test_without_clean_labels_there_is_nothing_to_draw(place, capsys):
    assert main(["corrupt", "digits", "--labels", "own"]) == 0
    assert main(["report", "--figure", "transition"]) == 2
    assert "has no true labels" in capsys.readouterr().err


def test_without_matplotlib_a_picture_says_what_to_install(place, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["report", "--figure", "transition", "-o", "f.svg"]) == 2
    assert "pip install 'noisebench[plot]'" in capsys.readouterr().err


def test_lists_compare_manifests_by_fractions(place, capsys):
    assert main(["list", "manifests", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["nominal_rate"], row["realised_rate"], row["worst_class"], row["worst_rate"]) == (
        0.3,
        0.15,
        "bird",
        0.3,
    )


def test_every_named_map_says_its_paper_and_what_it_makes_of_a_rate(capsys):
    assert main(["list", "noises", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (
        rows["superclass-pair"]["overall"] == "0.4 x rate"
        and "Equal Loss" in rows["superclass-pair"]["paper"]
    )
    assert rows["cifar10"]["overall"] == "0.5 x rate" and "Patrini" in rows["cifar10"]["paper"]


def test_every_convention_is_listed_with_its_paper(capsys):
    assert main(["list", "conventions", "--json"]) == 0
    names = {
        row["name"]
        for row in json.loads(capsys.readouterr().out)
        if row["paper"] and row["note"] and row["noise"]
    }
    assert names >= {"sl2019", "el2023", "apl2020", "dividemix2020"}


def test_what_is_unknown_is_not_drawn_as_right(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((6, 8, 8), np.uint8)
    np.savez(
        "few.npz",
        train_images=images,
        train_labels=np.arange(6) % 3,
        test_images=images[:3] + 1,
        test_labels=np.arange(3),
    )
    (tmp_path / "l.csv").write_text("label,clean_label\n1,0\n1,1\n2,\n0,0\n1,\n2,\n")
    assert main(["corrupt", "few.npz", "--labels", "l.csv"]) == 0
    capsys.readouterr()
    assert main(["report", "--figure", "transition", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["transition"] == [
        [0.5, 0.5, 0.0],
        [0.0, 1.0, 0.0],
        [None, None, None],
    ]
    assert main(["report", "--figure", "transition"]) == 0
    assert "33.33 % of 3 known wrong" in capsys.readouterr().out


def test_replaced_images_are_said_to_be_left_out(place, capsys):
    assert main(["corrupt", "cifar10", "--openset", "0.3", "--source", "cifar100"]) == 0
    capsys.readouterr()
    assert main(["report", "--figure", "transition"]) == 0
    assert "15000 images of cifar100 not shown, all incorrect" in capsys.readouterr().out


def test_options_without_effect_on_a_figure_are_refused(place, capsys, case):
    for option in [
        ["--rows", "loss"],
        ["--filter", "seed=0"],
        ["--format", "md"],
        ["--json", "-o", "f.svg"],
    ]:
        with case(option=option):
            assert main(["report", "--figure", "transition", *option]) == 2
            assert capsys.readouterr().err.startswith("error: --")
