"""`pot` in this process, and a node behind a port that gives the answers of a test."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from node.cli.main import main
from tests.worlds.blobs import read_upload_body
from tests.worlds.http_server import serve_http

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
        self._monkeypatch.delenv("COLUMNS", raising=False)
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

    def call(method: str, params: list[object]) -> dict[str, object]:
        try:
            return {"result": answers[method](*params)}
        except RuntimeError as error:
            code, message = error.args
            return {"error": {"code": code, "message": message}}

    def respond(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if method == "POST":
            request = json.loads(body)
            answer = {"id": 1, **call(request["method"], request["params"])}
            return 200, json.dumps(answer).encode()
        if method == "GET" and path not in stored:
            return 404, b'{"error": "not_found", "message": "not here"}'
        if method == "GET":
            return 200, stored[path]
        if refuses_blobs:
            return 507, b'{"error": "quota", "message": "no room"}'
        stored[path] = read_upload_body(body)
        return 201, b"{}"

    with serve_http(respond, is_threaded=True) as url:
        yield url
