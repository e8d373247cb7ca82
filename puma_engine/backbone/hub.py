"""Fetch models from the Hugging Face hub: pin the commit, read headers first, explain errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puma_engine.errors import BackboneError, StoreError
from puma_engine.files import read_json

COMMIT = re.compile(r"[0-9a-f]{40}")
# Files of a causal model; pickled weights, code and other formats are never fetched.
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "model*.safetensors",
    "model.safetensors.index.json",
)

Shapes = dict[str, tuple[int, ...]]


def is_hub_id(spec: str) -> bool:
    """Return whether a name that is not a folder has the form owner/name."""
    return spec.count("/") == 1 and not spec.startswith((".", "/", "~"))


def refuse_revision(spec: str, revision: str | None) -> None:
    """Raise BackboneError for a revision of a model or adapter that is not on the hub."""
    if revision is not None:
        raise BackboneError(
            f"A revision names a commit of a hub id (owner/name), and {spec} is none; leave out the revision "
            f"{revision!r}."
        )


def offline() -> bool:
    """Return whether requests to the hub are off: `--offline`, or HF_HUB_OFFLINE in the environment."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def pin(spec: str, revision: str | None) -> str:
    """Return the commit of a branch or tag (default: main) of a hub id.

    Offline, it is the commit that the branch had when it was last fetched. Raises BackboneError.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    with explained_errors(spec, revision):
        from huggingface_hub import hf_hub_download

        # The client caches the commit of a branch, and returns it if the hub is out of reach.
        return Path(hf_hub_download(spec, "config.json", revision=revision)).parent.name


def cached(spec: str, commit: str) -> Path | None:
    """Return the folder of a commit that is completely in the cache, or None."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(spec, commit, FILES, local=True)
    except LocalEntryNotFoundError:
        return None
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(shard_names(index))
    return folder if all((folder / name).is_file() for name in names) else None


def shard_names(index: Path) -> list[str]:
    """Return the files that an index of shards names. Raises BackboneError for a damaged index."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
            raise ValueError("it names files elsewhere")
    except (StoreError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise BackboneError(
            f"The index {index} names no shards ({error}); download the model again."
        ) from error
    return names


def fetch(spec: str, commit: str, files: tuple[str, ...] = FILES) -> Path:
    """Fetch the files of a commit into the hub's cache and return their folder."""
    with explained_errors(spec, commit):
        return _snapshot(spec, commit, files, local=offline())


def remote_shapes(spec: str, commit: str) -> Shapes:
    """Return the shape of every tensor of a model from its headers, without fetching weights."""
    with explained_errors(spec, commit):
        from huggingface_hub import HfApi

        metadata = HfApi().get_safetensors_metadata(spec, revision=commit)
    return {
        name: tuple(tensor.shape)
        for file in metadata.files_metadata.values()
        for name, tensor in file.tensors.items()
    }


def _snapshot(spec: str, revision: str | None, files: tuple[str, ...], *, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            spec, revision=revision, allow_patterns=list(files), local_files_only=local
        )
    )


@contextmanager
def explained_errors(spec: str, revision: str | None) -> Iterator[None]:
    """Context manager: turn errors of the hub's client into a BackboneError that says what to do."""
    from huggingface_hub import errors

    at = f"{spec} at {revision or 'main'}"
    missing = (
        f"The model {at} is not complete in the local cache, and offline mode is on; fetch it once "
        "without --offline (and HF_HUB_OFFLINE), or give a folder."
        if offline()
        else f"The hub cannot be reached and {at} is not complete in the local cache; check the "
        "network, or give a folder."
    )
    # The first class that an error belongs to counts: some are subclasses of later ones.
    refusals: dict[type[Exception], str] = {
        errors.GatedRepoError: f"The model {spec} is gated: accept its terms on its page of the hub, "
        "then log in with `hf auth login` or set HF_TOKEN to a token of that account, and try again.",
        errors.RepositoryNotFoundError: f"The hub has no model {spec}, or it is private; check the "
        "spelling, or set HF_TOKEN to a token that may read it.",
        errors.RevisionNotFoundError: f"The model {spec} has no revision {revision!r}; give a branch, "
        "tag or commit of it.",
        errors.NotASafetensorsRepoError: f"The model {spec} has no model.safetensors; pickled weights "
        "are never loaded, so choose a revision or a copy that was saved with safetensors.",
        errors.LocalEntryNotFoundError: missing,
        errors.OfflineModeIsEnabled: missing,
        errors.EntryNotFoundError: f"{spec} has no config.json at {revision or 'main'}, so it holds no "
        "model in the format of Hugging Face; choose another, or if it has GGUF files, download one and "
        "give its path.",
        errors.HFValidationError: f"{spec!r} is not a hub id; write owner/name.",
    }
    try:
        yield
    except Exception as error:
        text = next((text for kind, text in refusals.items() if isinstance(error, kind)), None)
        if text is None:
            known = errors.HfHubHTTPError, OSError, errors.SafetensorsParsingError
            # Transport errors come from another library, which differs by version of the client.
            transport = type(error).__module__.startswith(("httpx", "requests"))
            if not isinstance(error, known) and not transport:
                raise
            text = (
                f"The hub could not serve {spec} ({first_line(error)}); try again later, use "
                "--offline if it was fetched before, or give a folder."
            )
        raise BackboneError(text) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, shortened, or its class where it has no text."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
