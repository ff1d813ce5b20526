"""Functions run by other processes, one for each core.

Each process is a Python of its own that reads calls from its input and ends with it, so with the process that started
it, however that ends. Unlike those of ``multiprocessing`` it takes over nothing: no lock of a thread that it does not
have, as after a fork, and not the main script, which a spawned process would run again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from hybrid_ir.errors import UserError
from hybrid_ir.launching.processes import available_threads, child_environment

T = TypeVar("T")


class WorkerKilled(UserError):
    """A process ended while it worked, or did not start."""


class Workers:
    """Processes that run functions; with it they end.

    A thread of this process waits for each of them, so that a call costs this process no more than its arguments.
    """

    def __init__(self) -> None:
        # The other processes of a run on this machine wait for the one that prepares the data.
        together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.count = min(available_threads() * together, max(os.cpu_count() or 1, available_threads()))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._mine = threading.local()
        self._threads = ThreadPoolExecutor(self.count)

    def __enter__(self) -> Workers:
        return self

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Has a function called; both it and its arguments can be pickled.

        The future raises what the function raises, or ``WorkerKilled``.
        """
        return self._threads.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        if not hasattr(self._mine, "process"):
            self._mine.process = self._start()
        process = self._mine.process
        try:
            pickle.dump((function, arguments), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            done, result = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = process.wait()
            if code >= 0:
                raise WorkerKilled(
                    f"a process that prepares text ended with exit code {code}; what it said stands above"
                ) from error
            raise WorkerKilled(
                f"a process that prepares text was killed (signal {-code}); a machine whose memory is full kills "
                f"processes: free memory and give the command again, it goes on from there"
            ) from error
        if not done:
            raise result
        return result

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "hybrid_ir.data.workers"],
                env=child_environment({"OMP_NUM_THREADS": "1"}),  # one of them for each core
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:
            raise WorkerKilled(
                f"a process that prepares text could not be started ({error.strerror or error}); free memory, or end "
                f"other processes, and give the command again, it goes on from there"
            ) from error
        self._processes.append(process)
        return process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            with suppress(OSError):  # of one that was killed there is nothing to be flushed to
                process.communicate()


def serve() -> None:
    """Calls what stands on the input, until it ends."""
    # Ctrl-C reaches all processes of a terminal, Slurm's signals all of a job: the first one ends the others.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    calls, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print is no reply
    while True:
        try:
            function, arguments = pickle.load(calls)
        except EOFError:
            return
        try:
            reply: tuple[bool, Any] = (True, function(*arguments))
        except Exception as error:
            reply = (False, _portable(error))
        pickle.dump(reply, replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()


def _portable(error: Exception) -> Exception:
    """An exception that another process can load: itself, or what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error


if __name__ == "__main__":
    serve()
