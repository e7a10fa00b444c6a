"""Signature Version 4 as this package makes it, held against botocore's."""

import re

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from wukong.backends.aws_signing import Signer, SigningKeys
from wukong.backends.faas.aws_lambda.answers import Target
from wukong.backends.faas.aws_lambda.invoker import Lane
from wukong.backends.http_connections import EndpointConnections

KEYS = SigningKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
HEADERS = {"X-Amz-Invocation-Type": "Event", "Content-Type": "application/json"}
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:wukong"


def signer(keys=lambda: KEYS, *, url="https://lambda.eu-central-1.amazonaws.com", clock=lambda: 1_795_221_753.7):
    connections = EndpointConnections(url, lambda: None, 1.0, 1)
    return Signer(connections.host, "eu-central-1", keys, HEADERS, clock)


def taken_apart(request):
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def by_botocore(url, keys, headers, body):
    """The header Authorization for a request with these headers, as botocore makes it."""
    request = AWSRequest("POST", url, headers, body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    auth = SigV4Auth(Credentials(*keys), "lambda", "eu-central-1")
    text = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(text, request))
    return request.headers["Authorization"]


@pytest.mark.parametrize(
    "keys", [KEYS, SigningKeys(*KEYS[:2], "FwoGZXIvYXdzEBYaD//session+token==")], ids=["user", "session"]
)
@pytest.mark.parametrize("qualifier", [None, "live", "$LATEST"])
@pytest.mark.parametrize("function", ["wukong", "wukong:live", ARN, "a b%c~d"])
@pytest.mark.parametrize(
    "url",
    [
        "https://lambda.eu-central-1.amazonaws.com",
        "https://lambda.eu-central-1.amazonaws.com:443/",
        "http://127.0.0.1:9001",
        "http://[::1]:9001/prefix",
    ],
)
def test_a_signature_is_the_one_that_botocore_makes(keys, qualifier, function, url):
    connections = EndpointConnections(url, lambda: None, 1.0, 1)
    lane = Lane.of(Target(function, qualifier, "eu-central-1", url), connections.path)
    request = signer(lambda: keys, url=url).request(lane.path, lane.query, b'{"wukong":1}')
    first, headers, body = taken_apart(request)
    target = first.split(" ")[1]
    assert body == b'{"wukong":1}'
    assert headers["Content-Length"] == "12"
    assert ("X-Amz-Security-Token" in headers) == (keys.token is not None)
    signed = re.search("SignedHeaders=([^,]*)", headers["Authorization"])[1].split(";")
    assert {"host", "x-amz-date", "x-amz-invocation-type", "content-type"} <= set(signed)
    told = {name: value for name, value in headers.items() if name.lower() in signed}
    assert headers["Authorization"] == by_botocore(
        f"{url.rstrip('/').removesuffix('/prefix')}{target}", keys, told, body
    )
    if ":443" in url:
        assert headers["Host"] == "lambda.eu-central-1.amazonaws.com"


def test_the_path_names_a_function_as_boto3_does():
    target = Target(ARN, "live", "eu-central-1", "")
    lane = Lane.of(target, "")
    assert (
        lane.path
        == "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Awukong/invocations"
    )
    assert lane.query == "Qualifier=live"


def test_another_day_and_other_credentials_are_signed_with_another_key():
    now, keys = [1_795_221_753.0], [KEYS]
    made = signer(lambda: keys[0], clock=lambda: now[0])

    def right():
        _, headers, body = taken_apart(made.request("/p", "", b"{}"))
        told = {name: headers[name] for name in headers if name not in ("Authorization", "Content-Length")}
        return headers["Authorization"] == by_botocore("https://" + headers["Host"] + "/p", keys[0], told, body)

    assert right()
    now[0] += 86_400
    assert right()
    keys[0], now[0] = SigningKeys("ANOTHER", "secret", "token"), now[0] + 1
    assert right()


def test_credentials_are_asked_for_once_a_second():
    asked, now = [], [1_795_221_753.0]
    made = signer(lambda: asked.append(1) or KEYS, clock=lambda: now[0])
    for _ in range(5):
        made.request("/p", "", b"{}")
    assert len(asked) == 1
    now[0] += 1
    made.request("/p", "", b"{}")
    assert len(asked) == 2


def test_the_clock_of_the_server_is_gone_by_when_it_is_told():
    made = signer(clock=lambda: 1_000_000.0)
    assert made.set_clock(1_003_600.0) == 3_600.0
    assert made.now == 1_003_600.0
    _, headers, _ = taken_apart(made.request("/p", "", b"{}"))
    assert headers["X-Amz-Date"] == "19700112T144640Z"


def test_credentials_do_not_show():
    assert KEYS.secret not in repr(KEYS)
    assert KEYS.secret not in f"{KEYS}"
