"""A model's own chat template: what stands around the user's turn, up to the assistant's answer."""

from typing import Any

from puma_engine.errors import BackboneError

# Stands for the user's text while a chat template is rendered; none writes it of itself.
_CONTENT = "PumaUserTurn7f3a"
# Some chat templates write today's date, and prompts must be read tomorrow as they were fitted.
_DATE = "{%- macro puma_date(format) -%}26 Jul 2024{%- endmacro %}"
MAX_CHARACTERS = 20_000


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """Return what a tokenizer's chat template puts before and behind the one turn of a user.

    The second text ends where the assistant's answer begins. Chat templates are programs of others:
    transformers renders them in its sandbox. Dates in them are fixed. Raises BackboneError if there
    is no chat template, if it fails, or if it does not write the user's text once.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BackboneError(
            "The model has no chat template; leave out --chat-template, or choose an instruct model."
        )
    try:
        program = tokenizer.get_chat_template()
        if "strftime_now" in program:
            program = _DATE + program.replace("strftime_now", "puma_date")
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": _CONTENT}],
            chat_template=program,
            add_generation_prompt=True,
            tokenize=False,
        )
    except Exception as error:
        # A program of others may fail in any way.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise BackboneError(
            f"The model's chat template cannot be used ({reason}); leave out --chat-template."
        ) from error
    before, *rest = str(text).split(_CONTENT)
    if len(rest) != 1 or len(text) > MAX_CHARACTERS:
        raise BackboneError(
            f"The model's chat template writes the user's text {len(rest)} times in {len(text):,} "
            "characters, not once in a short frame; leave out --chat-template."
        )
    return before, rest[0]
