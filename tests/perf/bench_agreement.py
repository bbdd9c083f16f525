"""Whether a faster way gives the same accuracy: `python tests/perf/bench_agreement.py [DATASET.npz
MODEL EPOCHS]`.

Without arguments: digits and the MLP, in float32 and in bf16, alone and packed, 10 seeds, and the
paired differences. With a data set (such as a part of CIFAR-10 as .npz), a network and a number of
epochs: float32 beside bf16, alone, 3 seeds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from noisebench.experiments.resolve import RunConfig, RunRequest, resolve_run
from noisebench.labels.build import LabelRequest
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.folder import RunFolder
from noisebench.runs.packed_session import PackedRun, run_packed
from noisebench.runs.session import execute_run, make_trainer
from noisebench.runs.workspace import Workspace

LOSSES = ("ce", "el", "gce")
T95 = {2: 4.303, 9: 2.262}  # two-sided 5 % points of Student's t


def plan(
    workspace: Workspace, name: str, loss: str, precision: str, seed: int, **wish: object
) -> RunConfig:
    """A run at symmetric 0.4 whose labels and order are the seed's."""
    dataset = workspace.dataset(name)
    manifest, _ = workspace.make(dataset, LabelRequest("symmetric(rate=0.4)", seed))
    wanted = RunRequest(loss=loss, seed=seed, precision=precision, **wish)  # type: ignore[arg-type]
    return resolve_run(wanted, dataset, manifest, workspace.images(dataset).fingerprint)


def alone(workspace: Workspace, runs: list[RunConfig]) -> list[float]:
    """Test accuracy of each run by itself, in percent."""
    found = []
    for run in runs:
        images = workspace.training_images(run)
        record = execute_run(
            run,
            images,
            make_trainer(run, images, "cpu"),
            RunFolder(workspace.root / "alone" / run.folder_name),
            RunOptions(),
        )
        found.append(100 * record["metrics"]["test_acc"]["last"])
    return found


def packed(workspace: Workspace, runs: list[RunConfig]) -> list[float]:
    """The same in a pack."""
    records: dict[int, dict] = {}
    places = [RunFolder(workspace.root / "packed" / run.folder_name) for run in runs]
    images = [workspace.training_images(run) for run in runs]
    wanted = [PackedRun(n, run, images[n], places[n], RunOptions()) for n, run in enumerate(runs)]
    run_packed(wanted, 16, "cpu", records.__setitem__)
    return [100 * records[n]["metrics"]["test_acc"]["last"] for n in range(len(runs))]


def said(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def gap(values: list[float], reference: list[float]) -> str:
    """The mean paired difference with its 95 % interval."""
    gaps = [a - b for a, b in zip(values, reference, strict=True)]
    half = T95[len(gaps) - 1] * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{statistics.fmean(gaps):+.2f} ± {half:.2f}"


def main() -> None:
    """Print a line a loss: each way's accuracy, and its difference from float32 alone."""
    name, model, epochs = (
        (sys.argv[1], sys.argv[2], int(sys.argv[3]))
        if len(sys.argv) > 1
        else ("digits", None, None)
    )
    seeds = range(3 if model else 10)
    wish = {"model": model, "changes": {"epochs": epochs}} if model else {}
    ways = (
        {"fp32": alone, "bf16": alone}
        if model
        else {"fp32": alone, "bf16": alone, "fp32 packed": packed, "bf16 packed": packed}
    )
    print(
        f"| loss | {' | '.join(ways)} | {' | '.join(f'{way} - fp32' for way in list(ways)[1:])} "
        f"|\n| --- |{' ---: |' * (2 * len(ways) - 1)}"
    )
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        path = str(Path(name).resolve()) if model else name
        for loss in LOSSES[: 2 if model else 3]:
            runs = {
                way: [plan(workspace, path, loss, way.split()[0], seed, **wish) for seed in seeds]
                for way in ways
            }
            found = {way: act(workspace, runs[way]) for way, act in ways.items()}
            differences = [gap(found[way], found["fp32"]) for way in list(ways)[1:]]
            print(
                f"| {loss} | {' | '.join(said(values) for values in found.values())} | "
                f"{' | '.join(differences)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
