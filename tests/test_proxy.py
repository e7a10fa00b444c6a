"""The proxy: real sockets, the plug-in aws-lambda behind it, and whatever can go wrong between them."""

import socket
import threading
import urllib.error
import urllib.request

import pytest
from aws_lambda_server import log_in
from faas_local_tools import left, order
from proxy_tools import KEY, LAMBDA, Peer, Platform, Serving, calls, hung_up
from waiting import wait

from wukong.backends.faas.local import LocalFaaS
from wukong.errors import ConfigError
from wukong.proxy import protocol
from wukong.proxy.backend_cache import admitted
from wukong.proxy.client import Proxy, place
from wukong.proxy.limits import STRANGERS, ProxyLimits


@pytest.fixture(autouse=True)
def credentials(monkeypatch, tmp_path):
    log_in(monkeypatch, tmp_path)


@pytest.fixture
def platform():
    with Platform() as platform:
        yield platform


@pytest.fixture
def serving():
    with Serving() as serving:
        yield serving


def get(serving, path):
    """Return status and text of an HTTP request."""
    try:
        with urllib.request.urlopen(f"http://{serving.address}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class TestMaking:
    def test_what_it_is_asked_for_it_makes_with_the_payloads_it_was_given(self, serving, platform):
        asked = calls(200)
        with Peer(serving.address) as peer:
            peer.invoke(platform.address(), asked)
            assert peer.made(200) == [None] * 200
        assert platform.payloads() == dict(asked)
        assert set(platform.made().values()) == {1}

    def test_it_says_accepted_only_when_the_platform_has(self, serving, platform):
        held = platform.hold()
        with Peer(serving.address, timeout_s=0.1) as peer:
            peer.invoke(platform.address(), calls(1))
            assert held()
            with pytest.raises(TimeoutError):
                peer.hear()
            peer.socket.settimeout(20)
            platform.release.set()
            assert peer.made(1) == [None]

    def test_a_piece_that_is_refused_loses_no_other(self, serving, platform):
        platform.say(403, "AccessDeniedException", message="not yours")
        asked = calls(256)  # four pieces
        with Peer(serving.address) as peer:
            peer.invoke(platform.address(), asked)
            made = peer.made(256)
        refused = [why for why in made if why is not None]
        assert 0 < len(refused) <= 64
        assert all("not yours" in why for why in refused)
        accepted = {label for (label, _), why in zip(asked, made, strict=True) if why is None}
        assert accepted <= set(platform.made())

    def test_a_payload_over_the_limit_is_refused_alone(self, serving, platform):
        asked = [*calls(3), ("job/large", b"x" * 5_000)]
        with Peer(serving.address) as peer:
            peer.invoke(platform.address(payload_bytes=4_096), asked)
            made = peer.made(4)
        assert made[:3] == [None] * 3
        assert "5,000 bytes" in made[3]
        assert platform.made() == {label: 1 for label, _ in asked[:3]}

    def test_it_invokes_on_the_emulator_of_another_process(self, serving, tmp_path):
        backend = LocalFaaS(function="faas_functions:note")
        try:
            spec = backend.spec()
            asked = [order(tmp_path, f"n{number}") for number in range(20)]
            with Peer(serving.address) as peer:
                peer.invoke((spec.target, spec.options), [(each.id, each.payload) for each in asked])
                assert peer.made(20) == [None] * 20
            left(tmp_path, 20)
        finally:
            backend.close()

    def test_an_emulator_that_is_gone_is_a_reason(self, serving):
        backend = LocalFaaS()
        spec = backend.spec()
        backend.close()
        with Peer(serving.address) as peer:
            peer.invoke((spec.target, spec.options), calls(1))
            assert "cannot be reached" in peer.made(1)[0]

    @pytest.mark.parametrize(
        "target",
        ["os:system", "wukong.backends.faas.local:LocalFaaS", "wukong.backends.faas.aws_lambda:Target", "x", "", ":"],
    )
    def test_it_opens_nothing_that_no_plug_in_names(self, serving, target):
        with Peer(serving.address) as peer:
            peer.invoke((target, {}), calls(2))
            assert all("no plug-in installed with it names that" in why for why in peer.made(2))
            peer.say({"type": "ping"})
            assert peer.hear() == {"type": "pong"}

    def test_what_may_be_opened_is_what_plug_ins_say(self):
        assert admitted() >= {LAMBDA, "wukong.backends.faas.emulator.worker:attach"}
        assert not admitted() & {"wukong.backends.faas.local:LocalFaaS"}


class TestDuplicates:
    def test_what_was_accepted_is_acknowledged_and_not_made_again(self, serving, platform):
        for _ in range(2):  # the same message, in another conversation
            with Peer(serving.address) as peer:
                peer.invoke(platform.address(), calls(100))
                assert peer.made(100) == [None] * 100
        assert set(platform.made().values()) == {1}
        assert serving.counters.duplicates == 100

    def test_while_it_is_being_made_a_duplicate_waits_for_the_first(self, serving, platform):
        held = platform.hold()
        with Peer(serving.address) as first, Peer(serving.address) as second:
            first.invoke(platform.address(), calls(1))
            assert held()
            second.invoke(platform.address(), calls(1))
            wait(lambda: serving.counters.duplicates == 1)
            platform.release.set()
            assert first.made(1) == second.made(1) == [None]
        assert platform.made() == {"job/0.0": 1}

    def test_when_the_first_is_refused_so_is_the_duplicate(self, serving, platform):
        arrived = platform.hold()
        platform.script[0] = lambda act=platform.script[0]: (act(), (403, {}, b'{"message": "not yours"}'))[1]
        with Peer(serving.address) as first, Peer(serving.address) as second:
            first.invoke(platform.address(), calls(1))
            assert arrived()
            second.invoke(platform.address(), calls(1))
            wait(lambda: serving.counters.duplicates == 1)
            platform.release.set()
            assert first.made(1)[0] is not None
            assert second.made(1)[0] is not None
        with Peer(serving.address) as third:  # what was refused is not remembered
            third.invoke(platform.address(), calls(1))
            assert third.made(1) == [None]

    def test_twice_in_one_message_is_once(self, serving, platform):
        with Peer(serving.address) as peer:
            peer.invoke(platform.address(), calls(3) * 2)
            assert peer.made(6) == [None] * 6
        assert set(platform.made().values()) == {1}

    def test_the_same_invocation_with_another_payload_is_made_again(self, serving, platform):
        """The client makes an invocation again after a loss; the order in it says so."""
        with Peer(serving.address) as peer:
            for attempt in (b"attempt 0", b"attempt 1"):
                peer.invoke(platform.address(), [("job/0", attempt)])
                assert peer.made(1) == [None]
            peer.invoke(platform.address(qualifier="2"), [("job/0", b"attempt 0")])  # another function
            assert peer.made(1) == [None]
        assert platform.made() == {"job/0": 3}

    def test_what_it_remembers_is_bounded(self, platform):
        with Serving(remembered=10) as serving, Peer(serving.address) as peer:
            for asked in (calls(30), calls(30)[-10:], calls(30)[:1]):
                peer.invoke(platform.address(), asked)
                assert peer.made(len(asked)) == [None] * len(asked)
            assert platform.made()["job/0.29"] == 1
            assert platform.made()["job/0.0"] == 2

    def test_the_sender_that_hangs_up_does_not_undo_what_was_made(self, serving, platform):
        held = platform.hold()
        with Peer(serving.address) as peer:
            peer.invoke(platform.address(), calls(1))
            assert held()
        platform.release.set()
        with Peer(serving.address) as peer:
            peer.invoke(platform.address(), calls(1))
            assert peer.made(1) == [None]
        assert platform.made() == {"job/0.0": 1}


class TestStrangers:
    def test_who_has_another_key_gets_nowhere(self, serving, platform):
        with pytest.raises(protocol.ProtocolError, match="another deployment's key"):
            Peer(serving.address, key=b"another key, of as many bytes...")
        talk = Proxy(serving.address, key=b"x" * 32).invoke(platform.address(), calls(2))
        assert not talk.accepted
        assert "another deployment's key" in talk.why
        assert not platform.made()

    def test_a_forged_frame_ends_the_conversation_and_makes_nothing(self, serving, platform):
        for spoil in (0, 20, -1):  # in the sizes, in the digest, in the body
            with Peer(serving.address) as peer:
                asked = calls(1)
                frame = bytearray(peer.frame(protocol.invoke(platform.address(), asked), [asked[0][1]]))
                frame[spoil] ^= 1
                peer.socket.sendall(frame)
                peer.socket.shutdown(socket.SHUT_WR)
                assert peer.hung_up() or spoil == 0
        assert not platform.made()
        assert serving.counters.forged == 2  # with other sizes it was too large, or cut short

    def test_a_frame_sent_a_second_time_ends_the_conversation(self, serving, platform):
        with Peer(serving.address) as peer:
            asked = calls(1)
            frame = peer.frame(protocol.invoke(platform.address(), asked), [asked[0][1]])
            peer.socket.sendall(frame)
            assert peer.made(1) == [None]
            peer.socket.sendall(frame)
            assert peer.hung_up()
        assert platform.made() == {"job/0.0": 1}
        assert serving.counters.forged == 1

    def test_a_frame_that_is_cut_short_makes_nothing(self, serving, platform):
        with Peer(serving.address) as peer:
            asked = calls(2)
            frame = peer.frame(protocol.invoke(platform.address(), asked), [payload for _, payload in asked])
            peer.socket.sendall(frame[:-1])
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.hung_up()
        wait(lambda: serving.service.memory_budget.free_bytes == serving.service.memory_budget.size_bytes)
        assert not platform.made()

    def test_another_version_is_told_both_in_words(self, serving):
        with Peer(serving.address, version=7, auth=False) as peer:
            assert peer.version == protocol.VERSION
            assert peer.told == {
                "error": f"it speaks version {protocol.VERSION} of the protocol, and the sender version 7"
            }
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.hung_up()

    def test_before_it_has_shown_the_key_nobody_may_say_much(self, serving):
        with Peer(serving.address, auth=False) as peer:
            peer.socket.sendall(protocol.HEAD.pack(5_000_000, 0, bytes(16)) + b"x" * 1_000)
            assert peer.hung_up()
        with Peer(serving.address, auth=False) as peer:
            peer.say({"type": "ping"})
            assert peer.hung_up()
        assert serving.counters.forged == 2

    @pytest.mark.parametrize("said", [b"\x16\x03\x01\x02\x00" * 9, b"POST / HTTP/1.1\r\n\r\n" * 2, bytes(64)])
    def test_what_is_no_sender_is_hung_up_on(self, serving, said):
        with socket.create_connection(place(serving.address), 20) as stranger:
            stranger.sendall(said)
            assert hung_up(stranger)

    def test_who_says_nothing_is_hung_up_on(self):
        with Serving(handshake_s=0.05) as serving:
            with socket.create_connection(place(serving.address), 20) as stranger:
                assert hung_up(stranger)
            with Peer(serving.address, auth=False) as peer:
                assert peer.hung_up()

    def test_a_message_of_an_unknown_type_or_with_too_many_invocations_is_an_end(self, platform):
        with Serving(calls=5) as serving:
            for header in ({"type": "shutdown"}, {}, protocol.invoke(platform.address(), [("j", b"")] * 6)):
                with Peer(serving.address) as peer:
                    peer.say(header)
                    assert peer.hung_up()
            assert serving.counters.forged == 3


class TestLimits:
    def test_it_announces_them(self):
        with Serving(message_bytes=12_345, calls=67) as serving, Peer(serving.address) as peer:
            assert peer.told == {"message_bytes": 12_345, "calls": 67, "message_s": 40.0, "idle_s": 300.0}

    def test_a_message_that_is_too_large_is_refused_in_words_before_it_is_read(self, platform):
        with Serving(message_bytes=10_000) as serving:
            with Peer(serving.address) as peer:
                peer.invoke(platform.address(), [("job/0", b"x" * 20_000)])
                assert "it takes 10,000" in peer.hear()["error"]
            with Peer(serving.address) as peer:
                peer.socket.sendall(protocol.HEAD.pack(100, 2**32 - 1, bytes(16)))
                assert "it takes 10,000" in peer.hear()["error"]

    def test_one_conversation_too_many_is_told_so(self, platform):
        with Serving(connections=2) as serving, Peer(serving.address), Peer(serving.address) as second:
            for peer in (second,):
                peer.say({"type": "ping"})
                assert peer.hear() == {"type": "pong"}
            wait(lambda: serving.service.trouble())
            with Peer(serving.address, auth=False) as third:
                assert "2 conversations" in third.told["error"]
            relayed = Proxy(serving.address, key=KEY).invoke(platform.address(), calls(2))
            assert not relayed.accepted
            assert "busy: 2 conversations" in relayed.why
            assert get(serving, "/healthz")[0] == 200  # health checks do not count
            second.close()
            wait(lambda: not serving.service.trouble())
            with Peer(serving.address) as fourth:
                assert "error" not in fourth.told

    def test_strangers_are_bounded_too(self):
        with Serving(handshake_s=600.0) as serving:
            where = place(serving.address)
            idlers = [socket.create_connection(where, 20) for _ in range(STRANGERS)]
            wait(lambda: len(serving.service._conversations) == STRANGERS)
            with socket.create_connection(where, 20) as one_more:
                assert hung_up(one_more)
            for idler in idlers:
                idler.close()
            wait(lambda: not serving.service._conversations)
            with Peer(serving.address) as peer:
                assert "error" not in peer.told

    def test_when_its_memory_is_used_up_senders_wait_until_there_is_room(self, platform):
        held = platform.hold()
        with Serving(message_bytes=600_000, memory_bytes=800_000) as serving:
            with Peer(serving.address) as first, Peer(serving.address) as second:
                first.invoke(platform.address(), [("job/0", b"a" * 500_000)])
                assert held()
                sent = threading.Thread(target=second.invoke, args=(platform.address(), [("job/1", b"b" * 500_000)]))
                sent.start()
                wait(lambda: serving.service.memory_budget._waiting)
                assert serving.counters.messages == 1  # the other one is not read
                with Peer(serving.address) as third:  # but it can be asked whether it is there
                    third.say({"type": "ping"})
                    assert third.hear() == {"type": "pong"}
                platform.release.set()
                assert first.made(1) == second.made(1) == [None]
                sent.join()
            wait(lambda: serving.service.memory_budget.free_bytes == 800_000)

    def test_who_waits_for_room_in_vain_is_told_so(self, platform):
        held = platform.hold()
        with Serving(message_bytes=600_000, memory_bytes=800_000, wait_s=0.05) as serving:
            with Peer(serving.address) as first, Peer(serving.address) as second:
                first.invoke(platform.address(), [("job/0", b"a" * 500_000)])
                assert held()
                second.invoke(platform.address(), [("job/1", b"b" * 500_000)])
                assert "busy: no room" in second.hear()["error"]
                assert second.hung_up()
                platform.release.set()
                assert first.made(1) == [None]
            assert serving.counters.busy == 1
            assert platform.made() == {"job/0": 1}

    def test_what_the_platform_does_not_accept_in_time_is_answered_as_refused(self, platform):
        held = platform.hold()
        with Serving(message_s=1.0) as serving, Peer(serving.address) as peer:
            asked, budget = calls(1, size=50_000), serving.service.memory_budget
            peer.invoke(platform.address(), asked)
            assert held()
            assert "not accepted it within" in peer.made(1)[0]
            assert budget.free_bytes <= budget.size_bytes - 50_000  # it is still being made
            platform.release.set()
            wait(lambda: not serving.service.dispatcher.under_way)  # it was accepted all the same; that is remembered
            assert budget.free_bytes == budget.size_bytes
            peer.invoke(platform.address(), asked)
            assert peer.made(1) == [None]
            assert platform.made() == {"job/0.0": 1}
            assert serving.counters.late == 1

    def test_a_conversation_in_which_nothing_comes_ends(self):
        with Serving(idle_s=0.05) as serving, Peer(serving.address) as peer:
            assert peer.hung_up()

    def test_a_message_that_never_ends_ends_the_conversation(self, platform):
        with Serving(message_s=0.1) as serving, Peer(serving.address) as peer:
            frame = peer.frame(protocol.invoke(platform.address(), calls(1)), [calls(1)[0][1]])
            peer.socket.sendall(frame[:-1])
            assert peer.hung_up()
            wait(lambda: serving.service.memory_budget.free_bytes == serving.service.memory_budget.size_bytes)

    @pytest.mark.parametrize(
        "wrong", [{"calls": 0}, {"wait_s": -1.0}, {"message_bytes": 2, "memory_bytes": 1}], ids=str
    )
    def test_limits_that_cannot_be_are_refused(self, wrong):
        with pytest.raises(ConfigError):
            ProxyLimits(**wrong)


class TestStopping:
    def test_what_was_accepted_is_finished_and_answered(self, serving, platform):
        held = platform.hold()
        with Peer(serving.address) as busy, Peer(serving.address) as idle:
            busy.invoke(platform.address(), calls(1))
            assert held()
            stopped = serving.stop()
            assert idle.hung_up()
            assert get(serving, "/healthz") == (503, '{"status": "stopping"}\n')
            with Peer(serving.address, auth=False) as late:
                assert late.told == {"error": "it is stopping"}
            assert not stopped.done()
            platform.release.set()
            assert busy.made(1) == [None]
            assert busy.hung_up()
        stopped.result(20)
        assert serving.service.finished

    def test_what_is_still_being_made_when_its_sender_has_gone_is_finished_too(self, platform):
        held = platform.hold()
        with Serving(message_s=1.0) as serving:
            with Peer(serving.address) as peer:
                peer.invoke(platform.address(), calls(1))
                assert held()
                assert "not accepted it within" in peer.made(1)[0]
            stopped = serving.stop()
            assert get(serving, "/healthz")[0] == 503
            wait(lambda: not serving.service._conversations)
            assert not stopped.done()
            platform.release.set()
            stopped.result(20)
            assert platform.made() == {"job/0.0": 1}


class TestHTTP:
    def test_it_tells_that_it_is_well(self, serving):
        assert get(serving, "/healthz") == (200, '{"status": "ok"}\n')
        assert get(serving, "/healthz?deep=1")[0] == 200
        assert get(serving, "/")[0] == 404

    def test_its_counters_are_in_prometheus_format_and_hold_no_secret(self, serving, platform):
        with Peer(serving.address) as peer:
            peer.invoke(platform.address(), calls(70))
            assert peer.made(70) == [None] * 70
            status, text = get(serving, "/metrics")
        assert status == 200
        lines = text.splitlines()
        assert "# TYPE wukong_proxy_accepted_total counter" in lines
        assert "wukong_proxy_accepted_total 70" in lines
        assert "wukong_proxy_messages_total 1" in lines
        assert "wukong_proxy_connections 2" in lines
        assert KEY.hex() not in text

    def test_a_head_request_has_no_body_and_an_endless_one_no_answer(self, serving):
        with socket.create_connection(place(serving.address), 20) as connection:
            connection.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")
        with socket.create_connection(place(serving.address), 20) as connection:
            connection.sendall(b"GET /" + b"x" * 9_000)
            assert hung_up(connection)
