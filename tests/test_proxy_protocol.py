"""What proxy and sender say to each other, without a connection."""

import json
import os

import pytest

from wukong.proxy import protocol
from wukong.proxy.protocol import ANSWER, HEAD, HELLO, Announced, ProtocolError, Talk

KEY, OTHER = b"k" * 32, b"o" * 32


def pair():
    """Return the two sides of one conversation."""
    said = protocol.hello(os.urandom(16))
    _, key = protocol.answer(KEY, said, os.urandom(16), {"hello": "there"})
    return Talk(key, b">"), Talk(key, b"<")


def heard(talk, frame):
    """Have a side read a frame."""
    data = b"".join(frame)
    text_bytes, body_bytes, digest = HEAD.unpack(data[: HEAD.size])
    text, body = data[HEAD.size : HEAD.size + text_bytes], data[HEAD.size + text_bytes :]
    assert len(body) == body_bytes
    return talk.read(digest, text, body), body


def greeted(secret, said, greeting):
    """Have a sender with this key read a proxy's greeting."""
    size, proof = ANSWER.unpack(greeting[HELLO.size : HELLO.size + ANSWER.size])
    text = greeting[HELLO.size + ANSWER.size :]
    assert len(text) == size
    return protocol.read_answer(secret, said, greeting[: HELLO.size], proof, text)


def test_each_side_understands_the_other():
    sender, proxy = pair()
    for number in range(3):
        assert heard(proxy, sender.frame({"n": number}, [b"one", b"two"])) == ({"n": number}, b"onetwo")
        assert heard(sender, proxy.frame({"answer": number})) == ({"answer": number}, b"")


def test_who_has_not_the_key_is_known_by_the_greeting_already():
    said = protocol.hello(os.urandom(16))
    greeting, _ = protocol.answer(KEY, said, os.urandom(16), {"limit": 1})
    assert greeted(KEY, said, greeting)[1] == {"limit": 1}
    with pytest.raises(ProtocolError, match="another deployment's key"):
        greeted(OTHER, said, greeting)


@pytest.mark.parametrize("at", [0, 5, 8, HELLO.size + 6, HELLO.size + ANSWER.size + 3], ids=str)
def test_a_greeting_that_was_altered_on_the_way_is_refused(at):
    said = protocol.hello(os.urandom(16))
    greeting, _ = protocol.answer(KEY, said, os.urandom(16), {"limit": 1})
    altered = greeting[:at] + bytes([greeting[at] ^ 1]) + greeting[at + 1 :]
    with pytest.raises(ProtocolError):
        greeted(KEY, said, altered)


def test_the_key_is_in_no_greeting():
    said = protocol.hello(os.urandom(16))
    greeting, conversation = protocol.answer(KEY, said, os.urandom(16), {})
    assert KEY not in said + greeting
    assert conversation not in greeting


@pytest.mark.parametrize("at", [0, 3, 7, 10, 23, HEAD.size + 2, -1], ids=str)
def test_a_frame_that_was_altered_anywhere_is_refused(at):
    sender, proxy = pair()
    frame = bytearray(b"".join(sender.frame({"type": "auth"}, [b"payload"])))
    frame[at] ^= 1
    text_bytes, body_bytes, digest = HEAD.unpack(frame[: HEAD.size])
    text = bytes(frame[HEAD.size : HEAD.size + text_bytes])
    body = bytes(frame[HEAD.size + text_bytes :])
    with pytest.raises(ProtocolError, match="forged"):
        proxy.read(digest, text, body[:body_bytes])


def test_what_moves_from_the_header_to_the_body_is_noticed():
    sender, proxy = pair()
    data = b"".join(sender.frame({"type": "x"}, [b"body"]))
    _, _, digest = HEAD.unpack(data[: HEAD.size])
    rest = data[HEAD.size :]
    with pytest.raises(ProtocolError, match="forged"):
        proxy.read(digest, rest[:3], rest[3:])


def test_a_frame_sent_again_left_out_or_sent_back_is_refused():
    sender, proxy = pair()
    first, second = sender.frame({"n": 1}), sender.frame({"n": 2})
    assert heard(proxy, first)[0] == {"n": 1}
    with pytest.raises(ProtocolError, match="out of order"):
        heard(proxy, first)
    assert heard(proxy, second)[0] == {"n": 2}
    sender.frame({"n": 3})  # lost on the way
    with pytest.raises(ProtocolError):
        heard(proxy, sender.frame({"n": 4}))
    mirrored, proxy = pair()
    with pytest.raises(ProtocolError):
        heard(mirrored, mirrored.frame({"n": 1}))


def test_a_frame_of_another_conversation_is_refused():
    (sender, _), (_, proxy) = pair(), pair()
    with pytest.raises(ProtocolError):
        heard(proxy, sender.frame({"n": 1}))


def test_what_a_message_asks_for_comes_out_as_it_went_in():
    faas, calls = ("module:Class", {"region": "x"}), [("j/0", b""), ("j/1", b"\x00\xff"), ("j/é", b"abc")]
    header = json.loads(json.dumps(protocol.invoke(faas, calls)))
    assert protocol.read_invoke(header, b"\x00\xffabc") == (faas, calls)


@pytest.mark.parametrize(
    "wrong",
    [
        {"faas": ["a:b"]},
        {"faas": [1, {}]},
        {"faas": ["a:b", []]},
        {"faas": None},
        {"calls": [["j/0", 3], ["j/1"]]},
        {"calls": [["j/0", -1], ["j/1", 4]]},
        {"calls": [["j/0", True], ["j/1", 2]]},
        {"calls": [["j/0", 1.5], ["j/1", 1.5]]},
        {"calls": [[7, 3]]},
        {"calls": [["j/0", 2]]},
        {"calls": [["j/0", 4]]},
        {"calls": 3},
    ],
    ids=str,
)
def test_a_message_that_makes_no_sense_is_refused(wrong):
    right = {"faas": ["a:b", {}], "calls": [["j/0", 3]]}
    protocol.read_invoke(right, b"abc")
    with pytest.raises(ProtocolError):
        protocol.read_invoke({**right, **wrong}, b"abc")


def test_an_answer_says_of_each_invocation_what_became_of_it():
    refusals = [None, "full", None, "too large", "full"]
    header = json.loads(json.dumps(protocol.made(refusals)))
    assert header["reasons"] == ["full", "too large"]
    assert protocol.read_made(header, 5) == refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {"accepted": 3},
        {"accepted": None},
        {"refused": [[0, 0], [0, 0]]},
        {"refused": [[5, 0]]},
        {"refused": [[-1, 0]]},
        {"refused": [[0, 7]]},
        {"refused": [[0, -1]]},
        {"refused": 1},
        {"reasons": []},
    ],
    ids=str,
)
def test_an_answer_that_does_not_add_up_is_refused(wrong):
    right = {"accepted": 1, "refused": [[0, 0]], "reasons": ["full"]}
    assert protocol.read_made(right, 2) == ["full", None]
    with pytest.raises(ProtocolError):
        protocol.read_made({**right, **wrong}, 2)
    with pytest.raises(ProtocolError):
        protocol.read_made({}, 2)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 100_000, b"\xff"], ids=lambda text: str(text[:4]))
def test_a_header_that_is_no_object_is_refused(text):
    sender, proxy = pair()
    digest = sender._digest(b">", 0, text, 0).digest()
    with pytest.raises(ProtocolError, match="not a JSON object"):
        proxy.read(digest, text)


def test_limits_that_make_no_sense_are_refused_and_further_ones_passed_over():
    right = Announced(1, 2, 3.0, 4.0)
    assert Announced.of({**right.plain(), "later": "x"}) == right
    for wrong in ({"calls": 0}, {"message_bytes": "x"}, {"idle_s": None}):
        with pytest.raises(ProtocolError):
            Announced.of({**right.plain(), **wrong})
