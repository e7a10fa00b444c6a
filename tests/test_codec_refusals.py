"""What the codec refuses, before it is unpickled, and what cannot be packed or unpacked and says why."""

import importlib
import pickle
import sys
import threading

import numpy as np
import pytest
from codec_tools import CODEC, KEY, PLACE, there_and_back

from wukong.core.codec import COMPRESS_FROM_BYTES, Codec
from wukong.core.storage import joined
from wukong.errors import AuthenticationError, CodecError

# --- authentication


class Bomb:
    went_off = False

    def __reduce__(self):
        return _go_off, ()


def _go_off():
    Bomb.went_off = True


@pytest.fixture(autouse=True)
def no_bomb():
    Bomb.went_off = False
    yield
    Bomb.went_off = False


def forged():
    return bytes(joined(Codec(b"another deployment's").encode(Bomb(), PLACE)))


def moved():
    return bytes(joined(CODEC.encode(Bomb(), b"elsewhere")))


def signed():
    return bytes(joined(CODEC.encode([Bomb(), np.arange(5_000)], PLACE)))


UNSIGNED, OLD = "its signature does not match", "it is not a blob of this version"


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        pytest.param(forged, UNSIGNED, id="another key"),
        pytest.param(moved, UNSIGNED, id="another place"),
        pytest.param(lambda: pickle.dumps(Bomb()), OLD, id="a bare pickle"),
        pytest.param(lambda: b"", "it is truncated", id="empty"),
        pytest.param(lambda: b"W", "it is truncated", id="one byte"),
        pytest.param(lambda: bytes(200), OLD, id="zeros"),
        pytest.param(lambda: b"\x57" + bytes(24), OLD, id="no parts"),
        pytest.param(lambda: b"\x57\x01\xff\xff\xff\xff" + bytes(40), "it is truncated", id="no such table"),
        pytest.param(lambda: signed()[:-1], "it has [0-9]+ bytes, but its header promises 4[0-9]{4}", id="truncated"),
        pytest.param(lambda: signed()[:22], "it is truncated", id="without a table"),
        pytest.param(lambda: signed()[:30], "it is truncated", id="in an entry of its table"),
        pytest.param(lambda: signed()[:38], "it is truncated", id="between entries of its table"),
        pytest.param(lambda: signed()[:54], "it has 54 bytes, but .* [0-9]+", id="after its table"),
        pytest.param(lambda: signed() + b"x", "it has [0-9]+ bytes, but its header promises 4[0-9]{4}", id="extended"),
    ],
)
def test_what_is_not_signed_for_this_place_is_refused_before_it_is_unpickled(blob, why):
    with pytest.raises(AuthenticationError, match=rf"^refused to unpickle b'job/v/7': {why}\n") as refused:
        CODEC.decode(blob(), PLACE)
    assert refused.value.hint == "everything that shares a store must use the same deployment key (setting `key`)"
    assert not Bomb.went_off


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("change", [lambda blob: blob[:-1], lambda blob: blob + b"x", lambda blob: blob[:300]])
def test_a_blob_of_another_length_is_refused_though_its_buffers_are_not_signed(compress, change):
    trusting = Codec(KEY, sign_buffers=False, compress=compress)
    blob = bytes(joined(trusting.encode([Bomb(), np.zeros(COMPRESS_FROM_BYTES, "u1")], PLACE)))
    with pytest.raises(AuthenticationError, match="bytes, but its header promises"):
        trusting.decode(change(blob), PLACE)
    assert not Bomb.went_off


def test_compressed_bytes_that_are_damaged_where_nobody_else_can_write_are_an_error_of_wukongs():
    trusting = Codec(KEY, sign_buffers=False, compress=True)
    blob = bytearray(joined(trusting.encode(np.zeros(4 * COMPRESS_FROM_BYTES, "u1"), PLACE)))
    at = blob.index(b"\x04\x22\x4d\x18")  # where lz4's frame begins
    blob[at] ^= 1
    with pytest.raises(CodecError, match=r"a value could not be unpickled: .*LZ4") as damaged:
        trusting.decode(bytes(blob), PLACE)
    assert "importable" in damaged.value.hint


def test_the_bomb_goes_off_where_it_is_signed():
    CODEC.decode(signed(), PLACE)
    assert Bomb.went_off


def padding(blob):
    """Positions of a blob that hold nothing: between its parts."""
    sizes = [int.from_bytes(blob[22 + 16 * i : 30 + 16 * i], "little") for i in range(2)]
    end = 22 + 32
    start = end + -end % 64
    after = start + sizes[0]
    return {*range(end, start), *range(after, after + -after % 64)}


def test_no_changed_byte_goes_unnoticed():
    blob = signed()
    empty = padding(blob)
    step = 1 if len(blob) < 2_000 else 97
    for at in [*range(300), *range(300, len(blob), step)]:
        if at in empty:
            continue
        changed = bytearray(blob)
        changed[at] ^= 1
        with pytest.raises(AuthenticationError):
            CODEC.decode(bytes(changed), PLACE)
    assert not Bomb.went_off


def test_a_place_and_a_value_do_not_run_into_each_other():
    blob = bytes(joined(CODEC.encode("x", b"job/v/1")))
    for place in (b"job/v/", b"job/v/11", b"", b"job/v/1\x00"):
        with pytest.raises(AuthenticationError):
            CODEC.decode(blob, place)


def test_unsigned_buffers_are_accepted_only_if_they_are_allowed():
    trusting = Codec(KEY, sign_buffers=False)
    array = np.arange(5_000)
    blob = bytes(joined(trusting.encode(array, PLACE)))
    np.testing.assert_array_equal(trusting.decode(blob, PLACE), array)
    with pytest.raises(AuthenticationError, match=r"job/v/7': its buffers are not signed\n"):
        CODEC.decode(blob, PLACE)


def test_signed_buffers_are_checked_also_if_unsigned_ones_are_allowed():
    trusting = Codec(KEY, sign_buffers=False)
    blob = bytearray(joined(CODEC.encode(np.arange(5_000), PLACE)))
    trusting.decode(bytes(blob), PLACE)
    blob[-1] ^= 1
    with pytest.raises(AuthenticationError):
        trusting.decode(bytes(blob), PLACE)


def test_the_flag_that_buffers_are_unsigned_cannot_be_set_from_outside():
    trusting = Codec(KEY, sign_buffers=False)
    blob = bytearray(joined(CODEC.encode(np.arange(5_000), PLACE)))
    blob[1] = 0
    with pytest.raises(AuthenticationError):
        trusting.decode(bytes(blob), PLACE)


def test_the_pickle_of_unsigned_buffers_is_still_signed():
    trusting = Codec(KEY, sign_buffers=False)
    blob = bytearray(joined(trusting.encode([Bomb(), np.arange(5_000)], PLACE)))
    blob[64] ^= 1
    with pytest.raises(AuthenticationError):
        trusting.decode(bytes(blob), PLACE)
    assert not Bomb.went_off


@pytest.mark.parametrize("length", [0, 1, 15, 65, 100])
def test_a_key_of_the_wrong_length_is_refused(length):
    with pytest.raises(CodecError, match=f"{length} bytes") as refused:
        Codec(bytes(length))
    assert refused.value.hint == "use 16 to 64 random bytes"


@pytest.mark.parametrize("length", [16, 32, 64])
def test_a_key_of_the_right_length_is_taken(length):
    assert there_and_back(5, Codec(b"k" * length)) == 5


# --- what cannot be done says why


class HoldsALock:
    def __init__(self):
        self.lock = threading.Lock()


def test_what_cannot_be_pickled_is_named():
    with pytest.raises(CodecError, match=r"^cannot pickle a \w+\.HoldsALock: TypeError: .*lock") as caught:
        CODEC.encode(HoldsALock(), PLACE)
    assert caught.value.hint.startswith("open files, locks and connections cannot travel")


class FailsHere:
    def __reduce__(self):
        return _fail, ()


def _fail():
    raise ImportError("no module of that name here")


def test_what_cannot_be_unpickled_says_what_went_wrong():
    blob = bytes(joined(CODEC.encode(FailsHere(), PLACE)))
    with pytest.raises(CodecError, match="unpickled: ImportError: no module of that name here") as caught:
        CODEC.decode(blob, PLACE)
    assert caught.value.hint.startswith("the same packages must be importable where the value was made")


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ("", "the package 'a_package_of_theirs' is not installed where this is read"),
        ("inner.py", "the installed 'a_package_of_theirs' has no 'a_package_of_theirs.inner' where this is read"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_what_to_do(tmp_path, monkeypatch, gone, why):
    package = tmp_path / "a_package_of_theirs"
    package.mkdir()
    (package / "inner.py").write_text("class Thing: pass")
    monkeypatch.syspath_prepend(tmp_path)
    blob = CODEC.encode(importlib.import_module("a_package_of_theirs.inner").Thing(), PLACE)
    del sys.modules["a_package_of_theirs"], sys.modules["a_package_of_theirs.inner"]
    (package / gone).rename(tmp_path / "away")
    importlib.invalidate_caches()
    with pytest.raises(CodecError) as caught:
        CODEC.decode(joined(blob), PLACE)
    assert caught.value.message == why
    assert caught.value.hint == "deployed functions get it by: wukong deploy --requirements requirements.txt"
    sys.modules.pop("a_package_of_theirs", None)


class MissesAPart:
    def __reduce__(self):
        return _misses_a_part, ()


def _misses_a_part():
    raise ModuleNotFoundError("theirs, in words of their own")


def test_who_says_in_words_of_its_own_what_is_not_installed_is_quoted():
    with pytest.raises(CodecError, match="the package 'theirs, in words of their own' is not installed"):
        there_and_back(MissesAPart())
