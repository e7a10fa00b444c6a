"""The backend `aws-lambda`, opened at a server that answers as Lambda does, and what it was sent."""

from contextlib import closing

import pytest
from aws_lambda_server import Server, log_in

from wukong.backends.faas import Invocation
from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.backends.faas.aws_lambda.event import unpack


@pytest.fixture(autouse=True)
def _account(monkeypatch, tmp_path):
    log_in(monkeypatch, tmp_path)


@pytest.fixture(name="server")
def running_server():
    with Server() as running:
        yield running


def opened(server, **options):
    return closing(AwsLambda(endpoint_url=server.url, **{"task_output": False, **options}))


def some(count, size=10):
    return [Invocation(f"job/{n}", b"%04d" % n + bytes(size)) for n in range(count)]


def arrived(server):
    """The payloads of the accepted events, sorted."""
    return sorted(unpack(event)[1] for event in server.accepted)


def sent(invocations):
    return sorted(each.payload for each in invocations)
