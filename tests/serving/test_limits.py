"""Servers and hostile clients: malformed and slow bodies, foreign host names, and endless logs."""

import contextlib
import http.client
import json
import logging
import socket
import threading
import time

import numpy as np
import pytest
import torch
import uvicorn
from safetensors.numpy import save
from safetensors.torch import save as save_torch
from waiting import wait_for

from puma_engine.config import AdapterConfig
from puma_engine.errors import ConfigError
from puma_engine.exchange.adapter_folders import AdapterFile
from puma_engine.migration.adapter import Adapter
from puma_engine.serving.connections import (
    ConnectionLimits,
    LogLimit,
    server_config,
    shorten_log,
)
from puma_engine.serving.hosts import AllowedHosts
from puma_engine.serving.http import Limits, ServerMetrics, build_app
from puma_engine.serving.mapper import Mapper

GOOD = json.dumps({"vectors": [[0.5] * 8]}).encode()
JSON = "application/json"
TENSORS = "application/vnd.safetensors"
SECONDS = 120


def small_mapper(kind=Mapper):
    network = Adapter(8, 12, AdapterConfig(hidden=16), generator=torch.Generator().manual_seed(0))
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    shape = {"d_in": 8, "d_out": 12, "hidden": 16, "depth": 4, "dropout": 0.1}
    return kind(AdapterFile(tensors, shape), "cpu")


@contextlib.contextmanager
def serving(mapper=None, limits=None, connections=None, hosts=None):
    """Serve an adapter in a thread; yield its port and counters."""
    counters = ServerMetrics()
    app = build_app(mapper or small_mapper(), limits=limits, hosts=hosts, counters=counters)
    config = server_config(app, connections, dropped=counters.count_dropped)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], counters
        finally:
            server.should_exit = True
            thread.join(SECONDS)


def ask(port, body=GOOD, media=JSON, path="/v1/migrate", method="POST", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": media} | (headers or {}))
        response = connection.getresponse()
        return response.status, response.read(), response.headers


@pytest.fixture(scope="module")
def server():
    with serving(limits=Limits(users=64, body_bytes=200_000, tokens=500)) as running:
        yield running


def tensors(array, name="vectors"):
    return save({name: array})


def nested(depth, value):
    return b"[" * depth + value + b"]" * depth


MALFORMED = [
    *((body, JSON) for body in (b"", b"null", b"1", b'"x"', b"[]", b"{", b"\xff\xfe\xfd", b"NaN")),
    *(
        (b'{"vectors": %s}' % value, JSON)
        for value in (
            b"null",
            b"1",
            b"true",
            b'"text"',
            b"{}",
            b"[]",
            b"[[]]",
            b"[[[]]]",
            b'[["1.5","1","1","1","1","1","1","1"]]',
            b"[[true,true,true,true,true,true,true,true]]",
            b"[[null,1,1,1,1,1,1,1]]",
            b"[[NaN,1,1,1,1,1,1,1]]",
            b"[[1e999,1,1,1,1,1,1,1]]",
            b"[[1e300,1,1,1,1,1,1,1]]",
            b"[[1,1,1,1,1,1,1,%s]]" % (b"9" * 400),
            b"[[1,1,1,1,1,1,1,%s]]" % (b"9" * 5000),
            b"[[1,2],[1]]",
            b"[[1,1,1,1,1,1,1,{}]]",
            nested(40, b"1,1,1,1,1,1,1,1"),
            nested(80, b"1"),
            nested(90_000, b""),
        )
    ),
    *(
        (b'{"vectors": [[1,1,1,1,1,1,1,1]], "user_ids": %s}' % value, JSON)
        for value in (
            b"1",
            b'"a"',
            b"{}",
            b"[]",
            b"[NaN]",
            b"[1e999]",
            b"[null]",
            b"[[]]",
            b"[{}]",
            b"[true]",
            b'["\\ud800"]',
            b'["a", "b"]',
        )
    ),
    (b"", TENSORS),
    (b"x", TENSORS),
    (b"\xff" * 16, TENSORS),
    ((2**63).to_bytes(8, "little") + b"{}", TENSORS),
    (len(b"[]").to_bytes(8, "little") + b"[]", TENSORS),
    (tensors(np.zeros((2, 8), np.float32))[:-3], TENSORS),
    (tensors(np.zeros((2, 8), np.float32)) + b"more", TENSORS),
    (tensors(np.zeros((2, 8), np.float32), "other"), TENSORS),
    (tensors(np.zeros((), np.float32)), TENSORS),
    (tensors(np.zeros(8, np.float32)), TENSORS),
    (tensors(np.zeros((1, 1, 1, 8), np.float32)), TENSORS),
    (tensors(np.zeros((2, 8), np.int64)), TENSORS),
    (tensors(np.zeros((2, 8), bool)), TENSORS),
    (tensors(np.full((2, 8), np.nan, np.float32)), TENSORS),
    (tensors(np.full((2, 8), 1e300)), TENSORS),
    (save_torch({"vectors": torch.zeros(2, 8).to(torch.float8_e4m3fn)}), TENSORS),
]


def test_every_malformed_body_gets_422_and_a_sentence(server):
    port, counters = server
    for body, media in MALFORMED:
        status, content, _ = ask(port, body, media)
        assert status == 422, (body[:80], content[:300])
        assert json.loads(content)["error"]
    assert counters.waiting == counters.arriving == 0
    assert counters.answers[500] == 0 and counters.answers[422] == len(MALFORMED)


def test_damaged_bodies_get_the_right_values_or_a_4xx(server):
    """Random bytes of good bodies are changed, removed or doubled."""
    port, _ = server
    rng = np.random.default_rng(0)
    bodies = {
        JSON: json.dumps({"user_ids": ["a", 2], "vectors": [[0.5] * 8] * 2}).encode(),
        TENSORS: save({"vectors": np.full((2, 3, 8), 0.5, np.float32)}, {"of": "two"}),
    }
    for media, body in bodies.items():
        for _ in range(150):
            position, kind = rng.integers(len(body)), rng.integers(3)
            new = (bytes([rng.integers(256)]), b"", body[position : position + 9] * 2)[kind]
            status, content, _ = ask(port, body[:position] + new + body[position + 1 :], media)
            assert status == 200 or (400 <= status < 500 and json.loads(content)["error"])


@pytest.mark.parametrize("media", ["", "text/plain", "application/json+x", "\xff", "x" * 5000])
def test_other_types_and_encodings_get_415(server, media):
    status, content, _ = ask(server[0], media=media)
    assert status == 415 and len(json.loads(content)["error"]) < 300
    assert ask(server[0], headers={"Content-Encoding": "gzip"})[0] == 415


def test_a_request_has_a_limit_of_tokens_and_of_users(server):
    for shape, words in (((65, 1, 8), "64 users"), ((2, 251, 8), "500 tokens over all users")):
        status, content, _ = ask(server[0], tensors(np.zeros(shape, np.float32)), TENSORS)
        assert status == 413 and words in json.loads(content)["error"]
    assert ask(server[0], tensors(np.zeros((2, 250, 8), np.float32)), TENSORS)[0] == 200


def test_broken_requests_get_a_4xx_and_unknown_paths_a_404(server):
    port, _ = server
    for raw in (
        b"\x16\x03\x01\x02",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
            client.sendall(raw + b"\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 4")
    assert ask(port, path="/nothing")[0] == 404
    assert ask(port, method="DELETE")[0] == 405


class Failing(Mapper):
    def __call__(self, vectors):
        raise RuntimeError("a device is lost")


def test_an_unexpected_error_is_a_counted_500_and_others_are_answered(caplog):
    with serving(small_mapper(Failing)) as (port, counters):
        status, content, _ = ask(port)
        assert status == 500 and "device" not in content.decode()
        assert ask(port, path="/healthz", method="GET")[0] == 200
        text = ask(port, path="/metrics", method="GET")[1].decode()
        assert 'puma_requests_total{status="500"} 1' in text and counters.waiting == 0
    assert "a device is lost" in caplog.text


class Held(Mapper):
    """A mapper that waits until it may go on."""

    go_on = threading.Event()

    def __call__(self, vectors):
        assert self.go_on.wait(SECONDS)
        return super().__call__(vectors)


def test_requests_beyond_the_waiting_limit_get_503():
    with serving(small_mapper(Held), Limits(waiting=2)) as (port, counters):
        answers = []
        clients = [threading.Thread(target=lambda: answers.append(ask(port)[0])) for _ in range(2)]
        for client in clients:
            client.start()
        wait_for(lambda: counters.waiting == 2)
        status, content, headers = ask(port)
        assert status == 503 and headers["Retry-After"] == "1" and b"wait" in content
        Held.go_on.set()
        for client in clients:
            client.join()
        assert answers == [200, 200] and counters.waiting == 0
        assert ask(port)[0] == 200


def half(port, sent):
    client = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    client.sendall(sent)
    return client


HEADERS = b"POST /v1/migrate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HALVES = [b"", b"POST /v1/mig", HEADERS, HEADERS + b"Content-Length: 100\r\n\r\n{"]


def test_unfinished_requests_do_not_block_other_clients():
    """Eighty unfinished requests and many valid ones, on a server of sixteen connections."""
    limits = ConnectionLimits(connections=16)
    with serving(limits=Limits(waiting=2), connections=limits) as (port, counters):
        slow = []
        for number in range(80):
            slow.append(half(port, HALVES[number % len(HALVES)]))
            if number % 8 == 7:
                assert ask(port)[0] == 200
        wait_for(lambda: counters.dropped >= 64)
        assert counters.waiting == 0
        for client in slow:
            client.close()
        wait_for(lambda: counters.arriving == 0)


def test_an_unfinished_request_is_closed_at_its_deadline():
    connections = ConnectionLimits(request_seconds=0.5)
    with serving(limits=Limits(body_seconds=0.5), connections=connections) as (port, counters):
        clients = [half(port, sent) for sent in HALVES]
        answers = [client.makefile("rb").read() for client in clients[:3]]
        assert answers == [b"", b"", b""] and counters.dropped == 3
        assert clients[3].makefile("rb").read().startswith(b"HTTP/1.1 408")
        assert ask(port)[0] == 200 and counters.answers[408] == 1


def test_slowly_sent_bytes_do_not_extend_the_deadline():
    with serving(connections=ConnectionLimits(request_seconds=1)) as (port, counters):
        client = half(port, b"GET /healthz HTTP/1.1\r\nX: ")
        with pytest.raises(OSError):
            for _ in range(2_000):
                client.sendall(b"x")
                time.sleep(0.05)
        assert counters.dropped == 1


def test_a_client_that_leaves_is_counted_and_not_logged(caplog):
    with serving() as (port, counters):
        half(port, HALVES[3]).close()
        wait_for(lambda: counters.answers[499] == 1)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("address", "added", "host", "allowed"),
    [
        ("localhost", [], "localhost:8501", True),
        ("localhost", [], "LOCALHOST.", True),
        ("localhost", [], "127.0.0.1:1", True),
        ("localhost", [], "127.9.9.9", True),
        ("localhost", [], "[::1]:8501", True),
        ("localhost", [], "evil.example", False),
        ("localhost", [], "localhost.evil.example", False),
        ("localhost", [], "192.168.0.9", False),
        ("localhost", [], "user@localhost", False),
        ("localhost", [], "localhost:port", False),
        ("localhost", [], "localhost/x", False),
        ("localhost", [], "", False),
        ("localhost", [], None, False),
        ("0.0.0.0", [], "192.168.0.9:8501", True),
        ("0.0.0.0", [], "[fe80::1]:8501", True),
        ("0.0.0.0", [], socket.gethostname(), True),
        ("0.0.0.0", [], "evil.example:8501", False),
        ("10.0.0.7", [], "10.0.0.7:80", True),
        ("0.0.0.0", ["puma.example"], "puma.example:9000", True),
        ("0.0.0.0", ["puma.example:9000"], "puma.example:9000", True),
        ("0.0.0.0", ["puma.example:9000"], "puma.example:9001", False),
        ("0.0.0.0", ["*.puma.example"], "a.puma.example", True),
        ("0.0.0.0", ["*.puma.example"], "puma.example", False),
        ("0.0.0.0", ["*"], "anything.example", True),
    ],
)
def test_a_server_accepts_only_its_own_host_names(address, added, host, allowed):
    assert AllowedHosts(address, added).allows(host) is allowed


@pytest.mark.parametrize(
    ("added", "origin", "host", "allowed"),
    [
        ([], "http://localhost:8501", "localhost:8501", True),
        ([], "http://localhost:3000", "localhost:8501", False),
        ([], "http://localhost", "localhost:8501", False),
        ([], "http://127.0.0.1:8501", "localhost:8501", False),
        ([], "https://puma.example", "puma.example", True),
        ([], "null", "localhost:8501", False),
        ([], "file://", "localhost:8501", False),
        ([], "http://localhost:x", "localhost:8501", False),
        (["puma.example"], "https://puma.example", "127.0.0.1:8501", True),
        (["puma.example"], "https://puma.example:8443", "127.0.0.1:8501", False),
        (["puma.example:8443"], "https://puma.example:8443", "127.0.0.1:8501", True),
        (["*"], "https://evil.example", "127.0.0.1:8501", False),
    ],
)
def test_pages_of_other_origins_may_not_send_requests(added, origin, host, allowed):
    assert AllowedHosts("0.0.0.0", added).allows_origin(origin, host) is allowed


def test_names_of_hosts_are_checked():
    for host in ("http://puma.example", "puma example", "puma.example/x", "*puma"):
        with pytest.raises(ConfigError, match="not a name of a host"):
            AllowedHosts("localhost", [host])


def test_a_foreign_host_or_origin_gets_403(server):
    port, counters = server
    before = counters.answers[403]
    origin = f"http://127.0.0.1:{port}"
    assert ask(port, headers={"Origin": origin})[0] == 200
    for headers in ({"Host": "evil.example"}, {"Origin": "http://127.0.0.1:1"}):
        status, content, _ = ask(port, headers=headers)
        assert status == 403 and json.loads(content)["error"]
    name = {"Host": "a.example:8600"}
    status, content, _ = ask(port, path="/healthz", method="GET", headers=name)
    assert status == 403
    assert "start it with --allowed-hosts a.example, or set" in json.loads(content)["error"]
    assert counters.answers[403] == before + 3


def test_a_log_says_how_many_messages_were_left_out():
    limit = LogLimit(records=3, seconds=3600)
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "Bad request of %s.", ("a",), None)
    assert [limit.filter(record) for _ in range(10)] == [True] * 3 + [False] * 7
    limit.seconds = 0
    assert limit.filter(record)
    assert record.getMessage() == "Bad request of a. (7 messages left out)"


def test_a_long_log_is_shortened_while_it_is_written(tmp_path):
    log = tmp_path / "whatif.log"
    with log.open("ab", buffering=0) as out:
        out.write(b"old\n" * 300)
        shorten_log(log, 2_000)
        assert log.stat().st_size == 1_200
        shorten_log(log, 1_000)
        out.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "whatif.1.log").read_bytes() == b"old\n" * 300
