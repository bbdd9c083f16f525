"""Rich's consoles, on which no text is markup and no stranger's word a command."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text as RichText

from ..errors import printable
from .sanitize import printable_line, printable_lines

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType

ENDLESS = 10_000  # columns; where there is no terminal nothing is folded


class Text(RichText):
    """Anybody's words, a line for each argument, harmless before a table is measured by them."""

    def __init__(self, *lines: str, **how: Any) -> None:
        super().__init__("\n".join(map(printable, lines)), **how)


class Screen(Console):
    """Whatever is drawn on it, in a Text or not: only Rich's own control codes reach the
    terminal.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(**how, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else Segment(printable_lines(segment.text), segment.style)
            )


def drawn(*things: Any) -> str:
    """As a pipe gets them: in full width, without colour, and no line that ends in blanks or is a
    command to a build's log.
    """
    text = io.StringIO()
    Screen(file=text, width=ENDLESS, no_color=True, force_terminal=False).print(*things, sep="\n")
    return "".join(printable_line(line.rstrip()) + "\n" for line in text.getvalue().splitlines())
