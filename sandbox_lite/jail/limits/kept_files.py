"""Files of the kernel's that are read before and after each command, held open as far as can be.

To open one and close it again takes ten times as long as to read it; but a thousand sandboxes have
no five descriptors each to spare.
"""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict

_PART = 16
"""Of the descriptors that this program may have, one in so many is taken for this."""
_MOST = 1024


class KeptFiles:
    """Those that were read last, for reading and writing where that is allowed, by their path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fds: OrderedDict[str, int] = OrderedDict()
        self._most = 0

    def read(self, path: str, size: int) -> bytes:
        """Return what the file says now.

        Raises:
            OSError: There is none, or no descriptor for it.
        """
        with self._lock:
            return os.pread(self._taken(path, os.O_RDONLY), size, 0)

    def duplicate(self, path: str) -> int:
        """Return a descriptor for reading and writing, which the caller closes.

        Raises:
            OSError: See `read`.
        """
        with self._lock:
            return os.dup(self._taken(path, os.O_RDWR))

    def _taken(self, path: str, flags: int) -> int:
        fd = self._fds.get(path)
        if fd is not None:
            self._fds.move_to_end(path)
            return fd
        fd = self._fds[path] = os.open(path, flags | os.O_CLOEXEC)
        if len(self._fds) > self._most:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            self._most = max(1, min(_MOST, soft // _PART)) if soft > 0 else _MOST
            while len(self._fds) > self._most:
                os.close(self._fds.popitem(last=False)[1])
        return fd

    def forget(self, directory: str) -> None:
        """Close all those of a directory, which is about to go."""
        with self._lock:
            for path in [path for path in self._fds if path.startswith(f"{directory}/")]:
                os.close(self._fds.pop(path))

    def after_fork(self) -> None:
        """Let go of the parent's in a forked child, where another thread may have held the lock."""
        self._lock = threading.Lock()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


SHARED = KeptFiles()
"""Those of this program."""

os.register_at_fork(after_in_child=SHARED.after_fork)
