"""How the store `redis` reaches its servers: addresses, options, secrets, and what it says if it cannot."""

import pytest
import redis
from storage_redis_tools import PASSWORD, TTL_S, a_guarded_server, a_secure_server, a_server, some_certificates  # noqa: F401

from wukong.backends.plugins import load_storage
from wukong.backends.storage import Arrival
from wukong.backends.storage.layers.chunked import Chunked
from wukong.backends.storage.layers.sharded import Sharded
from wukong.backends.storage.redis import RedisStore
from wukong.backends.storage.redis.address import Address
from wukong.errors import ConfigError, PluginError, StoreError, StoreUnavailable
from wukong.testing.remote_process import RemoteProcess
from wukong.testing.servers import free_port

# --- addresses and options


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "names", "tls", "db"),
        [
            ("redis://h1:7000,H2,[::1]:7001", ["h1:7000", "h2:6379", "[::1]:7001"], False, None),
            ("redis://h1/3", ["h1:6379"], False, 3),
            ("redis://h1:1/?db=2", ["h1:1"], False, 2),
            ("rediss://h1", ["h1:6379"], True, None),
            ("unix:///run/a.sock,/run/b.sock?db=4", ["/run/a.sock", "/run/b.sock"], False, 4),
        ],
    )
    def test_is_read_from_a_url(self, url, names, tls, db):
        address = Address.parse(url)
        assert [endpoint.name for endpoint in address.endpoints] == names
        assert (address.tls, address.db, address.username, address.password) == (tls, db, None, None)

    @pytest.mark.parametrize("form", ["redis://{}@h1,h2/0", "rediss://{}@h1", "unix://{}@/run/a.sock?db=1"])
    @pytest.mark.parametrize(
        ("login", "username", "password"),
        [("bob:s3cret", "bob", "s3cret"), (":s%2Fe%40c%3Ar%2Ce%25t", None, "s/e@c:r,e%t"), ("bob", "bob", None)],
    )
    def test_has_username_and_password_decoded(self, form, login, username, password):
        address = Address.parse(form.format(login))
        assert (address.username, address.password) == (username, password)

    @pytest.mark.parametrize(
        "url",
        [
            "http://bob:s3cret@h1",
            "redis://bob:s3cret",
            "redis://bob:s3cret/x@h1",
            "redis://bob:s3,cret@h1",
            "redis://bob:s3cret@@h1",
            "redis://bob:s3cret#@h1",
            "redis://bob:s3cret?x@h1",
            "redis://bob:s3cret@h1?timeout=s3cret",
            "redis://bob:s3cret@h1:port",
            "redis://bob:s3cret@h1:0",
            "redis://bob:s3cret@h1:65536",
            "redis://h1:" + "1" * 5_000,
            "redis://bob:s3cret@h1,",
            "redis://bob:s3cret@",
            "redis://bob:s3cret@h1,h1:6379",
            "redis://bob:s3cret@h1/1/2",
            "redis://bob:s3cret@h1/1?db=1",
            "redis://bob:s3cret@[::1",
            "redis://bob:s3cret@[::1]6379",
            "unix://bob:s3cret@/run/a,b",
            "unix://bob:s3cret@run/a",
        ],
    )
    def test_that_cannot_be_read_is_refused_and_its_password_not_shown(self, url):
        with pytest.raises(ConfigError) as refused:
            RedisStore(url)
        assert "s3cret" not in f"{refused.value} {refused.value!r} {refused.value.hint}"

    @pytest.mark.parametrize("text", ["", "h:x", "h:1:2", "bob:s3cret@h", "redis://h", ":6379"])
    def test_of_an_endpoint_that_cannot_be_is_refused(self, text):
        with pytest.raises(ConfigError) as refused:
            RedisStore(endpoints=[text])
        assert "s3cret" not in str(refused.value)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({}, "url or as endpoints"),
            ({"url": "redis://h", "endpoints": ["h"]}, "url or as endpoints"),
            ({"endpoints": []}, "no Redis server is named"),
            ({"endpoints": ["h", "h:6379"]}, "h:6379 is named twice"),
            ({"url": "redis://h/1", "db": 2}, "db says another thing"),
            ({"url": "rediss://h", "tls": False}, "tls says another thing"),
            ({"url": "redis://:a@h", "password": "b"}, "password says another thing"),
            ({"endpoints": ["/a.sock"], "tls": True}, "unix sockets"),
            ({"url": "redis://h", "ca_file": "x"}, "which is not on"),
            ({"url": "rediss://h", "ca_file": "/nowhere/ca.pem"}, "No such file"),
            ({"url": "rediss://h", "ca_data": "no certificate"}, "cannot be used"),
            ({"url": "rediss://h", "cert_file": "/nowhere/client.pem"}, "cannot be used"),
            ({"url": "redis://h", "timeout_s": 0}, "timeout_s is 0"),
            ({"url": "redis://h", "db": -1}, "db is -1"),
            ({"url": "redis://h", "chunk_bytes": 0}, "chunk_bytes is 0"),
        ],
    )
    def test_that_cannot_be_are_refused(self, options, match):
        with pytest.raises(ConfigError, match=match):
            RedisStore(**options)

    def test_are_checked_by_the_plug_in_loader(self, server):
        with pytest.raises(PluginError, match="password_variabel"):
            load_storage({"name": "redis", "endpoints": ["h"], "password_variabel": "X"})
        with pytest.raises(PluginError, match="verify"):
            load_storage({"name": "redis", "endpoints": ["h"], "verify": "no"})
        store = load_storage(f"redis://{server.endpoint}/2")
        store.put({b"a": b"1"})
        assert store.get([b"a"]) == [b"1"]
        store.close()

    def test_nothing_is_connected_to_before_the_first_call(self):
        RedisStore(endpoints=[f"127.0.0.1:{free_port()}"]).close()

    def test_a_database_and_a_prefix_are_name_spaces_of_their_own(self, server):
        store = RedisStore(endpoints=[server.endpoint])
        others = [RedisStore(endpoints=[server.endpoint], **only) for only in ({"db": 5}, {"prefix": "other:"})]
        for other in others:
            other.put({b"a": b"other"})
        store.put({b"a": b"1"})
        assert [other.get([b"a"]) for other in others] == [[b"other"]] * 2
        others[1].delete([b"a"])
        assert store.get([b"a"]) == [b"1"]

    def test_the_store_is_chunks_over_shards(self):
        store = RedisStore("redis://h1,h2")
        assert isinstance(store.inner, Chunked)
        assert isinstance(store.inner.inner, Sharded)
        assert store.capabilities.wait_blocks
        assert not store.capabilities.trusted
        assert store.capabilities.max_value_bytes is None


# --- secrets


class TestSecrets:
    URL = "redis://bob:s3cret@127.0.0.1:1,127.0.0.1:2/0"

    def test_are_in_the_environment_and_nowhere_else(self):
        store = RedisStore(self.URL)
        assert store.environment() == {"WUKONG_REDIS_USERNAME": "bob", "WUKONG_REDIS_PASSWORD": "s3cret"}
        for text in (repr(store), repr(store.spec()), repr(store.inner), repr(Address.parse(self.URL))):
            assert "s3cret" not in text
            assert "bob" not in text
        with pytest.raises(StoreUnavailable) as refused:
            store.put({b"a": b"1", b"b": b"2", b"c": b"3"})
        assert "s3cret" not in f"{refused.value!r} {refused.value} {refused.value.__cause__}"

    def test_are_read_from_variables_of_any_name(self, monkeypatch):
        monkeypatch.setenv("OUR_PASSWORD", "s3cret")
        options = {"password_variable": "OUR_PASSWORD", "username_variable": "OUR_NAME"}
        store = RedisStore("redis://h", **options)
        assert store.environment() == {"OUR_PASSWORD": "s3cret"}
        assert store.spec().options.items() >= options.items()
        assert RedisStore("redis://:other@h", **options).environment() == {"OUR_PASSWORD": "other"}
        assert RedisStore("redis://h", password="another", **options).environment() == {"OUR_PASSWORD": "another"}

    def test_without_any_there_is_nothing_in_the_environment(self):
        assert RedisStore("redis://h").environment() == {}

    def test_a_function_opens_the_spec_with_its_environment_and_not_without(self, guarded):
        store = RedisStore(endpoints=[guarded.endpoint], password=PASSWORD)
        remote = RemoteProcess()
        try:
            with pytest.raises(StoreError, match="wants a password"):
                remote.put(store.spec(), {b"a": b"1"})
            remote.call(store.spec(), "close")
            remote.configure(store.environment())
            remote.put(store.spec(), {b"a": b"1"})
        finally:
            remote.close()
        assert store.get([b"a"]) == [b"1"]
        store.close()

    def test_a_user_of_the_servers_own_is_let_in(self, guarded):
        with redis.Redis(port=guarded.port, password=PASSWORD) as bare:
            bare.acl_setuser("bob", enabled=True, passwords=["+s3cret"], keys=["wukong:*"], commands=["+@all"])
        store = RedisStore(f"redis://bob:s3cret@{guarded.endpoint}")
        store.put({b"a": b"1"})
        assert store.wait(b"a", 1.0) == b"1"
        store.close()

    def test_a_user_needs_no_more_than_these_commands(self, guarded):
        """As documented, for those who let nobody do more than they must."""
        commands = (
            "+ping +mget +get +set +unlink +getrange +strlen +hmget +hget +hset +hgetall +pexpire +persist "
            "+evalsha +script|load +client|tracking +client|caching +scan"
        )
        with redis.Redis(port=guarded.port, password=PASSWORD) as bare:
            bare.script_flush()
            bare.execute_command("ACL", "SETUSER", "least", "on", ">s3cret", "~wukong:*", *commands.split())
        store = RedisStore(f"redis://least:s3cret@{guarded.endpoint}", chunk_bytes=10)
        for ttl_s in (None, TTL_S):
            store.put({b"a": b"chunks, and a manifest", b"b": b"small"}, ttl_s)
            assert store.get([b"a", b"b"]) == [b"chunks, and a manifest", b"small"]
            for member, claimant, last in ((0, b"a", True), (0, b"b", True), (1, b"b", True), (1, b"c", False)):
                store.incr([Arrival(b"f", (member,), 2, claimant, b"v", last)], ttl_s)
            assert store.incr([Arrival(b"f", (0,), 2, b"a", b"v")], ttl_s)[0].claimed
            assert store.wait(b"none", 0.01) is None
            assert set(store.scan(b"")) == {b"a", b"b", b"f"}
            store.delete([b"a", b"b", b"f"])
        assert store.advice() == []
        store.close()

    def test_a_certificate_travels_as_text(self, secure, certificates, tmp_path):
        ca_file = tmp_path / "ca.pem"
        ca_file.write_bytes(certificates[2].read_bytes())
        spec = RedisStore(f"rediss://{secure.endpoint}", ca_file=str(ca_file)).spec()
        ca_file.unlink()
        store = spec.open()
        store.put({b"a": b"1"})
        assert store.get([b"a"]) == [b"1"]
        store.close()
