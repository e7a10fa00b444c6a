"""What the tests of the DynamoDB store share: two implementations of DynamoDB that are not ours, and a table in each.

moto's server is in this process; `dynalite` is a program for node, which `make` puts into .venv.
"""

import base64
import functools
import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import boto3
import pytest
from aws_descriptions import hasten_moto
from aws_lambda_server import log_in

from wukong.backends.storage.dynamodb import DynamoStore
from wukong.testing.servers import ServerProcess

DYNALITE = Path(__file__).parents[1] / ".venv" / "dynalite" / "node_modules" / "dynalite" / "cli.js"
REGION = "us-east-1"
UNHURRIED = {"answer_timeout_s": 60.0, "timeout_s": 60.0}
"""Options of a store: neither implementation answers in time if others have the machine."""
_TABLE = {
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "B"}],
    "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
}


class Dynalite(ServerProcess):
    """The program `dynalite`, with all data in memory."""

    program = "node"

    def _command(self):
        if not DYNALITE.exists():
            raise RuntimeError("dynalite is not installed: 'make .venv/.servers' does it")
        return [str(DYNALITE), "--host", self.host, "--port", str(self.port), "--createTableMs", "0", *self.arguments]

    def _serves(self):
        socket.create_connection((self.host, self.port), 1.0).close()
        return True

    @property
    def url(self):
        return f"http://{self.endpoint}"


@contextmanager
def logged_in():
    """Somebody is logged in, and the machine's own AWS configuration stays out."""
    with pytest.MonkeyPatch.context() as patch:
        log_in(patch, Path(os.environ["XDG_DATA_HOME"]))
        yield


@functools.cache
def moto_url():
    """Start moto's server, once, and return where it is."""
    from moto.dynamodb.responses import DynamoHandler
    from moto.server import ThreadedMotoServer

    hasten_moto()
    lock, act = threading.Lock(), DynamoHandler.call_action

    def one_at_a_time(self):
        """Look at a condition and write as one step, as DynamoDB does."""
        with lock:
            return act(self)

    DynamoHandler.call_action = one_at_a_time
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def client(url):
    """boto3's client of the implementation there."""
    return boto3.client("dynamodb", endpoint_url=url, region_name=REGION)


def make_table(url, name="wukong"):
    """Make the table as a deployment has it; it is there when this returns."""
    with closing(client(url)) as dynamodb:
        dynamodb.create_table(TableName=name, **_TABLE)
        dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 0.05, "MaxAttempts": 400})


@pytest.fixture(scope="module", autouse=True)
def _logged_in():
    with logged_in():
        yield


@pytest.fixture(scope="module")
def dynalite():
    """The URL of a dynalite with the table ``wukong``."""
    with Dynalite() as server:
        with logged_in():
            make_table(server.url)
        yield server.url


@pytest.fixture
def opened(dynalite):
    """A function that opens a store, and closes it after the test."""
    with ExitStack() as stack:

        def opened(**options):
            return stack.enter_context(closing(DynamoStore(**{"endpoint_url": dynalite, **UNHURRIED, **options})))

        yield opened


def text(value):
    """Bytes as DynamoDB's JSON has them."""
    return base64.b64encode(value).decode()


def run(program):
    """Run a program in a new interpreter and return what it prints."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
