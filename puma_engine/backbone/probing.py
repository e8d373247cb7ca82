"""Does a model do what soft prompts need? Asked part by part, so that a refusal names the part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from puma_engine.backbone.attention.kv_cache import PackedKeysValues, Ragged
from puma_engine.backbone.attention.prefix_attention import use_grouped_attention
from puma_engine.backbone.memory import FP8
from puma_engine.errors import BackboneError

if TYPE_CHECKING:
    from puma_engine.backbone.model import FrozenBackbone

ANSWERS = 64
ROWS = ([1, 2, 3, 4, 5], [3, 2, 4])
# Of the logits' length: half precision rounds anew in every layer, and eight-bit products
# round activations by what else is in the batch. A position that is off by one is far out.
TOLERANCE = {torch.float32: 1e-3}
HALF_TOLERANCE = 0.1
QUANTISED_TOLERANCE = 0.3
# Deep models with random weights, as they are timed, multiply the rounding of 8-bit floats.
FP8_TOLERANCE = 0.5


@torch.no_grad()
def probe(backbone: FrozenBackbone) -> None:
    """Raise BackboneError naming the first part that does not work as in a causal model.

    A model for which the grouped attention or a shortened last layer are not the same keeps its
    own.
    """
    wanted = plain_logits(backbone)
    if not torch.isfinite(wanted).all():
        raise BackboneError(
            f"{backbone.info.architecture} gives infinite or missing logits in {backbone.info.dtype}; "
            "load it in another precision."
        )
    found = torch.cat([_part(backbone, "reading input embeddings", _embedded, r) for r in ROWS])
    _compare(backbone, "reading input embeddings", wanted, found)
    own = use_grouped_attention(backbone.model)
    retreats: list[Callable[[], None]] = []
    if own is not None:
        retreats.append(lambda: backbone.model.set_attn_implementation(own))
    if backbone.tail is not None:
        retreats.append(backbone.drop_tail)
    while True:
        try:
            return _check_parts(backbone, wanted)
        except BackboneError:
            if not retreats:
                raise
            retreats.pop(0)()


def plain_logits(backbone: FrozenBackbone) -> Tensor:
    """The model's own logits [n, answers] of some short rows."""
    return torch.cat([_part(backbone, "reading tokens", _plain, row) for row in ROWS])


@torch.no_grad()
def check_fused(backbone: FrozenBackbone, wanted: Tensor) -> None:
    """Raise BackboneError unless fused layers give the `plain_logits` that were had before."""
    name = "fused layers"
    _compare(backbone, name, wanted, _part(backbone, name, _split, list(ROWS), (4, 1)))


def _check_parts(backbone: FrozenBackbone, wanted: Tensor) -> None:
    """Compare each way in which logits are computed here with the model's own."""
    for name, splits in (
        ("decoder and output head", (0, 0)),
        ("kept keys and values", (2, 2)),
        ("padding and positions", (4, 1)),
    ):
        # Rows of one length need no padding, so they come one by one until the last part.
        if name == "padding and positions":
            found = _part(backbone, name, _split, list(ROWS), splits)
        else:
            each = zip(ROWS, splits, strict=True)
            found = torch.cat([_part(backbone, name, _split, [r], (k,)) for r, k in each])
        _compare(backbone, name, wanted, found)


def _part(
    backbone: FrozenBackbone, name: str, work: Callable[..., Tensor], *arguments: object
) -> Tensor:
    try:
        return work(backbone, *arguments)
    except Exception as error:  # foreign architectures fail in ways of their own
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(
            f"{backbone.info.architecture} cannot serve: its part {name!r} fails ({type(error).__name__}: "
            f"{reason}); choose an ordinary causal model."
        ) from error


def _compare(backbone: FrozenBackbone, name: str, wanted: Tensor, found: Tensor) -> None:
    tolerance = TOLERANCE.get(backbone.dtype, HALF_TOLERANCE)
    if backbone.info.quantised:
        tolerance = FP8_TOLERANCE if backbone.info.quantised == FP8 else QUANTISED_TOLERANCE
    difference = float(torch.linalg.vector_norm(wanted - found))
    if not difference <= tolerance * float(torch.linalg.vector_norm(wanted)):
        raise BackboneError(
            f"{backbone.info.architecture} cannot serve: its part {name!r} works in a way that is not "
            f"known here (logits differ by {difference:.2g}); choose an ordinary causal model."
        )


def _plain(backbone: FrozenBackbone, row: list[int]) -> Tensor:
    logits = backbone.model(input_ids=torch.tensor([row], device=backbone.device)).logits
    return _last(backbone, logits)


def _embedded(backbone: FrozenBackbone, row: list[int]) -> Tensor:
    embedded = backbone.embed(torch.tensor([row], device=backbone.device))
    return _last(backbone, backbone.model(inputs_embeds=embedded).logits)


def _answers(backbone: FrozenBackbone) -> int:
    return min(ANSWERS, backbone.info.vocabulary)


def _last(backbone: FrozenBackbone, logits: Tensor) -> Tensor:
    return logits[:, -1, : _answers(backbone)].float().to(backbone.device)


def _split(backbone: FrozenBackbone, rows: list[list[int]], splits: tuple[int, ...]) -> Tensor:
    """Logits [n, answers] with the first tokens of each row kept as keys and values."""
    pairs = list(zip(rows, splits, strict=True))
    first = Ragged.pack([row[:k] for row, k in pairs], backbone.device)
    rest = Ragged.pack([row[k:] for row, k in pairs], backbone.device)
    every = torch.arange(len(rows), device=backbone.device)
    past = past_real = None
    if max(splits):
        store = backbone.prefix(first, every, PackedKeysValues([]))
        index, past_real = first.index(every, max(splits), left=True)
        past = store.gather(index)
    index, real = rest.index(every, int(rest.lengths.max()), left=False)
    embeddings = backbone.embed(rest.ids[index].masked_fill(~real, 0))
    hidden = backbone.last_hidden(embeddings, rest.lengths, past, past_real)
    answers = torch.arange(_answers(backbone), device=backbone.device)
    return backbone.answer_logits(hidden, answers)
