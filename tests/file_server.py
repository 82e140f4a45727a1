"""Files over HTTP on loopback, by a server with faults: it breaks off, is busy, knows no ranges, or lies."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, the faults, and what was asked for."""

    files: dict[str, bytes]
    cut_after: int | None = None  # bytes of each answer, before the connection is closed
    has_ranges: bool = True
    has_tags: bool = True
    busy: int = 0  # answers of 503 before the first other one
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range)
    sent: Counter[str] = field(default_factory=Counter)  # bytes by path


@contextmanager
def served(files: dict[str, bytes]) -> Iterator[Site]:
    site = Site(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, wanted = self.path.lstrip("/"), self.headers.get("Range")
            site.asked.append((path, wanted))
            if site.busy:
                site.busy -= 1
                return self.answer(503, b"", {})
            if path not in site.files:
                return self.answer(404, b"", {})
            content, headers, status = site.files[path], {}, 200
            tag = f'"{hash(content)}"'
            if site.has_tags:
                headers["ETag"] = tag
            if wanted and site.has_ranges and self.headers.get("If-Range") == tag:
                first = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if first >= len(content):
                    return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                content, status = content[first:], 206
            return self.answer(status, content, headers)

        def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            some = content[: site.cut_after]
            site.sent[self.path.lstrip("/")] += len(some)
            self.wfile.write(some)
            if len(some) < len(content):
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
