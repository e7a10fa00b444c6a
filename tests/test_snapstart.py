"""SnapStart in the Lambda service: environments are restored from one snapshot, and share nothing that must differ.

Both kinds of function are the same but for Wukong's hooks. If those are taken away, everything that is checked is
shared: so the service's snapshots are ones, and the hooks are what renews.
"""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from waiting import wait

import wukong
from wukong.backends.plugins import load_storage
from wukong.testing.lambda_service import LambdaService

pytestmark = pytest.mark.xdist_group("snapstart")

FUNCTION = """
import json, os, random, sys, time, uuid
began = time.monotonic()
from wukong.backends import entry
from wukong_executor.handler import handler as executor
import numpy

target, options = json.loads(os.environ["STORE"])
entry._open((target, options)).get([b"nothing"])
if os.environ.get("HOOKS") == "none":
    import snapshot_restore_py
    snapshot_restore_py.get_before_snapshot().clear()
    snapshot_restore_py.get_after_restore().clear()
calls = 0
ended = time.monotonic()


def sockets():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    return [each for each in found if each.startswith("socket:")]


def kept():
    wukongs = [(name, module) for name, module in sys.modules.items() if name.startswith("wukong")]
    return [
        f"{name}.{key}"
        for name, module in wukongs
        for key, value in vars(module).items()
        if isinstance(value, random.Random)
        or (isinstance(value, float) and (abs(value - time.time()) < 86_400 or value % 1 and began <= value <= ended))
    ]


def handler(event, context):
    global calls
    if "meet" not in event:
        return executor(event, context)
    calls += 1
    folder, n = event["meet"]
    open(os.path.join(folder, uuid.uuid4().hex), "w").close()
    told = {"random": random.random(), "numpy": numpy.random.random(), "uuid": uuid.uuid4().hex, "sockets": sockets()}
    while len(os.listdir(folder)) < n:
        time.sleep(0.002)
    keys = [name for name in os.environ if name.startswith("AWS_") and ("KEY" in name or "CONTAINER" in name)]
    told["threads"] = os.environ.get("OMP_NUM_THREADS")
    return {**told, "kept": kept(), "calls": calls, "pid": os.getpid(), "keys": sorted(keys)}
"""


@pytest.fixture(scope="module")
def service():
    with LambdaService(site_packages=True) as running:
        yield running


@pytest.fixture(scope="module")
def publish(service, redis_url):
    """Deploy a function with a snapshot, and an alias that names it."""
    client = service.client()
    with closing(load_storage(redis_url)) as store:
        spec = store.spec()
        said = {"STORE": json.dumps([spec.target, dict(spec.options)]), "WUKONG_DEPLOYMENT_KEY": "ab" * 32}
        said |= store.environment()

    def run(name, code=FUNCTION, **variables):
        snap = {"ApplyOn": "PublishedVersions"}
        service.create_function(name, code, variables=said | variables, Timeout=60, MemorySize=512, SnapStart=snap)
        version = client.publish_version(FunctionName=name)
        assert (version["State"], version["SnapStart"]["OptimizationStatus"]) == ("Pending", "On")
        client.create_alias(FunctionName=name, Name="live", FunctionVersion=version["Version"])

        def settled():
            found = client.get_function_configuration(FunctionName=name, Qualifier="live")
            return found if found["State"] != "Pending" else None

        return wait(settled, "a snapshot is taken")

    return run


@pytest.fixture(scope="module")
def renewed(publish):
    """A function with Wukong's hooks."""
    assert publish("renewed")["State"] == "Active"
    return "renewed"


def two(service, name, folder):
    """Have two environments of a function at work at once; return what each says."""

    def invoke(_):
        event = json.dumps({"meet": [str(folder), 2]})
        told = service.client().invoke(FunctionName=name, Qualifier="live", Payload=event)
        assert "FunctionError" not in told, told["Payload"].read().decode() + "".join(service.logs(name))
        return json.loads(told["Payload"].read())

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(invoke, range(2)))


def test_environments_of_one_snapshot_share_no_random_state_no_connection_and_no_clock(service, renewed, tmp_path):
    one, other = two(service, renewed, tmp_path)
    assert one["pid"] != other["pid"] and (one["calls"], other["calls"]) == (1, 1)
    for drawn in ("random", "numpy", "uuid"):
        assert one[drawn] != other[drawn], drawn
    assert not set(one["sockets"]) & set(other["sockets"])
    assert one["kept"] == []
    assert one["threads"] == "1", "what was set when the snapshot was taken"
    assert one["keys"] == ["AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]


def test_without_the_hooks_they_share_all_of_it(service, publish, tmp_path):
    """What the test above sees is there to be seen."""
    assert publish("bare", HOOKS="none")["State"] == "Active"
    one, other = two(service, "bare", tmp_path)
    assert one["pid"] != other["pid"] and one["uuid"] != other["uuid"]
    assert (one["random"], one["numpy"]) == (other["random"], other["numpy"])
    assert set(one["sockets"]) & set(other["sockets"])


def draw(folder, n):
    Path(folder, str(n)).touch()
    deadline_s = time.monotonic() + 30
    while len(os.listdir(folder)) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.002)
    return os.getpid(), random.random(), float(np.random.random())


def test_jobs_run_on_environments_that_were_restored(service, renewed, tmp_path, redis_url, monkeypatch):
    """Executors invoke others with credentials that they ask for, and every task draws numbers of its own."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    faas = {"name": "aws-lambda", "function": renewed, "qualifier": "live"}
    settings = {"progress": False, "fan_out": "eager", "heartbeat_s": 0.5}
    with wukong.Client(faas=faas, storage=redis_url, **settings) as client:
        graph = {f"draw-{n}": (draw, str(tmp_path), n) for n in range(3)}
        found = client.get(graph, list(graph))
    for of_all in zip(*found, strict=True):
        assert len(set(of_all)) == 3
    used = [each["version"] for each in service.environments(renewed) if each["invocations"]]
    assert used.count("1") >= 3


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        ("import snapshot_restore_py as s; s.register_before_snapshot(lambda: 1 / 0)", "ZeroDivisionError"),
        pytest.param("raise ValueError('no such luck')", "ValueError: no such luck", marks=pytest.mark.long),
        pytest.param("import os; os._exit(3)", "exited without providing a reason", marks=pytest.mark.long),
    ],
)
def test_a_function_that_cannot_be_initialised_is_not_published(service, publish, breaks, says):
    name = f"broken-{abs(hash(breaks))}"
    found = publish(name, f"{breaks}\ndef handler(event, context): pass")
    assert (found["State"], says in found["StateReason"]) == ("Failed", True), found["StateReason"]
    with pytest.raises(Exception, match="following state: Failed"):
        service.client().invoke(FunctionName=name, Qualifier="live")
