"""What a store says of itself, how it is opened elsewhere, and how it ends."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Capabilities, Outcome, Store
from wukong.errors import Retryable
from wukong.testing.storage.base import Key, StoreSuite, end_early, holds_as_error
from wukong.testing.store_machine import bytes_of

_IN_A_ROW = 25
_LONG_ENOUGH = 4  # a shorter value of a variable may be part of another word by chance


class StoreOpeningTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_is_a_store_with_capabilities(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert isinstance(store.capabilities, Capabilities)
        assert store.capabilities.round_trip_s > 0
        assert store.capabilities.bandwidth_bytes_per_s > 0
        assert store.capabilities.max_value_bytes is None or store.capabilities.max_value_bytes >= 65_536
        assert store.capabilities.recovery_s >= 0
        rent = store.rent()
        assert rent is None or (rent.usd_per_s > 0 and rent.what and rent.rates)

    def test_spec_is_plain_data(self, store: Store) -> None:
        spec = store.spec()
        assert isinstance(spec, PluginSpec)
        module, colon, attribute = spec.target.partition(":")
        assert module and colon and attribute, "a target is 'module:attribute'"
        assert json.loads(json.dumps(dict(spec.options))) == spec.options
        assert pickle.loads(pickle.dumps(spec)) == spec

    def test_the_environment_is_plain_text(self, store: Store) -> None:
        environment = store.environment()
        assert isinstance(environment, Mapping)
        for name, value in environment.items():
            assert isinstance(name, str) and isinstance(value, str)
            assert name and not set("=\0") & set(name), "no name of a variable"
            assert "\0" not in value

    def test_nothing_of_the_environment_is_in_the_spec(self, store: Store) -> None:
        texts = list(_texts(store.spec().options))
        for name, secret in store.environment().items():
            told = [text for text in texts if text == secret or (len(secret) >= _LONG_ENOUGH and secret in text)]
            assert not told, f"the value of {name} travels in every payload"

    def test_advice_is_lines_that_say_what_to_do(self, store: Store) -> None:
        advice = store.advice()
        assert not isinstance(advice, str)
        assert all(isinstance(line, str) and " -> " in line and "\n" not in line for line in advice)

    def test_no_value_of_the_environment_is_shown(self, store: Store) -> None:
        shown = [repr(store), str(store), repr(store.spec())]
        for name, secret in store.environment().items():
            told = [text for text in shown if len(secret) >= _LONG_ENOUGH and secret in text]
            assert not told, f"the value of {name} is shown: {told[0].replace(secret, '***')}"

    def test_spec_opens_the_same_store_in_this_process_too(self, store: Store, key: Key) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in store.environment().items():
                patch.setenv(name, value)
            second = store.spec().open()
        second.put({key("a"): b"from the second"})
        assert bytes_of(store.get([key("a")])) == [b"from the second"]
        second.close()
        assert bytes_of(store.get([key("a")])) == [b"from the second"]

    def test_two_stores_may_be_open_at_once(self, store: Store, key: Key) -> None:
        second = self.make_store()
        second.put({key("second"): b"2"})
        store.put({key("first"): b"1"})
        assert bytes_of(second.get([key("second")])) == [b"2"]
        second.close()
        assert bytes_of(store.get([key("first")])) == [b"1"]

    def test_closing_twice_is_no_error(self) -> None:
        store = self.make_store()
        store.close()
        store.close()

    def test_a_closed_store_works_or_says_so_with_an_error_of_wukongs(self, key: Key) -> None:
        store = self.make_store()
        store.put({key("a"): b"1"})
        store.close()
        for use in _uses(store, key):
            if failure := _failed(use):
                holds_as_error(failure)
        store.close()

    def test_a_store_that_cannot_be_reached_says_so_with_an_error_of_wukongs(self, key: Key) -> None:
        """Runs if the plug-in's author says how to make one; see `make_unreachable_store`."""
        try:
            store = self.make_unreachable_store()
        except Exception as error:
            holds_as_error(error)
            if _is_of_a_connection(error):
                _may_pass(error)
            return
        if store is None:
            pytest.skip("the hook make_unreachable_store is not defined")
        for use in _uses(store, key):
            failure = _failed(use)
            if failure is not None:
                _may_pass(failure)
        secrets = [each for each in store.environment().values() if len(each) >= _LONG_ENOUGH]
        for use in _uses(store, key):
            failure = _failed(use)
            assert failure is not None, "a store that cannot be reached cannot have done this"
            holds_as_error(failure)
            assert not [secret for secret in secrets if secret in str(failure)], "an error tells a secret"
        store.close()

    def test_a_server_that_starts_again_is_used_again(self, key: Key) -> None:
        """While it is away, all errors say that trying again may help; soon after, there are none any more."""
        if type(self).restart_server is StoreSuite.restart_server:
            pytest.skip("the hook restart_server is not defined")
        end_early(type(self))
        store = self.make_store()
        done = threading.Event()

        def use_on() -> None:
            good, since_s = 0, None
            while good < _IN_A_ROW:
                for use in _uses(store, lambda name: key(f"{name}/{threading.get_ident()}")):
                    failure = _failed(use)
                    good = good + 1 if failure is None else 0
                    if failure is not None:
                        holds_as_error(failure)
                        assert isinstance(failure, Retryable), f"a restart ends jobs: {failure!r}, not StoreUnavailable"
                        time.sleep(0.01)
                if not done.is_set():
                    good = 0
                elif since_s is None:
                    since_s = time.monotonic()
                elif time.monotonic() - since_s > self.timeout_s / 2:
                    raise AssertionError(f"{self.timeout_s / 2:g} s after the restart calls still fail")

        def restart() -> None:
            try:
                self.restart_server()
            finally:
                done.set()

        self._in_threads([use_on] * 4, before_join=restart, otherwise="a call has neither done nor failed")
        store.close()


def _may_pass(error: Exception) -> None:
    assert isinstance(error, Retryable), (
        f"a server that cannot be reached now may be there soon: StoreUnavailable, not {error!r}"
    )


def _is_of_a_connection(error: BaseException | None) -> bool:
    """Whether an error goes back to a connection, by Python's own classes: refused, broken or too slow."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
            return True
        error = error.__cause__ or error.__context__
    return False


def _failed(use: Callable[[], object]) -> Exception | None:
    try:
        use()
    except Exception as error:
        return error
    return None


def _uses(store: Store, key: Key) -> list[Callable[[], object]]:
    return [
        lambda: store.get([key("a")]),
        lambda: store.put({key("b"): b"2"}),
        lambda: store.incr([Arrival(key("f"), (0,), 2, b"me", b"v")]) == [Outcome(False, False)],
        lambda: store.wait(key("a"), 0.01),
        lambda: store.delete([key("a"), key("b"), key("f")]),
    ]


def _texts(option: Any) -> Iterator[str]:
    """All texts in plain data."""
    if isinstance(option, str):
        yield option
    elif isinstance(option, Mapping):
        for name, each in option.items():
            yield name
            yield from _texts(each)
    elif isinstance(option, (list, tuple)):
        for each in option:
            yield from _texts(each)
