"""What Lambda calls: invocations, their time limit, what they leave behind, their log, and events that are refused."""

import gc
import json
import logging
import os
import queue
import sys
import threading
import time
import weakref

import boto3
import dask
import moto
import numpy as np
import pytest
from awslambdaric import bootstrap

import wukong
from wukong.backends import entry
from wukong.backends.entry import KEY_VARIABLE
from wukong.backends.faas import FaaS, Invocation
from wukong.backends.faas.aws_lambda.event import pack
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Capabilities
from wukong.backends.storage.layers import Layer
from wukong.backends.storage.local import LocalStore
from wukong.errors import StoreUnavailable
from wukong.testing.servers import RedisServer
from wukong_executor import handler as module
from wukong_executor.handler import handler
from wukong_executor.log import Log
from wukong_executor.warm import BlobCache

KEY = "ab" * 32


class Context:
    aws_request_id = "request-1"
    memory_limit_in_mb = "1769"

    def __init__(self, remaining_ms=60_000):
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self):
        return self._remaining_ms


class Here(FaaS):
    """Lambda in this process: one environment, which a thread plays.

    Attributes:
        remaining_ms: of the first invocations; later ones have a minute.
        accepted: how many invocations were made.
        answers, errors: what the handler returned and raised. threads: by name, right after it had returned.
    """

    current = None

    def __init__(self, *remaining_ms):
        self.remaining_ms = list(remaining_ms)
        self.accepted = 0
        self.answers, self.errors, self.threads = [], [], []
        self._events = queue.Queue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while (body := self._events.get()) is not None:
            context = Context(self.remaining_ms.pop(0) if self.remaining_ms else 60_000)
            try:
                self.answers.append(handler(json.loads(body), context))
            except Exception as error:
                self.errors.append(error)
            self.threads.append({thread.name for thread in threading.enumerate()})
            self._events.task_done()

    def finish(self):
        """Wait until the handler has returned from everything: a client has its result a little earlier."""
        self._events.join()

    def invoke(self, invocations):
        self.accepted += len(invocations)
        for invocation in invocations:
            self._events.put(pack(invocation))

    def configure(self, environment):
        os.environ.update(environment)

    def spec(self):
        Here.current = self
        return PluginSpec(f"{__name__}:Inside")

    def close(self):
        self._events.put(None)
        self._thread.join()
        entry.disconnect()
        os.environ.pop(KEY_VARIABLE, None)


class Inside(FaaS):
    """The same, as an executor sees it."""

    def invoke(self, invocations):
        Here.current.invoke(invocations)

    def spec(self):
        return Here.current.spec()


@pytest.fixture
def deployed():
    made = []

    def deploy(*remaining_ms, **settings):
        here = Here(*remaining_ms)
        client = wukong.Client(faas=here, progress=False, **settings)
        made.append(client)
        return here, client

    yield deploy
    for client in made:
        client.close()


def add(*numbers):
    return sum(numbers)


seen = []


def event_of(payload=b"x", name="job/0"):
    return json.loads(pack(Invocation(name, payload)))


def test_an_event_is_carried_out(deployed):
    here, client = deployed()
    total = dask.delayed(add)(*[dask.delayed(add)(n, 1) for n in range(5)])
    assert total.compute(scheduler=client.get) == 15
    here.finish()
    assert here.answers == [None] and not here.errors


@pytest.mark.parametrize(("left_ms", "invocations"), [(0, 2), (60_000, 1)])
def test_what_is_not_done_in_the_time_that_was_left_is_handed_over(deployed, left_ms, invocations):
    here, client = deployed(left_ms)
    chain = dask.delayed(add)(0, 1)
    for _ in range(5):
        chain = dask.delayed(add)(chain, 1)
    assert chain.compute(scheduler=client.get) == 6
    here.finish()
    assert len(here.answers) == here.accepted == invocations


def test_nothing_of_an_executor_runs_on_after_the_handler_has_returned(deployed):
    here, client = deployed(heartbeat_s=0.05)
    dask.delayed(time.sleep)(0.2).compute(scheduler=client.get)
    here.finish()
    assert here.threads and not any("watcher" in name for threads in here.threads for name in threads)


def test_what_an_invocation_has_computed_is_freed_when_it_has_ended(deployed):
    here, client = deployed()

    def compute():
        value = np.zeros(1_000)
        sys.modules["test_handler"].seen.append(weakref.ref(value))
        return value

    seen.clear()
    gc.disable()
    try:
        assert dask.delayed(compute)().compute(scheduler=client.get).sum() == 0
        here.finish()
        assert [reference() for reference in seen] == [None]
    finally:
        gc.enable()


def test_what_a_task_changes_in_the_process_is_put_back(deployed, tmp_path):
    here, client = deployed()
    before = os.getcwd(), dict(os.environ), list(sys.path), logging.getLogger().level, sys.stdout
    handlers = list(logging.getLogger().handlers)

    def change(folder):
        os.chdir(folder)
        os.environ["LEFT_BEHIND"] = "1"
        del os.environ["PATH"]
        sys.path.insert(0, folder)
        logging.getLogger().setLevel(logging.DEBUG)
        logging.getLogger().addHandler(logging.NullHandler())
        sys.stdout.close()
        return os.getcwd()

    def look():
        return os.getcwd(), dict(os.environ), list(sys.path), logging.getLogger().level, sys.stdout.closed

    assert dask.delayed(change)(str(tmp_path)).compute(scheduler=client.get) == str(tmp_path)
    folder, environment, path, level, closed = dask.delayed(look)().compute(scheduler=client.get)
    here.finish()
    assert not here.errors and not closed
    variables = {name: value for name, value in before[1].items() if not name.startswith("PYTEST_")}
    path = [place for place in path if "wukong-code-" not in place]  # where the job's own modules are
    assert (folder, path, level) == (before[0], before[2], before[3])
    assert {name: value for name, value in environment.items() if name in variables} == variables
    assert "LEFT_BEHIND" not in environment
    assert (sys.stdout, logging.getLogger().handlers) == (before[4], handlers)


def test_connections_are_kept_between_invocations_and_opened_anew_after_a_long_time(deployed, monkeypatch):
    here, client = deployed()
    ask = dask.delayed(add)(1, 1)

    def opened():
        assert ask.compute(scheduler=client.get) == 2
        here.finish()
        return list(entry._opened.values())

    first = opened()
    assert opened() == first
    monkeypatch.setattr(module, "_ended_at", time.time() - 3_600)
    assert not any(each in first for each in opened())


def test_an_event_that_is_not_wukongs_is_refused_and_not_tried_again(caplog):
    answer = handler({"Records": [{"body": "private"}]}, Context())
    assert "not one of Wukong's" in answer["refused"]
    [record] = caplog.records
    assert record.levelno == logging.ERROR and "not be tried again" in record.getMessage()
    assert "private" not in record.getMessage()


def test_an_event_signed_with_another_key_is_refused_and_neither_payload_nor_key_is_logged(caplog, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    caplog.set_level(logging.DEBUG)
    answer = handler(event_of(b"\x57 forged payload" + bytes(64)), Context())
    assert "refused to unpickle" in answer["refused"]
    said = caplog.text + str(answer)
    assert "job/0" in said and "forged" not in said and KEY not in said


def test_a_function_without_a_key_says_so(caplog, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert KEY_VARIABLE in handler(event_of(), Context())["refused"]


def test_a_store_that_does_not_answer_fails_the_invocation_so_that_it_is_tried_again(deployed):
    with RedisServer() as server:
        here, client = deployed(storage=f"redis://{server.endpoint}", store_patience_s=0, timeout_s=5)
        invoke, calls = here.invoke, []
        here.invoke = calls.extend
        future = client.compute(dask.delayed(add)(1, 1))
        while not calls:
            time.sleep(0.001)
        server.kill()
        with pytest.raises(StoreUnavailable):
            handler(json.loads(pack(calls[0])), Context())
        server.start()
        invoke(calls)
        future.cancel()


def test_a_function_describes_itself():
    answer = handler({"wukong": 1, "describe": ["json", "no_such_module"]}, Context())
    assert answer["missing"] == ["no_such_module"]
    assert answer["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert answer["packages"]["dask"] == dask.__version__
    json.dumps(answer)


def test_the_key_is_fetched_once_from_the_secret_that_the_configuration_names(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        client = boto3.client("secretsmanager", region_name="eu-west-1")
        arn = client.create_secret(Name="wukong", SecretString=KEY + "\n")["ARN"]
        monkeypatch.setenv(KEY_VARIABLE, "")
        monkeypatch.setenv(module.SECRET_VARIABLE, arn)
        handler(event_of(), Context())
        assert os.environ[KEY_VARIABLE] == KEY
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
        handler(event_of(), Context())


# --- the log


@pytest.fixture(params=["text", "json"])
def lambda_logging(request, monkeypatch, capsys):
    """The root logger as awslambdaric sets it up, and what it writes."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    form = bootstrap.LogFormat.from_str(request.param)
    monkeypatch.setattr(logging.Formatter, "converter", time.gmtime)
    bootstrap._setup_logging(form, "INFO", bootstrap.StandardLogSink())
    monkeypatch.setattr(bootstrap, "_GLOBAL_AWS_REQUEST_ID", "request-1")
    return request.param, lambda: capsys.readouterr().out.splitlines()


def test_every_line_of_the_log_names_the_invocation_and_the_task(lambda_logging, deployed):
    form, lines = lambda_logging
    here, client = deployed()

    def speak():
        print("one\ntwo", end="")
        logging.getLogger("mine").warning("number %d", 3)
        print("err", file=sys.stderr)
        return 1

    assert dask.delayed(speak)(dask_key_name="speak\t1").compute(scheduler=client.get) == 1
    here.finish()
    written = lines()
    printed = [line.split("\t") for line in written if line.startswith("[stdout]")]
    assert [fields[2:] for fields in printed] == [["speak 1", "one"], ["speak 1", "two"]]
    assert all(fields[1].count("/") == 1 for fields in printed)
    [logged] = [line for line in written if "number 3" in line]
    if form == "json":
        told = json.loads(logged)
        assert (told["message"], told["level"], told["wukong_task"]) == ("number 3", "WARNING", "speak 1")
        assert told["wukong_invocation"] == printed[0][1]
    else:
        fields = logged.split("\t")
        assert fields[0] == "[WARNING]" and fields[2:] == ["request-1", printed[0][1], "speak 1", "mine", "number 3"]


def test_after_an_invocation_the_log_is_as_it_was(lambda_logging):
    _, lines = lambda_logging
    root, log = logging.getLogger(), Log()
    before = sys.stdout, sys.stderr, list(root.handlers)
    log.begin("job/0")
    log.end()
    assert (sys.stdout, sys.stderr, root.handlers) == before
    root.warning("afterwards")
    [line] = lines()
    assert "afterwards" in line and "job/0" not in line


def test_a_record_that_cannot_be_formatted_ends_no_task(lambda_logging, capsys):
    log = Log()
    log.begin("job/0")
    try:
        logging.getLogger().warning("%d", "no number")
    finally:
        log.end()
    assert "no number" in capsys.readouterr().err


# --- what is remembered


class Counted(Layer):
    """A store that copies, and notes the keys that it is asked for."""

    def __init__(self, inner):
        super().__init__(inner)
        self.capabilities = Capabilities()
        self.asked = []

    def get(self, keys):
        self.asked += keys
        return [None if value is None else bytes(value) for value in self.inner.get(keys)]


@pytest.fixture
def counted(tmp_path):
    store = Counted(LocalStore(str(tmp_path / "store")))
    store.put({b"a/v/1": bytes(5_000), b"a/o/0": bytes(5_000), b"a/job": bytes(5_000), b"b/v/1": bytes(5_000)})
    yield store
    store.close()


KEYS = [b"a/v/1", b"a/o/0", b"a/job", b"b/v/1", b"a/v/2"]


def test_values_and_literals_of_the_job_are_read_once_and_nothing_else(counted):
    memory = BlobCache(1_000_000)
    for _ in range(2):
        values = memory.around(counted, "a").get(KEYS)
        assert [None if value is None else len(value) for value in values] == [5_000] * 4 + [None]
    assert counted.asked == KEYS + KEYS[2:]


def test_another_job_finds_nothing_of_the_one_before(counted):
    memory = BlobCache(1_000_000)
    memory.around(counted, "a").get([b"a/v/1"])
    assert memory.size_bytes == 5_000
    memory.around(counted, "b")
    assert memory.size_bytes == 0
    memory.around(counted, "a").get([b"a/v/1"])
    assert counted.asked == [b"a/v/1", b"a/v/1"]


def test_what_is_deleted_or_written_is_not_remembered(counted):
    store = BlobCache(1_000_000).around(counted, "a")
    store.get(KEYS[:2])
    store.put({b"a/v/1": b"new"})
    store.delete([b"a/o/0"])
    assert store.get(KEYS[:2]) == [b"new", None]


def test_memory_is_bounded_and_the_longest_unused_goes_first(counted):
    memory = BlobCache(11_000)
    store = memory.around(counted, "a")
    counted.put({f"a/v/{n}".encode(): bytes(5_000) for n in range(3)})
    for n in (0, 1, 0, 2, 0):
        store.get([f"a/v/{n}".encode()])
    assert counted.asked == [b"a/v/0", b"a/v/1", b"a/v/2"]
    assert memory.size_bytes == 10_000


def test_what_a_store_maps_without_copying_is_not_remembered(tmp_path):
    with_views = LocalStore(str(tmp_path / "store"))
    assert BlobCache(1_000_000).around(with_views, "a") is with_views
    with_views.close()


def test_a_literal_is_fetched_once_by_all_invocations_of_a_job_in_one_process(deployed, redis_url, monkeypatch):
    from wukong.backends.storage.redis.shard import RedisShard

    fetched = []
    get = RedisShard.get
    monkeypatch.setattr(RedisShard, "get", lambda self, keys: (fetched.extend(keys), get(self, keys))[1])
    here, client = deployed(storage=redis_url, fan_out="eager")
    literal = dask.delayed(np.random.default_rng(0).integers(0, 1 << 60, 10_000))
    items = [dask.delayed(lambda array, n: len(array) + n)(literal, n) for n in range(4)]
    assert dask.compute(*items, scheduler=client.get) == (10_000, 10_001, 10_002, 10_003)
    here.finish()
    assert len(here.answers) >= 3
    assert sum(b"/o/" in key for key in fetched) == 1
