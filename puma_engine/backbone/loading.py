"""Load a causal language model from the zoo, a folder, a GGUF file or the hub.

The memory of the weights is computed from file headers first, so that a model that does not fit is
refused before its weights are fetched or read.
"""

import importlib.util
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puma_engine.backbone import hub, packages
from puma_engine.backbone.attention.fp8 import check_fp8
from puma_engine.backbone.gguf_model import GgufModel, find_parts, tokenizer_beside
from puma_engine.backbone.gguf_tokenizer import build_tokenizer
from puma_engine.errors import BackboneError, StoreError
from puma_engine.files import read_json
from puma_engine.training.device import DTYPES

FP8 = "fp8"
# Bytes a parameter. 4-bit blocks of 64 carry one fp32 scale; fp8 has a copy for the gradient.
QUANTISED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0, FP8: 2.0}
TIGHT = 0.85
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Share of a GGUF file's tokens that a tokenizer beside it must have with the same ids.
SAME_TOKENS = 0.9


@dataclass(frozen=True)
class BackboneInfo:
    """Properties of a loaded backbone.

    width: dimension of a token embedding; context: tokens that the model can read, 0 if unknown;
    memory_bytes: of its weights as loaded; starts_with: tokens that its tokenizer puts in front of
    every text; tied_head: whether the output head shares the input embeddings; revision: the commit
    of a hub id; quantised: 4bit, 8bit, fp8 or None; file_type: how a GGUF file stores most weights,
    such as Q4_1; licence and origin: as a GGUF file or a package states them; unread: settings of a
    GGUF file that are ignored.
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
    file_type: str | None = None
    licence: str | None = None
    origin: str | None = None
    unread: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """The source of a model: a folder, a GGUF model, or a commit of the hub.

    folder: None for a GGUF model, and for a commit that is not fetched yet. licence and origin:
    None unless a GGUF model states them.
    """

    spec: str
    folder: Path | None
    commit: str | None = None
    gguf: GgufModel | None = None
    licence: str | None = None
    origin: str | None = None

    def shapes(self) -> hub.Shapes:
        """Return the shape of every tensor from headers alone; no weight is read or fetched.

        Raises BackboneError if a file is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        if self.gguf is not None:
            return self.gguf.shapes()
        if self.folder is None:
            assert self.commit is not None
            return hub.remote_shapes(self.spec, self.commit)
        # As transformers chooses: one whole file before the shards of an index.
        single_file = self.folder / "model.safetensors"
        index = self.folder / "model.safetensors.index.json"
        if index.is_file() and not single_file.is_file():
            files = [self.folder / name for name in hub.shard_names(index)]
        else:
            files = (
                [single_file]
                if single_file.is_file()
                else sorted(self.folder.glob("*.safetensors"))
            )
        shapes: hub.Shapes = {}
        for file in files:
            try:
                with safe_open(file, framework="np") as tensors:
                    names = tensors.keys()
                    shapes |= {n: tuple(tensors.get_slice(n).get_shape()) for n in names}
            except FileNotFoundError:
                raise BackboneError(
                    f"The model's index names {file.name}, which is not in {self.folder}; download "
                    "the model again."
                ) from None
            except (OSError, SafetensorError) as error:
                raise BackboneError(
                    f"The file {file} is not a complete safetensors file ({error}); download or "
                    "save it again."
                ) from error
        return shapes

    def fetch(self) -> Path:
        """Return the model's folder; fetch it from the hub if necessary."""
        if self.folder is not None:
            return self.folder
        assert self.commit is not None
        folder = hub.fetch(self.spec, self.commit)
        _check_folder(folder)
        return folder


def weight_bytes(shapes: hub.Shapes, precision: str, quantise: str | None = None) -> int:
    """Return the bytes of a model's weights once they are loaded.

    Quantisation shrinks the matrices of the layers; embeddings, the output head and vectors stay
    in `precision`.
    """
    total = 0.0
    for name, shape in shapes.items():
        full_precision = any(part in name for part in ("embed", "lm_head", "wte", "wpe"))
        size: float = DTYPES[precision].bytes
        if quantise is not None and len(shape) == 2 and not full_precision:
            size = QUANTISED[quantise]
        total += math.prod(shape) * size
    return int(total)


def check_size(folder: Path, shapes: hub.Shapes) -> None:
    """Raise BackboneError if a configuration names more layers or experts than weights can have.

    Building such a model would take hours before its weights are found missing.
    """
    if not (folder / "config.json").is_file():
        return
    largest_dimension = max((max(shape, default=0) for shape in shapes.values()), default=0)
    limits = dict.fromkeys(LAYER_COUNTS, len(shapes))
    limits |= dict.fromkeys(EXPERT_COUNTS, max(len(shapes), largest_dimension))
    pending: list[Any] = [read_json(folder / "config.json")]
    while pending:
        settings = pending.pop()
        pending += [value for value in settings.values() if isinstance(value, dict)]
        for name, limit in limits.items():
            value = settings.get(name)
            if isinstance(value, int | float) and value > limit:
                raise BackboneError(
                    f"The config.json of {folder} has {name} = {value:,}, but its weights have "
                    f"{len(shapes):,} tensors, too few for that; restore the config.json."
                )


def check_room(spec: str, need: int, free: int, where: str) -> None:
    """Raise BackboneError if weights of `need` bytes cannot fit into `free` bytes on a device."""
    if need > free:
        raise BackboneError(
            f"The weights of {spec} take {gib(need)}, but {where} has {gib(free)} free; free some, "
            "choose a lower precision, --quantise 4bit, or --device auto on several GPUs."
        )


def gib(count: float) -> str:
    """Return a number of bytes as text, in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def locate(spec: str | Path, revision: str | None = None) -> Source:
    """Find a model by name, path or hub id; pin the revision of a hub id to a commit.

    spec: a name of the zoo or of `packages.PACKAGED`, a folder, a GGUF file, or a hub id. Raises
    BackboneError if there is no such model, or if its folder is incomplete.
    """
    from puma_engine.zoo import ZOO, zoo_folder

    name = str(spec)
    if name in ZOO:
        zoo = zoo_folder(name)
        if not (zoo / "model.safetensors").is_file():
            raise BackboneError(
                f"The zoo backbone {name!r} has no weights at {zoo}; build it in a checkout with "
                f"`python -m research.zoo --only {name}`."
            )
        return Source(name, zoo)
    path = packages.local_path(name)
    if (parts := find_parts(path)) is not None:
        gguf, packaged = GgufModel(parts), packages.PACKAGED.get(name)
        licence = packaged.licence if packaged else gguf.licence
        origin = packaged.origin if packaged else gguf.origin
        return Source(name, None, gguf=gguf, licence=licence, origin=origin)
    if path.is_dir():
        _check_folder(path)
        return Source(name, path)
    if not hub.is_hub_id(name) or path.suffix.lower() == ".gguf":
        raise BackboneError(
            f"There is no backbone {name!r}; give a zoo name ({', '.join(ZOO)}), "
            f"{' or '.join(packages.PACKAGED)}, a model folder, a GGUF file, or a hub id such as "
            "owner/name."
        )
    commit = hub.pin(name, revision)
    folder = hub.cached(name, commit)
    if folder is not None:
        _check_folder(folder)
    return Source(name, folder, commit)


def refuse_unused_revision(spec: str | Path, revision: str | None) -> None:
    """Raise BackboneError for a revision of a model that `locate` finds on this machine."""
    if revision is not None and locate(spec, revision).commit is None:
        hub.refuse_revision(str(spec), revision)


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        # transformers would add the adapter to weights that may hold it already.
        raise BackboneError(
            f"The folder {folder} holds an adapter (adapter_config.json), so it is not clear whether "
            "its weights contain the adapter. If they do, remove the adapter's files; otherwise merge "
            "it (PEFT: merge_and_unload) and save the model to a folder of its own."
        )
    config = folder / "config.json"
    if not config.is_file():
        raise BackboneError(
            f"The folder {folder} has no config.json, so it holds no model; choose another."
        )
    try:
        settings = read_json(config, "restore it")
    except StoreError as error:
        raise BackboneError(str(error)) from error
    from transformers import CONFIG_MAPPING

    # An architecture that transformers knows is built by its own classes, whatever auto_map says.
    family = settings.get("model_type")
    if "auto_map" in settings and family not in CONFIG_MAPPING:
        raise BackboneError(
            f"The model in {folder} is of type {family!r}, which needs code of its own, and code from "
            "models is never run; choose an architecture that transformers knows."
        )
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f"The folder {folder} has no weights (*.safetensors); pickled weights are never loaded, "
            "so save the model with safetensors."
        )
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in tokenizers):
        raise BackboneError(
            f"The folder {folder} has no tokenizer (tokenizer.json); save one beside the model."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager: silence progress bars and warnings of transformers, but raise errors."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(hf_logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """Load a fast tokenizer. Raises BackboneError if it cannot be loaded or is a slow one."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        raise BackboneError(
            f"The tokenizer of {folder} cannot be loaded ({hub.first_line(error)}); download or save "
            "it again."
        ) from error
    if not tokenizer.is_fast:
        raise BackboneError(
            f"The tokenizer of {folder} is not a fast one (tokenizer.json); convert it first."
        )
    return tokenizer


def load_gguf_tokenizer(gguf: GgufModel) -> Any:
    """Load the tokenizer of a GGUF model: the tokenizer.json beside the file, or else the file's own.

    Raises BackboneError if it cannot be loaded, or if the one beside the file has other tokens.
    """
    from transformers import PreTrainedTokenizerFast

    beside = tokenizer_beside(gguf.path)
    try:
        if not beside:
            return build_tokenizer(gguf)
        if len(beside) > 1:
            tokenizer = load_tokenizer(gguf.path.parent)
        else:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(beside[0]))
        tokens = gguf.value("tokenizer.ggml.tokens") or []
        beside_tokens = tokenizer.convert_ids_to_tokens(range(min(len(tokens), len(tokenizer))))
    except BackboneError:
        raise
    except Exception as error:  # damaged metadata fails in many ways
        raise BackboneError(
            f"The tokenizer of {gguf.path} cannot be built ({hub.first_line(error)}); put the model's "
            "tokenizer.json beside the file."
        ) from error
    # Spaces are spelled differently in some vocabularies, so a few tokens may differ.
    agreeing = sum(a == b for a, b in zip(beside_tokens, tokens, strict=False))
    if tokens and agreeing < SAME_TOKENS * len(tokens):
        raise BackboneError(
            f"The tokenizer.json beside {gguf.path} has other tokens than the file ({agreeing} of "
            f"{len(tokens)} agree), so it belongs to another model; move one of them."
        )
    return tokenizer


def load_model(
    folder: Path | GgufModel,
    dtype: Any,
    device: Any,
    *,
    quantise: str | None = None,
    spread: bool = False,
) -> Any:
    """Load a frozen model in eval mode from a folder or a GGUF model.

    dtype: a torch dtype; device: a torch device for the whole model, unless spread=True distributes
    its layers over all GPUs. Raises BackboneError if it cannot be loaded, weights are missing, or
    it does not fit.
    """
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    placement: dict[str, Any] = {}
    with_bitsandbytes = quantise not in (None, FP8)
    if with_bitsandbytes:
        # It logs a line for every product in another precision.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        kind: dict[str, Any] = {"load_in_8bit": True}
        if quantise == "4bit":
            kind = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
            kind["bnb_4bit_compute_dtype"] = dtype
        placement["quantization_config"] = transformers.BitsAndBytesConfig(**kind)
    if spread or with_bitsandbytes:
        placement["device_map"] = "auto" if spread else {"": device}
    options = placement | {"dtype": dtype, "output_loading_info": True}
    gguf = folder if isinstance(folder, GgufModel) else None
    folder = folder.path if isinstance(folder, GgufModel) else folder
    try:
        with quiet():
            if gguf is not None:
                model, loaded = _from_gguf(gguf, options)
            else:
                model, loaded = loader.from_pretrained(
                    folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    **options,
                )
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(
            f"The model {folder} cannot be loaded ({hub.first_line(error)}); download or save it again."
        ) from error
    missing = sorted(set(loaded["missing_keys"]) | {key for key, *_ in loaded["mismatched_keys"]})
    if missing:
        raise BackboneError(
            f"The model {folder} lacks {len(missing)} of its weights or has them in another shape "
            f"(first: {missing[0]}); download or save it again."
        )
    if any(p.device.type == "meta" for p in model.parameters()):
        raise BackboneError(
            f"The model {folder} does not fit into the GPUs together; use more of them, or "
            "--quantise 4bit."
        )
    model.requires_grad_(False)
    return (model if placement else model.to(device)).eval()


def _from_gguf(gguf: GgufModel, options: dict[str, Any]) -> Any:
    """Return a model with dequantised weights, and the loading report of transformers."""
    import torch
    import transformers

    config = gguf.config()
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config)
    weights = gguf.state_dict([name for name, _ in empty.named_parameters()], options["dtype"])
    return type(empty).from_pretrained(None, config=config, state_dict=weights, **options)


def check_quantisation(kind: str | None, device: Any, *, spread: bool = False) -> None:
    """Raise BackboneError if a device cannot run models that are quantised to `kind`."""
    if kind is not None and kind not in QUANTISED:
        raise BackboneError(f"There is no quantisation {kind!r}; use {' or '.join(QUANTISED)}.")
    if kind == FP8:
        check_fp8(device, spread=spread)
    elif kind is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            "Quantised loading needs the package bitsandbytes, which is not installed; run "
            "`pip install bitsandbytes`, or leave out --quantise."
        )


def max_over_layers(config: Any, name: str) -> int | None:
    """Return a number of a text model's configuration, the largest if layers differ; None without one."""
    try:
        value = getattr(config, name, None)
    except Exception:  # transformers refuses a setting that differs from layer to layer
        value = max(getattr(layer, name) for layer in config.per_layer_config)
    return max(value) if isinstance(value, list | tuple) else value


def describe(
    source: Source, model: Any, dtype: str, starts: tuple[str, ...], *, quantised: str | None = None
) -> BackboneInfo:
    """Return the properties of a loaded backbone.

    dtype: fp32, bf16 or fp16; starts: see `BackboneInfo.starts_with`. Raises BackboneError if the
    model's configuration lacks its number of layers or its vocabulary.
    """
    config = model.config.get_text_config()
    for needed in ("num_hidden_layers", "vocab_size"):
        if not isinstance(getattr(config, needed, None), int):
            raise BackboneError(
                f"{type(model).__name__} cannot serve: its configuration has no {needed}; choose an "
                "ordinary causal model."
            )
    # The elements of a packed 4-bit matrix are fewer than its weights.
    parameters = model.num_parameters() if quantised else sum(p.numel() for p in model.parameters())
    return BackboneInfo(
        spec=source.spec,
        family=str(config.model_type),
        architecture=type(model).__name__,
        layers=int(config.num_hidden_layers),
        width=int(model.get_input_embeddings().weight.shape[-1]),
        vocabulary=int(config.vocab_size),
        context=int(getattr(config, "max_position_embeddings", 0) or 0),
        parameters=int(parameters),
        dtype=dtype,
        memory_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        starts_with=starts,
        tied_head=bool(getattr(config, "tie_word_embeddings", False)),
        revision=source.commit,
        quantised=quantised,
        file_type=source.gguf.file_type if source.gguf else None,
        licence=source.licence,
        origin=source.origin,
        unread=source.gguf.unread() if source.gguf else (),
    )
