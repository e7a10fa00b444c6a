"""Who makes invocations: the sender itself, or the fan-out proxy, and what is left over."""

import time
from typing import ClassVar

import pytest

import wukong
from wukong.backends import entry
from wukong.backends.entry import sender
from wukong.backends.faas import FaaS, Invocation, Limits
from wukong.backends.faas.deployment_key import deployment_key, derived
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Rent, Rented
from wukong.backends.storage.layers import Patient, Sharded, stacked
from wukong.backends.storage.local import LocalStore
from wukong.core.codec import Codec
from wukong.core.names import Names
from wukong.core.payload import PAYLOAD, Envelope, Relayed, Sent
from wukong.errors import BackendError, StoreUnavailable, Throttled

WHERE = Envelope(("store:Store", {}), ("faas:FaaS", {"at": 1}), False, False, None)
CODEC = Codec(b"k" * 32)


class Recorded(FaaS):
    """A platform that accepts all and runs nothing."""

    def __init__(self, payload_bytes=None):
        self.limits = Limits(payload_bytes=payload_bytes)
        self.made: list[Invocation] = []

    def invoke(self, invocations):
        self.made += invocations

    def spec(self):
        return PluginSpec(f"{__name__}:Recorded")


class Relay:
    """A proxy that accepts some."""

    def __init__(self, refused=(), why=""):
        self.refused, self.why, self.asked = refused, why, []

    def invoke(self, faas, calls):
        self.asked.append((faas, list(calls)))
        return Relayed(frozenset(label for label, _ in calls if label not in self.refused), self.why)


def sent(n, faas, relay, past):
    return sender(faas, CODEC, lambda: WHERE, Names("job"), relay, past)([(str(i), b"payload") for i in range(n)])


def test_few_invocations_are_not_the_proxys():
    faas, relay = Recorded(), Relay()
    assert sent(3, faas, relay, past=3) == Sent(3)
    assert [each.id for each in faas.made] == ["job/0", "job/1", "job/2"] and not relay.asked


def test_many_are_with_where_the_platform_is():
    faas, relay = Recorded(), Relay()
    assert sent(4, faas, relay, past=3) == Sent(4, proxied=4)
    assert not faas.made
    assert relay.asked == [(WHERE.faas, [(f"job/{i}", b"payload") for i in range(4)])]


def test_what_the_proxy_has_not_made_is_made_here_and_told():
    faas, relay = Recorded(), Relay(refused={"job/1", "job/2"}, why="it was busy")
    assert sent(4, faas, relay, past=0) == Sent(4, proxied=2, unproxied=2, why="it was busy")
    assert [each.id for each in faas.made] == ["job/1", "job/2"]


def test_a_proxy_too_gets_the_key_of_the_record_if_a_payload_is_too_large():
    relay = Relay()
    sender(Recorded(payload_bytes=1_000), CODEC, lambda: WHERE, Names("job"), relay)([("0", bytes(2_000))])
    [(_, [(label, payload)])] = relay.asked
    assert label == "job/0"
    assert CODEC.decode(payload, PAYLOAD).fetch == Names("job").invocation("0")


def test_what_was_sent_adds_up_and_keeps_the_first_reason():
    assert Sent(1, 2, 3, "") + Sent(4, 5, 6, "first") + Sent(why="second") == Sent(5, 7, 9, "first")


# The deployment's key


def test_the_key_is_the_settings_else_the_functions_else_a_new_one():
    faas = Recorded()
    assert deployment_key("text", faas) == derived("text") != derived("other text")
    assert len(deployment_key(None, faas)) == 32 and deployment_key(None, faas) != deployment_key(None, faas)
    faas.deployment_key = lambda: "ab" * 32
    assert deployment_key(None, faas) == bytes.fromhex("ab" * 32)


def test_functions_that_are_deployed_beforehand_have_one_key_which_cannot_be_made_up():
    faas = Recorded()
    faas.configurable = False
    with pytest.raises(BackendError, match=r"(?s)deployment key is not known.*setting key"):
        deployment_key(None, faas)
    assert deployment_key("text", faas) == derived("text")


# Stores that bring up servers


class Served(LocalStore):
    """A store that brings up a server."""

    def __init__(self, log, name, broken=False):
        super().__init__()
        self.log, self.name, self.broken = log, name, broken

    def start(self, tell):
        tell(f"starting {self.name}", 0, 1)
        if self.broken:
            raise StoreUnavailable("no capacity", backend="storage: served")
        self.log.append(f"{self.name} up")

    def spec(self):
        return PluginSpec("wukong.backends.storage.local:LocalStore", super().spec().options)

    def rent(self):
        return Rent(0.5, f"server {self.name}", "list price")

    def close(self):
        self.log.append(f"{self.name} down")
        super().close()


def test_a_client_starts_its_store_first_and_a_job_says_what_that_costs():
    log = []
    with wukong.Client(storage=Served(log, "a"), progress=False) as client:
        assert log == ["a up"]
        assert client.submit(abs, -1).result() == 1
        rented = client.last_job.summary().rent
        assert isinstance(rented, Rented) and rented.usd == pytest.approx(0.5 * rented.wall_s) and rented.usd > 0
        assert str(client.last_job.summary()).endswith(
            f"server a for {rented.wall_s:.3f} s, ${rented.usd:.6g} (list price)"
        )
    assert log == ["a up", "a down"]


def test_a_store_that_cannot_be_started_is_the_clients_error_and_nothing_is_left():
    log = []
    with pytest.raises(StoreUnavailable, match="no capacity"):
        wukong.Client(storage=Served(log, "a", broken=True), progress=False)
    assert log == ["a down"]


def test_of_many_stores_that_are_started_none_is_left_up_if_one_cannot_be():
    log = []
    shards = [Served(log, "a"), Served(log, "b"), Served(log, "c", broken=True)]
    with pytest.raises(StoreUnavailable):
        Sharded(shards, ["a", "b", "c"]).start(lambda *_: None)
    assert log == ["a up", "b up", "b down", "a down"]
    for shard in shards:
        shard.close()


def test_what_several_stores_cost_is_what_each_costs():
    log = []
    shards = Sharded([Served(log, "a"), LocalStore(), Served(log, "b")], ["a", "l", "b"])
    assert stacked(shards, patience_s=1.0).rent() == Rent(1.0, "server a, server b", "list price")
    shards.close()


def test_everybody_is_as_patient_as_a_store_needs_to_replace_a_server():
    with_recovery = LocalStore()
    with_recovery.capabilities = with_recovery.capabilities.__class__(recovery_s=60.0)
    together = Sharded([LocalStore(), with_recovery], ["a", "b"])
    assert together.capabilities.recovery_s == 60.0
    layers = stacked(together, patience_s=10.0)
    assert isinstance(layers, Patient) and layers._patience_s == 70.0
    layers.close()


def test_starting_shows_how_far_it_is_if_that_is_wanted(caplog):
    with caplog.at_level("INFO", "wukong"):  # there is no terminal, but there is logging
        wukong.Client(storage=Served([], "a"), progress=True).close()
    assert "starting a" in caplog.text


def test_if_nothing_is_started_nothing_is_shown(caplog, capsys):
    with caplog.at_level("INFO", "wukong"):
        wukong.Client(progress=True).close()
    assert caplog.text == capsys.readouterr().err == ""


# What a warm function keeps open


class Opened:
    """Something that was opened by its address."""

    log: ClassVar[list[str]] = []

    def __init__(self, name):
        self.name = name

    def close(self):
        self.log.append(self.name)


def test_a_warm_function_keeps_a_few_things_open_and_closes_what_it_used_least_recently(monkeypatch):
    monkeypatch.setattr(entry, "_opened", {})
    monkeypatch.setattr(Opened, "log", [])

    def opened(n):
        return entry._open((f"{__name__}:Opened", {"name": str(n)}))

    first = [opened(n) for n in range(entry._MOST_OPEN)]
    assert opened(0) is first[0] and Opened.log == []
    opened("new")
    assert Opened.log == ["1"]
    assert opened(0) is first[0] and opened(1) is not first[1]
    entry.disconnect()
    assert sorted(Opened.log) == sorted(["1", "2", *(each.name for each in first if each.name != "2"), "new"])


def test_an_invocation_whose_report_was_lost_is_a_request_all_the_same():
    with wukong.Client(progress=False) as client:
        assert client.submit(abs, -1).result() == 1
        job = client.last_job
        assert job.summary().bill.requests == 1
        job._history._account.executors = 10
        assert job.summary().bill.requests == 10


class Full(Recorded):
    """A platform that takes one invocation a call, and refuses the others, as long as `refuses` says."""

    def __init__(self, refuses):
        super().__init__()
        self.refuses, self.asked = refuses, []

    def invoke(self, invocations):
        self.asked.append([each.id for each in invocations])
        if self.refuses > 0:
            self.refuses -= 1
            super().invoke(invocations[:1])
            error = Throttled("full")
            error.taken = frozenset(each.id for each in invocations[:1])
            raise error
        super().invoke(invocations)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that are made; they take no time."""
    pauses, now = [], time.monotonic()
    monkeypatch.setattr(entry, "_sleep", pauses.append)
    monkeypatch.setattr(entry, "_now_s", lambda: now + sum(pauses))
    return pauses


def test_a_platform_that_throttles_is_asked_again_for_what_it_has_not_taken(pauses, caplog):
    faas = Full(refuses=2)
    send = sender(faas, CODEC, lambda: WHERE, Names("job"), until_s=time.monotonic() + 60.0)
    assert send([(str(i), b"payload") for i in range(4)]) == Sent(4)
    assert faas.asked == [["job/0", "job/1", "job/2", "job/3"], ["job/1", "job/2", "job/3"], ["job/2", "job/3"]]
    assert [each.id for each in faas.made] == ["job/0", "job/1", "job/2", "job/3"]
    assert len(pauses) == 2
    assert "4 invocations are refused for now" in caplog.text


def test_a_platform_that_throttles_is_asked_with_growing_pauses_until_the_functions_time_is_over(pauses, monkeypatch):
    monkeypatch.setattr(Full, "invoke", lambda self, calls: (_ for _ in ()).throw(Throttled("full")))
    with pytest.raises(Throttled):
        sender(Full(0), CODEC, lambda: WHERE, Names("job"), until_s=time.monotonic() + 60.0)([("0", b"payload")])
    assert 30.0 < sum(pauses) <= 60.0
    assert pauses[5] > pauses[0]
    with pytest.raises(Throttled):
        sender(Full(0), CODEC, lambda: WHERE, Names("job"))([("0", b"payload")])
