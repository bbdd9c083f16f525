"""Rich consoles that print text without markup and without commands of a terminal or build log."""

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

ENDLESS = 10_000  # columns: without a terminal, lines are not wrapped


class Text(RichText):
    """Untrusted text, one line per argument, made printable before a table measures it."""

    def __init__(self, *lines: str, **how: Any) -> None:
        super().__init__("\n".join(map(printable, lines)), **how)


class Screen(Console):
    """A console that sends only Rich's own control codes to the terminal."""

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
    """The output for a pipe: full width, without colour, trailing blanks and commands of a build
    log.
    """
    text = io.StringIO()
    Screen(file=text, width=ENDLESS, no_color=True, force_terminal=False).print(*things, sep="\n")
    return "".join(printable_line(line.rstrip()) + "\n" for line in text.getvalue().splitlines())
