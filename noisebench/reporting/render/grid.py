"""A table as a grid of texts, which the renderers draw."""

from __future__ import annotations

from dataclasses import dataclass

from ..comparison import DifferenceTable, difference_table, without_differences
from ..metrics import METRICS
from ..published import match_text, mismatch_letters, published_caption
from ..table import Table


@dataclass(frozen=True)
class GridHead:
    """A column heading; rate: the realised noise rate."""

    name: str
    rate: str = ""
    higher_is_better: bool = False

    @property
    def text(self) -> str:
        return f"{self.name} ({self.rate})" if self.rate else self.name


@dataclass(frozen=True)
class GridCell:
    """The texts of a cell, empty where there is no value.

    spread: `± 0.30`, or the interval of a difference; count: ` (2)` if it is not the usual number
    of seeds or pairs; published: `[58.40, -0.31 a]`; value: the mean at full precision.
    """

    number: str = ""
    spread: str = ""
    oracle: bool = False
    unpaired: bool = False
    failed: int = 0
    count: str = ""
    published: str = ""
    bold: bool = False
    value: float | None = None

    @property
    def marks(self) -> str:
        failed = f" ✗{self.failed}" if self.failed else ""
        return "†" * self.oracle + "‡" * self.unpaired + failed + self.count

    @property
    def text(self) -> str:
        """`96.12 ± 0.30†`, or a dash."""
        text = (" ".join(filter(None, [self.number, self.spread])) + self.marks).strip() or "–"
        return f"{text} {self.published}" if self.published else text


@dataclass(frozen=True)
class GridView:
    """Headings and cells, row by row. spanned: whether a column has several axes; differences:
    whether its cells are differences.
    """

    title: str
    caption: str
    axis: str
    heads: tuple[GridHead, ...]
    row_heads: tuple[str, ...]
    cells: tuple[tuple[GridCell, ...], ...]
    spanned: bool = False
    differences: bool = False


RANK_HEAD = GridHead("mean rank")


def grids(
    table: Table, *, ranks: bool = False, bold: bool = True, digits: int = 2
) -> list[GridView]:
    """A table and, if it has any, its differences below it. ranks: add a column of mean ranks;
    bold: whether the format can show bold; digits: decimals of a percentage.
    """
    below = difference_table(table)
    rows = []
    letters = mismatch_letters(table)
    for row in table.rows:
        cells = [_result(table, row, col, digits, letters) for col in table.cols]
        if ranks:
            rank = table.mean_rank(row)
            cells.append(GridCell("" if rank is None else f"{rank:.2f}"))
        rows.append(tuple(cells))
    caption = [
        table.caption(bold=bold, ranks=ranks),
        published_caption(table),
        without_differences(table),
    ]
    view = GridView(
        table.title,
        " ".join(filter(None, caption)),
        table.row_axis.replace(",", ", "),
        (*(_head(table, col) for col in table.cols), *([RANK_HEAD] if ranks else [])),
        tuple(map(table.row_head, table.rows)),
        tuple(rows),
        "," in table.col_axis,
    )
    if below is None:
        return [view]
    table = below.table
    differences = GridView(
        below.title,
        below.caption,
        view.axis,
        tuple(_head(table, col) for col in table.cols),
        tuple(map(table.row_head, table.rows)),
        tuple(
            tuple(_difference(below, row, col, digits) for col in table.cols) for row in table.rows
        ),
        view.spanned,
        differences=True,
    )
    return [view, differences]


def _head(table: Table, col: str) -> GridHead:
    metrics = [METRICS[cell.metric] for (_, other), cell in table.cells.items() if other == col]
    up = all(metric.higher_is_better for metric in metrics)
    return GridHead(table.col_head(col), table.rate_text(col), up)


def _result(
    table: Table, row: str, col: str, digits: int, letters: dict[tuple[str, ...], str]
) -> GridCell:
    cell = table.cells.get((row, col))
    if cell is None:
        return GridCell()
    match = table.published.get((row, col))
    published = match_text(match, cell, letters) if match else ""
    if cell.mean is None:
        return GridCell(oracle=cell.oracle, failed=cell.failed, published=published)
    metric = METRICS[cell.metric]
    return GridCell(
        metric.format(cell.mean, digits),
        "" if cell.std is None else f"± {metric.format(cell.std, digits)}",
        cell.oracle,
        failed=cell.failed,
        count=f" ({cell.n})" if cell.n != table.usual_n else "",
        published=published,
        bold=(row, col) in table.significant_best,
        value=cell.mean,
    )


def _difference(below: DifferenceTable, row: str, col: str, digits: int) -> GridCell:
    difference = below.table.differences.get((row, col))
    if difference is None:
        return GridCell()
    metric = METRICS[below.table.cells[row, col].metric]
    ends = [
        metric.format(end, digits, "+")
        for end in (difference.low, difference.high)
        if end is not None
    ]
    return GridCell(
        metric.format(difference.mean, digits, "+"),
        f"[{', '.join(ends)}]" if ends else "",
        difference.oracle,
        not difference.pairs,
        count=f" ({difference.pairs})" if difference.pairs not in (0, below.usual_pairs) else "",
        value=difference.mean,
    )
