"""Work that kills its process, as the kernel does when memory runs out; nodes load this module fast."""

import os
import signal
from pathlib import Path


class LostWork:
    """Work that kills its process `times` times, and counts the attempts in the file of the piece."""

    def do(self, piece):
        file = Path(piece["file"])
        with file.open("a") as out:
            out.write(".")
        if file.stat().st_size <= piece["times"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"done"
