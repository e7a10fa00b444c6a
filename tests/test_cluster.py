"""`LocalCluster`: what programs for the original Wukong say is mapped, or accepted with a warning."""

from __future__ import annotations

import warnings

import pytest

import wukong
from wukong.errors import PluginError


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
    with pytest.raises(PluginError, match="fargate"):
        wukong.Client(cluster)


@pytest.mark.parametrize(
    "given",
    [{"n_workers": 0}, {"host": "0.0.0.0:8786"}, {"local_proxy_path": "/proxy"}, {"nonsense": 1}, {"proxy_port": 1}],
)
def test_what_has_no_meaning_is_accepted_and_named(given: dict[str, object]) -> None:
    with pytest.warns(UserWarning, match=f"{next(iter(given))}=.*no effect"):
        wukong.LocalCluster(**given)  # type: ignore[arg-type]
