"""What the store `dynamodb` asks, and what it makes of answers: calls counted, and a server that answers as it is told.

The server hands on to a dynalite what no answer is prepared for.
"""

import http.client
import json
import ssl
import threading
from collections import deque
from contextlib import closing
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import boto3
import dynamodb_tools
import pytest
from aws_lambda_server import ACCESS, SECRET
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from certificates import make_certificates

from wukong.backends.storage import Arrival, Outcome
from wukong.backends.storage.dynamodb import DynamoStore
from wukong.backends.storage.dynamodb import client as dynamodb_client
from wukong.core.time_left import limited
from wukong.errors import ConfigError, StoreError, StoreUnavailable
from wukong.testing.servers import free_port

_logged_in, dynalite, opened = dynamodb_tools._logged_in, dynamodb_tools.dynalite, dynamodb_tools.opened

THROTTLED = (400, {"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", "message": "m"})
TOO_FAST = (400, {"__type": "com.amazon.coral.availability#ThrottlingException", "message": "Rate exceeded"})
BROKEN = (500, {"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError", "message": "m"})
SLOW_DOWN = (503, "<html>Slow Down</html>")
EXPIRED = (400, {"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "The token has expired"})
DENIED = (400, {"__type": "com.amazon.coral.service#AccessDeniedException", "message": "not authorized"})
NOT_YET = (
    400,
    {"__type": "com.amazon.coral.service#InvalidSignatureException", "message": "Signature not yet current"},
)
AWAY = "away"


class Front:
    """A server in front of a dynalite.

    Attributes:
        script: answers, each to one request: status and body, or `AWAY`: the connection is closed without one.
        asked: the operations, and whether each was signed as botocore does it.
        ahead_s: how far its clock is ahead.
    """

    def __init__(self, behind):
        self.behind, self.script, self.asked, self.ahead_s = urlsplit(behind).netloc, deque(), [], 0.0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler):  # noqa: N805  # `self` is the front
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                self.asked.append((handler.headers["X-Amz-Target"].rpartition(".")[2], signed(handler, body)))
                try:
                    answer = self.script.popleft()
                except IndexError:
                    answer = self.hand_on(handler, body)
                if answer == AWAY:
                    handler.close_connection = True
                    return
                status, said = answer
                text = (
                    said
                    if isinstance(said, bytes)
                    else said.encode()
                    if isinstance(said, str)
                    else json.dumps(said).encode()
                )
                handler.wfile.write(
                    b"HTTP/1.1 %d x\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b"
                    % (
                        status,
                        formatdate(dynamodb_client._unix_s() + self.ahead_s, usegmt=True).encode(),
                        len(text),
                        text,
                    )
                )

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def hand_on(self, handler, body):
        with closing(http.client.HTTPConnection(self.behind)) as connection:
            connection.request("POST", "/", body, dict(handler.headers))
            response = connection.getresponse()
            status, said = response.status, response.read()
            asked = json.loads(body)
            if (
                b"ConditionalCheckFailed" in said and "ReturnValuesOnConditionCheckFailure" in asked
            ):  # dynalite is older
                read = {"TableName": asked["TableName"], "Key": asked["Key"], "ConsistentRead": True}
                headers = {**handler.headers, "X-Amz-Target": "DynamoDB_20120810.GetItem", "Content-Length": None}
                headers = {name: value for name, value in headers.items() if value is not None}
                connection.request("POST", "/", json.dumps(read), headers)
                said = json.dumps({**json.loads(said), **json.loads(connection.getresponse().read())}).encode()
            return status, said

    def operations(self):
        """The operations since the last call of this."""
        asked, self.asked = self.asked, []
        assert all(right for _, right in asked), "a signature is not botocore's"
        return [operation for operation, _ in asked]


def signed(handler, body):
    told = dict(handler.headers)
    names = told["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    headers = {name: value for name, value in told.items() if name.lower() in names}
    request = AWSRequest("POST", f"http://{told['Host']}/", headers, body)
    request.context["timestamp"] = told["X-Amz-Date"]
    auth = SigV4Auth(Credentials(ACCESS, SECRET), "dynamodb", "us-east-1")
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return told["Authorization"].endswith(f"Signature={auth.signature(text, request)}")


@pytest.fixture(scope="module")
def front_of_dynalite(dynalite):
    front = Front(dynalite)
    yield front
    front.server.shutdown()
    front.server.server_close()


@pytest.fixture
def front(front_of_dynalite, monkeypatch):
    front_of_dynalite.script.clear()
    front_of_dynalite.asked, front_of_dynalite.ahead_s = [], 0.0
    monkeypatch.setattr(dynamodb_client, "_sleep", lambda _: None)
    return front_of_dynalite


@pytest.fixture
def store(front, opened):
    return opened(endpoint_url=front.url)


@pytest.fixture
def key(request):
    return lambda name: f"{request.node.name}/{name}".encode()


# What it asks


def test_an_arrival_is_one_write_and_the_one_that_completes_the_set_too(front, store, key):
    for n in range(2):
        assert store.incr([Arrival(key("f"), (n,), 3, b"c%d" % n, b"v%d" % n)], 60.0) == [Outcome(False, False)]
    outcome = store.incr([Arrival(key("f"), (2,), 3, b"c2", b"v2")], 60.0)
    assert sorted(outcome[0].values) == [b"v0", b"v1", b"v2"]
    assert front.operations() == ["UpdateItem"] * 3


def test_who_holds_and_cannot_be_the_last_is_noted_in_one_write_and_the_last_one_takes_two(front, store, key):
    holder = Arrival(key("f"), (0,), 2, b"holder", b"large", only_if_last=True)
    store.incr([holder])
    store.incr([Arrival(key("f"), (1,), 2, b"other")])
    assert front.operations() == ["UpdateItem"] * 2
    assert store.incr([holder]) == [Outcome(True, True, (b"large",))]
    assert front.operations() == ["UpdateItem"] * 2


def test_values_that_are_large_for_their_fan_in_lie_beside_the_record(front, store, key, dynalite):
    values = [bytes([n]) * 20_000 for n in range(3)]
    for n, value in enumerate(values):
        outcomes = store.incr([Arrival(key("f"), (n,), 3, b"c%d" % n, value)], 60.0)
    assert sorted(outcomes[0].values) == values
    assert front.operations() == ["PutItem", "UpdateItem"] * 3 + ["BatchGetItem"]
    with closing(dynamodb_tools.client(dynalite)) as raw:
        record = raw.get_item(TableName="wukong", Key={"k": {"B": b"r" + key("f")}})["Item"]
    assert len(str(record)) < 1_000


def test_a_value_beside_a_record_that_does_not_name_it_is_deleted(front, store, key, dynalite):
    for _ in range(2):
        store.incr([Arrival(key("f"), (0,), 2, b"c", bytes(50_000))], 60.0)
    assert front.operations() == ["PutItem", "UpdateItem", "PutItem", "UpdateItem", "BatchWriteItem"]
    assert len(store.incr([Arrival(key("f"), (1,), 2, b"d")])[0].values) == 1


def test_small_values_travel_in_batches_and_are_items_that_anybody_can_read(front, store, key, dynalite):
    items = {key(n): b"%d" % n for n in range(60)}
    store.put(items, ttl_s=3_600.0)
    assert front.operations() == ["BatchWriteItem"] * 3
    assert store.get(list(items)) == list(items.values())
    assert front.operations() == ["BatchGetItem"] * 6
    with closing(dynamodb_tools.client(dynalite)) as raw:
        item = raw.get_item(TableName="wukong", Key={"k": {"B": b"v" + key(7)}})["Item"]
    assert item["v"] == {"B": b"7"}
    assert 3_590 < int(item["expires"]["N"]) - dynamodb_client._unix_s() < 3_602


def test_what_a_large_value_was_cut_into_is_left_to_its_time_to_live(front, store, key):
    store.put({key("a"): bytes(900_000)}, 60.0)
    front.operations()
    store.delete([key("a")])
    assert sorted(front.operations()) == ["BatchWriteItem", "DeleteItem"]
    assert store.get([key("a")]) == [None]


def test_a_fan_in_whose_time_is_over_begins_anew_though_its_item_is_still_there(front, store, key, monkeypatch):
    store.incr([Arrival(key("f"), (0,), 2, b"old", b"old")], 60.0)
    now_s = dynamodb_client._unix_s()
    monkeypatch.setattr(dynamodb_client, "_unix_s", lambda: now_s + 100.0)
    assert store.incr([Arrival(key("f"), (1,), 2, b"new", b"1")], 60.0) == [Outcome(False, False)]
    assert store.incr([Arrival(key("f"), (0,), 2, b"new", b"0")], 60.0) == [Outcome(True, True, (b"1", b"0"))]


@pytest.mark.parametrize("size", [0, 1_024, 1_025, 5_000])
def test_a_key_may_be_longer_than_dynamodb_takes(store, size):
    key = b"k" * size
    store.put({key: b"long", key + b"'": b"other"})
    assert store.get([key, key + b"'"]) == [b"long", b"other"]
    store.delete([key, key + b"'"])


@pytest.mark.parametrize(
    ("use", "usd"),
    [
        (lambda store, key: store.incr([Arrival(key, (0,), 2, b"c", b"v")], 60.0), 0.625e-6),
        (lambda store, key: store.put({key: bytes(10_000)}, 60.0), 10 * 0.625e-6),
        (lambda store, key: store.put({key + b"%d" % n: b"1" for n in range(20)}, 60.0), 20 * 0.625e-6),
        (lambda store, key: store.get([key]), 0.125e-6),
        (lambda store, key: store.get([key + b"%d" % n for n in range(20)]), 20 * 0.125e-6),
        (lambda store, key: store.delete([key]), 2 * 0.625e-6),
    ],
    ids=["arrival", "large", "many", "missing", "many missing", "delete"],
)
def test_what_requests_cost_is_what_dynamodb_says(store, key, use, usd):
    before_usd = store.spent().usd
    use(store, key("a"))
    assert store.spent().usd - before_usd == pytest.approx(usd)


# What it makes of answers


@pytest.mark.parametrize("answer", [THROTTLED, TOO_FAST, BROKEN, SLOW_DOWN], ids=["table", "rate", "500", "503"])
def test_what_passes_is_asked_again_and_nothing_is_counted_twice(front, store, key, answer):
    front.script.extend([answer] * 4)
    assert store.incr([Arrival(key("f"), (0,), 1, b"c", b"v")]) == [Outcome(True, True, (b"v",))]
    front.script.extend([answer] * 50)
    with pytest.raises(StoreUnavailable, match="table wukong, region us-east-1"):
        store.get([key("a")])
    front.script.clear()


def test_an_arrival_whose_answer_was_lost_is_told_the_same_again(front, store, key, monkeypatch):
    handed_on = Front.hand_on

    def lost(self, handler, body):
        monkeypatch.setattr(Front, "hand_on", handed_on)
        handed_on(self, handler, body)
        return BROKEN

    store.incr([Arrival(key("f"), (0,), 2, b"a", b"0" * 20_000)])
    monkeypatch.setattr(Front, "hand_on", lost)
    front.script.clear()
    store.get([])
    outcomes = store.incr([Arrival(key("f"), (1,), 2, b"b", b"1")])
    assert outcomes[0].claimed
    assert sorted(map(len, outcomes[0].values)) == [1, 20_000]


def test_an_arrival_that_was_judged_before_another_one_came_is_judged_anew(
    front, store, opened, key, dynalite, monkeypatch
):
    handed_on = Front.hand_on

    def after_another(self, handler, body):
        if handler.headers["X-Amz-Target"].endswith("UpdateItem"):
            monkeypatch.setattr(Front, "hand_on", handed_on)
            assert opened().incr([Arrival(key("f"), (99,), 100, b"other", b"1")]) == [Outcome(False, False)]
        return handed_on(self, handler, body)

    store.incr([Arrival(key("f"), (0,), 100, b"first", b"0")])
    monkeypatch.setattr(Front, "hand_on", after_another)
    outcomes = store.incr([Arrival(key("f"), tuple(range(1, 99)), 100, b"many", b"2")])
    assert outcomes[0].claimed and sorted(outcomes[0].values) == [b"0", b"1", b"2"]


def test_a_connection_that_was_closed_meanwhile_is_opened_again(front, store, key):
    store.put({key("a"): b"1"})
    front.script.append(AWAY)
    assert store.get([key("a")]) == [b"1"]
    front.script.extend([AWAY] * 3)
    with pytest.raises(StoreUnavailable, match="no answer from DynamoDB"):
        store.get([key("a")])


def test_what_a_batch_leaves_unprocessed_is_asked_for_again(front, store, key):
    items = {key(n): b"%d" % n for n in range(20)}
    raw = {"k": {"B": dynamodb_tools.text(b"v" + key(0))}}
    left = {"wukong": [{"PutRequest": {"Item": {**raw, "v": {"B": dynamodb_tools.text(b"0")}}}}]}
    front.script.append((200, {"UnprocessedItems": left}))
    store.put(dict(list(items.items())[:5]), 60.0)
    assert store.get([key(0)]) == [b"0"]
    store.put(items, 60.0)
    keys = {"wukong": {"Keys": [raw], "ConsistentRead": True}}
    front.script.append((200, {"Responses": {"wukong": []}, "UnprocessedKeys": keys}))
    assert store.get(list(items)[:10]) == [b"0"] + [None] * 9


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (EXPIRED, "have expired: log in"),
        (DENIED, "must allow dynamodb:GetItem on this table"),
        (NOT_YET, "the secret key is wrong, or the region"),
        ((301, "elsewhere"), "does not seem to be DynamoDB's"),
    ],
    ids=["expired", "denied", "signature", "elsewhere"],
)
def test_what_does_not_pass_is_said_at_once_with_what_to_do(front, store, key, answer, says):
    front.script.append(answer)
    with pytest.raises(StoreError, match=says) as raised:
        store.get([key("a")])
    assert not isinstance(raised.value, StoreUnavailable)
    assert "table wukong, region us-east-1" in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("AWS_ACCESS_KEY_ID", "credentials(?s:.*)aws sso login"),
        ("AWS_DEFAULT_REGION", "region(?s:.*)AWS_DEFAULT_REGION"),
    ],
)
@pytest.mark.parametrize("values", [None, "s3"])
def test_who_is_not_logged_in_or_names_no_region_is_told_what_to_do(front, opened, monkeypatch, missing, says, values):
    options = {} if values is None else {"values": values, "bucket": "mine", "s3_endpoint_url": front.url}
    store = opened(endpoint_url=front.url, **options)
    monkeypatch.delenv(missing)
    for use in (lambda: store.get([b"a"]), lambda: store.put({b"a": bytes(99_000)}), store.advice):
        with pytest.raises((StoreError, ConfigError), match=says) as raised:
            use()
        assert not isinstance(raised.value, StoreUnavailable)
        assert str(raised.value).count("->") == 1
    assert front.asked == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [(EXPIRED, "aws sso login"), ((400, {"__type": "#ResourceNotFoundException"}), "wukong deploy")],
    ids=["expired", "table"],
)
def test_advice_that_cannot_be_had_says_what_to_do(front, store, answer, says):
    front.script.append(answer)
    with pytest.raises(StoreError, match=f"table wukong, region us-east-1(?s:.*){says}"):
        store.advice()


def test_a_table_that_is_not_there_is_named_with_its_region(opened):
    store = opened(table="elsewhere")
    for use in (
        lambda: store.get([b"a"]),
        lambda: store.put({b"a": b"1"}),
        lambda: store.incr([Arrival(b"f", (0,), 1, b"c")]),
    ):
        with pytest.raises(StoreError, match=r"table elsewhere, region us-east-1(?s:.*)'wukong deploy"):
            use()


def test_a_clock_that_is_wrong_is_set_by_dynamodbs(front, store, key):
    front.ahead_s = 3_600.0
    front.script.append(NOT_YET)
    store.put({key("a"): b"1"}, ttl_s=86_400.0)
    store.put({key("b"): b"1"}, ttl_s=60.0)
    assert store.get([key("a"), key("b")]) == [b"1", b"1"]
    assert len(front.operations()) == 5


def test_nobody_is_waited_for_longer_than_the_caller_waits(front, store, key):
    front.script.extend([THROTTLED] * 100)
    with limited(0.0), pytest.raises(StoreUnavailable):
        store.get([key("a")])
    front.script.clear()


def test_it_speaks_tls_as_aws_does(dynalite, opened, tmp_path, monkeypatch, key):
    """With tickets that the server sends when it likes, on connections that are used again."""
    certificate, private, authority = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    front = Front(dynalite)
    front.server.socket = context.wrap_socket(front.server.socket, server_side=True)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    store = opened(endpoint_url=front.url.replace("http:", "https:"))
    items = {key(n): bytes([n]) * 60_000 for n in range(20)}
    try:
        for _ in range(2):
            store.put(items, 60.0)
            assert store.get(list(items)) == list(items.values())
    finally:
        front.server.shutdown()
        front.server.server_close()


# How it is opened


def test_a_spec_says_where_the_table_is_and_nothing_of_who_asks(store, front):
    spec = store.spec()
    assert spec.options["region"] == "us-east-1" and spec.options["endpoint_url"] == front.url
    assert ACCESS not in repr(spec) + repr(store) and SECRET not in repr(spec) + repr(store)
    assert "profile" not in spec.options
    assert store.environment() == {}


def test_the_endpoint_is_boto3s_unless_one_is_given(monkeypatch):
    assert DynamoStore(region="eu-west-1").spec().options["endpoint_url"] == "https://dynamodb.eu-west-1.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1")
    assert DynamoStore(region="eu-west-1").spec().options["endpoint_url"] == "http://127.0.0.1:1"


def test_boto3_is_not_imported_inside_a_function():
    program = (
        "import sys; from wukong.backends.storage.dynamodb import DynamoStore; from wukong.errors import StoreError\n"
        f"store = DynamoStore(region='us-east-1', endpoint_url='http://127.0.0.1:{free_port()}')\n"
        "try: store.get([b'a'])\n"
        "except StoreError: print(sorted({'boto3', 'botocore', 'moto'} & {*sys.modules}))\n"
    )
    assert dynamodb_tools.run(program) == "[]"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"table": "no/name"}, "no name of a table"),
        ({"url": "dynamodb://name/more"}, "dynamodb://NAME"),
        ({"at_once": 0}, "at_once is 0"),
        ({"inside_bytes": 1 << 20}, "a record has room for"),
    ],
)
def test_options_that_cannot_be_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        DynamoStore(**options)


def test_a_url_names_the_table():
    assert DynamoStore("dynamodb://mine", region="us-east-1").spec().options["table"] == "mine"


def test_without_credentials_it_says_how_to_log_in(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert boto3.Session().get_credentials() is None
    with pytest.raises(StoreError, match="there are no AWS credentials"):
        DynamoStore(endpoint_url="http://127.0.0.1:1", region="us-east-1").get([b"a"])
