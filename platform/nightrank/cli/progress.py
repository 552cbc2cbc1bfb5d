"""Progress of a long fit on a terminal: epochs, loss, metric, time left. Nothing is shown, or computed, elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nightrank.models import FactorModel
from nightrank.models.fitting import Epoch

SHARE = 0.1  # of the time of a fit that may go into what is shown of it


class Shown:
    """Bars for a fit and the ranking after it; to be entered.

    spent_s: seconds that went into what is shown of the fit, so that the fit can be timed without them.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._began = time.monotonic()
        self._is_on = sys.stderr.isatty()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[said]}"),
            console=Console(file=sys.stderr),
            disable=not self._is_on,
        )
        self._fit, self._rank = (
            self._bars.add_task(name, total=None, said="", visible=False)
            for name in ("epochs", "users ranked")
        )

    def __enter__(self) -> Shown:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_epoch(self, epoch: Epoch, *, measure: Callable[[FactorModel], str]) -> bool:
        """The hook of the fit, which always goes on.

        measure: the text that says how good a model is. It and the loss are worked out after the first epoch, the
        last, and between them as often as SHARE allows.
        """
        if not self._is_on:
            return True
        began = time.monotonic()
        if epoch.number in (1, epoch.of) or self.spent_s < SHARE * (began - self._began):
            loss = "" if epoch.loss is None else f"loss {epoch.loss():.5g}"
            self._bars.update(self._fit, said=f"{loss}  {measure(epoch.model())}".strip())
        self._bars.update(self._fit, completed=epoch.number, total=epoch.of, visible=True)
        self.spent_s += time.monotonic() - began
        return True

    def on_ranked(self, done: int, total: int) -> None:
        """How many users are ranked."""
        self._bars.update(self._rank, completed=done, total=total, visible=True)
