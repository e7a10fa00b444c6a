"""Numerical libraries start as many threads as their function has cores, not as many as the machine has.

On a machine of one core the libraries' own counts tell nothing; the variables do.
"""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from http_tools import ExecutorServers
from threadpoolctl import threadpool_info

import wukong
from wukong.backends.faas.local import LocalFaaS
from wukong.backends.machine import cores, thread_variables
from wukong.testing.servers import RedisServer
from wukong_executor import handler

ALL = ("OMP", "OPENBLAS", "MKL", "NUMEXPR")
LOOK = """
from wukong_executor.handler import handler
import os, numpy
from threadpoolctl import threadpool_info

def look(event, context):
    return max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"), dict(os.environ)
"""


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    """Nobody has set any of them, for Wukong's processes inherit them."""
    for name in thread_variables(1, lambda name: None):
        monkeypatch.delenv(name, raising=False)


def found(x):
    """Return how many threads NumPy's library has here, the variables, and those of a process that a task starts."""
    np.ones((2, 2)) @ np.ones((2, 2))
    threads = max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    return threads, variables(os.environ), variables(json.loads(child))


def variables(environment):
    return {name: environment.get(f"{name}_NUM_THREADS") for name in ALL}


@pytest.mark.parametrize(
    ("given", "set_to"),
    [
        ({}, {"OMP": "3", "OPENBLAS": "3", "MKL": "3", "NUMEXPR": "3"}),
        ({"OPENBLAS_NUM_THREADS": "8", "MKL_NUM_THREADS": ""}, {"OMP": "3", "MKL": "3", "NUMEXPR": "3"}),
        ({"OMP_NUM_THREADS": "8"}, {}),
    ],
    ids=["nothing is set", "one is set", "the one that libraries go by is set"],
)
def test_what_is_set_stays(given, set_to):
    told = thread_variables(3, given.get)
    assert told.pop("VECLIB_MAXIMUM_THREADS") == "3"
    assert told == {f"{name}_NUM_THREADS": value for name, value in set_to.items()}


def test_tasks_on_lambda_and_their_processes_have_a_thread_for_each_vcpu(lambda_service, redis_url, monkeypatch):
    """Also the next invocation in the same environment, although variables are put back."""
    for name, value in lambda_service.environment.items():
        monkeypatch.setenv(name, value)
    with wukong.Client(faas="aws-lambda", storage=redis_url, progress=False) as client:
        one = dict.fromkeys(ALL, "1")
        for _ in range(2):
            assert client.get({"found": (found, 0)}, "found") == (1, one, one)


@pytest.mark.parametrize(
    ("memory_mb", "given", "threads", "told"),
    [
        (3_538, {}, 2, {"OMP": "2", "OPENBLAS": "2", "MKL": "2", "NUMEXPR": "2"}),
        (1_769, {"OMP_NUM_THREADS": "2"}, 2, {"OMP": "2", "OPENBLAS": None, "MKL": None, "NUMEXPR": None}),
    ],
    ids=["two vCPUs", "set by the user"],
)
def test_a_function_of_lambda_has_a_thread_for_each_vcpu_unless_the_user_says_otherwise(
    lambda_service, memory_mb, given, threads, told
):
    name = f"threads-{memory_mb}"
    lambda_service.create_function(name, LOOK, "function.look", variables=given, MemorySize=memory_mb, Timeout=60)
    answer = lambda_service.client().invoke(FunctionName=name)["Payload"].read()
    count, environment = json.loads(answer)
    assert variables(environment) == told
    assert count == min(threads, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("given", "warned"), [({}, True), ({"OMP_NUM_THREADS": "4"}, False)])
def test_a_library_that_was_loaded_before_the_handler_is_warned_of(monkeypatch, caplog, given, warned):
    """NumPy is loaded here."""
    monkeypatch.setattr(handler.machine, "cores", lambda: 6)
    monkeypatch.setattr(handler, "variable", {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769", **given}.get)
    monkeypatch.setattr(handler, "provide", dict)
    with caplog.at_level(logging.WARNING):
        handler._limit_threads()
    assert ("import the handler first" in caplog.text) == warned


def test_a_place_of_a_server_has_its_share_of_the_cores_unless_the_user_says_otherwise():
    given = {"MKL_NUM_THREADS": "7", "WUKONG_KEY": "a key", "WUKONG_DEPLOYMENT_KEY": ""}
    with RedisServer() as redis, ExecutorServers(1, "--places", "1", variables=given) as servers:
        how = {"faas": {"name": "http", "urls": servers.urls}, "storage": f"redis://{redis.endpoint}", "key": "a key"}
        told = {**dict.fromkeys(ALL, f"{cores()}"), "MKL": "7"}
        with wukong.Client(progress=False, **how) as client:
            assert client.get({"found": (found, 0)}, "found") == (cores(), told, told)
            assert client.last_job.summary().cores == cores() == client._deployment.faas.limits.cores


@pytest.mark.parametrize(
    ("options", "told"),
    [({}, "1"), ({"cpus": 3}, "3"), ({"cpus": 3, "blas_threads": 2}, "2")],
    ids=["one core", "three", "said"],
)
def test_a_function_of_the_emulator_has_a_thread_for_each_of_its_cores(options, told):
    """Read from the line to the host: a host, and a worker of it, takes a second to start."""
    local = LocalFaaS(slots=1, **options)
    try:
        assert variables(local._link._environment) == dict.fromkeys(ALL, told)
    finally:
        local.close()
