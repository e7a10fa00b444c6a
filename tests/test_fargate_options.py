"""The options of the store `fargate`, the shape of its nodes, their definition, their certificate and their price."""

from __future__ import annotations

import dataclasses
import ssl
import sys
import tempfile
from contextlib import suppress

import pytest

from wukong.backends.plugins import load_storage
from wukong.backends.storage.fargate import Fargate
from wukong.backends.storage.fargate.certificate import certificate_of, new_certificate
from wukong.backends.storage.fargate.definition import definition, digest
from wukong.backends.storage.fargate.options import IMAGES, FargateOptions, Shape
from wukong.backends.storage.fargate.price import RATES, rent
from wukong.backends.storage.fargate.script import HEALTH, SCRIPT
from wukong.errors import ConfigError, PluginError, StoreError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "with space"}, "name is 'with space'"),
        ({"name": "0ne"}, "name is '0ne'"),
        ({"name": "x" * 41}, "40 at most"),
        ({"nodes": 0}, "nodes is 0"),
        ({"nodes": 1_001}, "from 1 to 1,000"),
        ({"nodes": 2.5}, "'nodes' of the store fargate must be a whole number"),
        ({"cpu": 1000}, "Fargate has 256, 512, 1024, 2048, 4096, 8192, 16,384"),
        ({"memory_mb": 5_000}, "with cpu=1024 Fargate has 2048, 3072, 4096, 5120, 6144, 7168, 8192"),
        ({"cpu": 4096, "memory_mb": 2048}, "with cpu=4096 Fargate has 8192, 9216, ... 30,720"),
        ({"image": "redis; rm -rf /"}, "image is"),
        ({"image": f"registry/{'x' * 256}"}, "too long"),
        ({"architecture": "sparc"}, "'architecture' of the store fargate must be 'arm64' or 'x86_64' or null"),
        ({"idle_s": 0}, "idle_s is 0"),
        ({"watch_s": 0}, "watch_s is 0"),
        ({"subnets": []}, "subnets is empty"),
        ({"public": True}, "no client_cidr"),
        ({"public": True, "client_cidr": "1.2.3.4/32", "public_ip": False}, "public_ip is off"),
        ({"chunk_bytes": 0}, "chunk_bytes is 0"),
    ],
)
def test_options_that_cannot_be_are_refused_with_what_is_valid(options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        FargateOptions(**options)


def test_what_is_not_said_is_as_the_nodes_that_run_and_else_a_default():
    assert FargateOptions().shape(None) == Shape()
    running = Shape(cpu=4096, memory_mb=16384, image="mine", architecture="x86_64", tls=True, idle_s=60.0)
    assert FargateOptions().shape(running) == running
    assert FargateOptions(tls=False, image="valkey").shape(running) == dataclasses.replace(
        running, tls=False, image=IMAGES["valkey"]
    )


@pytest.mark.parametrize(("cpu", "memory_mb"), [(256, 2048), (512, 4096), (1024, 8192), (2048, 8192), (16384, 65536)])
def test_memory_follows_the_cpu_if_it_is_not_said(cpu, memory_mb):
    assert FargateOptions(cpu=cpu).shape(None).memory_mb == memory_mb


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(256, 512, "1.dkr.ecr.eu-west-1.amazonaws.com/a/b@sha256:0f", "x86_64", True, 0.25)]
)
def test_a_shape_is_read_back_from_its_tag(shape):
    assert Shape.of(shape.tag) == shape
    assert set(shape.tag) <= set("abcdefghijklmnopqrstuvwxyz0123456789 +-=._:/@")  # what AWS takes in a tag's value


@pytest.mark.parametrize("tag", ["", "cpu=1024", Shape().tag.replace("1024", "1000"), Shape().tag.replace("1800", "x")])
def test_what_is_no_shape_is_none(tag):
    assert Shape.of(tag) is None


def test_the_plug_in_takes_these_options_by_keyword_and_calls_the_name_deployment():
    store = load_storage({"name": "fargate", "deployment": "mine", "nodes": 3, "region": "us-east-1"})
    assert isinstance(store, Fargate)
    assert (store.options.name, store.options.nodes) == ("mine", 3)
    store.close()
    with pytest.raises(PluginError, match=r"has no option 'node'[^$]*did you mean 'nodes'\?"):
        load_storage({"name": "fargate", "node": 3})
    with pytest.raises(ConfigError, match="nodes is 0"):
        load_storage({"name": "fargate", "nodes": 0})
    with pytest.raises(ConfigError, match=r"there is no option 'node'[^$]*did you mean 'nodes'\?"):
        FargateOptions.of({"node": 3})


def test_an_unused_store_starts_nothing_and_says_so():
    store = Fargate(region="us-east-1")
    for verb in (
        lambda: store.get([b"a"]),
        lambda: store.put({b"a": b"1"}),
        lambda: store.delete([b"a"]),
        lambda: store.wait(b"a", 0),
        lambda: store.incr([]),
        store.spec,
        store.environment,
    ):
        with pytest.raises(StoreError, match="it was not started, or is closed"):
            verb()
    assert store.rent() is None
    assert store.capabilities.recovery_s == 120.0
    store.close()
    store.close()


# --- the definition


def defined(shape=None, certificate=None):
    return definition(
        "mine",
        shape or Shape(),
        role="arn:role",
        region="eu-west-1",
        log_group="/ecs/mine-store",
        password="arn:secret:password",
        certificate=certificate,
    )


def test_the_definition_is_one_redis_with_three_quarters_of_the_memory_for_values_and_no_secret_in_it():
    made = defined(Shape(cpu=2048, memory_mb=4096, architecture="x86_64", idle_s=60.0))
    [container] = made.pop("containerDefinitions")
    assert made == {
        "family": "mine-store",
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "cpu": "2048",
        "memory": "4096",
        "runtimePlatform": {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
        "executionRoleArn": "arn:role",
    }
    assert (container["name"], container["image"]) == ("redis", IMAGES["redis"])
    assert (container["cpu"], container["memory"]) == (2048, 4096)
    assert (container["entryPoint"], container["command"]) == (["sh", "-c"], [SCRIPT])
    assert container["environment"] == [
        {"name": "WUKONG_MAXMEMORY_MB", "value": "3072"},
        {"name": "WUKONG_POLL_S", "value": "15"},
        {"name": "WUKONG_POLLS", "value": "4"},
    ]
    assert container["secrets"] == [{"name": "WUKONG_REDIS_PASSWORD", "valueFrom": "arn:secret:password"}]
    assert container["healthCheck"]["command"] == ["CMD-SHELL", HEALTH]
    assert container["portMappings"] == [{"containerPort": 6379, "protocol": "tcp"}]
    assert container["logConfiguration"]["options"]["awslogs-group"] == "/ecs/mine-store"


def test_with_tls_the_container_gets_the_certificate_as_a_secret_too():
    [container] = defined(certificate="arn:secret:certificate")["containerDefinitions"]
    assert {"name": "WUKONG_REDIS_PEM", "valueFrom": "arn:secret:certificate"} in container["secrets"]


def test_definitions_are_told_apart():
    marks = [digest(each) for each in (defined(), defined(certificate="arn"), defined(Shape(idle_s=60.0)))]
    assert len(set(marks)) == 3
    assert digest(defined()) == marks[0]


# --- the certificate


def test_a_certificate_is_trusted_as_its_own_authority_even_strictly():
    pem = new_certificate("mine")
    certificate = certificate_of(pem)
    assert "PRIVATE KEY" in pem
    assert "PRIVATE KEY" not in certificate
    context = ssl.create_default_context(cadata=certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = False
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(server, pem)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    talking = [context.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(3):
        for side in talking:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert talking[0].getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(certificate)


def _load(context, pem):
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


def test_a_secret_without_a_certificate_is_refused():
    with pytest.raises(StoreError, match="holds none"):
        certificate_of("something else")


def test_without_the_package_for_certificates_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(StoreError, match=r"wukong-serverless\[fargate\]"):
        new_certificate("mine")


# --- the price


def test_nodes_cost_what_their_cpus_and_memory_cost():
    told = rent(3, Shape(cpu=2048, memory_mb=4096, architecture="x86_64"))
    assert told.usd_per_s == pytest.approx(3 * (2 * 0.04048 + 4 * 0.004445) / 3600)
    assert (told.what, told.rates) == ("3 Redis nodes on AWS Fargate", RATES["x86_64"].name)
    one = rent(1, Shape(cpu=1024, memory_mb=2048))
    assert one.usd_per_s == pytest.approx((0.03238 + 2 * 0.00356) / 3600)
    assert one.what == "1 Redis node on AWS Fargate"


def test_prices_can_be_set():
    told = rent(2, Shape(cpu=1024, memory_mb=8192), vcpu_hour_usd=36.0)
    assert told.usd_per_s == pytest.approx(2 * (36.0 + 8 * 0.00356) / 3600)
    assert told.rates == "as configured"
    assert rent(1, Shape(), gb_hour_usd=0.0, vcpu_hour_usd=0.0).usd_per_s == 0.0
