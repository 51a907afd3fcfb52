"""A web server on loopback that publishes files as PhysioNet and Zenodo do, and misbehaves on request."""

import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator

from bench.data.corpora import Corpus, PhysioNet, Zenodo

TREE = {  # a small PhysioNet project at two rates, like PTB-XL
    "LICENSE.txt": b"free\n", "RECORDS": b"a\nb\n", "table.csv": b"id\n1\n2\n3\n", "example.py": b"pass\n", "empty.csv": b"",
    **{f"records{rate}/0{i % 2}/r{i}{end}": (f"{rate} {i} {end}\n" * 3000).encode()
       for rate in (100, 500) for i in range(4) for end in (".hea", ".dat")}}


def corpus(download: PhysioNet | Zenodo | None, name: str = "toy") -> Corpus:
    return Corpus(name, "A toy", "1.0", "CC0 1.0", "nobody", "", "", (100, 500), download=download)


def project(tree: dict[str, bytes], listed: Iterable[str] = ()) -> dict[str, bytes]:
    """The paths of the PhysioNet project toy 1.0 that holds the tree; `listed` are names of files it lacks."""
    sums = "".join(f"{hashlib.sha256(tree.get(p, b'')).hexdigest()} {p}\n" for p in (*tree, *listed))
    return {f"/toy/1.0/{p}": body for p, body in {**tree, "SHA256SUMS.txt": sums.encode()}.items()}


class Site:
    """What is published, and how the server is to misbehave."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.tricks: dict[str, list[tuple]] = {}  # end of a path -> what goes wrong with its next requests, in order
        self.always: dict[str, tuple] = {}  # ... with all of them
        self.requests: list[tuple[str, str]] = []  # path and Range of every request
        self.times: list[float] = []
        self.connections = 0
        self.pause = 0.0  # seconds between two pieces of 4096 bytes
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler, bind_and_activate=False)
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.server.allow_reuse_address = True
        self.server.server_bind()
        self.server.server_activate()
        self.server.site = self  # type: ignore[attr-defined]
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def publish_zenodo(self, record: int, files: dict[str, bytes]) -> None:
        listed = [{"key": name, "size": len(body), "checksum": f"md5:{hashlib.md5(body).hexdigest()}",
                   "links": {"self": f"{self.url}/content/{name}"}} for name, body in files.items()]
        self.files = {f"/records/{record}": json.dumps({"files": listed}).encode(),
                      **{f"/content/{name}": body for name, body in files.items()}}

    def trick(self, path: str) -> tuple:
        for end, queue in self.tricks.items():
            if path.endswith(end) and queue:
                return queue.pop(0)
        return next((what for end, what in self.always.items() if path.endswith(end)), ("",))


@contextlib.contextmanager
def site(files: dict[str, bytes]) -> Iterator[Site]:
    server = Site(files)
    try:
        yield server
    finally:
        server.down()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def setup(self) -> None:
        super().setup()
        self.site: Site = self.server.site  # type: ignore[attr-defined]
        self.site.connections += 1

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        for i in range(0, len(body), 4096):
            self.wfile.write(body[i:i + 4096])
            time.sleep(self.site.pause)

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.get()

    def get(self) -> None:
        site, wanted = self.site, self.headers.get("Range", "")
        site.requests.append((self.path, wanted))
        site.times.append(time.monotonic())
        what, *given = site.trick(self.path)
        body = site.files.get(self.path)
        if what == "status":
            return self.answer(given[0], b"no", Retry_After=given[1] if len(given) > 1 else "")
        if what == "hang":
            time.sleep(given[0])
            return self.hang_up()
        if what == "redirect":
            return self.answer(302, Location=given[0])
        if body is None:
            return self.answer(404, b"no such file")
        if what == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        span = re.fullmatch(r"bytes=(\d+)-", wanted)
        first = int(span[1]) if span and what != "no range" and self.headers.get("If-Range", tag) == tag else 0
        if first and first >= len(body):
            return self.answer(416, Content_Range=f"bytes */{len(body)}")
        left = body[first:]
        content_range = f"bytes {first + (what == 'other range')}-{len(body) - 1}/{len(body)}" if first else ""
        lie = {"longer": 50, "shorter": -50}.get(what, 0)
        if what == "cut":  # after a part of it
            left = left[:(len(left) + 1) // 2]
            lie = len(body) - first - len(left)
        self.answer(206 if first else 200, left, ETag=tag, Content_Range=content_range,
                    Content_Length="" if what == "no length" else str(len(left) + lie),
                    Content_Encoding="gzip" if what == "gzip" else "")
        if what in ("cut", "longer", "no length"):
            self.hang_up()
