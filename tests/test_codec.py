"""Values and callables to signed bytes and back; nothing is unpickled that was not signed for its place."""

import math
import pickle
import sys
import threading
import types
import zlib

import cloudpickle
import lz4.frame
import numpy as np
import pandas as pd
import pytest
from codec_tools import CODEC, KEY, PLACE, there_and_back

from wukong.core import modules
from wukong.core.codec import COMPRESS_FROM_BYTES, Codec, dump_code, dump_value, fails, names_in
from wukong.core.storage import blob_size, joined
from wukong.errors import AuthenticationError, CodecError

# --- round trips


@pytest.mark.parametrize(
    "value",
    [
        None, False, True, 0, 0.0, -1, 1 << 200, 2.5, 1j, "", "text \u00e9", b"", b"bytes", (), [], {}, set(),
        frozenset({1}), [None, (1, {"a": [2]})], range(5), slice(1, 2), Ellipsis, float, len,
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values_come_back(value):
    back = there_and_back(value)
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6),
        np.arange(100_000.0).reshape(100, 1000),
        np.asfortranarray(np.arange(100_000.0).reshape(100, 1000)),
        np.arange(100_000)[::3],
        np.arange(100_000.0).reshape(100, 1000).T[5:50, ::2],
        np.empty(0),
        np.empty((0, 5), dtype="i2"),
        np.array(3.5),
        np.array(["a", None, {"b": 1}], dtype=object),
        np.array(["text", "x"]),
        np.arange(5000).astype("M8[s]"),
        np.zeros(5000, dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array(np.arange(5000), np.arange(5000) % 2),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays_come_back(array):
    back = there_and_back(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)
    if array.flags.f_contiguous:
        assert back.flags.f_contiguous


def test_a_large_array_comes_back_as_a_view_of_the_blob():
    array = np.arange(100_000.0)
    blob = bytearray(joined(CODEC.encode(array, PLACE)))
    back = CODEC.decode(blob, PLACE)
    assert back.flags.writeable
    assert np.shares_memory(back, np.frombuffer(blob, "u1"))


@pytest.mark.parametrize("size", [10, 1_000, 100_000])
@pytest.mark.parametrize("codec", [CODEC, Codec(KEY, compress=True)], ids=["plain", "compressed"])
def test_arrays_can_be_written_to_and_what_is_read_only_stays_as_it_was(codec, size):
    blob = bytes(joined(codec.encode(np.zeros(size), PLACE)))
    back = codec.decode(blob, PLACE)
    back += 1
    assert codec.decode(blob, PLACE).sum() == 0


def test_an_array_that_was_read_only_stays_so():
    array = np.zeros(100_000)
    array.flags.writeable = False
    assert not there_and_back(array).flags.writeable


def test_a_large_array_is_not_copied_into_the_blob_and_comes_out_aligned():
    array = np.arange(100_000.0)
    blob = CODEC.encode([array, array[:5000].copy()], PLACE)
    assert isinstance(blob, tuple)
    assert any(np.shares_memory(array, np.frombuffer(part, "u1")) for part in blob)
    backing = np.empty(blob_size(blob) + 64, "u1")
    start = -backing.ctypes.data % 64
    aligned = backing[start : start + blob_size(blob)]
    aligned[:] = np.frombuffer(joined(blob), "u1")
    for back in CODEC.decode(aligned.data, PLACE):
        assert back.ctypes.data % 64 == 0


@pytest.mark.parametrize("dump", [dump_code, dump_value])
def test_a_large_array_is_not_copied_into_the_pickle_of_what_only_cloudpickle_can_do(dump):
    small, large = np.arange(3), np.arange(10_000)
    data, buffers = dump(lambda: (small, large))
    assert [buffer.nbytes for buffer in buffers] == [large.nbytes] and len(data) < large.nbytes
    for back, array in zip(pickle.loads(data, buffers=buffers)(), (small, large), strict=True):
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("value", [7, "text", (1, 2.5), len], ids=repr)
def test_what_is_no_code_comes_back_where_code_is_asked_for(value):
    assert CODEC.decode(joined(CODEC.encode_code(value, PLACE)), PLACE) == value


@pytest.mark.parametrize("encode", [CODEC.encode, CODEC.encode_code])
def test_a_blob_is_these_bytes_whichever_python_and_package_made_it(encode):
    """Clients, functions and what is kept in a store read each other's: another form needs another first byte."""
    five, kilobyte = "0500000000000000", "0004000000000000"
    one = bytes.fromhex(f"57 01 01000000 79e02680b1985982521c461fd66a8ca2 {five}{five} 80054b072e")
    two = bytes.fromhex(f"57 01 02000000 f6077226235a4f115ae449aebbc67c46 {five}{five}{kilobyte}{kilobyte}")
    two = (two.ljust(64, b"\0") + bytes.fromhex("800597982e")).ljust(128, b"\0") + b"b" * 1_024
    assert bytes(joined(encode(7, PLACE))) == one
    assert bytes(joined(encode(pickle.PickleBuffer(b"b" * 1_024), PLACE))) == two


def test_by_default_buffers_are_signed_and_nothing_is_compressed():
    codec, zeros = Codec(KEY), np.zeros(COMPRESS_FROM_BYTES, "u1")
    blob = bytearray(joined(codec.encode(zeros, PLACE)))
    assert len(blob) > zeros.nbytes > blob_size(Codec(KEY, compress=True).encode(zeros, PLACE))
    blob[-1] ^= 1
    for reader in (codec, Codec(KEY, sign_buffers=False)):
        with pytest.raises(AuthenticationError):
            reader.decode(bytes(blob), PLACE)


def test_what_cannot_be_pickled_as_code_is_told_from_what_can():
    assert (fails(threading.Lock()), fails(lambda: 1), fails(1)) == (True, False, False)


def test_dataframes_come_back():
    frame = pd.DataFrame({"a": range(5_000), "b": ["x", "y"] * 2_500, "c": pd.Categorical(["u", "v"] * 2_500)})
    pd.testing.assert_frame_equal(there_and_back(frame), frame)
    pd.testing.assert_series_equal(there_and_back(frame["b"]), frame["b"])
    pd.testing.assert_frame_equal(there_and_back(frame.iloc[:0]), frame.iloc[:0])


def test_the_same_object_twice_is_one_object_again():
    array = np.arange(5_000)
    one, other = there_and_back([array, array])
    assert one is other


def test_a_recursive_value_comes_back():
    value = [1]
    value.append(value)
    back = there_and_back(value)
    assert back[1] is back


def test_code_that_travels_by_value_names_its_file():
    def outer():
        return lambda: 1

    back = Codec(bytes(32)).decode(joined(Codec(bytes(32)).encode_code(outer, b"k")), b"k")
    assert back.__code__.co_filename == back().__code__.co_filename == __file__


def test_lambdas_and_closures_come_back():
    n = 5
    assert there_and_back(lambda x: x + n)(2) == 7


# --- code


def module_of(name, source, path):
    module = types.ModuleType(name)
    module.__file__ = str(path)
    exec(source, module.__dict__)
    return module


@pytest.fixture
def user_module(monkeypatch, tmp_path):
    """A module beside the user's script: imported, not installed."""
    (tmp_path / "beside_the_script.py").write_text("def f(x):\n    return x * 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import beside_the_script

    yield beside_the_script
    sys.modules.pop("beside_the_script", None)


@pytest.fixture
def made_by_hand(monkeypatch, tmp_path):
    """A module that nobody can import again."""
    source = "LIMIT = 3\nclass Box:\n    def __init__(self, x): self.x = x\ndef f(x):\n    return Box(x * LIMIT)\n"
    module = module_of("made_by_hand", source, tmp_path / "gone.py")
    monkeypatch.setitem(sys.modules, "made_by_hand", module)
    return module


def test_a_module_with_a_file_travels_by_name(user_module, monkeypatch):
    blob = bytes(joined(CODEC.encode_code({"f": user_module.f}, PLACE)))
    assert CODEC.decode(blob, PLACE)["f"] is user_module.f
    monkeypatch.delitem(sys.modules, "beside_the_script")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(CodecError, match="'beside_the_script' is not installed"):
        CODEC.decode(blob, PLACE)


def test_a_module_that_cannot_be_imported_again_travels_by_value(made_by_hand, monkeypatch):
    blob = bytes(joined(CODEC.encode_code({"f": made_by_hand.f}, PLACE)))
    monkeypatch.delitem(sys.modules, "made_by_hand")
    assert CODEC.decode(blob, PLACE)["f"](2).x == 6
    assert "made_by_hand" not in sys.modules


def test_a_module_that_is_still_being_imported_travels_by_value(user_module, monkeypatch):
    monkeypatch.setattr(user_module.__spec__, "_initializing", True, raising=False)
    blob = bytes(joined(CODEC.encode_code({"f": user_module.f}, PLACE)))
    assert CODEC.decode(blob, PLACE)["f"] is not user_module.f
    assert CODEC.decode(blob, PLACE)["f"](2) == 6


def test_a_module_is_by_value_only_within(made_by_hand):
    with modules.by_value():
        assert "made_by_hand" in cloudpickle.list_registry_pickle_by_value()
        with modules.by_value():
            pass
        assert "made_by_hand" in cloudpickle.list_registry_pickle_by_value()
    assert "made_by_hand" not in cloudpickle.list_registry_pickle_by_value()


def test_what_the_user_registered_stays_registered(user_module):
    cloudpickle.register_pickle_by_value(user_module)
    try:
        with modules.by_value():
            pass
        assert "beside_the_script" in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(user_module)


def test_the_modules_that_code_names_are_told(user_module):
    """A job ships those of the user's; what is kept is found by the versions of the others."""
    code = {"f": user_module.f, "compiled": [len, math.sqrt, zlib.crc32], "data": np.arange(10_000)}
    assert {"beside_the_script", "math", "zlib", "numpy"} <= {name.partition(".")[0] for name in names_in(code)}
    with modules.naming() as named:
        CODEC.encode_code(code, PLACE)
    assert {"beside_the_script", "math", "zlib"} <= named
    with pytest.raises(CodecError):
        names_in(threading.Lock())


def test_installed_packages_travel_by_name():
    with modules.by_value():
        registered = cloudpickle.list_registry_pickle_by_value()
    assert not registered & {"numpy", "pandas", "dask", "json", "wukong", "wukong.core.codec"}


@pytest.fixture
def point(monkeypatch):
    """A class that was defined in a script, and that script is gone: another process, whose `__main__` is its own."""
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    exec(
        "class Point:\n    def __init__(self, x): self.x = x\n    def twice(self): return 2 * self.x\n", script.__dict__
    )

    def leave():
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))

    return script.Point, leave


def test_a_class_of_main_travels_by_value_as_code(point):
    cls, leave = point
    blob = bytes(joined(CODEC.encode_code(cls, PLACE)))
    leave()
    assert CODEC.decode(blob, PLACE)(5).twice() == 10


def test_an_executor_sends_on_values_of_a_class_of_main(point):
    cls, leave = point
    leave()
    assert there_and_back([cls(4)])[0].twice() == 8


# --- compression

SQUEEZE = Codec(KEY, compress=True)


def test_a_large_value_that_shrinks_is_compressed():
    array = np.zeros(10 * COMPRESS_FROM_BYTES, "u1")
    blob = SQUEEZE.encode(array, PLACE)
    assert blob_size(blob) < array.nbytes / 10
    np.testing.assert_array_equal(there_and_back(array, SQUEEZE), array)
    text = "text " * COMPRESS_FROM_BYTES
    assert blob_size(SQUEEZE.encode(text, PLACE)) < len(text) / 10
    assert there_and_back(text, SQUEEZE) == text


def test_a_large_pickle_without_buffers_comes_back_whether_it_shrinks_or_not():
    """It was padded on one side only, and refused as truncated."""
    noise = np.random.default_rng(1).bytes(4 * COMPRESS_FROM_BYTES)
    for value in (noise, [noise], "x" * 4 * COMPRESS_FROM_BYTES, list(range(COMPRESS_FROM_BYTES))):
        assert there_and_back(value, SQUEEZE) == value
        assert there_and_back(value) == value


def test_a_large_value_that_does_not_shrink_travels_as_it_is():
    noise = np.random.default_rng(1).integers(0, 255, 4 * COMPRESS_FROM_BYTES, "u1")
    blob = SQUEEZE.encode(noise, PLACE)
    assert any(np.shares_memory(noise, np.frombuffer(part, "u1")) for part in blob)
    np.testing.assert_array_equal(there_and_back(noise, SQUEEZE), noise)


def test_values_are_compressed_from_a_size_on():
    for kind in (bytes, np.zeros):
        zeros = kind(COMPRESS_FROM_BYTES) if kind is bytes else kind(COMPRESS_FROM_BYTES, "u1")
        extra = 0 if kind is np.zeros else len(pickle.dumps(zeros, 5)) - COMPRESS_FROM_BYTES
        at, below = zeros[extra:], zeros[extra + 1 :]
        assert blob_size(SQUEEZE.encode(at, PLACE)) < COMPRESS_FROM_BYTES / 10
        assert blob_size(SQUEEZE.encode(below, PLACE)) >= COMPRESS_FROM_BYTES - 1
        for value in (at, below):
            np.testing.assert_array_equal(there_and_back(value, SQUEEZE), value)


def test_what_lz4_makes_no_smaller_travels_as_it_is_to_the_byte(monkeypatch):
    """What its middle saves, lz4's frame may take again. With a sample of 16 kB that takes an array of 53 MB."""
    monkeypatch.setattr("wukong.core.codec._SAMPLE_BYTES", 512)
    noise, saved = np.random.default_rng(1).integers(1, 256, COMPRESS_FROM_BYTES, "u1"), set()
    for n_zeros in range(250, 400):
        array = noise.copy()
        array[COMPRESS_FROM_BYTES // 2 :][:n_zeros] = 0
        shrinks_by = array.nbytes - len(lz4.frame.compress(array))
        saved.add(shrinks_by)
        if abs(shrinks_by) <= 5:
            blob = SQUEEZE.encode(array, PLACE)
            assert any(np.shares_memory(array, np.frombuffer(part, "u1")) for part in blob) is (shrinks_by <= 0)
            np.testing.assert_array_equal(SQUEEZE.decode(joined(blob), PLACE), array)
    assert {-1, 0, 1} <= saved


def test_either_codec_reads_what_the_other_wrote():
    array = np.zeros(2 * COMPRESS_FROM_BYTES, "u1")
    np.testing.assert_array_equal(CODEC.decode(joined(SQUEEZE.encode(array, PLACE)), PLACE), array)
    np.testing.assert_array_equal(SQUEEZE.decode(joined(CODEC.encode(array, PLACE)), PLACE), array)


def test_compressed_bytes_are_checked_before_they_are_decompressed():
    blob = bytearray(joined(SQUEEZE.encode(np.zeros(4 * COMPRESS_FROM_BYTES, "u1"), PLACE)))
    blob[-20] ^= 1
    with pytest.raises(AuthenticationError):
        SQUEEZE.decode(bytes(blob), PLACE)
