"""The whole on AWS Lambda, as far as its own doors: boto3, HTTP, AWS's runtime client, the packaged function, Redis.

Configuration is all that differs from a run on the emulator.
"""

from __future__ import annotations

import json
import operator
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import dynamodb_tools
import numpy as np
import pytest
from lambda_tasks import slow_add
from tree_tasks import tree
from waiting import wait

import wukong
from wukong.deploy.package.build import HANDLER
from wukong.errors import InvocationFailed
from wukong.testing.lambda_service import LambdaService

pytestmark = pytest.mark.xdist_group("packaging")  # it is built once
dynalite = dynamodb_tools.dynalite
EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {
    "gemm.py": ["--size", "120", "--chunk", "40"],
    "single_node.py": ["--size", "1000"],
    "svd_compressed.py": ["--size", "400", "--chunk", "100", "--rank", "3"],
    "three_nodes_fan_in.py": ["--size", "1000"],
    "tree_reduction.py": ["--size", "37", "--delay-ms", "1"],
    "tsqr.py": ["--rows", "800", "--columns", "20", "--chunk", "100"],
}


@pytest.fixture(scope="module")
def service() -> Iterator[LambdaService]:
    with LambdaService(retry_delays_s=[0.1, 0.2], throttle_delay_s=0.05, start="forked") as service:
        yield service


@pytest.fixture(scope="module")
def deployed(service: LambdaService, package: Path) -> LambdaService:
    """The function ``wukong``: the package, and nothing else."""
    service.create_function(
        "wukong",
        package.read_bytes(),
        handler=HANDLER,
        variables={"WUKONG_DEPLOYMENT_KEY": secrets.token_hex(32)},
        Timeout=60,
        MemorySize=1_769,
    )
    return service


@pytest.fixture
def configured(deployed: LambdaService, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaService]:
    """Every client uses it, with Redis shards."""
    for name, value in {**deployed.environment, "WUKONG_FAAS": "aws-lambda", "WUKONG_STORAGE": redis_url}.items():
        monkeypatch.setenv(name, value)
    yield deployed
    deployed.set_faults(None)


def environments(service: LambdaService) -> list[bool]:
    """Of each environment, whether its process is stopped in its tracks."""
    stats = [Path(f"/proc/{each['pid']}/stat").read_text() for each in service.environments("wukong")]
    return [stat.rpartition(")")[2].split()[0] == "T" for stat in stats]


@pytest.mark.parametrize(
    "script",
    [script if script == "tsqr.py" else pytest.param(script, marks=pytest.mark.long) for script in sorted(SMALL)],
)
def test_examples_run_unchanged(configured: LambdaService, script: str) -> None:
    command = [sys.executable, str(EXAMPLES / script), *SMALL[script]]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "executors" in done.stdout
    assert "us-east-1" in done.stdout, "the summary says what it cost"


def test_functions_need_no_server_and_no_boto3_for_a_table(
    deployed: LambdaService, dynalite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**deployed.environment, "WUKONG_FAAS": "aws-lambda"}.items():
        monkeypatch.setenv(name, value)
    graph, key, total = tree(16)
    storage = {"name": "dynamodb", "endpoint_url": dynalite}
    with wukong.Client(storage=storage, progress=False, fan_out="eager") as client:
        assert client.get(graph, key) == total
        assert client.last_job is not None
        assert client.last_job.summary().executors > 1


@pytest.mark.parametrize(
    "faults",
    [
        *(
            pytest.param(each, marks=pytest.mark.long)
            for each in (
                {"crash_before": 0.1},
                {"crash_during": 0.15},
                {"crash_after": 0.15},
                {"duplicate": 0.5},
                {"lost": 0.15},
                {"throttle": 0.5},
            )
        ),
        {
            "crash_before": 0.03,
            "crash_during": 0.05,
            "crash_after": 0.03,
            "duplicate": 0.2,
            "lost": 0.05,
            "late": 0.2,
            "late_s": 0.2,
            "throttle": 0.2,
        },
    ],
    ids=lambda faults: "+".join(name for name in faults if not name.endswith("_s")),
)
def test_a_job_ends_with_the_right_answer_whatever_happens_to_its_invocations(
    configured: LambdaService, faults: dict[str, Any]
) -> None:
    graph, key, total = tree(32, slow_add)
    with wukong.Client(progress=False, heartbeat_s=0.3, silence_s=2.0, fan_out="eager") as client:
        for seed in (1, 2):
            configured.set_faults({"seed": seed, **faults})
            assert client.get(graph, key) == total


def test_a_job_much_longer_than_the_time_limit_finishes(configured: LambdaService) -> None:
    def step(x: int) -> int:
        time.sleep(0.3)
        return x + 1

    boto3_client = configured.client()
    boto3_client.update_function_configuration(FunctionName="wukong", Timeout=3)
    try:
        graph: dict[Any, Any] = {("x", 0): 0} | {("x", i): (step, ("x", i - 1)) for i in range(1, 21)}
        with wukong.Client(progress=False, heartbeat_s=0.5, silence_s=2.0) as client:
            assert client.get(graph, ("x", 20)) == 20
            assert client.last_job is not None
            assert client.last_job.summary().executors >= 3
    finally:
        boto3_client.update_function_configuration(FunctionName="wukong", Timeout=60)


@pytest.mark.parametrize("limit", ["timeout", "memory"])
def test_a_task_over_a_limit_ends_the_job_long_before_silence_would(configured: LambdaService, limit: str) -> None:
    """Although the service itself tries such events again, at once.

    On a machine that stands still an executor may be ended for its memory before it has told of that. It is made again.
    """

    def greedy() -> int:
        kept = []
        while True:
            kept.append(np.ones(500_000))
            time.sleep(0.002)

    limits = {"timeout": {"Timeout": 2}, "memory": {"MemorySize": 320}}
    boto3_client = configured.client()
    boto3_client.update_function_configuration(FunctionName="wukong", **limits[limit])
    graph = {"a": (operator.add, 1, 1), "too much": (time.sleep, 60) if limit == "timeout" else (greedy,)}
    try:
        with (
            wukong.Client(progress=False, heartbeat_s=0.3, silence_s=600.0) as client,
            pytest.raises(InvocationFailed, match=f" times: (.*; then )?{limit}: .*; then {limit}: ") as caught,
        ):
            client.get(graph, ["too much", "a"])
        assert caught.value.task == "too much" and "make" in str(caught.value.hint)
    finally:
        boto3_client.update_function_configuration(FunctionName="wukong", Timeout=60, MemorySize=1_769)


@pytest.mark.long
def test_a_task_that_takes_too_much_memory_runs_on_the_larger_function(
    configured: LambdaService, package: Path
) -> None:
    """Another function of the same package; the service runs the event again on the small one, too, as AWS does."""
    boto3_client = configured.client()
    small = boto3_client.get_function_configuration(FunctionName="wukong")
    configured.create_function(
        "wukong-1769mb",
        package.read_bytes(),
        handler=HANDLER,
        variables=small["Environment"]["Variables"],
        Timeout=60,
        MemorySize=1_769,
    )
    boto3_client.update_function_configuration(FunctionName="wukong", MemorySize=320)
    graph = {"x": (float, 1), "hungry": (hungry, "x"), "after": (operator.add, "hungry", 1)}
    faas = {"name": "aws-lambda", "larger": ["wukong-1769mb"]}
    try:
        with wukong.Client(faas=faas, progress=False, heartbeat_s=0.3, silence_s=600.0) as client:
            assert client.get(graph, "after") == 400_000_001
            stories = [each.what for each in client.last_job.record.stories]
        assert any("it goes to a function of 1,769 MB" in each for each in stories), stories
    finally:
        boto3_client.update_function_configuration(FunctionName="wukong", MemorySize=1_769)
        boto3_client.delete_function(FunctionName="wukong-1769mb")


def hungry(x: float) -> int:
    kept = []
    for _ in range(100):
        kept.append(np.full(500_000, x))
        time.sleep(0.002)
    return sum(each.nbytes for each in kept)


def test_a_task_that_kills_its_environment_every_time_ends_the_job_with_its_story(configured: LambdaService) -> None:
    graph: dict[Any, Any] = {"a": (operator.add, 1, 1), "deadly": (os._exit, 3), "c": (max, "a", "deadly")}
    with (
        wukong.Client(progress=False, heartbeat_s=0.1, silence_s=0.5) as client,
        pytest.raises(InvocationFailed) as caught,
    ):
        client.get(graph, "c")
    assert "fell silent in deadly" in str(caught.value)
    assert caught.value.task == "deadly"


def test_a_tasks_own_exception_arrives_as_itself(configured: LambdaService) -> None:
    with wukong.Client(progress=False) as client, pytest.raises(ZeroDivisionError) as caught:
        client.get({"a": 0, "bad": (operator.truediv, 1, "a")}, "bad")
    assert "bad" in "".join(caught.value.__notes__)


def test_environments_are_frozen_between_jobs_and_go_on_with_the_next(configured: LambdaService) -> None:
    with wukong.Client(progress=False):
        x = dask.array.random.default_rng(0).random((400, 20), chunks=(100, 20))
        first = x.sum().compute()
        wait(lambda: (frozen := environments(configured)) and all(frozen), "all environments are frozen")
        np.testing.assert_allclose(x.sum().compute(), first)


def test_what_an_event_or_a_log_tells_is_no_secret(configured: LambdaService, redis_url: str) -> None:
    """Neither the deployment's key nor a payload is in what a function writes."""
    function = configured.client().get_function_configuration(FunctionName="wukong")
    key = function["Environment"]["Variables"]["WUKONG_DEPLOYMENT_KEY"]
    with wukong.Client(progress=False) as client:
        assert client.get({"a": (operator.add, 1, 1)}, "a") == 2
    assert configured.logs("wukong")
    assert key not in json.dumps(configured.logs("wukong"))
