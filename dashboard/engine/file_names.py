"""Paths on the server, of which pages show the file's name alone."""

import re

# In quotation marks a folder's name may have spaces.
_QUOTED = re.compile(r"(['\"])/(?:[^'\"\n/]+/)+([^'\"\n/]+)\1")
_PLAIN = re.compile(r"(?<![\w.:/~<-])/(?:[^\s'\"<>/:;,()]+/)+([^\s'\"<>/:;,()]+)")


def without_folders(text: str) -> str:
    """Return a text with the file's name in place of each absolute path of several parts."""
    return _PLAIN.sub(r"\1", _QUOTED.sub(r"\1\2\1", text))
