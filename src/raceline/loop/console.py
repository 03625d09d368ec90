"""Progress and tables in a terminal. All of it goes to standard error; standard output is for results."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from raceline.core.progress import Step

_PIPED_COLUMNS = 200  # of a file or a pipe; rich would cut names to fit 80


def wide_console() -> Console:
    """Standard output for tables, as wide as they need where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPED_COLUMNS)


class _Task:
    """A step shown as one line of a live display."""

    def __init__(self, live: Progress, task: TaskID) -> None:
        self._live, self._task = live, task

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Move the bar on and show what is at hand."""
        self._live.update(self._task, advance=amount, note=note)


class TerminalProgress:
    """Steps as lines with a spinner, a bar and the time; plain lines where there is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live: Progress | None = None

    @contextmanager
    def step(self, name: str, total: float | None = None) -> Iterator[Step]:
        """Show `name` until the block ends; steps inside steps become further lines."""
        if not self.console.is_terminal:
            with self._plain(name) as step:
                yield step
            return
        with self._display() as live:
            task = live.add_task(name, total=total, note="")
            try:
                yield _Task(live, task)
            except BaseException:
                live.update(task, description=f"[red]✗ {name}")
                raise
            live.update(task, description=f"[green]✓[/green] {name}", total=1, completed=1, note="")

    @contextmanager
    def _display(self) -> Iterator[Progress]:
        """The live display, shared by steps inside steps."""
        if self._live is not None:
            yield self._live
            return
        columns = (
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as live:
            self._live = live
            try:
                yield live
            finally:
                self._live = None

    @contextmanager
    def _plain(self, name: str) -> Iterator[Step]:
        self.console.print(f"{name} ...", highlight=False)
        yield _Quiet()


class _Quiet:
    """A step whose inner progress is not printed, so that logs stay short."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Do nothing."""
