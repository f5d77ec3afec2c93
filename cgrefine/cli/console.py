"""What a person sees: progress bars and tables on a terminal, plain lines of results elsewhere."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

Bar = Callable[[float, float, str], None]
"""bar(done, total, text)."""


class Console:
    """Progress and talk go to stderr and only when it is a terminal; results go to stdout."""

    def __init__(self, quiet: bool = False) -> None:
        self._error = RichConsole(stderr=True)
        self._out = RichConsole(soft_wrap=True)
        self.chatty = self._error.is_terminal and not quiet

    def say(self, text: str) -> None:
        """One line about what happens now; silent off-terminal."""
        if self.chatty:
            self._error.print(text, style="dim", highlight=False)

    def result(self, text: str) -> None:
        """One line of result, always shown."""
        self._out.print(text, highlight=False, markup=False)

    def track(self, items: Iterable[T], total: int | None = None, label: str = "") -> Iterator[T]:
        """Yield the items behind a progress bar with the time left; no bar off-terminal."""
        if not self.chatty:
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._error, transient=True) as progress:
            yield from progress.track(items, total=total, description=label)

    @contextmanager
    def bar(self, label: str) -> Iterator["Bar"]:
        """Yield bar(done, total, text), which shows them with the time left; nothing off-terminal."""
        if not self.chatty:
            yield lambda done, total, text: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.2f}/{task.total:.0f} epochs"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self._error, transient=True) as progress:
            task = progress.add_task(label, total=None, text="")
            yield lambda done, total, text: progress.update(task, completed=done, total=total, text=text)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table on stdout; numbers right-aligned."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(shown(cell) for cell in row))
        self._out.print(table)


def shown(value: object) -> str:
    """A cell as text: floats with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
