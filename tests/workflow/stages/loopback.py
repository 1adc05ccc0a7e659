"""A Hub and a package index on this machine, which fail in the ways that the real ones do."""

import hashlib
import json
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "c" * 40


class Server:
    """files: what it serves, by name. fault: what it does instead; None for nothing."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.fault, self.elsewhere = dict(files), None, ""
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        self.asked.append(path)
        self.tokens.add(handler.headers.get("Authorization"))
        is_file = "/resolve/" in path or path.endswith(".whl")
        if isinstance(self.fault, int):
            return reply(handler, self.fault, b"", **({"Retry-After": "3600"} if self.fault == 429 else {}))
        if self.fault == "nonsense":
            return reply(handler, 200, b"<html>Please log in to this network</html>")
        if is_file and self.fault == "elsewhere":
            return reply(handler, 302, b"", Location=self.elsewhere + path, **self.about(path))
        if is_file:
            content = self.files[path.rpartition("/")[2]]
            if self.fault == "flipped":
                content = content.replace(b"1234", b"1235")
            return reply(handler, 200, content, is_cut=self.fault == "half", **self.about(path))
        return reply(handler, 200, *self.page(path))

    def about(self, path: str) -> dict[str, str]:
        """Headers of a file."""
        name = path.rpartition("/")[2]
        size = str(len(self.files[name]))
        return {"ETag": f'"{git_digest(self.files[name])}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": size}

    def page(self, path: str) -> tuple[bytes, str]:
        if path.startswith("/api/") and "/tree/" in path:
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": git_digest(content)}
                for name, content in self.files.items()
            ]
            return json.dumps(files).encode(), "application/json"
        if path.startswith("/api/"):
            return json.dumps({"id": "some/model", "sha": COMMIT, "siblings": []}).encode(), "application/json"
        links = [f'<a href="/files/{name}">{name}</a>' for name in self.files]
        return "".join(links).encode(), "text/html"


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def reply(handler, status, content, kind="text/html", is_cut=False, **headers) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content[: len(content) // 2] if is_cut else content)


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *args) -> None:
        self.played = server
        super().__init__(*args)

    def do_GET(self) -> None:
        self.played.answer(self)

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]):
    """The server, and its address."""
    played = Server(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, played))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield played, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
