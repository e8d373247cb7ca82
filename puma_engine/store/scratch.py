"""Folders for temporary files of a process; the next process removes those of killed processes."""

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from puma_engine.errors import StoreError
from puma_engine.store import locks

# Environment variable with the parent folder (default: the folder of temporary files).
VARIABLE = "PUMA_CLUSTER_SCRATCH"
_HELD = contextlib.ExitStack()


def scratch_folder() -> Path:
    """Make a folder that exists until this process ends, and remove those of ended processes.

    Raises StoreError if another user could redirect it.
    """
    root = Path(os.environ.get(VARIABLE) or tempfile.gettempdir()) / f"puma-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        # The user who made it could have other folders removed as scratch folders, and read models.
        raise StoreError(
            f"The scratch folder {root} of {socket.gethostname()} is a link, or another user's; remove it, "
            f"or name another folder with {VARIABLE}."
        )
    with locks.waiting_lock(root / "lock"):
        for folder in root.iterdir():
            if folder.is_dir():
                with locks.folder_lock(folder) as abandoned:
                    if abandoned:
                        shutil.rmtree(folder, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=root))
        _HELD.enter_context(locks.folder_lock(folder))
    return folder
