"""`LocalCluster`: what programs for the original Wukong say is mapped, or accepted with a warning."""

from __future__ import annotations

import warnings
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import wukong
from wukong.testing.servers import free_port


def test_a_program_for_the_original_runs() -> None:
    with pytest.warns(UserWarning, match="num_lambda_invokers.*executors invoke each other"):
        cluster = wukong.LocalCluster(max_task_fanout=5, num_lambda_invokers=4)
    with wukong.Client(cluster, progress=False) as client:
        assert client.settings.max_task_fanout == 5
        assert client.get({"a": (sum, [1, 2])}, "a") == 3


def test_what_has_a_meaning_is_mapped_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster = wukong.LocalCluster(
            redis_endpoints=[("10.0.0.1", 6379), "h2:6380"], proxy_address="10.0.0.9", proxy_port=8990
        )
    assert cluster.storage == {"name": "redis", "endpoints": ["10.0.0.1:6379", "h2:6380"]}
    assert cluster.options == {"proxy": "10.0.0.9:8990"}


def test_fargate_names_its_plug_in() -> None:
    cluster = wukong.LocalCluster(use_fargate=True, num_fargate_nodes=3)
    assert cluster.storage == {"name": "fargate", "nodes": 3}


def test_a_local_proxy_is_the_clients_own_and_ends_with_it() -> None:
    cluster = wukong.LocalCluster(use_local_proxy=True, proxy_port=free_port(), max_task_fanout=1)
    place = cluster.options["proxy"].replace("local", "127.0.0.1")
    with wukong.Client(cluster, fan_out="eager", progress=False) as client:
        with urlopen(f"http://{place}/healthz", timeout=10) as answer:
            assert answer.status == 200
        leaves: dict[Any, Any] = {("leaf", i): (abs, -i) for i in range(8)}
        assert client.get({**leaves, "sum": (sum, list(leaves))}, "sum") == 28
        assert client.last_job is not None and client.last_job.summary().proxied == 8
    with pytest.raises(URLError):
        urlopen(f"http://{place}/healthz", timeout=10)


@pytest.mark.parametrize(
    "given",
    [{"n_workers": 0}, {"host": "0.0.0.0:8786"}, {"local_proxy_path": "/proxy"}, {"nonsense": 1}, {"proxy_port": 1}],
)
def test_what_has_no_meaning_is_accepted_and_named(given: dict[str, object]) -> None:
    with pytest.warns(UserWarning, match=f"{next(iter(given))}=.*no effect"):
        wukong.LocalCluster(**given)  # type: ignore[arg-type]
