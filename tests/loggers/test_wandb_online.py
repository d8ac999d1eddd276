"""W&B with a server: what reaches it, and an end without it."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

RUN = {"id": "UnVuOjE=", "name": "run", "displayName": "run", "config": "{}", "sweepName": "", "historyLineCount": 0}
OWNER = {"id": "UHJvamVjdDox", "name": "lgrep", "entity": {"id": "RW50aXR5OjE=", "name": "somebody"}}


class Server(ThreadingHTTPServer):
    """Answers like W&B's server, as far as a run needs it, until it falls silent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        self.silent = threading.Event()
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.silent.is_set():
            self.server.released.wait()
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self._answer(self._graphql(json.loads(body)) if self.path == "/graphql" else self._stream(json.loads(body)))

    def do_GET(self) -> None:
        self._answer({})

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        self.server.asked.append({"query": request.get("operationName"), **request.get("variables", {})})
        return {
            "data": {
                "model": {**OWNER, "bucket": None},
                "upsertBucket": {"bucket": {**RUN, "project": OWNER}, "inserted": True},
                "createRunFiles": {"runID": RUN["id"], "uploadHeaders": [], "files": []},
            }
        }

    def _stream(self, request: dict[str, Any]) -> dict[str, Any]:
        lines = request.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.server.rows += [json.loads(line) for line in lines]
        if request.get("complete"):
            self.server.exit_code = request.get("exitcode")
        return {"limits": {}}

    def _answer(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(no_account: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", ["success", "failed"])
def test_rows_configuration_and_end_reach_the_server(
    logger_of: Any, server: Server, capfd: pytest.CaptureFixture[str], status: str
) -> None:
    logger = logger_of(group="pair")
    for step in range(3):
        logger.log_metrics({"loss": step / 7}, 10 * step)
    logger.finalize(status)
    sent = [(row["trainer/global_step"], row["loss"]) for row in server.rows]
    assert sent == [(0, 0.0), (10, 1 / 7), (20, 2 / 7)]
    assert server.exit_code == (0 if status == "success" else 1)
    run_id = (logger.run_dir / "wandb_id.txt").read_text().strip()
    made = next(request for request in server.asked if request["query"] == "UpsertBucket")
    assert (made["name"], made["displayName"], made["groupName"]) == (run_id, "named", "pair")
    assert json.loads(made["config"])["optimizer"]["value"] == {"base_lr": 0.1}
    asked = next(request for request in server.asked if request["query"] == "RunResumeStatus")
    assert run_id in asked.values()
    out, err = capfd.readouterr()
    assert out.startswith("wandb: http://127.0.0.1") and len(out.splitlines()) == 1 and not err


def test_a_server_that_is_gone_does_not_hold_up_the_end(
    logger_of: Any, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logger_of(end_timeout=1.0)
    logger.log_metrics({"loss": 0.0}, 0)
    capfd.readouterr()
    server.silent.set()
    logger.log_metrics({"loss": 1.0}, 1)
    logger.finalize("success")
    assert capfd.readouterr() == (
        "wandb: not all is uploaded after 1 s (logger.wandb.end_timeout). "
        f"To upload the rest: wandb sync --include-online {logger.run_dir / 'wandb'}\n",
        "",
    )
