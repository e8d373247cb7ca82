"""The HTML page that starts the dashboard in a browser: Streamlit's own, with a title and a style."""

from importlib.resources import files
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TITLE = "PUMA Workbench"
# Streamlit guesses from a page's address whether the server is below it, and would ask for files
# that do not exist. Its own files are beside every page, so the server is too.
SCRIPT = 'window.__streamlit = {BACKEND_BASE_URL: new URL("./", location.href).href}'
STYLE = Path(__file__).with_name("page.css")
ROOT = b'<div id="root">'


def index() -> bytes:
    """Return the page that the server sends for every address of the dashboard."""
    return completed(files("streamlit").joinpath("static/index.html").read_bytes())


def completed(page: bytes) -> bytes:
    """Return Streamlit's page with the dashboard's title, description, style and address."""
    about = "Migrate personalised soft prompts from one frozen language model to another."
    head = (
        f'<meta name="description" content="{about}" />'
        f"<script>{SCRIPT}</script><style>{STYLE.read_text()}</style></head>"
    )
    page = page.replace(b"<title>Streamlit</title>", f"<title>{TITLE}</title>".encode(), 1)
    return page.replace(b"</head>", head.encode(), 1)


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
