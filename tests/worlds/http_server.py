"""An HTTP server on a free port of this machine, for as long as a test needs it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

Respond = Callable[[str, str, bytes], tuple[int, bytes]]
"""From the method, the path and the body of a request to the status and body of its answer."""


@contextmanager
def serve_http(respond: Respond, *, is_threaded: bool) -> Iterator[str]:
    """The URL of a server.

    Args:
        respond: Answers a request.
        is_threaded: Whether it may be called by several threads at once.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def do_PUT(self) -> None:
            self.do_POST()

        def _answer(self, received: bytes) -> None:
            status, body = respond(self.command, self.path, received)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    kind = ThreadingHTTPServer if is_threaded else HTTPServer
    with kind(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
