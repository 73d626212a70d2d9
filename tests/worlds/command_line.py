"""`pot` in this process, and a node behind a port that gives the answers of a test."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from node.cli.main import main

Answers = dict[str, Callable[..., object]]


class Pot:
    """Runs commands of `pot`, and returns what they print."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> str:
        status, output, error = self._run(arguments)
        assert status == 0, error
        return output

    def json(self, *arguments: object) -> dict[str, object]:
        value: dict[str, object] = json.loads(self(*arguments, "--json"))
        return value

    def fails(self, *arguments: object) -> str:
        """The one line of the error that a command ends with."""
        status, _, error = self._run(arguments)
        assert status == 1
        assert error.startswith("error: ")
        assert "\n" not in error
        return error

    def _run(self, arguments: tuple[object, ...]) -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.argv", ["pot", *map(str, arguments)])
        self._capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = self._capsys.readouterr()
        if isinstance(code, str):
            return 1, captured.out, code
        assert isinstance(code, int | None)
        return code or 0, captured.out, captured.err


@contextmanager
def serve(
    answers: Answers, blobs: dict[str, bytes] | None = None, *, refuses_blobs: bool = False
) -> Iterator[str]:
    """The URL of a node that answers JSON-RPC from `answers` and keeps blobs in `blobs`.

    An answer that raises RuntimeError, with a code and a message, becomes an error of JSON-RPC.
    """
    stored = {} if blobs is None else blobs

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers["content-length"])))
            try:
                answer = {"result": answers[call["method"]](*call["params"])}
            except RuntimeError as error:
                code, message = error.args
                answer = {"error": {"code": code, "message": message}}
            self._answer(200, json.dumps({"id": 1, **answer}).encode())

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if refuses_blobs:
                self._answer(507, b'{"error": "quota", "message": "no room"}')
                return
            stored[self.path] = body
            self._answer(201, b"{}")

        def do_GET(self) -> None:
            if self.path in stored:
                self._answer(200, stored[self.path])
            else:
                self._answer(404, b'{"error": "not_found", "message": "not here"}')

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
