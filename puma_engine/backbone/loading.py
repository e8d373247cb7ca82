"""Loading a causal language model from the zoo, a folder or the hub, with plain refusals."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puma_engine.errors import BackboneError

_FOLDER_NEEDS = {"config.json": "the model's shape", "tokenizer": "a tokenizer"}


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone; memory_bytes is that of its weights in `dtype`."""

    spec: str
    family: str
    architecture: str
    layers: int
    width: int
    vocabulary: int
    context: int
    parameters: int
    dtype: str
    memory_bytes: int
    starts_with: tuple[str, ...]
    tied_head: bool
    revision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def resolve_spec(spec: str | Path) -> tuple[str, bool]:
    """Return what to load for a zoo name, a folder or a hub id, and whether it is local."""
    from puma_engine.zoo import ZOO, zoo_folder

    name = str(spec)
    if name in ZOO:
        folder = zoo_folder(name)
        if not (folder / "model.safetensors").is_file():
            raise BackboneError(
                f"The zoo backbone {name!r} has no weights at {folder}; run `puma zoo build` first."
            )
        return str(folder), True
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path), True
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise BackboneError(
            f"There is no backbone {name!r}; give a zoo name ({', '.join(ZOO)}), a model folder, or a "
            "hub id such as owner/name."
        )
    return name, False


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise BackboneError(
            f"The folder {folder} has no config.json, so it holds no model; choose another."
        )
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        raise BackboneError(f"The file {config} is not valid JSON; restore it.") from None
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f"The folder {folder} has no weights (*.safetensors); pickled weights are never loaded, "
            "so save the model with safetensors."
        )
    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise BackboneError(
            f"The folder {folder} has no tokenizer (tokenizer.json); save one beside the model."
        )


def load_tokenizer(source: str, local: bool, revision: str | None) -> Any:
    """Load a fast tokenizer, or raise BackboneError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, local_files_only=local, revision=revision, trust_remote_code=False
        )
    except Exception as error:
        raise BackboneError(
            f"The tokenizer of {source} cannot be loaded: {_first_line(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise BackboneError(
            f"The tokenizer of {source} is not a fast one (tokenizer.json); convert it first."
        )
    return tokenizer


def load_model(source: str, local: bool, revision: str | None, dtype: Any, device: Any) -> Any:
    """Load a frozen model in eval mode, refusing one whose weights are incomplete."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    try:
        model, loaded = loader.from_pretrained(
            source,
            local_files_only=local,
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
    except Exception as error:
        raise BackboneError(f"The model {source} cannot be loaded: {_first_line(error)}") from error
    lost = sorted(set(loaded["missing_keys"]) | {key for key, *_ in loaded["mismatched_keys"]})
    if lost:
        raise BackboneError(
            f"The model {source} lacks {len(lost)} of its weights or has them in another shape (first: "
            f"{lost[0]}); download or save it again."
        )
    model.requires_grad_(False)
    return model.to(device).eval()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def describe(
    spec: str, model: Any, tokenizer: Any, dtype: str, starts: list[int], revision: str | None
) -> BackboneInfo:
    """Collect the facts of a loaded backbone."""
    config = model.config.get_text_config()
    parameters = sum(p.numel() for p in model.parameters())
    return BackboneInfo(
        spec=spec,
        family=str(config.model_type),
        architecture=type(model).__name__,
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        vocabulary=int(config.vocab_size),
        context=int(getattr(config, "max_position_embeddings", 0) or 0),
        parameters=parameters,
        dtype=dtype,
        memory_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        starts_with=tuple(tokenizer.convert_ids_to_tokens(starts)),
        tied_head=bool(getattr(config, "tie_word_embeddings", False)),
        revision=revision,
    )
