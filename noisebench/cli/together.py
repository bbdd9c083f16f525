"""The list of labels that the runs of a suite doubt together, which a suite asks for as `report:
{suspects: FILE}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import say

if TYPE_CHECKING:
    from ..experiments.suite import Suite
    from ..runs.queue import QueuedRun
    from ..runs.workspace import Workspace
    from .options import Globals


def check_listing(suite: Suite, items: list[QueuedRun], workspace: Workspace) -> None:
    """Raises ConfigError where there is no one list to write, or links lead it out of the
    workspace, before the first run.
    """
    from ..errors import ConfigError

    if suite.report.suspects and not (
        workspace.root / suite.report.suspects
    ).resolve().is_relative_to(workspace.root.resolve()):
        raise ConfigError(
            f"report.suspects {suite.report.suspects}: a link leads it out of the "
            f"workspace {workspace.root}"
        )

    if (
        suite.report.suspects
        and (several := len({item.run.manifest.content_hash for item in items})) > 1
    ):
        raise ConfigError(
            "report.suspects is a list of one labelling, the suite's runs see "
            f"{several}: fix noise, data set and noise_seed"
        )


def list_suspects(
    suite: Suite, items: list[QueuedRun], workspace: Workspace, options: Globals
) -> None:
    """Write it once all runs are finished; one that is there is left as it is, since somebody may
    be working on it.
    """
    if not suite.report.suspects:
        return
    path, left = (
        workspace.root / suite.report.suspects,
        sum(item.folder.status() != "done" for item in items),
    )
    if left:
        say(
            f"{path} is not written: {left} of {len(items)} runs are not finished",
            quiet=options.quiet,
        )
    elif path.exists():
        say(
            f"{path} is there already and left as it is: move it away for a new list",
            quiet=options.quiet,
        )
    else:
        say(f"{path} written: {_write(items, suite, workspace)}", quiet=options.quiet)


def _write(items: list[QueuedRun], suite: Suite, workspace: Workspace) -> str:
    """What is said of the list, with the next command."""
    from ..experiments.suite import label_request_of
    from ..labels.issues import better_score, combine, precision_text, score_labels, write_suspects
    from ..runs.predictions import checked_arrays

    run, arrays = (
        items[0].run,
        [checked_arrays(item.folder, item.run.dataset.num_classes) for item in items],
    )
    said = combine([score_labels(each, better_score(each)) for each in arrays], run.manifest.labels)
    path = workspace.root / str(suite.report.suspects)
    write_suspects(path, said, run.manifest)
    found, (_, place) = (
        precision_text(said, run.manifest),
        workspace.make(run.dataset, label_request_of(items[0].suite_run)),
    )
    known = (
        "" if found["precision"] is None else (f", {100 * found['precision']:.1f} % of them wrong")
    )
    return (
        f"{found['listed']} of {found['of']} labels are doubted by its {len(items)} runs "
        f"together{known}. Delete the lines that are right, "
        f"then: noisebench corrupt --manifest {place} --suspects {path} --drop (or --relabel)"
    )
