"""The plain implementation of reading soft prompts, as in the published code, for comparing speed.

Every example is one padded sequence. Logits of the whole vocabulary are computed at every position,
and so is a language-model loss that is not used.
"""

import numpy as np
import torch
from torch import Tensor

from puma_engine.backbone import Reader

BATCH = 32


class PlainReader:
    """A replacement of Reader with the same tokens and answers, without its optimisations."""

    def __init__(self, reader: Reader) -> None:
        self.inner = reader
        self.backbone = reader.backbone
        self.task = reader.task
        self.answers = reader.answers
        self.template = reader.template
        sequences = [reader.sequence(row) for row in range(len(reader))]
        self.capturable = False
        self._before = [before for before, _ in sequences]
        self._after = [after for _, after in sequences]

    def lengths(self) -> np.ndarray:
        """Tokens of each context, [n]; the published code does not sort by them."""
        return np.zeros(len(self._before), dtype=np.int64)

    def prepare(self, contexts: Tensor) -> None:
        """Cache nothing."""

    def max_batch(self, prompt: int) -> int:
        """The published code validates in batches of the size that it trains in."""
        return BATCH

    def logits(
        self, prompts: Tensor, contexts: Tensor, widths: tuple[int, ...] | None = None
    ) -> Tensor:
        """Return answer logits [B, A] for prompts [B, l, width] and context rows [B]."""
        device, model = self.backbone.device, self.backbone.model
        before = [self._before[row] for row in contexts.tolist()]
        after = [self._after[row] for row in contexts.tolist()]
        slots = prompts.shape[1]
        length = max(len(b) + slots + len(a) for b, a in zip(before, after, strict=True))
        ids = torch.zeros(len(before), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        slot = torch.empty(len(before), slots, dtype=torch.long)
        for row, (b, a) in enumerate(zip(before, after, strict=True)):
            total = len(b) + slots + len(a)
            ids[row, length - total :] = torch.tensor([*b, *[0] * slots, *a])
            mask[row, length - total :] = 1
            slot[row] = length - total + len(b) + torch.arange(slots)
        ids, mask, slot = ids.to(device), mask.to(device), slot.to(device)
        embedded = self.backbone.embed(ids)
        index = slot.unsqueeze(-1).expand(-1, -1, embedded.shape[-1])
        embedded = embedded.scatter(1, index, prompts.to(device, embedded.dtype))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        labels = ids.masked_fill(mask == 0, -100)
        out = model(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            labels=labels,
            use_cache=False,
        )
        return out.logits[:, -1, self.answers].float()
