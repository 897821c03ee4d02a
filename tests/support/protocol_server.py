"""A server of the OpenAI protocol on loopback that fails as it is told: what clients meet, at will."""

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
FAULTS = ("429", "503", "reset", "truncated", "malformed", "foreign", "slow")
BROKEN = {"malformed": '{"choices": [', "foreign": '{"error": "none"}', "truncated": '{"choices": [{"te'}
SLOW_SECONDS = 1.0


def vllm_like(body: Body, seeds: bool = True, ids: bool = True, scaled: bool = False, amid_others: bool = True) -> Body:
    """A sample of digits in the dialect of vLLM; unless told otherwise, as good a server as can be."""
    draw = random.Random(body["seed"] if seeds else None)
    if not amid_others:
        draw = random.Random(f"{body['seed']} {time.monotonic_ns() // 10_000_000}")
    tokens = [draw.choice(range(21, 31)) for _ in range(body["max_tokens"])]
    logprob = -2.0 / (body["temperature"] if scaled and body["temperature"] else 1.0)
    choice: Body = {
        "text": "digits",
        "finish_reason": "length",
        "logprobs": {"token_logprobs": [logprob] * len(tokens)},
    }
    return {"choices": [choice | ({"token_ids": tokens} if ids else {})]}


class ProtocolServer:
    """A context. `reply` makes the response of a request's JSON, or gives an HTTP status to refuse it with; `faults`
    are those of the next requests, in their order (None: no fault). `answered` counts the answers by seed."""

    def __init__(
        self,
        reply: Callable[[Body], Body | int] = vllm_like,
        faults: Iterable[str | None] = (),
        models: Iterable[Body] = ({"id": "served"},),
    ) -> None:
        self.reply, self.faults, self.models = reply, iter(faults), list(models)
        self.answered: Counter[int] = Counter()
        self.asked: list[Body] = []
        self.keys: set[str | None] = set()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "ProtocolServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def next_fault(self, body: Body) -> str | None:
        with self._lock:
            self.asked.append(body)
            return next(self.faults, None)

    def count(self, body: Body) -> None:
        with self._lock:
            self.answered[body["seed"]] += 1


def _handler(server: ProtocolServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, json.dumps({"data": server.models}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.keys.add(self.headers["Authorization"])
            fault = server.next_fault(body)
            if fault is None or fault == "slow":
                time.sleep(SLOW_SECONDS if fault else 0)
                self._answer(body)
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            elif fault.isdigit():
                self._send(int(fault), "later", {"Retry-After": "0"})
            else:
                self._send(200, BROKEN[fault], missing=500 if fault == "truncated" else 0)

        def _answer(self, body: Body) -> None:
            said = server.reply(body)
            if isinstance(said, int):
                self._send(said, f"no: {self.headers['Authorization']}")
            else:
                server.count(body)
                self._send(200, json.dumps(said))

        def _send(self, status: int, text: str, headers: dict[str, str] | None = None, missing: int = 0) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode()) + missing))
            self.end_headers()
            with suppress(OSError):  # the client may have left
                self.wfile.write(text.encode())
            self.close_connection = missing > 0

    return Handler
