"""What all tests share: the settings of whoever runs them stay out; the stores on which the whole has to run."""

import atexit
import gc
import json
import os
import secrets
import shutil
import signal
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import pytest
from chromium import Browser, browser

# What is imported and collected stays: it need not be gone through again and again, neither now nor by later tests.
gc.disable()

# Before anything imports dask, which reads its variables when it is imported.
for _name in [name for name in os.environ if name.startswith(("WUKONG_", "DASK_WUKONG__"))]:
    del os.environ[_name]

# Keys that are kept are not kept among those of whoever runs the tests.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="wukong-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_DATA_HOME"], ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = os.path.join(os.environ["XDG_DATA_HOME"], "cache")

# moto makes up thousands of images of machines whenever it begins anew, otherwise. It looks when it is imported.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

# What a shell runs in its background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import fargate_tools
import warm_hosts
from aws_descriptions import share_descriptions
from http_tools import KEY, ExecutorServers

from wukong.client.plans import Lessons
from wukong.deploy.package.build import build
from wukong.emulators.aws_ecs import EcsStandIn
from wukong.errors import BackendError
from wukong.testing.lambda_service import LambdaService
from wukong.testing.servers import MemcachedServer, RedisServer
from wukong.testing.suite import Suite

share_descriptions()
warm_hosts.install()
_recall = Lessons.recall
Lessons.recall = lambda self: None  # what one test has found out of a store is not for the next one

STORES = ("local", "redis", "memcached")
# One process has the Lambda service, and the packages in it that its functions need.
PLATFORMS = (
    *STORES,
    *(pytest.param(name, marks=pytest.mark.xdist_group(f"everywhere: {name}")) for name in ("aws-lambda", "http")),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have a run with other settings than the defaults, since variables of whoever runs the tests stay out."""
    parser.addoption("--lanes", help="the setting `lanes` of all clients that say nothing of it: a number, or auto")


def pytest_configure(config: pytest.Config) -> None:
    if lanes := config.getoption("--lanes"):
        os.environ["WUKONG_LANES"] = lanes  # of programs that tests start
        dask.config.set({"wukong.lanes": lanes if lanes == "auto" else int(lanes)})
    if getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput"):
        gc.enable()  # this process only tells others what to run: it collects nothing


@pytest.fixture
def recalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients begin with what earlier ones have found out of their stores."""
    monkeypatch.setattr(Lessons, "recall", _recall)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Three Redis shards."""
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer()) for _ in range(3)]
        yield "redis://" + ",".join(server.endpoint for server in servers)


@pytest.fixture(scope="session")
def memcached_url() -> Iterator[str]:
    """Two memcached servers."""
    with ExitStack() as stack:
        servers = [stack.enter_context(MemcachedServer()) for _ in range(2)]
        yield "memcached://" + ",".join(server.endpoint for server in servers)


@pytest.fixture(scope="session")
def executor_servers() -> Iterator[dict[str, str]]:
    """Two executor servers; the variables by which clients find them."""
    with ExecutorServers(2, "--places", "4") as servers:
        options = {"WUKONG_FAAS__URLS": json.dumps(servers.urls), "WUKONG_FAAS__DIRECT": "true"}
        yield {"WUKONG_FAAS": "http", **options, "WUKONG_DEPLOYMENT_KEY": KEY}


@pytest.fixture(scope="session")
def built() -> Callable[..., Path]:
    """Build a package with what is in uv's cache, which this environment was made from, or over the network."""

    def built(target: Path, **options: Any) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("UV_OFFLINE", "1")
            try:
                return build(target, **options)
            except BackendError:
                patch.delenv("UV_OFFLINE")
                return build(target, **options)

    return built


@pytest.fixture(scope="session")
def package(built: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as it is deployed, with numpy among its requirements. Who uses it is in the group `packaging`."""
    folder = tmp_path_factory.mktemp("package")
    requirements = folder / "requirements.txt"
    requirements.write_text("numpy==2.2.6\n")  # later ones have no wheel for the Linux of Lambda's Python 3.11
    return built(folder / "wukong.zip", requirements=requirements)


@pytest.fixture(scope="session")
def lambda_service() -> Iterator[LambdaService]:
    """A Lambda service with the function ``wukong``, which sees the packages installed here, as an image would.

    What takes seconds to import is imported before environments are forked; on Lambda each has a CPU of its own for it.
    """
    times = {"retry_delays_s": [0.1, 0.2], "throttle_delay_s": 0.05}
    with LambdaService(site_packages=True, start="forked", **times) as service:
        service.create_function(
            "wukong",
            "from wukong_executor.handler import handler\nimport dask.array, dask.dataframe",
            variables={"WUKONG_DEPLOYMENT_KEY": secrets.token_hex(32)},
            Timeout=60,
            MemorySize=1_769,
        )
        yield service


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser; what uses it is in one group, so that there is one."""
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def cloud() -> Iterator[EcsStandIn]:
    """An account that really runs tasks, for the tests of the Fargate store, with somebody logged in."""
    with fargate_tools.account() as aws:
        yield aws


@pytest.fixture
def aws(cloud: EcsStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[EcsStandIn]:
    """The same, in which nothing runs, before and afterwards."""
    with fargate_tools.emptied(cloud, monkeypatch):
        yield cloud


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    warm_hosts.fresh(item.get_closest_marker("fresh_hosts") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tasks of the tests travel by value, as those of scripts and notebooks do; tests/test_modules.py has modules.

    Otherwise each worker of each client would import the test's module, and with it pytest, numpy and Dask.
    """
    for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
        cloudpickle.register_pickle_by_value(module)
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Collect nothing of a class that is for the long run, which every process would leave out later, one by one.

    Unless a class or a test is asked for by its name: then it is to be found, and left out.
    """
    if any("::" in each for each in collector.config.args):
        return None
    marks = getattr(obj, "pytestmark", ()) if isinstance(obj, type) else ()
    left_out = collector.config.getoption("markexpr") == "not long" and any(mark.name == "long" for mark in marks)
    return [] if left_out else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs on all platforms runs on the local one and one of the others, a different one for each test.

    Seeds but the first and what is marked `thin` run on the local one only; of a class that says what is
    `in_short_run`, only that runs. The rest is for the long run. Tests that share what is made for their module or
    class run in one process, so that it is made once.
    """
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname not in getattr(
            item.cls, "in_short_run", (item.originalname,)
        ):
            item.add_marker(pytest.mark.long)
        room = None if item.get_closest_marker("xdist_group") else _room(item)
        if room is not None:
            item.add_marker(pytest.mark.xdist_group(room))
    others: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            for fixture in ("on_every_store", "everywhere"):
                platform = item.callspec.params.get(fixture, "local")
                if platform != "local":
                    others[item.nodeid.replace(platform, "")].append(item)
    for name, alike in others.items():
        here_only = alike[0].get_closest_marker("thin") or alike[0].callspec.params.get("seed")
        chosen = len(alike) if here_only else zlib.crc32(name.encode()) % len(alike)
        for item in alike[:chosen] + alike[chosen + 1 :]:
            item.add_marker(pytest.mark.long)


def _room(item: pytest.Item) -> str | None:
    """Return who shares what is made once: the tests of a suite, or those of a module with a fixture for all of it."""
    if not isinstance(item, pytest.Function):
        return None
    if item.cls is not None and issubclass(item.cls, Suite):
        return f"{item.module.__name__}.{item.cls.__name__}"
    made = item._fixtureinfo.name2fixturedefs.items()
    scopes = {each[-1].scope for name, each in made if name not in ("on_every_store", "everywhere")}
    return item.module.__name__ if scopes & {"class", "module"} else None


@pytest.fixture(scope="module", params=STORES)
def on_every_store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every client that is told no store, in this process or one it starts, uses this one."""
    yield from _chosen(request)


@pytest.fixture(scope="module", params=PLATFORMS)
def everywhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every client that is told neither uses these: the emulator on each store; Lambda or executor servers, Redis."""
    yield from _chosen(request)


def _chosen(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "aws-lambda":
            patch.setenv("WUKONG_FAAS", "aws-lambda")
            for name, value in request.getfixturevalue("lambda_service").environment.items():
                patch.setenv(name, value)
        if request.param == "http":
            for name, value in request.getfixturevalue("executor_servers").items():
                patch.setenv(name, value)
        if request.param != "local":
            store = "memcached" if request.param == "memcached" else "redis"
            patch.setenv("WUKONG_STORAGE", request.getfixturevalue(f"{store}_url"))
        yield request.param
