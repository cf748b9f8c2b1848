"""A small hub on loopback that answers what ModelScope's client asks, and can misbehave."""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 1 << 18


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Served:
    """One answer with a file's bytes: what was asked for, and how many were sent."""

    file: str
    start: int
    sent: int
    range: str | None


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked.

    Attributes:
        repositories: ``models/ns/name@revision`` to file name to content.
        pages: path of a plain web file to its content.
        status: file name, or ``listing``, to an HTTP status given instead of an answer.
        corrupt: file name to how many answers have one wrong byte.
        cut: file name to how many bytes are sent before the connection is closed, once.
        delay: seconds before each piece of ``PIECE`` bytes.
        unhashed: files whose listing has no SHA-256.
        served: every answer with a file's bytes.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    pages: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    corrupt: Counter = field(default_factory=Counter)
    cut: dict[str, int] = field(default_factory=dict)
    delay: float = 0.0
    unhashed: set[str] = field(default_factory=set)
    served: list[Served] = field(default_factory=list)
    listings: int = 0
    address: str = ""

    def sent(self, file: str) -> int:
        """Return how many bytes of a file were sent in all."""
        return sum(answer.sent for answer in self.served if answer.file == file)

    def answers(self, file: str) -> int:
        """Return how many times a file was sent, whole or in part."""
        return sum(1 for answer in self.served if answer.file == file)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = unquote(url.path).strip("/").split("/")
        if parts[:2] != ["api", "v1"]:
            return self._page("/".join(parts))
        if parts[-1] == "repo" and len(parts) == 6:
            return self._file("/".join(parts[2:5]), query)
        if parts[-2:] in (["repo", "files"], ["repo", "tree"]):
            return self._listing("/".join(parts[2:5]), query)
        return self._json(404, {"Code": 404, "Message": "no such endpoint"})

    def _listing(self, repository, query):
        hub = self.hub
        hub.listings += 1
        files = hub.repositories.get(f"{repository}@{query['Revision']}")
        if "listing" in hub.status:
            return self._json(hub.status["listing"], {"Code": 500, "Message": "out of order"})
        if files is None:
            return self._json(404, {"Code": 10010205001, "Message": "repository not found"})
        entries = [
            {"Path": name, "Name": name, "Type": "blob", "Size": len(data), "Sha256": sha256(data)}
            for name, data in files.items()
        ]
        entries.append({"Path": "folder", "Name": "folder", "Type": "tree", "Size": 0})
        for entry in entries:
            if entry["Path"] in hub.unhashed:
                del entry["Sha256"]
        return self._json(200, {"Code": 200, "Success": True, "Data": {"Files": entries}})

    def _file(self, repository, query):
        files = self.hub.repositories.get(f"{repository}@{query['Revision']}", {})
        self._send(query["FilePath"], files.get(query["FilePath"]))

    def _page(self, path):
        self._send(path, self.hub.pages.get(path))

    def _send(self, name, data):
        hub = self.hub
        if name in hub.status or data is None:
            return self._json(hub.status.get(name, 404), {"Message": "no"})
        etag = f'"{sha256(data)[:16]}"'
        wanted = self.headers.get("Range")
        if self.headers.get("If-Range") not in (None, etag):
            wanted = None
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if wanted and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        body = bytearray(data)
        if hub.corrupt[name] > 0:
            hub.corrupt[name] -= 1
            body[-1] ^= 0xFF
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        answer = Served(name, start, 0, self.headers.get("Range"))
        hub.served.append(answer)
        stop = start + hub.cut.pop(name, len(data))
        for at in range(start, min(stop, len(data)), PIECE):
            time.sleep(hub.delay)
            piece = bytes(body[at : min(at + PIECE, stop)])
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return None
            answer.sent += len(piece)
        if stop < len(data):
            self.close_connection = True
        return None

    def _json(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def running_hub():
    """Yield a hub that answers on a free port of loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
