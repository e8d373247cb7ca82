"""Work that kills its process, as the kernel does when memory runs out, and work that waits for a file.

Nodes load this module fast.
"""

import os
import signal
import time
from pathlib import Path

# Long enough for a busy machine.
WAIT_SECONDS = 60


class LostWork:
    """Work that kills its process `times` times, and counts the attempts in the file of the piece."""

    def do(self, piece):
        file = Path(piece["file"])
        with file.open("a") as out:
            out.write(".")
        if file.stat().st_size <= piece["times"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"done"


class PatientWork:
    """Work that waits until the file of the piece exists, if the piece has one, and says whether it came."""

    def do(self, piece):
        ends = time.monotonic() + WAIT_SECONDS
        while piece["file"] and not Path(piece["file"]).exists():
            if time.monotonic() > ends:
                return b"in vain"
            time.sleep(0.02)
        return b"done"
