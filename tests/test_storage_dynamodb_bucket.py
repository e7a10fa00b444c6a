"""The store `dynamodb` with large values in S3: moto's S3, and the table in a dynalite."""

import secrets
from contextlib import closing

import boto3
import dask
import dynamodb_tools
import pytest
from aws_lambda_server import ACCESS, SECRET
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from dynamodb_tools import REGION, UNHURRIED, moto_url

import wukong
from wukong.backends.aws_signing import UNSIGNED, Signer, SigningKeys
from wukong.backends.storage.dynamodb import bucket as dynamodb_bucket
from wukong.backends.storage.dynamodb.exchange import HttpAnswer
from wukong.errors import ConfigError, StoreError, StoreUnavailable
from wukong.testing.storage import StoreTests

_logged_in, dynalite, opened = dynamodb_tools._logged_in, dynamodb_tools.dynalite, dynamodb_tools.opened
LARGE = bytes(range(256)) * 200


@pytest.fixture(scope="module")
def s3():
    with closing(boto3.client("s3", endpoint_url=moto_url(), region_name=REGION)) as s3:
        yield s3


@pytest.fixture(scope="module")
def bucket(s3):
    name = f"wukong-{secrets.token_hex(4)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(opened, bucket):
    return opened(values="s3", bucket=bucket, s3_endpoint_url=moto_url())


@pytest.mark.long
class TestTableAndBucket(StoreTests):
    platform_variables = ("AWS_",)

    @pytest.fixture(autouse=True)
    def _account(self, dynalite, bucket):
        self.options = {"endpoint_url": dynalite, "bucket": bucket, "s3_endpoint_url": moto_url()}

    def make_store(self):
        return dynamodb_tools.DynamoStore(values="s3", **UNHURRIED, **self.options)


def objects(s3, bucket):
    return sorted(each["Size"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", ()))


def test_large_values_are_objects_and_small_ones_are_not(store, s3, bucket):
    before = objects(s3, bucket)
    huge = secrets.token_bytes(9 << 20)
    store.put({b"small": b"1", b"large": LARGE, b"huge": (huge[:5], memoryview(huge)[5:])}, 60.0)
    assert objects(s3, bucket) == sorted([*before, len(LARGE), 8 << 20, 1 << 20])
    assert store.get([b"huge", b"small", b"missing", b"large"]) == [huge, b"1", None, LARGE]
    assert store.wait(b"large", 1.0) == LARGE
    store.delete([b"small", b"large", b"huge"])
    assert objects(s3, bucket) == before
    assert store.get([b"huge"]) == [None]


def test_requests_to_both_are_added_up(store):
    before_usd = store.spent().usd
    store.put({b"priced": LARGE}, 60.0)
    assert store.spent().usd - before_usd == pytest.approx(5e-6 + 0.625e-6)
    assert store.spent().what == "requests to DynamoDB, requests to S3"


def test_a_value_whose_object_the_bucket_has_deleted_is_missing(store, s3, bucket):
    store.put({b"a": LARGE}, 60.0)
    for each in s3.list_objects_v2(Bucket=bucket)["Contents"]:
        s3.delete_object(Bucket=bucket, Key=each["Key"])
    assert store.get([b"a"]) == [None]


def test_the_bucket_is_called_as_a_deployment_calls_it_unless_named(opened, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto_url())
    options = opened(values="s3").spec().options
    assert options["bucket"] == "wukong-values-123456789012-us-east-1"
    assert options["s3_endpoint_url"].endswith("amazonaws.com")


@pytest.mark.parametrize(
    ("bucket", "endpoint_url", "url"),
    [
        ("mine", "https://s3.eu-west-1.amazonaws.com", "https://mine.s3.eu-west-1.amazonaws.com"),
        ("my.own", "https://s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com/my.own"),
        ("mine", "http://127.0.0.1:9000/", "http://127.0.0.1:9000/mine"),
    ],
)
def test_on_aws_the_bucket_is_a_part_of_the_hosts_name(opened, bucket, endpoint_url, url):
    assert opened(values="s3", bucket=bucket, s3_endpoint_url=endpoint_url)._bucket._url == url


def test_a_bucket_without_values_there_is_refused(opened):
    with pytest.raises(ConfigError, match='values: "s3"'):
        opened(bucket="mine")


@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzEBYaD//session+token=="])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_signature_of_s3s_is_the_one_that_botocore_makes(method, token):
    keys = SigningKeys(ACCESS, SECRET, token)
    signer = Signer(
        "b.s3.eu-west-1.amazonaws.com", "eu-west-1", lambda: keys, {"X-Amz-Content-Sha256": UNSIGNED}, service="s3"
    )
    head = signer.head(method, "/a%20b/c", 3).decode()
    first, *lines = head.strip().split("\r\n")
    told = dict(line.split(": ", 1) for line in lines)
    headers = {name: value for name, value in told.items() if name not in ("Authorization", "Content-Length")}
    request = AWSRequest(method, "https://b.s3.eu-west-1.amazonaws.com/a%20b/c", headers, b"")
    request.context.update(timestamp=headers["X-Amz-Date"], payload_signing_enabled=False)
    auth = S3SigV4Auth(Credentials(*keys), "s3", "eu-west-1")
    signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert told["Authorization"].endswith(f"Signature={signature}")
    assert first == f"{method} /a%20b/c HTTP/1.1"
    assert told["Content-Length"] == "3"


def test_advice_is_about_a_table_and_a_bucket_that_never_forget(opened, s3):
    url, name = moto_url(), f"wukong-{secrets.token_hex(4)}"
    dynamodb_tools.make_table(url, name)
    s3.create_bucket(Bucket=name)
    options = {"table": name, "endpoint_url": url, "values": "s3", "bucket": name, "s3_endpoint_url": url}
    lines = opened(**options).advice()
    assert [line.partition(" -> ")[0] for line in lines] == [
        f"the table {name} never forgets, and costs more every day",
        f"the bucket {name} never forgets",
    ]
    with closing(dynamodb_tools.client(url)) as dynamodb:
        life = {"Enabled": True, "AttributeName": "expires"}
        dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification=life)
    rule = {"ID": "day", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [rule]})
    assert opened(**options).advice() == []
    with pytest.raises(StoreError, match="table nowhere, region us-east-1"):
        opened(**{**options, "table": "nowhere"}).advice()


# What it makes of answers


@pytest.fixture
def script(monkeypatch):
    """Answers of S3's, each to one request; then it answers itself."""
    answers = []
    monkeypatch.setattr(dynamodb_bucket, "_sleep", lambda _: None)
    real = dynamodb_bucket.BucketValues._exchange

    class Scripted:
        def __init__(self, exchange):
            self.exchange, self.connections = exchange, exchange.connections

        def send(self, requests):
            return [answers.pop(0) for _ in requests] if answers else self.exchange.send(requests)

    scripted = property(lambda self: Scripted(real.__get__(self)))
    monkeypatch.setattr(dynamodb_bucket.BucketValues, "_exchange", scripted)
    return answers


def refusal(status, code, said="", **more):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code>{said}</Error>".encode() if code else b"<html>"
    return HttpAnswer(status, body, more.get("date"), more.get("region"))


@pytest.mark.parametrize("answer", [refusal(503, "SlowDown"), refusal(500, "InternalError"), refusal(502, "")])
def test_what_passes_is_asked_again(store, script, answer):
    script.extend([answer] * 3)
    store.put({b"again": LARGE}, 60.0)
    assert store.get([b"again"]) == [LARGE]
    script.extend([answer] * 50)
    with pytest.raises(StoreUnavailable, match="region us-east-1"):
        store.get([b"again"])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusal(403, "AccessDenied"), "must allow s3:PutObject on the bucket's objects"),
        (refusal(400, "ExpiredToken"), "have expired: log in"),
        (refusal(301, "PermanentRedirect", region="eu-west-1"), "the bucket is in eu-west-1"),
        (
            refusal(400, "AuthorizationHeaderMalformed", "<Message>no</Message><Region>eu-west-1</Region>"),
            r"Malformed: no \[(?s:.*)the bucket is in eu-west-1",
        ),
    ],
    ids=["denied", "expired", "region", "signed for another region"],
)
def test_what_does_not_pass_is_said_with_what_to_do(store, script, bucket, answer, says):
    script.append(answer)
    with pytest.raises(StoreError, match=says) as raised:
        store.put({b"a": LARGE}, 60.0)
    assert f"bucket {bucket}, region us-east-1" in str(raised.value)


def test_a_bucket_that_is_not_there_is_named(opened):
    store = opened(values="s3", bucket="nowhere", s3_endpoint_url=moto_url())
    with pytest.raises(StoreError, match=r"NoSuchBucket: .* \[bucket nowhere(?s:.*)'wukong deploy"):
        store.put({b"a": LARGE}, 60.0)
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store._bucket.get([b"a"])


def test_a_job_has_its_large_values_in_the_bucket(dynalite, s3, bucket):
    storage = {
        "name": "dynamodb",
        "endpoint_url": dynalite,
        "values": "s3",
        "bucket": bucket,
        "s3_endpoint_url": moto_url(),
        **UNHURRIED,
    }
    big = dask.delayed(lambda n: secrets.token_bytes(60_000)[:-1] + bytes([n]))
    both = dask.delayed(lambda *parts: sum(part[-1] for part in parts))
    with wukong.Client(storage=storage, fan_out="eager", store_patience_s=300.0) as client:
        assert client.compute(both(*[big(n) for n in range(4)])).result() == 6
