"""SHA-256 of large files outside of a workspace, cached until the file changes."""

from pathlib import Path

from puma_engine.files import sha256_file
from puma_engine.store.database import WorkspaceDatabase


class FileHashes(WorkspaceDatabase):
    """The part of a workspace that caches hashes of files, such as the weights of models."""

    def file_hash(self, path: Path, *, fresh: bool = False) -> str:
        """Return the SHA-256 of a file's whole content in hexadecimal.

        The file is read again if its size, inode, or time of change (of content or status) has
        changed since it was hashed, or with `fresh`.
        """
        path = path.resolve()
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        rows = self.query(
            "SELECT sha256 FROM file_hashes WHERE path = ? AND size = ? AND mtime_ns = ?"
            " AND ctime_ns = ? AND inode = ?",
            [str(path), *state],
        )
        if rows and not fresh:
            return str(rows[0]["sha256"])
        digest = sha256_file(path)
        if self.read_only:
            return digest
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO file_hashes VALUES (?, ?, ?, ?, ?, ?)",
                [str(path), *state, digest],
            )
        return digest
