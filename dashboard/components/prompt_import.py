"""New migration: upload a file of prompts or vectors, and start its import."""

import streamlit as st

from dashboard import engine
from dashboard.components import (
    formatting,
    import_jobs,
    page_states,
    query_params,
    upload_box,
)
from dashboard.engine import prompt_files, uploads

BOXES = ("prompts-file", "prompts-users")


def file(dataset: str, model: str | None) -> None:
    """Draw upload and settings of a file, and start its import.

    model: the run or the name of the model that the prompts are on; None: they are vectors of users.
    """
    uploads.remove_uploads(engine.workspace())
    noun = "prompts" if model else "vectors"
    upload = upload_box.show(
        f"A table of {noun}, one row for each user", BOXES[0], prompt_files.PROMPTS
    )
    if upload is None:
        st.caption(
            "A file of `puma prompts export`, arrays of NumPy or safetensors, or a table with the column "
            "user\\_id and one column for each number; at most "
            f"{formatting.size(uploads.MAX_BYTES)}. Folders and checkpoints are read by "
            "`puma prompts import`."
        )
        return
    users = None
    if st.toggle("User ids are in a second file", key="prompts-have-users"):
        users = upload_box.show(
            "User ids, in the order of the rows", BOXES[1], prompt_files.USER_IDS
        )
    left, middle, right = st.columns([1, 1, 2], vertical_alignment="bottom")
    tokens = left.number_input(
        "Soft tokens for each user",
        min_value=1,
        value=None,
        key="prompts-tokens",
        placeholder="as in the file",
        help="Where a row holds the numbers of several tokens side by side.",
    )
    head = model is None or middle.checkbox(
        "With a head",
        value=True,
        key="prompts-head",
        help="A file that PUMA wrote keeps its head. Prompts of another program bring none that reads the "
        "model's answers, so one is trained. Without a head they can be migrated, but not evaluated.",
    )
    name = right.text_input("Name of the run", max_chars=100, key="prompts-name").strip() or None
    try:
        content = prompt_files.content(upload, users, tokens)
    except engine.PumaError as error:
        page_states.failed("This file cannot be imported.", error)
        return
    if content is not None:
        each = "1 token" if content.tokens == 1 else f"{content.tokens:,} tokens"
        st.text(f"{content.users:,} users, {each} of {content.width:,} numbers each")
    if not st.button(f"Import the {noun}", icon=":material/download:", key="import-prompts-file"):
        return
    try:
        job = prompt_files.import_file(
            upload, dataset, model, users=users, tokens=tokens, head=head, name=name
        )
    except engine.PumaError as error:
        page_states.failed("The import was not started.", error)
        return
    upload_box.forget(*BOXES)
    query_params.write(import_jobs.PROMPTS, job.id)
    st.rerun()
