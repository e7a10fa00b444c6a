"""How the store `memcached` finds its servers and speaks to them, and what it says of them."""

import re
import socket
import ssl
import subprocess

import memcached_tools
import pytest
from memcached_tools import LARGE, RIDER, arrival

from wukong.backends.storage import Outcome
from wukong.backends.storage.memcached import MemcachedStore
from wukong.backends.storage.memcached.advice import advice
from wukong.errors import ConfigError, StoreError, StoreUnavailable
from wukong.testing.servers import MemcachedServer, free_port

server, opened, store = memcached_tools.server, memcached_tools.opened, memcached_tools.store


# Servers are named


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("memcached://h1:1,h2:2", ["h1:1", "h2:2"]),
        ("memcached://H1", ["h1:11211"]),
        ("memcached://[::1]:5,[fe80::1]/", ["[::1]:5", "[fe80::1]:11211"]),
    ],
)
def test_a_url_names_servers(url, names):
    assert MemcachedStore(url, item_bytes=1 << 20).spec().options["endpoints"] == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a url or as endpoints"),
        ({"url": "memcached://h", "endpoints": ["h"]}, "a url or as endpoints"),
        ({"url": "redis://h"}, "does not begin with memcached://"),
        ({"url": "memcached://user:hunter2@h"}, "no user and no password"),
        ({"url": "memcached://h/0"}, "more than servers"),
        ({"url": "memcached://h?tls=true"}, "more than servers"),
        ({"url": "memcached://"}, "'' is not the address"),
        ({"endpoints": []}, "no memcached server is named"),
        ({"endpoints": ["h:0"]}, "'h:0' is not the address"),
        ({"endpoints": ["h:x"]}, "'h:x' is not the address"),
        ({"endpoints": ["h:" + "1" * 5_000]}, "is not the address"),
        ({"endpoints": ["[::1"]}, "is not the address"),
        ({"endpoints": ["h", "h:11211"]}, "h:11211 is named twice"),
        ({"endpoints": ["h"], "timeout_s": 0.0}, "timeout_s is 0.0"),
        ({"endpoints": ["h"], "item_bytes": 1_000}, "item_bytes is 1,000"),
        ({"endpoints": ["h"], "prefix": "a b"}, "prefix is 'a b'"),
        ({"endpoints": ["h"], "ca_data": "x"}, "certificates are for TLS"),
        ({"endpoints": ["h"], "tls": True, "ca_data": "x"}, "cannot be read"),
        ({"endpoints": ["h"], "tls": True, "ca_file": "/nowhere.pem"}, "ca_file cannot be read"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as refused:
        MemcachedStore(**options)
    assert "hunter2" not in str(refused.value)


def test_elsewhere_it_opens_without_asking_the_servers(server, store):
    spec = store.spec()
    server.stop()
    second = spec.open()
    assert second.spec() == spec
    second.close()


def test_every_address_of_a_name_is_tried(server, monkeypatch):
    resolve = socket.getaddrinfo
    nobody = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", free_port()))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: [nobody, *resolve(*args, **more)])
    store = MemcachedStore(endpoints=[server.endpoint])
    store.put({b"a": b"1"})
    assert store.get([b"a"]) == [b"1"]
    store.close()


# TLS


class TlsMemcachedServer(MemcachedServer):
    def _serves(self) -> bool:
        with socket.create_connection((self.host, self.port), 1.0):
            return True


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A server that speaks TLS, and its certificate's file."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    arguments = ["-Z", "-o", f"ssl_chain_cert={certificate},ssl_key={key}", "-u", "root"]
    with TlsMemcachedServer(*arguments) as server:
        yield server, str(certificate)


def test_over_tls_all_is_the_same_and_functions_need_no_file(tls, opened):
    server, certificate = tls
    store = opened(server, tls=True, ca_file=certificate)
    assert certificate not in str(store.spec().options)
    second = store.spec().open()
    store.put({b"a": b"1", b"large": LARGE})
    assert second.get([b"a", b"large"]) == [b"1", LARGE]
    assert store.incr([arrival(0, value=RIDER)]) == [Outcome(False, False)]
    assert second.incr([arrival(1)])[0].values == (RIDER,)
    server.kill()
    server.start()
    assert second.get([b"a"]) == [None]
    second.close()


def test_a_certificate_that_nobody_trusted_signed_is_refused(tls, opened):
    with pytest.raises(StoreError, match=r"no TLS connection to memcached at .*\n.*ca_file") as refused:
        opened(tls[0], tls=True)
    assert not isinstance(refused.value, StoreUnavailable)
    assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)


def test_who_does_not_speak_tls_if_the_server_does_is_told_of_it(tls, opened):
    with pytest.raises(StoreUnavailable, match=r"closed the connection .*\n.*TLS"):
        opened(tls[0])


# Advice


GOOD = {
    "version": "1.6.18",
    "evictions": "0",
    "bytes": "10",
    "limit_maxbytes": str(4 << 30),
    "curr_connections": "10",
    "max_connections": "1024",
    "rejected_connections": "0",
}
SETTINGS = {"evictions": "off", "item_size_max": str(1 << 20), "cas_enabled": "yes"}


@pytest.mark.parametrize(
    ("stats", "given", "expected"),
    [
        ({}, {}, None),
        ({"version": "1.5.22"}, {}, "is of version 1.5.22 -> use 1.6 or newer"),
        ({}, {"cas_enabled": "no"}, "no fan-in works -> start it without -C"),
        ({}, {"evictions": "on"}, "evicts values .* -> start it with -M"),
        ({"evictions": "1234"}, {}, "has evicted 1,234 items .* -> give it more memory"),
        ({"limit_maxbytes": str(64 << 20)}, {}, "only 64 MiB of memory -> "),
        ({"bytes": str(4 << 30)}, {}, "is full: 4,096 of 4,096 MiB are taken -> "),
        ({}, {"item_size_max": "600000"}, "items of 600,000 bytes, .* 1,048,576 -> set item_bytes to 600000"),
        ({"rejected_connections": "7"}, {}, "turned connections away, 7 times -> let it take more"),
        ({"listen_disabled_num": "7"}, {}, "turned connections away, 7 times -> let it take more"),
        ({"curr_connections": "1000"}, {}, "1,000 of at most 1,024 connections -> let it take more"),
    ],
)
def test_advice_names_each_danger_and_what_to_do(stats, given, expected):
    lines = list(advice("h:1", GOOD | stats, SETTINGS | given, 1 << 20))
    if expected is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith("memcached at h:1 ")
        assert re.search(expected, line), line


def test_what_a_server_does_not_say_is_no_danger():
    assert list(advice("h:1", {}, {}, 1 << 20)) == []


def test_a_real_servers_answers_are_understood(opened):
    with MemcachedServer("-M", memory_mb=300) as good, MemcachedServer("-I", "512k", memory_mb=64) as bad:
        assert opened(good).advice() == []
        said = "\n".join(opened(good, bad, item_bytes=1 << 20).advice())
        assert good.endpoint not in said
        assert said.count(f"memcached at {bad.endpoint} ") == 3  # it evicts, is small, takes small items
