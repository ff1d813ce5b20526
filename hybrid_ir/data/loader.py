"""A DataLoader that says when one of its workers is gone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from hybrid_ir.errors import UserError


class WorkerDied(UserError):
    """A worker of a loader was killed, or has crashed. Raised where the next batch is asked for: between two steps."""


class WatchedLoader(DataLoader[Any]):
    """A DataLoader whose workers' death is found between two steps, and said in one line.

    torch finds it in a signal handler, which raises in the middle of whatever the training process does, an optimizer's
    update too, and leaves a state that no step ever had. Here the handler is taken away once the workers run: a death
    is found when the next batch does not come, or comes from a process that is gone (within 5 seconds).
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches.

        Raises:
            WorkerDied: a worker has gone.
        """
        if not self.num_workers:
            return super().__iter__()
        return self._watched(super().__iter__())

    def _watched(self, batches: Any) -> Iterator[Any]:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:  # of many kinds: a connection is reset, a queue stays empty, a file is missing
                for worker in batches._workers:
                    worker.join(0.2)  # a process that is going has closed its connections before it has gone
                dead = [worker for worker in batches._workers if worker.exitcode not in (None, 0)]
                if not dead:
                    raise
                ended = dead[0].exitcode
                how = f"killed by signal {-ended}" if ended < 0 else f"ended with exit code {ended}"
                raise WorkerDied(
                    f"data.num_workers={self.num_workers}: a worker of the data loader (process {dead[0].pid}) was "
                    f"{how}; a machine whose memory is full kills processes"
                ) from error
            yield batch
