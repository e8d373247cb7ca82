"""Write a model as a folder of safetensors: dequantised from GGUF, or rounded to GGUF's block types."""

from pathlib import Path
from typing import Any

from puma_engine.backbone.gguf_model import GgufModel
from puma_engine.backbone.loading import (
    check_room,
    check_size,
    load_gguf_tokenizer,
    load_model,
    load_tokenizer,
    locate,
    quiet,
    refuse_unused_revision,
    weight_bytes,
)
from puma_engine.errors import BackboneError
from puma_engine.files import new_folder
from puma_engine.training.device import free_host_memory, torch_dtype

# Ways of GGUF to store blocks of 32 weights that the package gguf can write.
BLOCK_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
BLOCK = 32
PRECISIONS = ("bf16", "fp16", "fp32")


def convert_model(
    spec: str | Path,
    folder: str | Path,
    *,
    precision: str = "bf16",
    round_to: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Write a model and its tokenizer to a new folder that transformers reads; return a summary.

    spec: as for `FrozenBackbone.load`; a GGUF file is dequantised. precision: of the stored
    weights. round_to: one of BLOCK_TYPES; matrices are rounded to the values of this type, so that
    the folder gives the results of such a file. Matrices whose rows are not whole blocks stay as
    they are. Raises BackboneError; StoreError if there is something at the folder.
    """
    if precision not in PRECISIONS:
        raise BackboneError(f"A model is stored as {', '.join(PRECISIONS)}, not {precision}.")
    if round_to is not None and round_to not in BLOCK_TYPES:
        raise BackboneError(f"Weights can be rounded to {', '.join(BLOCK_TYPES)}, not {round_to}.")
    refuse_unused_revision(spec, revision)
    source = locate(spec, revision)
    shapes = source.shapes()
    check_room(source.spec, weight_bytes(shapes, "fp32"), free_host_memory(), "this machine")
    with new_folder(Path(folder)) as new:
        origin = source.gguf or source.fetch()
        if isinstance(origin, GgufModel):
            tokenizer = load_gguf_tokenizer(origin)
        else:
            check_size(origin, shapes)
            tokenizer = load_tokenizer(origin)
        model = load_model(origin, torch_dtype("fp32"), "cpu")
        rounded = 0 if round_to is None else _round(model, round_to)
        with quiet():
            model.to(torch_dtype(precision)).save_pretrained(new)
            tokenizer.save_pretrained(new)
    return {
        "folder": str(folder),
        "bytes": sum(file.stat().st_size for file in Path(folder).iterdir()),
        "precision": precision,
        "rounded_to": round_to,
        "rounded_weights": rounded,
        "licence": source.licence,
        "origin": source.origin,
    }


def _round(model: Any, block_type: str) -> int:
    """Round every matrix to what a type of GGUF can hold; return how many weights were rounded."""
    import torch
    from gguf import GGMLQuantizationType, dequantize, quantize

    kind, count = GGMLQuantizationType[block_type], 0
    for weight in model.parameters():
        if weight.dim() == 2 and weight.shape[1] % BLOCK == 0:
            values = dequantize(quantize(weight.detach().numpy(), kind), kind)
            weight.copy_(torch.from_numpy(values))
            count += weight.numel()
    return count
