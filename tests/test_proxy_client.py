"""The sender's side: whatever the proxy does, or does not do, costs little time and raises nothing."""

import threading

import pytest
from aws_lambda_server import log_in
from proxy_tools import KEY, Platform, Serving, calls, impostor, labels, proxy_side

from wukong.core.payload import Relayed
from wukong.errors import AuthenticationError, ConfigError
from wukong.proxy import connection, protocol
from wukong.proxy.client import Proxy, place
from wukong.testing.servers import free_port

FAAS = ("wukong.backends.faas.aws_lambda:AwsLambda", {})


@pytest.fixture
def platform(monkeypatch, tmp_path):
    log_in(monkeypatch, tmp_path)
    with Platform() as platform:
        yield platform


@pytest.fixture
def opened():
    """Make senders that are closed in the end."""
    made = []

    def open_(address, **options):
        made.append(Proxy(address, **{"key": KEY, **options}))
        return made[-1]

    yield open_
    for proxy in made:
        proxy.close()


def answers(*rounds, **announced):
    """Return what an impostor does: greet, then answer each message by what the round says of its calls."""

    def act(connection):
        talk, hear = proxy_side(connection, **announced)
        for round_ in rounds:
            header = hear()
            while header["type"] == "ping":
                connection.sendall(b"".join(talk.frame({"type": "pong"})))
                header = hear()
            if round_ is None:
                return  # without an answer
            connection.sendall(b"".join(talk.frame(round_(header))))

    return act


def all_of_them(header):
    return protocol.made([None] * len(header["calls"]))


class TestAccepted:
    def test_what_the_platform_has_accepted(self, platform, opened):
        with Serving() as serving:
            assert opened(serving.address).invoke(platform.address(), calls(20)) == Relayed(labels(calls(20)))
        assert platform.payloads() == dict(calls(20))

    def test_of_a_half_done_batch_that_half_and_why(self, opened):
        def half(header):
            return protocol.made([None, "the platform is full"] * (len(header["calls"]) // 2))

        with impostor(answers(half)) as (address, _):
            relayed = opened(address).invoke(FAAS, calls(6))
        assert relayed == Relayed(labels(calls(6)[::2]), "the platform is full")

    def test_a_connection_is_used_again(self, platform, opened):
        with Serving() as serving:
            proxy = opened(serving.address)
            for number in range(5):
                assert proxy.invoke(platform.address(), calls(1, f"job/{number}")).accepted
            assert len(serving.service._conversations) == 1

    def test_from_many_threads_at_once(self, platform, opened):
        with Serving() as serving:
            proxy, relayed = opened(serving.address), []

            def send(number):
                batches = [calls(4, f"job/{number}.{again}") for again in range(5)]
                relayed.extend(proxy.invoke(platform.address(), batch) for batch in batches)

            threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(frozenset().union(*(each.accepted for each in relayed))) == 160
        assert {each.why for each in relayed} == {""}
        assert set(platform.made().values()) == {1}

    def test_nothing_is_no_message(self, opened):
        assert opened(f"127.0.0.1:{free_port()}").invoke(FAAS, []) == Relayed(frozenset())


class TestBatches:
    def test_of_more_invocations_than_are_announced_are_split(self, platform, opened):
        with Serving(calls=10) as serving:
            assert opened(serving.address).invoke(platform.address(), calls(35)) == Relayed(labels(calls(35)))
            assert serving.counters.messages == 4

    @pytest.mark.parametrize("prefix", ["job/0", "j\u00f6b\u2028" * 30], ids=["short", "long and not ASCII"])
    def test_of_more_bytes_than_are_announced_are_split(self, platform, opened, prefix):
        asked = calls(50, prefix, size=1_000)
        with Serving(message_bytes=10_000) as serving:
            assert opened(serving.address).invoke(platform.address(), asked) == Relayed(labels(asked))
            assert serving.counters.messages >= 6

    def test_a_payload_that_fits_into_no_message_is_left_to_the_sender(self, platform, opened):
        asked = [*calls(3), ("job/large", b"x" * 20_000), *calls(3, "job/1")]
        with Serving(message_bytes=10_000) as serving:
            relayed = opened(serving.address).invoke(platform.address(), asked)
        assert relayed.accepted == labels(asked) - {"job/large"}
        assert "20,000 bytes" in relayed.why

    def test_what_was_accepted_before_the_proxy_died_stays_accepted(self, opened):
        with impostor(answers(all_of_them, None, calls=10)) as (address, _):
            relayed = opened(address, connect_s=1.0).invoke(FAAS, calls(30))
        assert relayed.accepted == labels(calls(10))
        assert "of no use" in relayed.why


class TestOfNoUse:
    def test_nobody_there(self, opened):
        relayed = opened(f"127.0.0.1:{free_port()}").invoke(FAAS, calls(2))
        assert not relayed.accepted
        assert "refused" in relayed.why

    def test_no_such_host(self, opened):
        assert not opened("no-such-host.invalid:8989").invoke(FAAS, calls(2)).accepted

    def test_one_that_never_greets(self, opened):
        with impostor(lambda connection: connection.recv(64) and connection.recv(64)) as (address, _):
            relayed = opened(address, connect_s=0.1).invoke(FAAS, calls(2))
        assert not relayed.accepted
        assert "timed out" in relayed.why

    def test_one_that_never_answers(self, opened):
        def silent(connection):
            _, hear = proxy_side(connection)
            hear()
            connection.recv(1)  # until the sender has had enough

        with impostor(silent) as (address, _):
            relayed = opened(address, answer_s=0.1).invoke(FAAS, calls(2))
        assert not relayed.accepted
        assert "timed out" in relayed.why

    def test_one_that_reads_nothing(self, opened):
        def deaf(connection):
            proxy_side(connection)
            over.wait(20)

        over = threading.Event()
        with impostor(deaf) as (address, _):
            relayed = opened(address, answer_s=0.1).invoke(FAAS, [("job/0", bytes(8_000_000))])
            over.set()
        assert "timed out" in relayed.why

    def test_one_of_another_version(self, opened):
        def older(connection):
            connection.recv(64)
            connection.sendall(protocol.HELLO.pack(protocol.MAGIC, 9, bytes(16)) + b"whatever comes after that")

        with impostor(older) as (address, _):
            relayed = opened(address).invoke(FAAS, calls(2))
        assert relayed.why.endswith(f"it speaks version 9 of the protocol, and this side version {protocol.VERSION}")

    def test_something_else_altogether(self, opened):
        def web(connection):
            connection.recv(64)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        with impostor(web) as (address, _):
            assert "it is no fan-out proxy" in opened(address).invoke(FAAS, calls(2)).why

    def test_a_greeting_without_end(self, opened):
        def chatty(connection):
            connection.recv(64)
            start = protocol.HELLO.pack(protocol.MAGIC, protocol.VERSION, bytes(16))
            connection.sendall(start + protocol.ANSWER.pack(2**32 - 1, bytes(16)))

        with impostor(chatty) as (address, _):
            assert "it greets with 4,294,967,295 bytes" in opened(address).invoke(FAAS, calls(2)).why

    def test_one_without_the_key_learns_nothing(self, opened):
        heard = []

        def thief(connection):
            said = connection.recv(64)
            connection.sendall(protocol.answer(b"guessed " * 4, said, bytes(16), {"calls": 5})[0])
            heard.append(connection.recv(64))

        with impostor(thief) as (address, _):
            relayed = opened(address).invoke(FAAS, calls(2))
        assert "another deployment's key" in relayed.why
        assert heard == [b""]

    @pytest.mark.parametrize(
        "lie",
        [
            {"type": "made", "accepted": 2, "refused": [[0, 0]], "reasons": ["no"]},
            {"type": "made", "accepted": 3, "refused": [], "reasons": []},
            {"type": "made"},
            {"type": "pong"},
        ],
        ids=str,
    )
    def test_one_whose_answer_does_not_add_up(self, opened, lie):
        with impostor(answers(lambda header: lie)) as (address, _):
            relayed = opened(address).invoke(FAAS, calls(2))
        assert not relayed.accepted
        assert "malformed" in relayed.why

    def test_one_whose_answer_is_forged(self, opened):
        def forger(connection):
            talk, hear = proxy_side(connection)
            hear()
            frame = bytearray(b"".join(talk.frame(protocol.made(["no", None]))))
            frame[-1] ^= 1
            connection.sendall(frame)

        with impostor(forger) as (address, _):
            assert "forged" in opened(address).invoke(FAAS, calls(2)).why

    def test_one_whose_answer_has_no_end(self, opened):
        def endless(connection):
            _, hear = proxy_side(connection)
            hear()
            connection.sendall(protocol.HEAD.pack(2**31, 2**31, bytes(16)))

        with impostor(endless) as (address, _):
            assert "it answers with 4,294,967,296 bytes" in opened(address).invoke(FAAS, calls(2)).why

    def test_one_that_says_why(self, opened):
        with impostor(answers(lambda header: {"type": "error", "error": "it is busy: no room"})) as (address, _):
            assert "busy: no room" in opened(address).invoke(FAAS, calls(2)).why

    def test_is_left_alone_for_a_while(self, opened):
        with impostor(lambda connection: None, answers(all_of_them)) as (address, taken):
            proxy = opened(address, rest_s=3_600)
            first = proxy.invoke(FAAS, calls(2))
            assert proxy.invoke(FAAS, calls(2)) == first
            assert len(taken) == 1
            proxy._rests_until = 0.0  # an hour later
            assert proxy.invoke(FAAS, calls(2)).accepted
            assert len(taken) == 2


class TestConnectionsThatAreGone:
    def test_one_that_the_proxy_has_closed_is_replaced(self, platform, opened):
        with Serving(idle_s=1.0) as serving:
            proxy = opened(serving.address)
            assert proxy.invoke(platform.address(), calls(1, "job/0")).accepted
            [kept] = proxy._idle
            assert kept._socket.recv(1) == b""  # it has been closed by now
            assert proxy.invoke(platform.address(), calls(1, "job/1")) == Relayed(labels(calls(1, "job/1")))

    def test_one_that_dies_with_the_message_is_replaced_and_the_message_sent_again_once(self, opened):
        with impostor(answers(all_of_them, None), answers(all_of_them)) as (address, taken):
            proxy = opened(address)
            assert proxy.invoke(FAAS, calls(1)).accepted
            assert proxy.invoke(FAAS, calls(2)) == Relayed(labels(calls(2)))
            assert len(taken) == 2

    def test_a_new_one_that_dies_is_not_tried_again(self, opened):
        with impostor(answers(None), answers(all_of_them)) as (address, taken):
            assert not opened(address).invoke(FAAS, calls(2)).accepted
            assert len(taken) == 1

    def test_after_a_rest_one_that_leads_nowhere_is_noticed(self, opened, monkeypatch):
        """A frozen function thaws, and what stood between it and the proxy has forgotten the connection."""
        over = threading.Event()

        def falls_silent(connection):
            answers(all_of_them)(connection)
            over.wait(20)

        with impostor(falls_silent) as (address, _):
            proxy = opened(address)
            assert proxy.invoke(FAAS, calls(1)).accepted
            [kept] = proxy._idle
            monkeypatch.setattr(connection, "_PING_S", 0.05)
            kept._used_at -= 3_600
            assert not kept.alive()
            over.set()

    def test_after_a_rest_one_that_answers_is_kept(self, platform, opened):
        with Serving() as serving:
            proxy = opened(serving.address)
            assert proxy.invoke(platform.address(), calls(1, "job/0")).accepted
            proxy._idle[0]._used_at -= 3_600
            assert proxy.invoke(platform.address(), calls(1, "job/1")).accepted
            assert len(serving.service._conversations) == 1
            assert serving.counters.messages == 3  # one of them was a question whether it is there

    def test_a_closed_one_says_so(self, platform, opened):
        with Serving() as serving:
            proxy = opened(serving.address)
            assert proxy.invoke(platform.address(), calls(1)).accepted
            proxy.close()
            proxy.close()
            assert "closed" in proxy.invoke(platform.address(), calls(1)).why


class TestOpening:
    def test_the_key_is_that_of_the_environment(self, platform, monkeypatch):
        monkeypatch.setenv("WUKONG_DEPLOYMENT_KEY", KEY.hex())
        with Serving() as serving:
            proxy = Proxy(serving.address)
            assert proxy.invoke(platform.address(), calls(2)).accepted
            proxy.close()

    def test_without_a_key_it_does_not_open(self, monkeypatch):
        monkeypatch.delenv("WUKONG_DEPLOYMENT_KEY", raising=False)
        with pytest.raises(AuthenticationError, match="WUKONG_DEPLOYMENT_KEY"):
            Proxy("127.0.0.1:8989")

    @pytest.mark.parametrize("address", ["", "host", "host:", ":8989", "host:0", "host:65536", "host:port"])
    def test_what_is_no_address_is_refused(self, address):
        with pytest.raises(ConfigError, match="no address of a proxy"):
            Proxy(address, key=KEY)

    def test_addresses(self):
        assert place("proxy.example:8989") == ("proxy.example", 8989)
        assert place("[::1]:1") == ("::1", 1)
