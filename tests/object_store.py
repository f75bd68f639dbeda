"""A bucket of Google Cloud Storage in memory, on loopback: enough of its JSON and XML interfaces for the real clients.

TensorFlow's client speaks HTTPS to Google's own addresses alone: it gets here through a proxy that answers for them.
TensorStore's and google-cloud-storage's are told the address. As in the store itself there are no directories, nothing
is appended or renamed, and a write may be made to depend on the generation that it replaces.
"""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trustme

BUCKET = "bucket"
HOSTS = ("www.googleapis.com", "storage.googleapis.com")


class Store:
    """What the bucket holds: name -> (content, generation); `refusing` are the methods answered with 403."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, bytes] = {}
        self.lock = threading.RLock()
        self.generation = 0
        self.refusing: tuple[str, ...] = ()
        self.log: list[str] = []  # "METHOD name" of every change

    def put(self, name: str, content: bytes, only_if: int | None = None) -> int:
        """Returns the status."""
        with self.lock:
            if only_if is not None and only_if != self.objects.get(name, (b"", 0))[1]:
                return 412
            self.generation += 1
            self.objects[name] = content, self.generation
            self.log.append(f"PUT {name}")
            return 200

    def remove(self, name: str, only_if: int | None = None) -> int:
        with self.lock:
            if name not in self.objects:
                return 404
            if only_if is not None and only_if != self.objects[name][1]:
                return 412
            del self.objects[name]
            self.log.append(f"DELETE {name}")
            return 204

    def text(self, name: str) -> str:
        return self.objects[name][0].decode()

    def about(self, name: str) -> dict[str, Any]:
        content, generation = self.objects[name]
        return {
            "kind": "storage#object", "name": name, "bucket": BUCKET, "size": str(len(content)),
            "generation": str(generation), "metageneration": "1", "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip

    def list(self, prefix: str, delimiter: str, after: str, most: int) -> dict[str, Any]:
        """A page of the names under a prefix, those with a delimiter after it summed up in "prefixes"."""

        def shown(name: str) -> str:
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            return prefix + head + found if found else name

        with self.lock:
            every = sorted({shown(name) for name in self.objects if name.startswith(prefix) and shown(name) > after})
            page = every[:most]
            names = [name for name in page if shown(name) == name and name in self.objects]
            folders = [name for name in page if delimiter and name.endswith(delimiter) and name != prefix]
            items = [self.about(name) for name in names if name not in folders]
        token = {"nextPageToken": page[-1]} if len(every) > most else {}
        return {"items": items, "prefixes": folders, **token}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *arguments: Any, store: Store, tls: ssl.SSLContext) -> None:
        self.store, self.tls = store, tls
        super().__init__(*arguments)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.command in self.store.refusing:
            self.body()
            self.answer(403, {"error": {"code": 403, "message": "forbidden"}})
        return self.command not in self.store.refusing

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        super().finish()
        self.request = self.tls.wrap_socket(self.connection, server_side=True)
        self.setup()
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # the server knows only what it was before the encryption

    def answer(self, status: int, content: bytes | dict[str, Any] = b"", **headers: Any) -> None:
        if isinstance(content, dict):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.body()
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = re.sub("^/storage/v1|^/download/storage/v1", "", url.path)
        if path == f"/b/{BUCKET}":
            return self.answer(200, {"kind": "storage#bucket", "name": BUCKET, "id": BUCKET, "location": "US"})
        if path == f"/b/{BUCKET}/o":
            page = query.get("prefix", ""), query.get("delimiter", ""), query.get("pageToken", "")
            return self.answer(200, self.store.list(*page, int(query.get("maxResults", 1000))))
        metadata = re.fullmatch(f"/b/{BUCKET}/o/(.+)", path)
        name = unquote((metadata or re.fullmatch(f"/{BUCKET}/(.+)", path) or ["", "?"])[1])
        if name not in self.store.objects:
            return self.answer(404, {"error": {"code": 404, "message": f"no such object: {self.path}"}})
        if metadata and query.get("alt") != "media":
            return self.answer(200, self.store.about(name))
        content, generation = self.store.objects[name]
        self.send(content, generation, query)

    def send(self, content: bytes, generation: int, query: dict[str, str]) -> None:
        if str(generation) == query.get("ifGenerationNotMatch"):
            return self.answer(304)
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self.answer(412)
        headers: dict[str, Any] = {"x_goog_generation": generation, "Content_Type": "application/octet-stream"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or 1 << 62), len(content) - 1)
            if first >= len(content):
                return self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
            part = content[first : last + 1]
            return self.answer(206, part, Content_Range=f"bytes {first}-{last}/{len(content)}", **headers)
        return self.answer(200, content, **headers)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        body, url = self.body(), urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        only_if = int(query["ifGenerationMatch"]) if "ifGenerationMatch" in query else None
        if copied := re.fullmatch(f"/storage/v1/b/{BUCKET}/o/(.+)/rewriteTo/b/{BUCKET}/o/(.+)", url.path):
            source, target = map(unquote, copied.groups())
            if source not in self.store.objects:
                return self.answer(404, {})
            return self.answer(self.store.put(target, self.store.objects[source][0]), {"done": True})
        if query["uploadType"] == "resumable":
            with self.store.lock:
                key = str(len(self.store.uploads))
                self.store.uploads[key] = b""
            there = f"https://{HOSTS[0]}{url.path}?upload_id={key}&name={query['name']}"
            return self.answer(200, b"", Location=there)
        status = self.store.put(query["name"], body, only_if)
        return self.answer(status, self.store.about(query["name"]) if status == 200 else {})

    def do_PUT(self) -> None:
        body, query = self.body(), {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        key = query["upload_id"]
        self.store.uploads[key] += body
        total = self.headers.get("Content-Range", "/*").rpartition("/")[2]
        if total != "*" and len(self.store.uploads[key]) < int(total):
            return self.answer(308, b"", Range=f"bytes=0-{len(self.store.uploads[key]) - 1}")
        status = self.store.put(query["name"], self.store.uploads[key])
        return self.answer(status, self.store.about(query["name"]) if status == 200 else {})

    def do_DELETE(self) -> None:
        self.body()
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        only_if = int(query["ifGenerationMatch"][0]) if "ifGenerationMatch" in query else None
        name = unquote(url.path.removeprefix(f"/storage/v1/b/{BUCKET}/o/"))
        status = self.store.remove(name, only_if)
        self.answer(status, b"" if status == 204 else {})


@contextmanager
def serving(directory: Path) -> Iterator[tuple[Store, dict[str, str]]]:
    """Yields the store, and the environment in which clients find it; `directory` gets the proxy's certificate."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(tls)
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    store = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, store=store, tls=tls))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield (
            store,
            {
                "https_proxy": address,
                "CURL_CA_BUNDLE": str(directory / "authority.pem"),
                "TENSORSTORE_GCS_HTTP_URL": address,
                "STORAGE_EMULATOR_HOST": address,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
                "GOOGLE_CLOUD_PROJECT": "project",
            },
        )
    finally:
        server.shutdown()
        server.server_close()
