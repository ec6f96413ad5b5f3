"""Servers that answer every request alike, as an MLflow or something else in its place would."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EXPERIMENT = '{"experiment": {"experiment_id": "1", "name": "leaktune"}}'
# What MLflow 3.17 with basic-auth answers.
UNKNOWN_USER = (401, "You are not authenticated. Please see https://mlflow.org/docs on how to.")
NO_PERMISSION = (403, "Permission denied")
OTHER_HOST = (403, "Invalid Host header - possible DNS rebinding attack detected")
RECORDS = (200, EXPERIMENT)
# What else may be found at an address.
A_PAGE = (200, "<html>Welcome to nginx!</html>")
NOT_FOUND = (404, "<html>Not Found</html>")
BROKEN = (500, '{"error_code": "INTERNAL_ERROR", "message": "the database is gone"}')
BUSY = (429, "Too many requests")
GATEWAY = (502, "<html>Bad Gateway</html>")


@contextlib.contextmanager
def answering(status: int, text: str) -> Iterator[str]:
    """Answers every request with this status and text; gives the server's address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:  # A thread that is left would spin on a closed socket.
            server.shutdown()
            thread.join()
