"""Labels of every kind train through the command line, and what comes after training knows what
kind they are of.
"""

import contextlib
import csv
import hashlib
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from noisebench.cli import main
from noisebench.datasets import DATASETS, HUMAN
from noisebench.datasets.raw import HumanColumn, HumanFile
from noisebench.errors import ManifestError
from noisebench.experiments.resolve import RunRequest, resolve_run
from noisebench.labels.build import LabelRequest
from noisebench.labels.manifest import Manifest, read_manifest
from noisebench.runs.folder import RunFolder
from noisebench.runs.session import make_trainer
from noisebench.runs.workspace import Workspace

EPOCHS = ("--epochs", "2")
DIGITS_KINDS = {
    "symmetric": ("--sym", "0.4"),
    "asymmetric": ("--asym", "0.3", "--bernoulli"),
    "pair": ("--pair", "0.45"),
    "convention": ("--sym", "0.4", "--convention", "dividemix2020"),
    "matrix": ("--matrix", "T.csv"),
    "pdn": ("--idn", "0.4"),
    "plc": ("--idn", "0.3", "--predictions", "teacher.npz"),
    "human": ("--human", "worst"),
    "openset": ("--openset", "0.3", "--source", "few.npz"),
    "openset with noise": ("--openset", "0.3", "--source", "few.npz", "--sym", "0.2"),
    "own": ("--labels", "own"),
    "split after": ("--sym", "0.4", "--val-fraction", "0.2"),
    "split before": ("--pair", "0.3", "--val-fraction", "0.1", "--val-split", "before"),
    "openset and split": ("--openset", "0.3", "--source", "few.npz", "--val-fraction", "0.25"),
}
KINDS = {**{kind: ("digits", *options) for kind, options in DIGITS_KINDS.items()}, "by path": ("few.npz", "--labels", "few.csv"),
         "partly known": ("few.npz", "--labels", "partly.csv")}  # fmt: skip
UNKNOWN, SPLIT = ("own", "by path"), ("split after", "split before", "openset and split")
OPEN_SETS = ("openset", "openset with noise", "openset and split")


def answer(*arguments):
    """What a command that must succeed says on stdout."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = main(arguments)
    assert code == 0, complained.getvalue()
    return said.getvalue()


def refusal(*arguments):
    """The one line with which a command refuses."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = main(arguments)
    assert (code, said.getvalue(), complained.getvalue().count("\n")) == (2, "", 1)
    return complained.getvalue()


def epochs_of(folder):
    """The lines of metrics.csv."""
    return list(csv.DictReader((folder.path / "metrics.csv").read_text().splitlines()))


@dataclass
class Trained:
    """A run of two epochs, made once."""

    answer: dict
    manifest: Manifest
    manifest_path: str

    @property
    def folder(self):
        return RunFolder(Path(self.answer["run"]))

    @property
    def record(self):
        return self.folder.record()

    @property
    def history(self):
        return epochs_of(self.folder)


class Lab:
    """A workspace with the files that the kinds read, and a run of each kind."""

    def __init__(self, root, digits):
        self.root, self.before, self.trained = (
            root,
            ("-C", str(root), "--data-dir", str(root), "--offline", "-q"),
            {},
        )
        self.clean = digits.train_labels
        np.savetxt(root / "T.csv", 0.8 * np.eye(10) + 0.02, "%.17g", ",")
        images = np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8)
        np.savez(
            root / "few.npz",
            train_images=images,
            train_labels=np.arange(300) % 3,
            test_images=255 - images[:60],
            test_labels=np.arange(60) % 3,
        )
        (root / "few.csv").write_text("".join(f"{k // 2 % 3}\n" for k in range(300)))
        lines = [f"{i},{(i + (i % 4 == 0)) % 3},{i % 3 if i % 5 else ''}" for i in range(300)]
        (root / "partly.csv").write_text("\n".join(["index,label,clean_label", *lines]))
        torch.save(
            {
                "clean_label": self.clean,
                "worse_label": (self.clean + (np.arange(1297) % 3 == 0)) % 10,
            },
            root / "h.pt",
        )

    def call(self, *arguments):
        """A command's answer, given within the workspace."""
        md5 = hashlib.md5((self.root / "h.pt").read_bytes(), usedforsecurity=False).hexdigest()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.root)
            patch.setitem(
                HUMAN,
                "worse_label",
                HumanColumn("digits", HumanFile("h.pt", md5, "", ""), ("worse_label",)),
            )
            return answer(*self.before, *arguments)

    def of(self, kind):
        if kind == "plc" and not (self.root / "teacher.npz").exists():
            self.call(
                "evaluate", self.of("symmetric").answer["run"], "--predictions", "teacher.npz"
            )
        if kind not in self.trained:
            made = json.loads(self.call("corrupt", *KINDS[kind], "--json"))
            trained = json.loads(
                self.call("train", *KINDS[kind], "--model", "mlp", *EPOCHS, "--json")
            )
            trained["run"] = str(self.root / trained["run"])
            self.trained[kind] = Trained(
                trained,
                read_manifest(self.root / made["manifest"]),
                str(self.root / made["manifest"]),
            )
        return self.trained[kind]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, digits):
    return Lab(tmp_path_factory.mktemp("lab"), digits)


# Every kind


def test_every_kind_trains_and_its_record_is_a_recount(lab, case):
    for kind in KINDS:
        with case(kind):
            run = lab.of(kind)
            record, manifest, arrays = run.record, run.manifest, run.folder.read_arrays()
            assert run.folder.status() == "done" and len(run.history) == 2
            assert record["noise"]["text"] == manifest.meta["noise"]
            assert record["noise"]["manifest_sha256"] == manifest.content_hash
            assert record["expected"]["train"] == manifest.in_training.sum()
            np.testing.assert_array_equal(arrays["recorded_labels"], manifest.labels)
            np.testing.assert_array_equal(arrays["clean_labels"], manifest.true_labels)
            np.testing.assert_array_equal(arrays["in_training"], manifest.in_training)
            assert len(arrays["train_classes"]) == len(manifest.labels)
            assert_recounted(record["metrics"]["train"], manifest, arrays["train_classes"][:, 0])


def assert_recounted(metrics, manifest, predicted):
    """Metrics of training are those of the predicted classes (N,)."""
    part = manifest.in_training
    predicted, labels, truth = predicted[part], manifest.labels[part], manifest.true_labels[part]
    wrong = (labels != truth) & (truth != -1)
    assert metrics["n"] == part.sum() and metrics["recorded"] == pytest.approx(
        (predicted == labels).mean()
    )
    assert metrics["wrong_labels"] == (wrong.sum() if (truth != -1).any() else None)
    assert metrics["memorised"] == (
        pytest.approx((predicted == labels)[wrong].mean()) if wrong.any() else None
    )


def test_evaluate_shows_of_every_kind_what_its_record_holds(lab, case):
    for kind in KINDS:
        with case(kind):
            run = lab.of(kind)
            evaluated = json.loads(lab.call("evaluate", run.answer["run"], "--json"))[0]
            for part in ("train", "test"):
                assert evaluated[part] == run.record["metrics"][part]
            assert evaluated["test"]["top1"] == run.answer["test_acc"]["last"]
            shown = lab.call("evaluate", run.answer["run"])
            assert (re.search("noisy labels +unknown", shown) is not None) == (kind in UNKNOWN)
            assert ("validation accuracy" in shown) == (kind in SPLIT)


def test_the_manifest_alone_leads_to_the_same_run(lab, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        with case(kind):
            run = lab.of(kind)
            plan = json.loads(
                answer(
                    *lab.before,
                    "train",
                    "--manifest",
                    run.manifest_path,
                    "--model",
                    "mlp",
                    *EPOCHS,
                    "--dry-run",
                    "--json",
                )
            )
            assert (plan["key"], plan["status"]) == (run.answer["key"], "done")


def test_runs_of_all_kinds_stand_in_one_report(lab):
    runs = [lab.of(kind).answer for kind in DIGITS_KINDS]
    cells = json.loads(lab.call("report", "--json"))["cells"]
    found = sorted(value for cell in cells for value in cell["values"].values())
    assert set(found) >= {run["test_acc"]["last"] for run in runs}
    assert "ce" in lab.call("report")


def test_runs_and_manifests_of_all_kinds_stand_in_their_lists(lab):
    paths = {Path(lab.of(kind).manifest_path).name for kind in KINDS}
    assert {row["status"] for row in json.loads(lab.call("list", "runs", "--json"))} == {"done"}
    assert {
        Path(row["name"]).name for row in json.loads(lab.call("list", "manifests", "--json"))
    } >= paths


# Unknown clean labels


def test_without_clean_labels_nothing_is_said_to_be_memorised(lab, case):
    for kind in UNKNOWN:
        with case(kind=kind):
            run = lab.of(kind)
            assert (
                run.answer["memorised"] is None and run.record["metrics"]["train"]["clean"] is None
            )
            found = run.record["metrics"]["train"]["detection"]
            assert set(found.pop("precision_at").values()) == set(found.values()) == {None}
            assert [line["memorised"] for line in run.history] == ["", ""]


def test_partly_known_clean_labels_are_counted_where_they_are_known(lab):
    said = lab.of("partly known").record["metrics"]["train"]
    wrong = [i for i in range(300) if i % 4 == 0 and i % 5]
    assert said["n"] == 300 and said["wrong_labels"] == len(wrong)


def test_a_loss_that_needs_the_rate_is_refused_where_nobody_knows_it(lab):
    lab.of("own")
    assert "which this manifest does not have" in refusal(
        *lab.before, "train", "digits", "--labels", "own", "--loss", "el"
    )


# Held out


def test_the_accuracy_at_the_best_validation_is_that_of_its_epoch(lab, case):
    for kind in SPLIT:
        with case(kind=kind):
            run = lab.of(kind)
            longer = json.loads(
                lab.call(
                    "train",
                    *KINDS[kind],
                    "--model",
                    "mlp",
                    "--epochs",
                    "7",
                    "--lr",
                    "0.2",
                    "--json",
                )
            )
            folder = RunFolder(lab.root / longer["run"])
            lines = epochs_of(folder)
            best = max(range(7), key=lambda epoch: float(lines[epoch]["val_recorded"]))
            assert folder.record()["metrics"]["test_acc"]["at_noisy_val"] == float(
                lines[best]["test_acc"]
            )
            assert run.record["metrics"]["val"]["n"] == run.manifest.val.sum()


def test_the_validation_accuracy_is_on_recorded_labels(lab, case):
    for kind in SPLIT:
        with case(kind=kind):
            run = lab.of(kind)
            predicted = run.folder.read_arrays()["train_classes"][:, 0]
            share = (predicted == run.manifest.labels)[run.manifest.val].mean()
            assert run.record["metrics"]["val"]["recorded"] == pytest.approx(share)
            assert float(run.history[-1]["val_recorded"]) == pytest.approx(share)


def test_without_held_out_examples_there_is_no_accuracy_at_the_best_validation(lab, case):
    for kind in ["symmetric", "openset", "own"]:
        with case(kind=kind):
            run = lab.of(kind)
            assert run.record["metrics"]["test_acc"]["at_noisy_val"] is None
            assert "val" not in run.record["metrics"] and "val_recorded" not in run.history[0]


def trainer_of(lab, wish, change=lambda manifest, images: (manifest, images)):
    """The training of a wish on the digits, not yet begun, with something changed; and its manifest
    and images.
    """
    space = Workspace(lab.root, lab.root, offline=True)
    dataset = space.dataset("digits")
    manifest, images = change(space.make(dataset, wish)[0], space.images(dataset))
    run = resolve_run(
        RunRequest(model="mlp", changes={"epochs": 1}), dataset, manifest, images.fingerprint
    )
    return make_trainer(run, images, "cpu"), manifest, images


HELD_OUT = LabelRequest("symmetric(rate=0.4)", 0, 0.2)


def test_the_task_is_the_training_part_alone(lab):
    trainer, manifest, images = trainer_of(lab, HELD_OUT)
    np.testing.assert_array_equal(trainer.task.images, images.train_images[~manifest.val])
    np.testing.assert_array_equal(trainer.task.labels, manifest.labels[~manifest.val])
    np.testing.assert_array_equal(trainer.task.val_images, images.train_images[manifest.val])


def otherwise_held_out(manifest, images):
    """Other recorded labels and other images where examples are held out."""
    labels = np.where(manifest.val, (manifest.labels + 3) % 10, manifest.labels)
    pictures = np.where(
        manifest.val[:, None, None, None], 255 - images.train_images, images.train_images
    )
    return replace(manifest, labels=labels), replace(images, train_images=pictures)


def test_what_is_held_out_has_no_influence_on_the_network(lab):
    (one, _, _), (other, _, _) = (
        trainer_of(lab, HELD_OUT),
        trainer_of(lab, HELD_OUT, otherwise_held_out),
    )
    for trainer in (one, other):
        trainer.run_epoch()
    for a, b in zip(
        one.networks[0].state_dict().values(), other.networks[0].state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


# Images of another set


def by_hand(lab, manifest):
    """The digits with the other set's images in their places."""
    with np.load(lab.root / "few.npz") as archive:
        others = archive["train_images"][..., None]
    images = Workspace(lab.root).images(DATASETS["digits"]).train_images
    return np.stack([images[i] if at < 0 else others[at] for i, at in enumerate(manifest.source)])


def test_training_sees_the_other_images(lab, case):
    for kind in OPEN_SETS:
        with case(kind=kind):
            manifest = lab.of(kind).manifest
            space = Workspace(lab.root, lab.root, offline=True)
            seen = space.training_images(space.plan(RunRequest(), DATASETS["digits"], manifest))
            np.testing.assert_array_equal(seen.train_images, by_hand(lab, manifest))
            np.testing.assert_array_equal(seen.train_labels, lab.clean)


def test_the_data_sets_own_images_are_left_alone(lab):
    space = Workspace(lab.root, lab.root, offline=True)
    before = space.images(DATASETS["digits"]).train_images.copy()
    run = space.plan(RunRequest(), DATASETS["digits"], lab.of("openset").manifest)
    space.training_images(run)
    np.testing.assert_array_equal(space.images(DATASETS["digits"]).train_images, before)


def test_larger_images_in_colour_are_brought_to_the_shape_of_the_data(lab, tmp_path):
    images = np.full((400, 20, 12, 3), 90, np.uint8)
    np.savez(
        tmp_path / "few.npz",
        train_images=images,
        train_labels=np.arange(400) % 3,
        test_images=images[:3] + 1,
        test_labels=np.arange(3),
    )
    space = Workspace(tmp_path)
    manifest, _ = space.make(
        DATASETS["digits"], LabelRequest("openset(rate=0.3, source='few.npz')")
    )
    run = space.plan(RunRequest(), DATASETS["digits"], manifest)
    seen = space.training_images(run).train_images
    assert seen.shape == (1297, 8, 8, 1) and (seen[manifest.source >= 0] == 90).all()


def test_the_labels_of_other_images_are_all_wrong(lab, case):
    for kind in ["openset", "openset with noise"]:
        with case(kind=kind):
            run = lab.of(kind)
            stays = run.manifest.source < 0
            wrong = (~stays).sum() + (run.manifest.labels != lab.clean)[stays].sum()
            assert run.record["metrics"]["train"]["wrong_labels"] == wrong
            assert run.record["noise"]["realised_rate"] == pytest.approx(wrong / 1297)


def copied(lab, folder, **changes):
    """Another workspace with few.npz, some of its arrays changed."""
    with np.load(lab.root / "few.npz") as archive:
        np.savez(folder / "few.npz", **{**archive, **changes})
    return ("-C", str(folder), "--data-dir", str(folder), "--offline", "-q")


def planned(before, lab):
    return json.loads(
        answer(
            *before, "train", *KINDS["openset"], "--model", "mlp", *EPOCHS, "--dry-run", "--json"
        )
    )["key"]


def test_the_key_of_an_open_set_run_depends_on_the_other_images_and_not_on_where_they_lie(
    lab, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert planned(copied(lab, tmp_path), lab) == lab.of("openset").answer["key"]
    with np.load(lab.root / "few.npz") as archive:
        images = archive["train_images"] ^ 1
    assert (
        planned(copied(lab, tmp_path, train_images=images), lab) != lab.of("openset").answer["key"]
    )


# Teachers


def test_a_teacher_is_what_the_run_says_of_every_training_image(lab):
    run = lab.of("symmetric")
    lab.of("plc")
    with np.load(lab.root / "teacher.npz") as teacher:
        np.testing.assert_array_equal(teacher["classes"], run.folder.read_arrays()["train_classes"])
        assert teacher["run"].item().decode() == run.record["title"]


def test_a_run_with_held_out_examples_teaches_about_these_too(lab):
    run = lab.of("split after")
    lab.call("evaluate", run.answer["run"], "--predictions", "of-all.npz")
    made = json.loads(
        lab.call("corrupt", "digits", "--idn", "0.3", "--predictions", "of-all.npz", "--json")
    )
    assert made["n"] == 1297 and made["nominal_rate"] == 0.3


def test_labels_by_a_teacher_are_its_first_or_second_class(lab):
    manifest = lab.of("plc").manifest
    with np.load(lab.root / "teacher.npz") as teacher:
        assert (manifest.labels[:, None] == teacher["classes"][:, :2]).any(1).all()


def test_a_teacher_of_other_data_is_refused(lab):
    lab.call("evaluate", lab.of("by path").answer["run"], "--predictions", "of-few.npz")
    said = refusal(
        *lab.before,
        "corrupt",
        "digits",
        "--idn",
        "0.3",
        "--predictions",
        str(lab.root / "of-few.npz"),
    )
    assert "its network was trained on other data" in said


def test_a_teacher_that_cannot_be_written_is_refused(lab, tmp_path, case):
    for runs, file, said in [
        (("symmetric",), "t.csv", "--predictions must end in .npz"),
        (("symmetric", "pair"), "t.npz", "--predictions needs one run, got 2"),
    ]:
        with case(runs=runs, file=file, said=said):
            folders = [lab.of(kind).answer["run"] for kind in runs]
            assert said in refusal(
                *lab.before, "evaluate", *folders, "--predictions", str(tmp_path / file)
            )
            assert list(tmp_path.iterdir()) == []


# Other data


def test_a_manifest_of_any_kind_is_refused_on_other_data(lab, case):
    for kind in ["pdn", "plc", "openset", "split after"]:
        with case(kind=kind):
            path = lab.of(kind).manifest_path
            assert "the manifest is for other data" in refusal(
                *lab.before, "train", str(lab.root / "few.npz"), "--manifest", path
            )


def test_part_dependent_labels_are_refused_on_other_images_with_the_same_labels(lab):
    def inverted(manifest, images):
        return manifest, replace(images, train_images=255 - images.train_images)

    trainer_of(lab, LabelRequest("pdn(rate=0.4)"))
    with pytest.raises(ManifestError, match="its noise depends on another copy of digits"):
        trainer_of(lab, LabelRequest("pdn(rate=0.4)"), inverted)


# What misleads


def small_set(path, seed, n=60):
    """A data set of noise, three classes."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), np.uint8)
    labels = np.random.default_rng(seed).integers(0, 3, n)
    labels[:3] = range(3)
    np.savez(
        path,
        train_images=images,
        train_labels=labels,
        test_images=255 - images[:30],
        test_labels=labels[:30],
    )


def test_other_images_at_the_sources_place_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_set("other.npz", 0)
    answer("corrupt", "digits", "--openset", "0.3", "--source", "other.npz")
    small_set("other.npz", 1)
    assert "but the data there are" in refusal("train", "--epochs", "1")


def test_a_run_on_other_images_cannot_teach(lab):
    run = lab.of("openset").answer["run"]
    assert "cannot be a teacher" in refusal(
        *lab.before, "evaluate", str(lab.root / run), "--predictions", str(lab.root / "x.npz")
    )


def test_labels_that_are_all_wrong_can_be_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("T.npy", np.roll(np.eye(10), 1, axis=1))
    answer("corrupt", "digits", "--matrix", "T.npy")
    run = json.loads(answer("train", "--epochs", "1", "--json"))["run"]
    assert main(["evaluate", run]) == 0
    assert "all 1,297 known ones incorrect" in capsys.readouterr().out


def test_a_workspace_works_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    small_set(tmp_path / "mine.npz", 0)
    small_set(tmp_path / "other.npz", 1)
    monkeypatch.chdir(tmp_path)
    answer("corrupt", "mine.npz", "--openset", "0.3", "--source", "other.npz")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert json.loads(answer("-C", "..", "train", "--epochs", "1", "--json"))["epochs"] == 1
