"""What can be chosen about a deployment, as it is written on the command line, held against what can be."""

import pytest

from wukong import cli
from wukong.deploy.arguments import given, seconds
from wukong.deploy.options import RETENTION_DAYS, DeployOptions, check_name
from wukong.errors import ConfigError


def options(*arguments, deployed=None, name="wukong"):
    parsed = cli.parser().parse_args(["deploy", *map(str, arguments)])
    return DeployOptions.over(name, deployed or {}, given(parsed))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--memory", 127], "from 128 to 10240 MB"),
        (["--memory", 10_241], "from 128 to 10240 MB"),
        (["--sizes", "1769,a"], "write 1769,3538,10240, or none"),
        (["--sizes", "3538,1769"], "goes the smallest first"),
        (["--sizes", "1769,10241"], "from 128 to 10240 MB"),
        (["--sizes", "512,1024", "--memory", 512], "--memory is the first of --sizes"),
        (["--ephemeral-storage", 511], "from 512 to 10240 MB"),
        (["--timeout", 901], "from 1 to 900 s"),
        (["--timeout", 0], "from 1 to 900 s"),
        (["--functions", 21], "from 1 to 20"),
        (["--functions", 0], "from 1 to 20"),
        (["--architecture", "arm"], "did you mean 'arm64'?"),
        (["--python", "3.9"], "valid: 3.11, 3.12, 3.13, 3.14"),
        (["--key-in", "secret-manager"], "did you mean 'secrets-manager'?"),
        (["--reserved-concurrency", 0], "from 1 up, or 'none'"),
        (["--log-retention-days", 10], "did you mean 7?"),
        (["--tags", "team"], "write --tags key=value"),
        (["--tags", "aws:team=a"], "not beginning with aws:"),
        (["--tags", f"team={'a' * 257}"], "the value at most 256"),
        (["--security-groups", "sg-1"], "give --subnets as well"),
        (["--image", "repository/wukong", "--requirements", "r.txt"], "goes into the image"),
        (["--requirements", "nowhere.txt"], "there is no requirements file nowhere.txt"),
    ],
)
def test_values_that_cannot_be_are_refused_with_what_can(arguments, says):
    with pytest.raises(ConfigError) as caught:
        options(*arguments)
    assert says in str(caught.value)


IMAGE = ("--image", "123456789012.dkr.ecr.us-east-1.amazonaws.com/wukong")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--proxy"], "give --proxy-image"),
        (["--proxy", *IMAGE, "--proxy-cpu", 1_000], "--proxy-cpu 1000 with --proxy-memory 2048 cannot be"),
        (["--proxy", *IMAGE, "--proxy-memory", 1_000], "with cpu=1024 Fargate has 2048, 3072"),
        (["--proxy", *IMAGE, "--proxy-workers", 0], "from 1 to 64"),
        (["--proxy", *IMAGE, "--clients", "everybody"], "--clients everybody is no block of addresses"),
        (["--proxy", *IMAGE, "--clients", "10.0.0.1/16"], "has host bits set"),
        (["--proxy", *IMAGE, "--clients", "0.0.0.0/0"], "lets everybody in"),
        (["--clients", "10.0.0.0/16"], "give --proxy or --storage fargate"),
    ],
)
def test_what_cannot_be_on_fargate_is_refused_with_what_can(arguments, says):
    with pytest.raises(ConfigError) as caught:
        options(*arguments)
    assert says in str(caught.value)


def test_the_proxy_is_kept_until_it_is_taken_back():
    kept = options("--proxy", "--proxy-image", "uri", "--proxy-workers", 4, "--clients", "10.0.0.0/16").described()
    again = options(deployed=kept)
    assert (again.proxy, again.proxy_image, again.workers, again.clients) == (True, "uri", 4, ("10.0.0.0/16",))
    without = options("--no-proxy", "--proxy-image", "none", "--clients", "none", deployed=kept)
    assert (without.proxy, without.proxy_image, without.clients) == (False, None, ())
    assert options("--proxy-workers", "none", "--proxy-cpu", 4_096, "--proxy-memory", 8_192, deployed=kept).workers == 4


def test_a_secret_holds_the_key_for_the_proxy_too():
    assert options().secrets == ()
    assert options("--proxy", *IMAGE).secrets == ("wukong/deployment-key",)
    assert options("--key-in", "secrets-manager").secrets == ("wukong/deployment-key",)
    both = options(deployed={"store": "fargate", "key_in": "secrets-manager"})
    assert both.secrets == ("wukong/deployment-key", "wukong/store-password")


@pytest.mark.parametrize("name", ["", "My", "my_functions", "-a", "a-", "a--b", "1a", "a" * 25, "ä"])
def test_names_that_no_bucket_or_function_can_have_are_refused(name):
    with pytest.raises(ConfigError, match="cannot be called"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "wukong", "a-b-c", "a1", "a" * 24])
def test_other_names_can_be(name):
    assert check_name(name) == name


def test_what_is_not_said_is_as_described():
    assert options() == DeployOptions()
    assert (DeployOptions().memory_mb, DeployOptions().timeout_s, DeployOptions().architecture) == (1_769, 900, "arm64")


def test_everything_that_can_be_said_is_read(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy\n")
    said = options(
        *("--functions", 3, "--memory", 512, "--timeout", 60, "--architecture", "x86_64", "--python", "3.12"),
        *("--reserved-concurrency", 9, "--requirements", requirements, "--subnets", "s-1", "s-2"),
        *("--security-groups", "g-1", "--log-retention-days", 30, "--tags", "team=a", "stage=b=c"),
        *("--key-in", "secrets-manager", "--proxy", "--proxy-image", "p", "--proxy-cpu", 512, "--proxy-memory", 1_024),
        *("--proxy-workers", 2, "--clients", "10.0.0.0/16", "192.0.2.0/24"),
    )
    assert said == DeployOptions(
        functions=3,
        memory_mb=512,
        timeout_s=60,
        architecture="x86_64",
        python="3.12",
        reserved_concurrency=9,
        requirements=requirements,
        subnets=("s-1", "s-2"),
        security_groups=("g-1",),
        log_retention_days=30,
        tags={"team": "a", "stage": "b=c"},
        key_in="secrets-manager",
        proxy=True,
        proxy_image="p",
        proxy_cpu=512,
        proxy_memory_mb=1_024,
        proxy_workers=2,
        clients=("10.0.0.0/16", "192.0.2.0/24"),
    )


def test_what_was_deployed_is_kept_but_for_what_is_said():
    first = options("--memory", 512, "--subnets", "s-1", "--security-groups", "g-1", "--tags", "team=a")
    kept = first.described()
    assert options(deployed=kept) == first
    assert options("--memory", 1_024, deployed=kept).memory_mb == 1_024
    assert options("--tags", "none", deployed=kept).tags == {}
    away = options("--subnets", "none", "--security-groups", "none", deployed=kept)
    assert (away.subnets, away.security_groups, away.memory_mb) == ((), (), 512)


def test_the_python_is_that_of_whoever_deploys_and_not_kept():
    assert "python" not in options("--python", "3.12").described()
    assert "requirements" not in DeployOptions().described()


def test_what_a_later_version_has_noted_is_no_error():
    assert options(deployed={"memory_mb": 512, "of_the_future": 1}) == DeployOptions(memory_mb=512)


def test_none_takes_back_a_number():
    kept = options("--reserved-concurrency", 5).described()
    assert options(deployed=kept).reserved_concurrency == 5
    assert options("--reserved-concurrency", "none", deployed=kept).reserved_concurrency is None


def test_a_number_that_is_none_is_wrong_usage(capsys):
    with pytest.raises(SystemExit):
        options("--reserved-concurrency", "many")
    assert "invalid whole number value: 'many'" in capsys.readouterr().err


def test_every_retention_that_is_valid_is_in_order():
    assert list(RETENTION_DAYS) == sorted(set(RETENTION_DAYS))


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("10m", 600), ("2h", 7_200), ("1d", 86_400)])
def test_times_are_read(text, expected):
    assert seconds("--since", text) == expected


@pytest.mark.parametrize("text", ["soon", "-1m", "0s", ""])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match=r"--since .* is no time"):
        seconds("--since", text)
