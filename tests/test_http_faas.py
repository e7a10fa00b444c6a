"""The backend `http` in front of real servers: the conformance suite, and what it tells of platforms that differ."""

from typing import ClassVar

import pytest
from http_tools import CONFORM, KEY, ExecutorServers

from wukong.backends.faas.http import HttpFaaS
from wukong.testing.faas import FaaSTests
from wukong.testing.servers import free_port

SHORT = (
    "test_each_of_a_batch_of_100_runs",
    "test_a_function_invokes_others",
    "test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process",
    "test_a_function_sees_the_limits_and_slots_that_the_client_sees",
    "test_ids_may_be_long",
    "test_nothing_that_is_configured_travels_in_the_spec",
    "test_what_is_queued_or_runs_is_known_and_nothing_else",
    "test_a_function_that_raises_has_failed_if_the_platform_tells",
    "test_a_platform_that_cannot_be_reached_says_so_with_an_error_of_wukongs",
    "test_no_failure_is_reported_if_none_happened",
)


@pytest.fixture(scope="module")
def servers():
    with ExecutorServers(2, "--places", "5", "--queue", "20", "--function", CONFORM) as running:
        yield running


@pytest.fixture(scope="module")
def limited():
    with ExecutorServers(1, "--places", "2", "--time-limit", "1", "--function", CONFORM) as running:
        yield running


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("WUKONG_DEPLOYMENT_KEY", KEY)


class OnServers(FaaSTests):
    deployed_beforehand = True
    options: ClassVar = {}

    @pytest.fixture(autouse=True)
    def _in_front_of(self, request):
        self.request = request

    def make_faas(self, function):
        assert function == CONFORM
        return HttpFaaS(urls=self.request.getfixturevalue("servers").urls, **self.options)

    def make_limited_faas(self, function):
        return HttpFaaS(urls=self.request.getfixturevalue("limited").urls, **self.options)

    def make_unreachable_faas(self, function):
        return HttpFaaS(url=f"http://127.0.0.1:{free_port()}", patience_s=0.5, **self.options)


class TestServersThatAreKnownOneByOne(OnServers):
    in_short_run = SHORT
    options: ClassVar = {"direct": True}


class TestServersBehindSomething(OnServers):
    in_short_run = ("test_each_of_a_batch_of_100_runs",)


class TestServersThatAnswerWhenAllIsDone(OnServers):
    in_short_run = ("test_each_of_a_batch_of_100_runs", "test_a_function_that_fails_harms_nobody_else")
    options: ClassVar = {"wait": True}
