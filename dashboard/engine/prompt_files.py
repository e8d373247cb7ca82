"""Files of prompts or vectors from a browser: what they hold, and their import."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboard import engine
from dashboard.engine.uploads import Upload, UploadKind, queue_with_files
from puma_engine.errors import DataError
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.jobs import Job

COMMAND = "import_prompts"
PROMPTS = UploadKind(
    "Prompts are in a file",
    (".safetensors", ".npz", ".npy", ".parquet", ".csv", ".tsv"),
    "puma prompts import PATH",
)
USER_IDS = UploadKind(
    "User ids are in a file",
    (".txt", ".json", ".csv", ".tsv", ".parquet"),
    "puma prompts import PATH --users FILE",
)
# Smaller files are read before they are imported, in bytes.
MAX_CHECKED = 20 << 20


@dataclass(frozen=True)
class Content:
    """The number of users of a file, soft tokens of each, and numbers of a token."""

    users: int
    tokens: int
    width: int


def content(upload: Upload, users: Upload | None, tokens: int | None) -> Content | None:
    """Return what a file holds; None for a large one, which its import reads. Raises PumaError.

    users: names each row's user, where the file does not. tokens: soft tokens for each user, where rows are
    flat.
    """
    if upload.path.stat().st_size > MAX_CHECKED:
        return None
    problem = _read(upload.path, users.path if users else None, tokens)
    if isinstance(problem, Content):
        return problem
    # The user who uploaded it does not know its name in the temporary folder.
    for each in (upload, users):
        problem = problem if each is None else problem.replace(str(each.path), each.name)
    raise DataError(problem)


@st.cache_data(max_entries=20, show_spinner=False)
def _read(file: Path, users: Path | None, tokens: int | None) -> Content | str:
    """Return what a file holds, or what is wrong with it. The path of an upload is never used again."""
    try:
        return Content(*read_prompts(file, users=users, tokens=tokens).vectors.shape)
    except engine.PumaError as error:
        return str(error)


def import_file(
    upload: Upload,
    dataset: str,
    model: str | None,
    *,
    users: Upload | None = None,
    tokens: int | None = None,
    head: bool = True,
    name: str | None = None,
) -> Job:
    """Queue the import of a file, as `puma prompts import` does it. Raises PumaError.

    model: the run or the name of the model that the prompts are on; None for vectors that no language
    model made. head: whether the prompts have a head, of their file
    or a trained one.
    """
    arguments = {
        "dataset": dataset,
        "backbone": model,
        "tokens": tokens,
        "head": "auto" if head else "none",
        "name": name,
    }
    noun = "prompts" if model else "vectors"
    files = {"path": upload, "users": users}
    return queue_with_files(COMMAND, files, arguments, f"Import {noun} of {upload.name}")
