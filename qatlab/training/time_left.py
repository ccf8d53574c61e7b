"""How long a training still takes, from the epochs that it has seen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


class TimeLeft:
    """Estimates the seconds that are left of an epoch and of a run.

    An epoch of a phase takes what the last whole one of that phase has taken, validation and all;
    before there is one, what the present epoch promises. Phases that have not begun are taken to
    be as fast as the present one.

    Args:
        epochs: of each phase, in order.
    """

    def __init__(self, epochs: Sequence[int]) -> None:
        self._ends = list(itertools.accumulate(epochs))
        self._whole: dict[int, float] = {}  # seconds of the last whole epoch of each phase
        self._epoch: int | None = None
        self._start = 0.0
        self._is_whole = False

    def begin(self, epoch: int, now: float, is_whole: bool) -> None:
        """Note that an epoch begins, and thereby that the one before has ended.

        Args:
            epoch: counted from 0 in the run.
            now: seconds of a clock.
            is_whole: False where a run goes on in the middle of an epoch, as far as is known.
        """
        if self._epoch is not None and self._is_whole and epoch == self._epoch + 1:
            self._whole[self._phase(self._epoch)] = now - self._start
        self._epoch, self._start, self._is_whole = epoch, now, is_whole

    def seconds(self, share: float, now: float) -> tuple[float, float] | None:
        """Return the seconds left of the epoch and of the run; None where nothing is known yet.

        Args:
            share: of the training batches of the epoch that are done.
            now: seconds of the same clock.
        """
        if self._epoch is None:
            return None
        present = self._phase(self._epoch)
        passed = now - self._start
        an_epoch = self._whole.get(present)
        if an_epoch is None and self._is_whole and share > 0:
            an_epoch = passed / share
        if an_epoch is None and present > 0:
            an_epoch = self._whole.get(present - 1)
        if an_epoch is None:
            return None
        left = max(an_epoch - passed, 0.0)
        return left, left + (self._ends[-1] - self._epoch - 1) * an_epoch

    def _phase(self, epoch: int) -> int:
        return next((i for i, end in enumerate(self._ends) if epoch < end), len(self._ends) - 1)
