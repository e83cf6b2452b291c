"""The event file that the user's logger and GradScope both write to: what fails of ours must not fail the user's.

TensorBoard writes in a thread of its own. The first event that cannot be written ends that thread, and from then on
whatever the user logs raises, be it long after the disk has room again; at the latest Lightning's own farewell to the
logger at the end of the fit does. The user's training would end for want of room for our numbers.
"""

import os
from pathlib import Path
from typing import Any

from gradscope.events import checksum
from gradscope.events.frames import MARKER


class WriterGoneError(OSError):
    """The thread that writes an event file has ended without a word."""


class SharedFile:
    """Stands between the thread of an `EventFileWriter` of TensorBoard and its file, and knows whether both work."""

    def __init__(self, event_writer: Any) -> None:
        """Take the place of the file's writer; of one that is built in another way than expected it is left as it is.

        It is left so, too, where the file is none on a local disk that each event is appended to at once: in a buffer
        ours and the user's cannot be told apart.
        """
        self._thread: Any = None
        self._queue: Any = None
        self._guard: _Guard | None = None
        try:
            asynchronous = event_writer._async_writer
            self._thread, self._queue = asynchronous._worker, asynchronous._byte_queue
            if isinstance(asynchronous._writer, _Guard):  # of an earlier fit with the same logger
                self._guard = asynchronous._writer
                self._guard.error = None
                return
            checksum.speed_up(event_writer)
            writer, file = asynchronous._writer, asynchronous._writer._writer
            path, is_appended_to = Path(os.fsdecode(file.filename)), file.fs_supports_append
        except AttributeError:
            return
        if is_appended_to and path.is_file() and self._thread._record_writer is writer:
            self._guard = asynchronous._writer = self._thread._record_writer = _Guard(writer, path)

    def check(self) -> None:
        """Raise what went wrong with an earlier event of ours, if anything did.

        Raises:
            OSError: such an event could not be written.
            WriterGoneError: nothing that is written from now on would ever arrive, and whoever waits for it waits for
                ever.
        """
        if self._guard is not None and self._guard.error is not None:
            raise self._guard.error
        if self._thread is not None and not self._thread.is_alive() and self._thread.exception is None:
            self._let_go()
            raise WriterGoneError("the thread that writes its file has ended")

    def _let_go(self) -> None:
        """Have nobody wait for what is still to be written, as TensorBoard does after an error that it has heard of."""
        with self._queue.all_tasks_done:
            self._queue.queue.clear()
            self._queue.unfinished_tasks = 0
            self._queue.not_full.notify_all()
            self._queue.all_tasks_done.notify_all()


class _Guard(checksum.Before):
    """Writes frames; one of ours that cannot be written is taken back, and after it none of ours is tried again."""

    def __init__(self, writer: checksum.Writer, path: Path) -> None:
        super().__init__(writer)
        self.error: OSError | None = None
        self._path = path

    def write(self, data: bytes) -> None:
        """Write one frame."""
        if MARKER not in data:
            self._writer.write(data)
        elif self.error is None:
            try:
                # A file that was deleted would come into being again, without what describes the records in it.
                whole = self._path.stat().st_size
            except OSError as error:
                self.error = error
            else:
                self._write_or_take_back(data, whole)

    def _write_or_take_back(self, data: bytes, whole: int) -> None:
        try:
            self._writer.write(data)
        except OSError as error:
            self.error = error
            # Readers stop at a frame that is not whole, and what the user logs next comes behind it. Where it cannot
            # be taken back the file is lost to the user, too, and TensorBoard's thread has to know.
            if self._path.exists() and self._path.stat().st_size > whole:
                os.truncate(self._path, whole)
