"""SIGINT and SIGTERM: the state is saved, the exit code says which (130, 143)."""

from __future__ import annotations

import signal
import time
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_REQUEST_SECONDS = 1.0
"""Signals that follow the first within this time are the same request: a batch system signals every process of a job,
and a parent passes its own on."""


class Interrupted(SystemExit):
    """A signal asked the process to stop; exits with 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class SignalHandler:
    """Notes the first signal while training steps run, so that the step can end; elsewhere raises at once.

    Attributes:
        received: number of the signal that came, or None.
        deferred: whether a signal waits for the end of the step; set while steps run.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False
        self._since = 0.0

    def install(self) -> None:
        """Takes the two signals over (again after Lightning, which sets its own when a fit starts)."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.note(number)
            if self.deferred:
                return
        elif time.monotonic() - self._since < _ONE_REQUEST_SECONDS:
            return
        raise Interrupted(number)  # a second request does not wait

    def note(self, number: int) -> None:
        """Takes a signal, this process's or another's of the run, as received."""
        if self.received is None:
            self.received, self._since = number, time.monotonic()

    def check(self) -> None:
        """Raises if a signal came while it was deferred."""
        if self.received is not None:
            raise Interrupted(self.received)
