"""A log handler that never makes its caller wait: whoever reads the log may stand still, calls may not."""

import logging
import queue
import threading
import time
from typing import TextIO

_MAX_LINES = 10_000
_FLUSH_S = 1.0


class PatientHandler(logging.Handler):
    """Writes lines from a thread of its own; what does not fit into its queue is dropped, and counted in the log."""

    def __init__(self, stream: TextIO, max_lines: int = _MAX_LINES) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(max_lines)
        self.dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
        except Exception:
            self.handleError(record)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._stream.write(f"{line}\n")
                self._report_dropped()
                self._stream.flush()
            except (OSError, ValueError):  # nobody is there to read it any more
                pass
            finally:
                self._lines.task_done()

    def _report_dropped(self) -> None:
        if self.dropped and self._lines.empty():
            self.acquire()  # whoever logs right now counts on
            dropped, self.dropped = self.dropped, 0
            self.release()
            record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log lines were dropped", (), None)
            record.lines = dropped
            self._stream.write(f"{self.format(record)}\n")

    def flush(self) -> None:
        """Wait until all is written, for a second at most."""
        until = time.monotonic() + _FLUSH_S
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)
