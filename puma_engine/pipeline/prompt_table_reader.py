"""A run's prompts read in parts: one user, or block after block, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.errors import DataError
from puma_engine.exchange.prompt_file import HEAD
from puma_engine.pipeline.stage import PROMPT_KINDS, Reference, find
from puma_engine.pipeline.stored_prompts import ARTIFACT
from puma_engine.store import Workspace

BLOCK = 4096
SHOWN = 60


class PromptTableReader:
    """The prompt table of a finished prompts or migration run, without holding its vectors.

    user_ids: [users] strings in row order; tokens and width: the shape of one prompt. Raises
    NotFoundError or StoreError.
    """

    def __init__(self, ws: Workspace, reference: Reference) -> None:
        self.run = find(ws, reference, *PROMPT_KINDS)
        self._file = ws.open_tensors(self.run.id, ARTIFACT)
        self.user_ids = pa.array(self._file.meta.pop("ids") or [], pa.string())
        self.tokens, self.width = self._file.shape("vectors")[1:]

    def __len__(self) -> int:
        return len(self.user_ids)

    def row_of(self, user: str, likely: int = 0) -> int | None:
        """Return the row of a user, or None if the table has none.

        likely: a row to look at first, such as that of the user in another table.
        """
        if likely < len(self.user_ids) and self.user_ids[likely].as_py() == user:
            return likely
        row = int(pc.index(self.user_ids, pa.scalar(user, pa.string())).as_py())
        return None if row < 0 else row

    def starting_with(self, text: str, most: int) -> list[str]:
        """Return at most so many user ids that begin with a text, in row order."""
        hits = pc.filter(self.user_ids, pc.starts_with(self.user_ids, text))
        return [str(user) for user in hits[:most].to_pylist()]

    def vector(self, user: str) -> np.ndarray:
        """Read a user's prompt, [tokens, width] float32. Raises DataError for an unknown user."""
        row = self.row_of(user)
        if row is None:
            raise DataError(
                f"The user {user[:SHOWN]!r} has no prompt in the run {self.run.name!r}; give one of "
                f"its {len(self):,} users, such as {self.user_ids[0].as_py()[:SHOWN]!r}."
            )
        return self._file.read("vectors", row, row + 1)[0]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the vectors [n, tokens x width] float32 of block after block."""
        for start in range(0, len(self), BLOCK):
            block = self._file.read("vectors", start, start + BLOCK)
            yield start, block.reshape(len(block), -1)

    def mean(self, most: int) -> np.ndarray:
        """Return the mean prompt [tokens x width] float32 of at most so many users.

        They are taken in blocks that are spread evenly over the table.
        """
        starts = range(0, len(self), BLOCK)
        step = max(1, -(-len(self) // max(most, BLOCK)))
        total = np.zeros(self.tokens * self.width)
        count = 0
        for start in starts[::step]:
            block = self._file.read("vectors", start, start + BLOCK)
            total += block.reshape(len(block), -1).sum(0, dtype=np.float64)
            count += len(block)
        return (total / max(count, 1)).astype(np.float32)

    def head(self) -> dict[str, np.ndarray] | None:
        """Read the tensors of the head that was trained with the prompts, or None."""
        names = [name for name in self._file.names() if name.startswith(HEAD)]
        return {name.removeprefix(HEAD): self._file.read(name) for name in names} or None
