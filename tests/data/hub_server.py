"""A Hugging Face hub on loopback: as much of its HTTP interface as reading and committing files takes."""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_this_test"
Repositories = Mapping[
    str, Mapping[str, Mapping[str, bytes]]
]  # "datasets/owner/name" or "owner/name" -> branch -> files


@contextmanager
def hub(repositories: Repositories) -> Iterator[str]:
    """Serve the repositories; yield the address for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            for name, branches in repositories.items():
                for branch, files in branches.items():
                    # a commit is as good as its branch
                    for revision in (branch, commit(branch)):
                        if path.startswith(start := f"{name}/resolve/{revision}/"):
                            return self.file(files, path.removeprefix(start), commit(branch))
                        if path == f"api/{name}/revision/{revision}":
                            return self.json(
                                {"id": name, "sha": commit(branch), "siblings": [{"rfilename": f} for f in files]}
                            )
                        if path.startswith(start := f"api/{name}/tree/{revision}/"):
                            return self.json(tree(files, path.removeprefix(start)))
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815 -- the name that the base class looks for

        def do_POST(self) -> None:
            """Make a repository, say how files come (all inside the commit), and take a commit: into `repositories`."""
            path, body = self.path.split("?")[0].strip("/"), self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, b"{}", {})
            if path == "api/validate-yaml":  # of a card
                return self.json({"errors": [], "warnings": []})
            if path == "api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                repositories.setdefault(name, {}).setdefault(
                    "main", {"visibility": str(asked.get("visibility")).encode()}
                )  # type: ignore[attr-defined]
                return self.json({"url": f"http://{self.headers['Host']}/{name}", "name": name})
            name, _, verb = path.removeprefix("api/models/").removesuffix("/main").rpartition("/")
            if name not in repositories:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if verb == "preupload":
                files = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
                return self.json({"files": modes})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    repositories[name]["main"][line["value"]["path"]] = content  # type: ignore[index]
            sha = commit("main")
            return self.json({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{sha}", "commitOid": sha})

        def file(self, files: Mapping[str, bytes], name: str, sha: str) -> None:
            headers = {"X-Repo-Commit": sha, "ETag": '"1"', "Accept-Ranges": "bytes"}
            if name not in files:
                return self.answer(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
            content, status = files[name], 200
            if wanted := self.headers.get("Range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content, status = content[int(first) : int(last) + 1], 206
            return self.answer(status, content, headers)

        def json(self, value: Any) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def commit(branch: str) -> str:
    return branch.encode().hex().ljust(40, "0")[:40]


def tree(files: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    """What lies in a folder, one level deep."""
    found: dict[str, dict[str, Any]] = {}
    for name, content in files.items():
        if name.startswith(f"{folder}/"):
            entry = f"{folder}/{name.removeprefix(f'{folder}/').split('/')[0]}"
            is_file = entry == name
            facts = {"type": "file", "size": len(content)} if is_file else {"type": "directory"}
            found[entry] = {"path": entry, "oid": "0" * 40, **facts}
    return list(found.values())
