"""The claims as Markdown, and as the part of a page between two marks."""

from __future__ import annotations

from collections.abc import Sequence

from puma_engine.errors import ConfigError
from puma_engine.studies.claims import INTERVALS
from puma_engine.studies.evidence import Finding, grouped

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"


def markdown(found: Sequence[Finding]) -> str:
    """Return the table of all claims, and the rules by which they are judged."""
    lines = ["| claim of the paper | data | here | figures | from |", "| --- " * 5 + "|"]
    for claim, own in grouped(found).items():
        text = claim.text
        for one in own:
            if one.evidence is None:
                continue
            source = f"`{one.evidence.name}`, {one.evidence.made}"
            lines.append(_row(text, one.dataset, f"**{one.verdict}**", one.figures, source))
            text = ""
        lost = [one.dataset for one in own if one.evidence is None]
        if lost:
            lines.append(_row(text, ", ".join(lost), "no evidence", "", f"`{claim.study}`"))
    rules = [f"- **{claim.text}** {claim.rule}" for claim in grouped(found)]
    return "\n".join([*lines, "", "How each is judged:", "", *rules, "", INTERVALS])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def put_into(page: str, block: str) -> str:
    """Return a page with a new text between its marks; raises ConfigError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"The page has no lines {BEGIN} and {END} to put the claims between.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"
