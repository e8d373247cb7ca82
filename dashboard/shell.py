"""The HTML page that starts the dashboard in a browser: Streamlit's own, completed.

It gets a title, a style, a script, and hints to load the code of common widgets early, so that
contents move little while a page loads.
"""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TITLE = "PUMA Workbench"
ABOUT = "Migrate personalised soft prompts from one frozen language model to another."
SCRIPT = Path(__file__).with_name("page.js")
STYLE = Path(__file__).with_name("page.css")
STATIC = files("streamlit").joinpath("static")
ROOT = b'<div id="root">'
# Streamlit loads the code of a widget when it draws the first one, and shows a bar of another height
# until then. Nearly every page has these.
WIDGETS = ("Button", "ButtonGroup", "Checkbox", "DownloadButton", "MenuButton") + (
    "Metric", "Multiselect", "NumberInput", "PageLink", "Selectbox", "Slider", "TextInput",
)  # fmt: skip
_IMPORT = re.compile(r"""(?:from|import)\s*["'`]\./([\w.-]+\.js)["'`]""")


def index() -> bytes:
    """Return the page that the server sends for every address of the dashboard."""
    return completed(STATIC.joinpath("index.html").read_bytes())


def completed(page: bytes) -> bytes:
    """Return Streamlit's page with the dashboard's title, description, script, hints and style."""
    hints = "".join(
        f'<link rel="modulepreload" crossorigin href="./static/js/{name}" />'
        for name in widget_scripts()
        if name.encode() not in page
    )
    description = f'<meta name="description" content="{ABOUT}" />'
    script, style = (file.read_text(encoding="utf-8") for file in (SCRIPT, STYLE))
    head = f"{description}<script>{script}</script>{hints}<style>{style}</style></head>"
    page = page.replace(b"<title>Streamlit</title>", f"<title>{TITLE}</title>".encode(), 1)
    return page.replace(b"</head>", head.encode(), 1)


@cache
def widget_scripts() -> list[str]:
    """Return the names of the scripts of WIDGETS, and of those that they import."""
    scripts = {item.name: item for item in STATIC.joinpath("static", "js").iterdir()}
    waiting = [name for name in scripts if name.partition(".")[0] in WIDGETS]
    names: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in names or name not in scripts:
            continue
        names.add(name)
        waiting += _IMPORT.findall(scripts[name].read_text(encoding="utf-8"))
    return sorted(names)


class CompletePage:
    """ASGI middleware that completes Streamlit's page where a browser opens an address."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        opens = scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", "")
        if not opens:
            await self.app(scope, receive, send)
            return
        # The answer must be readable here, and not depend on what the browser has of Streamlit's.
        dropped = {b"accept-encoding", b"if-none-match", b"if-modified-since", b"range"}
        kept = [(name, value) for name, value in scope["headers"] if name.lower() not in dropped]
        start: Message | None = None
        body = b""

        async def complete(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                if headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            if ROOT in body:
                body = completed(body)
                headers = MutableHeaders(scope=start)
                headers["content-length"] = str(len(body))
                del headers["etag"], headers["last-modified"]
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app({**scope, "headers": kept}, receive, complete)
