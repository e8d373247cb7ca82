"""Work whose process is lost, as where memory runs out; a module that nodes load fast."""

import os
import signal
from pathlib import Path


class LostWork:
    """Kills its process as often as a piece says, and notes each time in the piece's file."""

    def do(self, piece):
        file = Path(piece["file"])
        with file.open("a") as out:
            out.write(".")
        if file.stat().st_size <= piece["times"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"done"
