"""What all tests share: the settings of whoever runs them stay out; the stores on which the whole has to run."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

# Before anything imports dask, which reads its variables when it is imported.
for _name in [name for name in os.environ if name.startswith(("WUKONG_", "DASK_WUKONG__"))]:
    del os.environ[_name]

from wukong.testing.servers import MemcachedServer, RedisServer

STORES = ("local", "redis", "memcached")


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


@pytest.fixture(scope="module", params=STORES)
def on_every_store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every client that is told no store, in this process or one it starts, uses this one."""
    choice = request.param if request.param == "local" else request.getfixturevalue(f"{request.param}_url")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WUKONG_STORAGE", choice)
        yield choice
