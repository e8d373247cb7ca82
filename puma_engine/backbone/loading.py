"""Loading a causal language model from the zoo, a folder or the hub, with plain refusals."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puma_engine.backbone import hub
from puma_engine.backbone.attention.fp8 import check_fp8
from puma_engine.backbone.memory import FP8, QUANTISE, local_shapes
from puma_engine.errors import BackboneError


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone; memory_bytes is that of its weights as loaded.

    revision is the commit of a hub id; quantised is 4bit, 8bit or None.
    """

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
    quantised: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a folder, or a commit of the hub that is not fetched yet."""

    spec: str
    folder: Path | None
    commit: str | None = None

    def shapes(self) -> hub.Shapes:
        """Shape of every tensor, from headers alone; no weight is read or fetched."""
        if self.folder is not None:
            return local_shapes(self.folder)
        assert self.commit is not None
        return hub.remote_shapes(self.spec, self.commit)

    def fetch(self) -> Path:
        """Return the model's folder, fetching it from the hub where it has to be."""
        if self.folder is not None:
            return self.folder
        assert self.commit is not None
        folder = hub.fetch(self.spec, self.commit)
        _check_folder(folder)
        return folder


def locate(spec: str | Path, revision: str | None = None) -> Source:
    """Find a zoo name, a folder or a hub id; of the latter, pin the revision to a commit."""
    from puma_engine.zoo import ZOO, zoo_folder

    name = str(spec)
    if name in ZOO:
        folder = zoo_folder(name)
        if not (folder / "model.safetensors").is_file():
            raise BackboneError(
                f"The zoo backbone {name!r} has no weights at {folder}; build it in a checkout with `python -m research.zoo.build --only {name}`."
            )
        return Source(name, folder)
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path)
        return Source(name, path)
    if not hub.is_hub_id(name):
        raise BackboneError(
            f"There is no backbone {name!r}; give a zoo name ({', '.join(ZOO)}), a model folder, or a "
            "hub id such as owner/name."
        )
    commit = hub.pin(name, revision)
    folder_there = hub.cached(name, commit)
    if folder_there is not None:
        _check_folder(folder_there)
    return Source(name, folder_there, commit)


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise BackboneError(
            f"The folder {folder} has no config.json, so it holds no model; choose another."
        )
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        raise BackboneError(f"The file {config} is not valid JSON; restore it.") from None
    _check_code(folder, facts)
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


def _check_code(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a model that only its own code can build; models known here ignore that code."""
    from transformers import CONFIG_MAPPING

    family = config.get("model_type")
    if "auto_map" in config and family not in CONFIG_MAPPING:
        raise BackboneError(
            f"The model in {folder} is of type {family!r}, which needs code of its own, and code from "
            "models is never run; choose an architecture that transformers knows."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars and reports of transformers out of ours; what goes wrong is raised."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(theirs.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """Load a fast tokenizer, or raise BackboneError."""
    from transformers import AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        raise BackboneError(
            f"The tokenizer of {folder} cannot be loaded ({_first_line(error)}); download or save "
            "it again."
        ) from error
    if not tokenizer.is_fast:
        raise BackboneError(
            f"The tokenizer of {folder} is not a fast one (tokenizer.json); convert it first."
        )
    return tokenizer


def load_model(
    folder: Path, dtype: Any, device: Any, *, quantise: str | None = None, spread: bool = False
) -> Any:
    """Load a frozen model in eval mode, refusing one whose weights are incomplete.

    device: where all of it goes, unless it is spread over every GPU.
    """
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    placed: dict[str, Any] = {}
    packed = quantise not in (None, FP8)
    if packed:
        placed["quantization_config"] = _quantisation(str(quantise), dtype)
    if spread or packed:
        placed["device_map"] = "auto" if spread else {"": device}
    try:
        with _quiet():
            model, loaded = loader.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
                **placed,
            )
    except Exception as error:
        raise BackboneError(
            f"The model {folder} cannot be loaded ({_first_line(error)}); download or save it again."
        ) from error
    lost = sorted(set(loaded["missing_keys"]) | {key for key, *_ in loaded["mismatched_keys"]})
    if lost:
        raise BackboneError(
            f"The model {folder} lacks {len(lost)} of its weights or has them in another shape (first: "
            f"{lost[0]}); download or save it again."
        )
    if any(p.device.type == "meta" for p in model.parameters()):
        raise BackboneError(
            f"The model {folder} does not fit into the GPUs together; use more of them, or "
            "--quantise 4bit."
        )
    model.requires_grad_(False)
    return (model if placed else model.to(device)).eval()


def check_quantisation(kind: str | None, device: Any, *, spread: bool = False) -> None:
    """Raise BackboneError if models cannot be loaded in this way on a torch device."""
    if kind is not None and kind not in QUANTISE:
        raise BackboneError(f"There is no quantisation {kind!r}; use {' or '.join(QUANTISE)}.")
    if kind == FP8:
        check_fp8(device, spread=spread)
    elif kind is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            "Quantised loading needs the package bitsandbytes, which is not installed; run "
            "`pip install bitsandbytes`, or leave out --quantise."
        )


def _quantisation(kind: str, dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    # It reports every product that it computes in another precision.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300].rstrip(".")


def describe(
    source: Source,
    model: Any,
    dtype: str,
    starts: tuple[str, ...],
    *,
    quantised: str | None = None,
) -> BackboneInfo:
    """Collect the facts of a loaded backbone."""
    config = model.config.get_text_config()
    for needed in ("num_hidden_layers", "vocab_size"):
        if not isinstance(getattr(config, needed, None), int):
            raise BackboneError(
                f"{type(model).__name__} cannot serve: its configuration has no {needed}; choose an "
                "ordinary causal model."
            )
    # A 4-bit matrix is packed, so its own count of elements says nothing.
    shapes = model.num_parameters() if quantised else sum(p.numel() for p in model.parameters())
    return BackboneInfo(
        spec=source.spec,
        family=str(config.model_type),
        architecture=type(model).__name__,
        layers=int(config.num_hidden_layers),
        width=int(model.get_input_embeddings().weight.shape[-1]),
        vocabulary=int(config.vocab_size),
        context=int(getattr(config, "max_position_embeddings", 0) or 0),
        parameters=int(shapes),
        dtype=dtype,
        memory_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        starts_with=starts,
        tied_head=bool(getattr(config, "tie_word_embeddings", False)),
        revision=source.commit,
        quantised=quantised,
    )
