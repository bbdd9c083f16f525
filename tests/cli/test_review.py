"""From noisy to clean: a list of doubted labels, worked on by somebody, makes a new manifest; and
round again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cleanlab.classification import CleanLearning
from cleanlab.filter import find_label_issues

from noisebench.cli import main
from noisebench.core.classes import NoClass, class_numbers
from noisebench.datasets import DATASETS, Labels, Shape, read_review
from noisebench.errors import DataError, LanguageError
from noisebench.experiments.oracle import resolve_auto
from noisebench.experiments.resolve import RunRequest, resolve_run
from noisebench.labels.build import DatasetInputs, LabelRequest, make_manifest
from noisebench.labels.issues import Reviewed, review_manifest
from noisebench.labels.manifest import Manifest, file_name, read_manifest, short_noise
from noisebench.losses import LOSSES
from noisebench.noise import is_random
from noisebench.runs.workspace import Workspace

DIGITS = Workspace().labels(DATASETS["digits"])
SHA = "sha256='[0-9a-f]{16}'"


def labels_of(text: str = "symmetric(rate=0.4)", data: Labels = DIGITS, **wish: Any) -> Manifest:
    return make_manifest(data, LabelRequest(text, **wish))


def listing(path: Path, manifest: Manifest, which: Any, suggested: Any = None) -> Path:
    """A list of these examples as `evaluate --suspects` writes it; suggested are the clean labels
    unless others are given.
    """
    names = np.array(manifest.meta["classes"])
    table = {"rank": range(1, len(which) + 1), "index": which, "given_label": names[manifest.labels[which]],
             "predicted_label": names[manifest.clean_labels[which] if suggested is None else suggested], "label_quality": 0.5}  # fmt: skip
    pd.DataFrame(table).to_csv(path, index=False)
    return path


def review(manifest: Manifest, path: Path, action: str, data: Labels = DIGITS) -> Reviewed:
    return review_manifest(
        data, manifest, path, action, DatasetInputs(data, Path(), True, DATASETS.__getitem__)
    )


def wrong(manifest: Manifest) -> np.ndarray:
    return np.flatnonzero(manifest.labels != manifest.clean_labels)


# What a review makes


def test_relabelled_examples_have_the_suggested_labels_and_no_others_change(tmp_path: Path) -> None:
    noisy = labels_of()
    done = review(noisy, listing(tmp_path / "s.csv", noisy, wrong(noisy)[:100]), "relabel")
    expected = noisy.labels.copy()
    expected[wrong(noisy)[:100]] = noisy.clean_labels[wrong(noisy)[:100]]
    np.testing.assert_array_equal(done.after.labels, expected)
    assert done.after.meta["realised_rate"] == (len(wrong(noisy)) - 100) / 1297
    assert done.summary == {
        "listed": 100,
        "changed": 100,
        "changed_wrong": 100,
        "wrong_before": 518,
        "wrong_after": 418,
        "trained_on": 1297,
    }


def test_dropped_examples_keep_their_rows_and_are_neither_trained_on_nor_counted(
    tmp_path: Path,
) -> None:
    noisy, right = labels_of(), np.arange(3)
    listed = [*wrong(noisy)[:100], *(at for at in right if at not in wrong(noisy))]
    after = review(noisy, listing(tmp_path / "s.csv", noisy, listed), "drop").after
    np.testing.assert_array_equal(np.flatnonzero(~after.in_training), np.sort(listed))
    np.testing.assert_array_equal(after.labels, noisy.labels)
    assert after.meta["realised_rate"] == 418 / (
        1297 - len(listed)
    ) and after.confusion.sum() == 1297 - len(listed)
    after.verify(DIGITS.labels)


def decide(path: Path, decisions: list[str]) -> Path:
    """Adds the column decision to a list."""
    pd.read_csv(path).assign(decision=decisions).to_csv(path, index=False)
    return path


def test_each_example_is_changed_as_decided(tmp_path: Path) -> None:
    noisy = labels_of(val_fraction=0.2)
    assert noisy.val is not None
    train, val = (np.flatnonzero(part) for part in (~noisy.val, noisy.val))
    which = np.array([*train[:5], *val[:2]])
    decisions = ["keep", "drop", "Relabel", "undecided", "", "drop", "relabel"]
    suggested = (noisy.labels[which] + 1) % 10
    path = decide(listing(tmp_path / "s.csv", noisy, which, suggested), decisions)
    done = review(noisy, path, "decided")
    expected = noisy.labels.copy()
    expected[which[[2, 6]]] = suggested[[2, 6]]
    np.testing.assert_array_equal(done.after.labels, expected)
    assert np.flatnonzero(~done.after.included).tolist() == [which[1]]
    assert done.changed.tolist() == sorted(which[[1, 2, 6]])
    assert [note.split()[:3] for note in done.notes] == [["not", "changed:", "2"], ["not", "dropped:", "1"]]  # fmt: skip
    again = review(done.after, decide(listing(path, done.after, which[:1]), ["keep"]), "decided")
    assert not len(again.changed) and again.after.labels.tolist() == expected.tolist()


def test_decisions_and_one_action_for_all_exclude_each_other(tmp_path: Path) -> None:
    noisy = labels_of(trusted=0.1)
    assert noisy.trusted is not None
    train, trusted = np.flatnonzero(~noisy.trusted), np.flatnonzero(noisy.trusted)[:1]
    cases = [
        (["keep"], train[:1], "drop", "omit --drop"),
        (["keep"], train[:1], "relabel", "omit --relabel"),
        (["undecided"], train[:1], "decided", "it has no decision"),
        (["yes"], train[:1], "decided", "line 2: decision must be one of keep, drop, relabel"),
        (["drop"], trusted, "decided", "is trusted"),
    ]
    for decisions, which, action, why in cases:
        path = decide(listing(tmp_path / "s.csv", noisy, which), decisions)
        with pytest.raises(DataError, match=why):
            review(noisy, path, action)
    with pytest.raises(DataError, match="no column decision"):
        review(noisy, listing(tmp_path / "s.csv", noisy, train[:1]), "decided")
    which = np.array([train[0], *trusted])
    path = listing(tmp_path / "s.csv", noisy, which, (noisy.labels[which] + 1) % 10)
    done = review(noisy, decide(path, ["relabel", "keep"]), "decided")
    assert done.changed.tolist() == [train[0]]


def test_a_reviewed_manifest_comes_back_from_its_file(tmp_path: Path) -> None:
    noisy = labels_of(val_fraction=0.1)
    for action in ("drop", "relabel"):
        after = review(
            noisy, listing(tmp_path / "s.csv", noisy, np.arange(0, 1297, 3)), action
        ).after
        for suffix in (".csv", ".csv.gz", ".parquet"):
            after.write(tmp_path / f"m{suffix}")
            back = read_manifest(tmp_path / f"m{suffix}")
            assert back.meta == after.meta and back.sha256 == after.sha256
            for name in ("labels", "clean_labels", "val", "dropped"):
                np.testing.assert_array_equal(getattr(back, name), getattr(after, name))


def test_the_header_says_what_was_done_and_the_noise_within_can_be_made_again(
    tmp_path: Path,
) -> None:
    noisy = labels_of()
    path = listing(tmp_path / "s.csv", noisy, wrong(noisy)[::2])
    for action in ("drop", "relabel"):
        after = review(noisy, path, action).after
        again = labels_of(
            f"reviewed(symmetric(rate=0.4), action='{action}', suspects={str(path)!r})"
        )
        assert again.sha256 == after.sha256
        assert after.meta["nominal_rate"] is None and after.meta["transition"] is None
        pattern = rf"reviewed\(symmetric\(rate=0.4\), action='{action}', suspects='s.csv', {SHA}\)"
        assert pd.Series([after.meta["noise"]]).str.fullmatch(pattern).all()


def test_two_lists_that_differ_in_name_alone_make_the_same_labels(tmp_path: Path) -> None:
    noisy = labels_of()
    paths = [listing(tmp_path / name, noisy, wrong(noisy)[:9]) for name in ("a.csv", "b.csv")]
    a, b = (review(noisy, path, "drop").after for path in paths)
    assert a.sha256 != b.sha256 and a.content_hash == b.content_hash


def test_a_review_can_be_reviewed(tmp_path: Path) -> None:
    noisy, half = labels_of(), np.arange(0, 518, 2)
    first = review(noisy, listing(tmp_path / "1.csv", noisy, wrong(noisy)[half]), "drop").after
    rest = np.setdiff1d(wrong(first), np.flatnonzero(~first.included))
    second = review(first, listing(tmp_path / "2.csv", first, rest), "relabel")
    assert second.summary["wrong_before"] == 259 and second.summary["wrong_after"] == 0
    np.testing.assert_array_equal(second.after.included, first.included)
    assert file_name(second.after, DATASETS["digits"]).startswith("digits-sym0.4-reviewed-drop-1-")
    assert "-reviewed-relabel-2-" in file_name(second.after, DATASETS["digits"])


def test_what_is_held_out_stays_so_and_can_be_relabelled(tmp_path: Path) -> None:
    noisy = labels_of(val_fraction=0.2)
    path = listing(tmp_path / "s.csv", noisy, wrong(noisy))
    dropped, relabelled = (review(noisy, path, action) for action in ("drop", "relabel"))
    for done in (dropped, relabelled):
        np.testing.assert_array_equal(done.after.val, noisy.val)
    assert noisy.val is not None and dropped.summary["changed"] == (~noisy.val)[wrong(noisy)].sum()
    assert relabelled.summary["wrong_after"] == 0


def test_a_verified_label_is_right_whatever_a_list_says(tmp_path: Path) -> None:
    noisy = labels_of(trusted=0.1)
    assert noisy.trusted is not None
    at = int(np.flatnonzero(noisy.trusted)[0])
    path = listing(tmp_path / "s.csv", noisy, [at], [(noisy.labels[at] + 1) % 10])
    for action in ("drop", "relabel"):
        with pytest.raises(
            DataError, match=f"the label of example {at} is trusted \\(verified\\): delete its line"
        ):
            review(noisy, path, action)


def test_where_nobody_knows_the_clean_labels_nothing_is_said_of_wrong_ones(tmp_path: Path) -> None:
    own = labels_of("imported('own')")
    done = review(own, listing(tmp_path / "s.csv", own, [4, 7], [1, 2]), "relabel")
    assert (
        done.summary["changed_wrong"],
        done.summary["wrong_before"],
        done.summary["wrong_after"],
    ) == (None, None, None)
    assert done.after.rate is None and done.after.noise_seed is None
    with pytest.raises(
        LanguageError,
        match="auto needs the noise rate, which this manifest does not have: use estimated",
    ):
        resolve_auto(LOSSES, "el(eps=auto)", done.after)
    assert str(resolve_auto(LOSSES, "el(eps=estimated)", done.after)) == "el(eps=estimated)"


def test_images_of_another_set_are_dropped_like_others(tmp_path: Path) -> None:
    data = Labels(DATASETS["cifar10"], np.arange(400) % 10)
    open_set = labels_of("openset(symmetric(rate=0.2), rate=0.3, source='cifar100')", data)
    assert open_set.source is not None
    path = listing(
        tmp_path / "s.csv",
        open_set,
        np.flatnonzero(open_set.source >= 0),
        open_set.labels[open_set.source >= 0],
    )
    done = review(open_set, path, "drop", data)
    assert done.summary["changed_wrong"] == 120 and "rates" not in done.after.meta
    assert done.summary["wrong_after"] == done.summary["wrong_before"] - 120
    assert done.after.meta["realised_rate"] == done.summary["wrong_after"] / 280


def test_auto_is_the_realised_rate_of_what_is_left_and_an_oracle(tmp_path: Path) -> None:
    noisy = labels_of()
    after = review(noisy, listing(tmp_path / "s.csv", noisy, wrong(noisy)[:300]), "drop").after
    run = resolve_run(RunRequest(loss="el(eps=auto)"), DATASETS["digits"], after, "")
    assert str(run.loss) == f"el(eps={218 / 997!r})" and run.oracle and run.method == "el"
    assert not resolve_run(RunRequest(loss="el(eps=0.4)"), DATASETS["digits"], after, "").oracle
    forward = resolve_run(RunRequest(loss="forward(ce)"), DATASETS["digits"], after, "")
    assert "empirical" in str(forward.loss) and forward.oracle


def test_a_noise_is_drawn_if_the_noise_within_is() -> None:
    assert is_random("reviewed(symmetric(rate=0.4), action='drop', suspects='s.csv')")
    assert not is_random("reviewed(human('worse'), action='drop', suspects='s.csv')")
    assert not is_random(
        "reviewed(reviewed(imported('own'), action='drop', suspects='a.csv'), "
        "action='drop', suspects='s.csv')"
    )


def test_a_table_says_it_in_a_few_words() -> None:
    text = (
        "reviewed(asymmetric(rate=0.3, map='digits'), action='drop', "
        "suspects='out/doubted.csv', sha256='0123456789abcdef')"
    )
    assert short_noise(text, "digits") == "asym 0.3 reviewed drop doubted 012345"


# What somebody made of the list

CLASSES = ("cat", "dog", "=owl")
IDS = ("train/cat/1.png", "train/cat/2 b.png", "train/dog/1.png", "=owl/1.png")
LABELS = np.array([0, 1, 1, 2])


def read(
    path: Path, content: str | bytes, ids: tuple[str, ...] = ()
) -> tuple[list[int], list[int]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tuple(
        column.tolist() for column in read_review(path, Shape(4, CLASSES, ids), LABELS)[:2]
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    "content",
    [
        "rank,index,given_label,predicted_label,label_quality\n1,3,'=owl,cat,.1\n2,1,dog,cat,.2\n",
        "rank,index,recorded,suggested,score\n1,3,'=owl,cat,0.9\n2,1,dog,cat,0.8\n",
        "index,recorded,suggested\r\n3,2,0\r\n1,1,0\r\n",
        "\ufeffIndex;Recorded;Suggested;Note\n3;=owl;cat;sure\n1;dog;cat;\n;;;\n",
        "index\trecorded\tsuggested\n3\t'=owl\tcat\n\n1\tdog\tcat\n",
        '"suggested","recorded","index"\n"cat","\'=owl","3"\n"cat"," dog ","1"\n',
    ],
)
def test_a_list_is_read_however_a_spreadsheet_saved_it(tmp_path: Path, content: str) -> None:
    assert read(tmp_path / "s.csv", content) == ([3, 1], [0, 0])


def test_a_class_with_blanks_about_it_is_found_and_two_that_differ_in_them_alone_are_not_mixed_up() -> (
    None
):
    assert class_numbers([" a ", "a", "b"], [" a ", "b"]) == [0, 0, 1]
    with pytest.raises(NoClass):
        class_numbers([" a"], ["b", " a", "a "])


@pytest.mark.parametrize("head", ["path,recorded,suggested", "index,path,recorded,suggested"])
def test_examples_that_are_files_go_by_path(tmp_path: Path, head: str) -> None:
    rows = [("1,", "train\\cat\\2 b.png", "dog"), ("3,", "./=owl/1.png", "'=owl")]
    lines = [
        f"{index if 'index' in head else ''}{path},{recorded},cat" for index, path, recorded in rows
    ]
    assert read(tmp_path / "s.csv", "\n".join([head, *lines]), IDS) == ([1, 3], [0, 0])


HEAD = "index,given_label,predicted_label\n"
MISTAKES = [
    ("", "it has no column index or path, given_label, predicted_label"),
    (
        "rank,index,score\n1,2,0.5\n",
        "it has no column given_label, predicted_label: use a list written by "
        "noisebench evaluate RUN --suspects FILE",
    ),
    (
        "index,given_label,predicted_label,given_label\n1,dog,cat,dog\n",
        "the column 'given_label' twice",
    ),
    (HEAD, "it lists no example"),
    (
        HEAD + "1,dog,cat\n4,dog,cat\n",
        "line 3: no training example has the index '4': indices are 0 to 3",
    ),
    (HEAD + "-1,dog,cat\n", "line 2: no training example has the index '-1'"),
    (HEAD + "1.5,dog,cat\n", "line 2: no training example has the index '1.5'"),
    (HEAD + "1,dog,cat\n\n1,dog,cat\n", "line 4: example 1 is already in line 2"),
    (
        HEAD + "1,dog,mouse\n",
        "line 2: predicted_label is wrong: 'mouse' is not a class: classes are cat, dog, =owl",
    ),
    (HEAD + "1,dog,\n", "line 2: predicted_label is empty: delete the line, or write a class"),
    (HEAD + "1,dog\n", "line 2 has 2 fields, the first has 3"),
    (
        HEAD + "0,cat,dog\n2,cat,dog\n3,cat,dog\n",
        "line 3: the label in this manifest is dog, not cat: the list belongs to other labels",
    ),
    (HEAD + "1,dog,cat\n" * 5, "it has more lines than the data set has examples (4)"),
    (HEAD + '1,"dog,cat\n', "unexpected end of data"),
    (HEAD + "1," + "d" * 200_000 + ",cat\n", "field larger than field limit"),
    ("index,given_label,predicted_label\n1,dög,cat\n".encode("latin-1"), "is not UTF-8"),
    (
        "path,given_label,predicted_label\na.png,dog,cat\n",
        "its key is path, but the examples of this data set have no paths",
    ),
]


def test_a_list_with_a_mistake_is_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for content, why in MISTAKES:
        with subtests.test(why):
            with pytest.raises(DataError) as error:
                read(tmp_path / "s.csv", content)
            message = str(error.value)
            assert why in message and "\n" not in message and str(tmp_path / "s.csv") in message


def test_a_path_and_an_index_must_mean_the_same_example(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: train/dog/1\.png is example 2, not 1"):
        read(tmp_path / "s.csv", "index,path,recorded,suggested\n1,train/dog/1.png,dog,cat\n", IDS)
    with pytest.raises(DataError, match=r"has the path 'train/dog/9\.png'"):
        read(tmp_path / "s.csv", "path,recorded,suggested\ntrain/dog/9.png,dog,cat\n", IDS)


def test_a_list_of_every_example_leaves_nothing(tmp_path: Path) -> None:
    noisy = labels_of()
    with pytest.raises(DataError, match="lists every training example"):
        review(noisy, listing(tmp_path / "s.csv", noisy, np.arange(1297)), "drop")


# What cleanlab gives


def test_cleanlabs_results_name_the_examples_that_it_named(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    noisy = labels_of()
    p = np.full((1297, 10), 0.02)
    p[np.arange(1297), np.where(np.arange(1297) % 5, noisy.clean_labels, noisy.labels)] = 0.82
    flags = find_label_issues(noisy.labels, p)
    ranked = find_label_issues(noisy.labels, p, return_indices_ranked_by="self_confidence")
    table = CleanLearning().find_label_issues(labels=noisy.labels, pred_probs=p)
    issues = table[table["is_label_issue"]].sort_values("label_quality", kind="stable")
    assert 100 < len(issues) < 518
    writers: dict[str, Callable[[Path], object]] = {
        "flags.npy": lambda path: np.save(path, flags),
        "flags.txt": lambda path: path.write_text("\n".join(map(str, flags))),
        "flags as numbers.txt": lambda path: np.savetxt(path, flags),
        "flags.json": lambda path: path.write_text(json.dumps(flags.tolist())),
        "ranked.npy": lambda path: np.save(path, ranked),
        "ranked.txt": lambda path: np.savetxt(path, ranked),
        "ranked.json": lambda path: path.write_text(json.dumps(ranked.tolist())),
        "table.csv": table.to_csv,
        "its issues alone.csv": issues.to_csv,
        "without its index.csv": lambda path: table.to_csv(path, index=False),
        "with names of classes.tsv": lambda path: table.astype({"given_label": str}).to_csv(
            path, sep="\t"
        ),
    }
    for name, write in writers.items():
        with subtests.test(name):
            write(tmp_path / name)
            dropped = review(noisy, tmp_path / name, "drop").after
            np.testing.assert_array_equal(np.flatnonzero(~dropped.included), np.flatnonzero(flags))
            if name.endswith(("csv", "tsv")):
                relabelled = review(noisy, tmp_path / name, "relabel").after
                np.testing.assert_array_equal(
                    relabelled.labels, np.where(flags, table["predicted_label"], noisy.labels)
                )
            else:
                with pytest.raises(DataError, match="has no predicted labels"):
                    review(noisy, tmp_path / name, "relabel")


def test_a_list_that_cannot_be_of_these_examples_is_refused(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    noisy = labels_of()
    head = "given_label,predicted_label\n"
    other = f",{head}" + "".join(f"{at},{(noisy.labels[at] + 1) % 10},3\n" for at in (5, 3))
    cases: dict[str, tuple[object, str]] = {
        "a.npy": (np.ones(1296, bool), "1296 flags, the data have 1297 examples"),
        "b.npy": (
            np.array([5, 1297]),
            "no training example has the index 1297: indices are 0 to 1296",
        ),
        "c.npy": (np.array([5, 5]), "twice"),
        "d.npy": (np.array([0.5]), "fractional numbers"),
        "e.npy": (np.zeros(1297, bool), "lists no example"),
        "f.npy": (np.array(["5"]), "fractional numbers"),
        "g.json": ("[null]", "g.json"),
        "h.txt": ("one\ntwo\n", "h.txt"),
        "i.csv": (head + "3,4\n", "no column identifies the examples of its 1 rows"),
        "j.csv": (other, "the list belongs to other labels"),
        "k.parquet": ("", "a list of label issues must be one of .csv"),
    }
    for name, (content, said) in cases.items():
        with subtests.test(name):
            if isinstance(content, str):
                (tmp_path / name).write_text(content)
            else:
                np.save(tmp_path / name, content)
            with pytest.raises(DataError, match=said):
                review(noisy, tmp_path / name, "drop")


# The command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a manifest and a list of a hundred wrong labels."""
    monkeypatch.chdir(tmp_path)
    noisy = labels_of()
    noisy.write(tmp_path / "manifests" / "noisy.csv")
    return listing(tmp_path / "s.csv", noisy, wrong(noisy)[:100])


REVIEW = "corrupt --manifest manifests/noisy.csv --suspects s.csv"


def test_the_command_writes_the_manifest_by_name_and_makes_it_current(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REVIEW.split(), "--drop", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["manifest"].startswith("manifests/digits-sym0.4-reviewed-drop-s-") and said[
        "manifest"
    ].endswith("-s0.csv")
    assert Path("manifests/current").read_text().strip() == said["manifest"]
    assert (
        said["review"]["wrong_before"] == 518
        and said["review"]["wrong_after"] == 418
        and said["nominal_rate"] is None
    )
    assert main([*REVIEW.split(), "--drop"]) == 0
    assert (
        "100 listed, 100 changed, 100 of them incorrect; 518 incorrect labels before, 418 after"
        in capsys.readouterr().out
    )


WRONG_COMMANDS = [
    (REVIEW, "either --drop or --relabel"),
    (f"{REVIEW} --drop --relabel", "either --drop or --relabel"),
    ("corrupt digits --suspects s.csv --drop", "a review needs --manifest FILE"),
    ("corrupt digits --sym 0.4 --drop", "a review needs --manifest FILE"),
    (f"{REVIEW} --drop --sym 0.4", "give a noise or a --manifest, not both"),
    (f"{REVIEW} --drop --val-fraction 0.1", "--val-fraction has an effect with a noise only"),
    (f"{REVIEW} --drop --noise-seed 1", "--noise-seed has an effect with a noise only"),
    (
        "corrupt cifar10 --manifest manifests/noisy.csv --suspects s.csv --drop",
        "the manifest is for other data",
    ),
    (
        "corrupt --manifest manifests/noisy.csv --suspects none.csv --drop",
        "none.csv cannot be read",
    ),
    ("corrupt --manifest none.csv --suspects s.csv --drop", "no such manifest"),
    (f"{REVIEW} --drop -o m.txt", "--out must end in .csv"),
    ("corrupt --sym 0.4", "a noise needs a data set"),
]


def test_a_mistake_is_one_line_exit_2_and_leaves_no_file(
    place: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    before = sorted(path for path in Path().rglob("*"))
    for arguments, why in WRONG_COMMANDS:
        with subtests.test(arguments):
            assert main(arguments.split()) == 2
            out, err = capsys.readouterr()
            assert (
                why in err
                and err.count("\n") == 1
                and not out
                and sorted(path for path in Path().rglob("*")) == before
            )


def test_the_data_set_may_be_named_where_it_is_the_manifests(place: Path) -> None:
    assert (
        main(["corrupt", "digits", *REVIEW.split()[1:], "--relabel", "-o", "relabelled.csv"]) == 0
    )
    assert read_manifest("relabelled.csv").num_wrong == 418


def test_the_loop_is_closed_on_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", "--loss", "ce", "--epochs", "20", "--precision", "fp32", "--json"]
    assert main(["-q", *train[:1], "digits", "--sym", "0.4", *train[1:]]) == 0
    assert (
        main(
            ["-q", "evaluate", "digits-sym0.4-s0_mlp_ce", "--suspects", "s.csv", "--cv-folds", "2"]
        )
        == 0
    )
    assert (
        main(
            [
                "-q",
                "corrupt",
                "--manifest",
                "manifests/digits-sym0.4-s0.csv",
                "--suspects",
                "s.csv",
                "--drop",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["-q", *train]) == 0
    (after, before) = sorted(Path("runs").iterdir(), key=lambda path: "reviewed" not in path.name)
    records = [json.loads((path / "result.json").read_text()) for path in (before, after)]
    assert (
        records[1]["metrics"]["test_acc"]["last"] > records[0]["metrics"]["test_acc"]["last"] + 0.05
    )
    assert records[1]["metrics"]["dropped"]["n"] + records[1]["expected"]["train"] == 1297
    assert main(["report"]) == 0 and main(["evaluate", after.name, "--suspects", "2.csv"]) == 0
    dropped = np.load(after / "predictions.npz")["dropped"]
    assert not dropped[pd.read_csv("2.csv")["index"]].any()


def test_dropped_examples_are_held_out_of_training_beside_a_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noisy = labels_of(val_fraction=0.2)
    after = review(noisy, listing(Path("s.csv"), noisy, wrong(noisy)[:200]), "drop").after
    after.write(Path("m.csv"))
    assert main(["-q", "train", "--manifest", "m.csv", "--epochs", "2"]) == 0
    (run,) = Path("runs").iterdir()
    record, arrays = json.loads((run / "result.json").read_text()), np.load(run / "predictions.npz")
    assert after.val is not None and record["metrics"]["val"]["n"] == after.val.sum()
    judged = arrays["train_classes"][:, 0][after.val] == after.labels[after.val]
    assert record["metrics"]["val"]["recorded"] == judged.mean()
    last = float(pd.read_csv(run / "metrics.csv")["val_recorded"].iloc[-1])
    assert last == pytest.approx(judged.mean())


def test_a_folder_of_images_goes_round_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 12), ("test", 2)):
        for name, shade in (("=black", 0), ("white", 255)):
            (Path("set") / part / name).mkdir(parents=True)
            for at in range(count):
                Image.fromarray(
                    np.full((8, 8, 3), abs(shade - at - 20 * (part == "test")), np.uint8)
                ).save(Path("set") / part / name / f"{at}.png")
    assert (
        main(
            [
                "-q",
                "train",
                "set",
                "--sym",
                "0.25",
                "--model",
                "mlp",
                "--epochs",
                "15",
                "--batch-size",
                "4",
                "--lr",
                "0.05",
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "-q",
                "evaluate",
                str(next(Path("runs").iterdir())),
                "--suspects",
                "s.csv",
                "--cv-folds",
                "2",
            ]
        )
        == 0
    )
    frame = pd.read_csv("s.csv")
    assert frame["path"].str.fullmatch(r"train/(=black|white)/\d+\.png").all()
    (manifest,) = Path("manifests").glob("set*.csv")
    assert (
        main(
            [
                "-q",
                "corrupt",
                "--manifest",
                str(manifest),
                "--suspects",
                "s.csv",
                "--relabel",
                "-o",
                "m.csv",
            ]
        )
        == 0
    )
    after, number = read_manifest("m.csv"), {"'=black": 0, "white": 1}
    assert [number[name] for name in frame["predicted_label"]] == after.labels[
        frame["index"]
    ].tolist()
