"""A hub on localhost with the part of the protocol that fetching and pushing need."""

import base64
import hashlib
import http.server
import json
import threading
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TinyHub:
    """Serves folders as models: repos maps owner/name to a folder, or to an error code.

    accepts: folder for pushed repositories. requests: paths of all requests, in order; created: name
    and privacy of each new repository.
    """

    def __init__(self, repos, accepts=None):
        self.repos, self.accepts, self.requests, self.created = repos, accepts, [], []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def do_POST(self):
                length = int(self.headers.get("Content-Length") or 0)
                hub.take(self, self.rfile.read(length))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def take(self, request, content):
        """Handle requests that create a repository, negotiate an upload, or commit files."""
        words = urlparse(request.path).path.strip("/").split("/")
        self.requests.append(request.path)
        assert request.headers["Authorization"] == "Bearer hf_of_the_test"
        if words[1:] == ["repos", "create"]:
            requested = json.loads(content)
            name = f"{requested['organization']}/{requested['name']}"
            private = requested.get("private", requested.get("visibility") == "private")
            self.created.append((name, private))
            self.repos[name] = self.accepts / name
            self.repos[name].mkdir(parents=True)
            reply = {"url": f"{self.url}/{name}", "name": name, "id": name}
        elif words[1:] == ["validate-yaml"]:
            reply = {"errors": [], "warnings": []}
        elif words[4] == "preupload":
            files = json.loads(content)["files"]
            reply = {"files": [_regular(file["path"]) for file in files]}
        else:
            folder = self.repos["/".join(words[2:4])]
            for line in content.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    data = base64.b64decode(entry["value"]["content"])
                    (folder / entry["value"]["path"]).write_bytes(data)
            reply = {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/c/{COMMIT}"}
        return _send(request, 200, {}, json.dumps(reply).encode(), True)

    def answer(self, request, *, body):
        path = unquote(urlparse(request.path).path)
        self.requests.append(path)
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        name = "/".join(words[2:4] if api else words[:2])
        folder = self.repos.get(name)
        if not isinstance(folder, Path):
            status, code = folder or (404, "RepoNotFound")
            return _send(request, status, {"X-Error-Code": code}, b"{}", body)
        rest = words[4:] if api else words[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return _send(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"{}", body)
        if api:
            return _send(request, 200, {}, json.dumps(_listing(name, folder, rest)).encode(), body)
        return _file(request, folder / "/".join(rest[2:]), body)


def _regular(path):
    return {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None}


def _listing(name, folder, rest):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if rest[:1] == ["tree"]:
        return [
            {
                "type": "file",
                "path": str(file.relative_to(folder)),
                "size": file.stat().st_size,
                "oid": _etag(file),
            }
            for file in files
        ]
    siblings = [{"rfilename": str(file.relative_to(folder))} for file in files]
    return {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []}


def _etag(file):
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _file(request, file, body):
    if not file.is_file():
        return _send(request, 404, {"X-Error-Code": "EntryNotFound"}, b"", body)
    content, status, headers = file.read_bytes(), 200, {}
    byte_range = request.headers.get("Range")
    if byte_range:
        first, last = byte_range.removeprefix("bytes=").split("-")
        end = min(int(last or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
        content, status = content[int(first) : end + 1], 206
    headers |= {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(file)}"', "Accept-Ranges": "bytes"}
    return _send(request, status, headers, content, body)


def _send(request, status, headers, content, body):
    request.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    if body:
        request.wfile.write(content)
