"""Ctrl-C, answered also while a compiler or a device is at work."""

import os
import signal
import sys
import threading
import time

PATIENCE = 2.0
"""Seconds that an interrupted run has to end by itself."""
INTERRUPTED = "fgjax: interrupted; the same command goes on from here"


def end_soon_after_ctrl_c() -> None:
    """Make Ctrl-C end this process within `PATIENCE` seconds.

    Python hears of a signal when it is its turn again, which may take minutes. The system tells
    it by a pipe, too: a thread that reads there gives the run a moment, and then ends it. Nothing
    is lost: results are whole on disk, or not there.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    try:
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    except ValueError:  # not the main thread
        return

    def wait() -> None:
        while os.read(told, 1)[0] != signal.SIGINT:
            pass
        time.sleep(PATIENCE)
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(130)

    threading.Thread(target=wait, name="fgjax-ctrl-c", daemon=True).start()
