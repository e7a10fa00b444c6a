"""What is deployed: the zip, the folder for an image, and a job on the zip behind the Lambda service."""

import dataclasses
import io
import json
import marshal
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import dask
import pytest
from lambda_tasks import add
from waiting import wait

import wukong
from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.deploy.package import archive, bytecode, image, installer, requirements
from wukong.deploy.package import build as packages
from wukong.deploy.package.build import HANDLER, build
from wukong.errors import BackendError, ConfigError
from wukong.testing.lambda_service import LambdaService
from wukong.testing.servers import RedisServer

pytestmark = pytest.mark.xdist_group("packaging")


@pytest.fixture(scope="module")
def unpacked(package, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(package) as zipped:
        zipped.extractall(folder, [name for name in zipped.namelist() if not name.startswith("numpy")])
    return folder


def members(package: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(package) as zipped:
        return {member.filename: member for member in zipped.infolist()}


@pytest.mark.parametrize("requires", ["cloudpickle", pytest.param("", marks=pytest.mark.long)])
def test_two_builds_give_the_same_bytes(built, tmp_path, monkeypatch, requires):
    """Of one requirement; in the long run of all that Wukong has."""
    if requires:
        monkeypatch.setattr(packages, "own_requirements", lambda *_: [requires])
    one = built(tmp_path / "one" / "wukong.zip").read_bytes()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert built(tmp_path / "two" / "wukong.zip").read_bytes() == one


def test_members_are_sorted_dated_alike_and_readable_by_whoever_runs_them(package):
    found = members(package)
    assert list(found) == sorted(found, key=lambda name: Path(name).parts)
    assert {member.date_time for member in found.values()} == {(1980, 1, 1, 0, 0, 0)}
    modes = {name: member.external_attr >> 16 & 0o777 for name, member in found.items()}
    assert {mode for name, mode in modes.items() if ".so" not in name} == {0o644}
    assert {mode for name, mode in modes.items() if ".so" in name} == {0o755}


def test_the_package_has_wukong_and_what_it_requires_and_nothing_for_tests_or_terminals(package):
    names = {name for name in members(package) if not name.startswith("numpy")}  # whose tests its modules import
    tops = {name.partition("/")[0] for name in names}
    assert {"wukong", "dask", "cloudpickle", "redis", "lz4"} <= tops
    assert {"wukong_executor/handler.py", "wukong/wukong.yaml"} <= names
    assert not tops & {"pip", "setuptools", "rich", "boto3", "botocore", "awslambdaric", "bin", "pymemcache"}
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyi", ".c", "/RECORD"))]
    assert {name.rpartition("/")[2] for name in names if ".dist-info/" in name} <= archive._METADATA


def test_of_wukong_it_has_what_functions_need_and_the_client_that_users_modules_name(package, unpacked):
    inside = {tuple(name.split("/")[:2]) for name in members(package) if name.startswith("wukong")}
    assert {second for first, second in inside if first == "wukong" and second != "__pycache__"} == {
        *("__init__.py", "wukong.yaml", "backends", "client", "command.py", "config.py", "core", "errors.py"),
        *("integrations", "not_here.py", "options.py", "planning", "proxy", "py.typed"),
    }
    assert {"handler.py", "isolation.py", "log.py", "warm.py"} <= {
        second for first, second in inside if first != "wukong"
    }
    program = "import sys; sys.path.insert(0, '.'); from wukong import Client; import wukong.proxy.__main__"
    subprocess.run([sys.executable, "-S", "-B", "-I", "-c", program], cwd=unpacked, check=True)


def test_all_bytecode_is_taken_without_a_look_at_its_source(package):
    with zipfile.ZipFile(package) as zipped:
        names = set(zipped.namelist())
        for name in names:
            if name.endswith(".py") and name.startswith(("wukong/", "dask/")):
                folder, _, file = name.rpartition("/")
                compiled = f"{folder}/__pycache__/{file[:-3]}.{sys.implementation.cache_tag}.pyc"
                data = zipped.read(compiled)
                assert int.from_bytes(data[4:8], "little") == 0b01, "hash-based, unchecked"
        code = marshal.loads(data[16:])
        assert code.co_filename.startswith("/var/task/")


def test_a_fresh_interpreter_with_nothing_but_the_package_describes_the_versions_of_the_client(unpacked):
    program = (
        "import json, sys; sys.path.insert(0, '.'); from wukong_executor.handler import handler; "
        "print(json.dumps(handler({'wukong': 1, 'describe': ['dask', 'pandas']}, None))); "
        "from importlib.metadata import entry_points; print(len(entry_points(group='wukong.storage')))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-I", "-c", program], cwd=unpacked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    described, plugins = done.stdout.splitlines()
    answer = json.loads(described)
    assert answer["missing"] == ["pandas"]
    assert {answer["packages"][name] for name in ("dask", "cloudpickle")} == {version("dask"), version("cloudpickle")}
    assert int(plugins) >= 3


# --- requirements


def wheel(folder: Path, name: str, number: str) -> Path:
    path = folder / f"{name}-{number}-py3-none-any.whl"
    info = f"{name}-{number}.dist-info"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(f"{name}.py", f"number = {number!r}\n")
        zipped.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        zipped.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        zipped.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def nothing_of_ours(monkeypatch):
    """Only what the user requires is installed, which is quick."""
    monkeypatch.setattr(packages, "own_requirements", lambda *_: [])
    monkeypatch.setattr(packages, "_compile", lambda *_: None)


@pytest.mark.parametrize("with_pip", [False, True])
def test_what_the_user_requires_is_in_the_package(tmp_path, nothing_of_ours, monkeypatch, with_pip):
    if with_pip:
        monkeypatch.setattr(installer, "_uv", lambda: None)
    wheel(tmp_path, "made_up", "1.0")
    (tmp_path / "more.txt").write_text(f"--find-links {tmp_path}\nmade-up==1.0  # mine\n")
    (tmp_path / "requirements.txt").write_text("-r more.txt\n")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    found = members(build(tmp_path / "wukong.zip", requirements=tmp_path / "requirements.txt"))
    assert {"made_up.py", "made_up-1.0.dist-info/METADATA", "wukong/__init__.py"} <= set(found)


def test_what_cannot_be_installed_is_told_in_the_installers_words_and_the_old_package_stays(
    tmp_path, nothing_of_ours, monkeypatch
):
    monkeypatch.setenv("UV_OFFLINE", "1")
    (tmp_path / "requirements.txt").write_text("wukong-no-such-package\n")
    target = tmp_path / "wukong.zip"
    target.write_bytes(b"old")
    with pytest.raises(BackendError, match=r"(?s)Python 3\.\d+ on arm64.*wukong-no-such-package.*needs an image"):
        build(target, requirements=tmp_path / "requirements.txt", architecture="arm64")
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["requirements.txt", "wukong.zip"]


def test_versions_are_those_of_the_client_unless_the_requirements_say_another(tmp_path):
    (tmp_path / "more.txt").write_text("dask \\\n  >= 2026.1 --hash=sha256:00\n")
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# mine\n-r more.txt\n--requirement=more.txt\nnumpy\ncloudpickle ~= 3.0 ; python_version > '3'\n-e .\n"
    )
    names = {pin.partition("==")[0] for pin in requirements.pins(file)}
    assert f"numpy=={version('numpy')}" in requirements.pins(file)
    assert not names & {"dask", "cloudpickle", "wukong-serverless"}
    assert f"dask=={version('dask')}" in requirements.pins()


def test_requirements_of_wukong_are_those_of_the_target_with_extras_expanded():
    plain = requirements.own_requirements((), "3.13", "arm64")
    assert not [each for each in plain if each.startswith(("redis", "rich", "wukong")) or ";" in each]
    complete = requirements.own_requirements(("complete",), "3.13", "arm64")
    assert {each.partition(">")[0] for each in complete} >= {"redis", "hiredis", "pymemcache", "dask[array,dataframe]"}
    with pytest.raises(ConfigError, match="redis"):
        requirements.own_requirements(("rediss",), "3.13", "arm64")


@pytest.mark.parametrize(
    ("python", "architecture", "platform"),
    [
        ("3.11", "x86_64", "x86_64-manylinux_2_17"),
        ("3.12", "arm64", "aarch64-manylinux_2_34"),
        ("3.14", "x86_64", "x86_64-manylinux_2_34"),
    ],
)
def test_wheels_are_those_that_lambdas_runtime_can_load(monkeypatch, python, architecture, platform):
    monkeypatch.setattr(installer, "_uv", lambda: "uv")
    command = installer.installer(python, architecture)
    assert command[command.index("--python-platform") + 1] == platform
    assert command[command.index("--python-version") + 1] == python
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_without_uv_pip_is_used_if_it_judges_markers_rightly_and_else_uv_is_asked_for(monkeypatch):
    monkeypatch.setattr(installer, "_uv", lambda: None)
    monkeypatch.setattr(installer.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(installer.sys, "platform", "linux")
    command = installer.installer(packages.HERE, "x86_64")
    assert command[1:4] == ["-m", "pip", "install"] and "manylinux_2_17_x86_64" in command
    for python, architecture in ((packages.HERE, "arm64"), ("3.14", "x86_64")):
        with pytest.raises(BackendError, match="pip install uv"):
            installer.installer(python, architecture)


# --- limits, arguments, pruning


def test_a_package_over_the_limit_is_refused_with_its_largest_parts_before_it_is_written(
    tmp_path, nothing_of_ours, monkeypatch
):
    monkeypatch.setattr(
        packages, "install", lambda folder, *_, **__: (folder / "large.bin").write_bytes(bytes(3 << 20))
    )
    monkeypatch.setattr(archive, "UNZIPPED_BYTES", 1 << 20)
    with pytest.raises(BackendError, match=r"(?s)1\.0 MB\. The largest parts: large\.bin 3\.0 MB, wukong .*image"):
        build(tmp_path / "wukong.zip")
    monkeypatch.setattr(archive, "UNZIPPED_BYTES", 1 << 30)
    monkeypatch.setattr(archive, "ZIPPED_BYTES", 1_000)
    with pytest.raises(BackendError, match=r"(?s)uploaded directly\. The largest parts: wukong .*S3"):
        build(tmp_path / "wukong.zip")
    assert not list(tmp_path.iterdir())
    assert build(tmp_path / "wukong.zip", direct=False).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"python": "3.10"}, "3.11, 3.12"),
        ({"architecture": "aarch64"}, "arm64"),
        ({"requirements": Path("no-such-file.txt")}, "no-such-file.txt"),
        ({"extras": ["reddis"]}, "redis"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        build(tmp_path / "wukong.zip", **options)


def test_if_there_is_no_such_python_nothing_is_compiled_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "install", lambda *_, **__: None)
    monkeypatch.setattr(bytecode, "interpreter", lambda python: None)
    told = []
    found = members(build(tmp_path / "wukong.zip", python="3.14", progress=told.append))
    assert not [name for name in found if name.endswith(".pyc")]
    assert any("no Python 3.14" in line for line in told)


def test_tests_are_left_out_unless_other_modules_import_them(tmp_path):
    files = {
        "astro/__init__.py": "from .tests.runner import Runner\n",
        "astro/tests/runner.py": "",
        "astro/cosmos/tests/test_it.py": "from astro.other.tests import nothing\n",
        "astro/other/tests/__init__.py": "",
        "plain/part/tests/test_it.py": "",
        "plain/part/__init__.py": "from .. import tests\n",
        "plain/tests/__init__.py": "",
        "plain/latests.py": "import plain.latests\n",
        "tests/__init__.py": "",
        "plain/ext.c": "",
        "plain-1.0.dist-info/RECORD": "",
        "plain-1.0.dist-info/METADATA": "",
        "bin/plain": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    archive.prune(tmp_path)
    gone = {name for name in files if not (tmp_path / name).exists()}
    assert gone == {
        "astro/cosmos/tests/test_it.py",
        "astro/other/tests/__init__.py",
        "plain/part/tests/test_it.py",
        "plain/ext.c",
        "plain-1.0.dist-info/RECORD",
        "bin/plain",
    }


# --- the image


def test_an_image_is_built_of_a_folder_with_everything_that_its_dockerfile_copies(tmp_path):
    (tmp_path / "more.txt").write_text("xarray\n")
    (tmp_path / "requirements.txt").write_text("-r more.txt\n")
    for _ in range(2):  # into the same folder again
        folder = image.context(tmp_path / "image", requirements=tmp_path / "requirements.txt", python="3.13")
    lines = (folder / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert copied and all((folder / name).exists() for names in copied for name in names)
    assert json.loads(next(line for line in lines if line.startswith("CMD"))[4:]) == [HANDLER]
    wanted = (folder / "requirements.txt").read_text().split()
    assert {"xarray", "scikit-learn", "dask[array,dataframe]"} <= set(wanted) and "-r" not in wanted
    assert f"dask=={version('dask')}" in (folder / "constraints.txt").read_text().split()
    assert (folder / "own" / "wukong_executor" / "handler.py").exists()
    assert image.command(folder, "w", architecture="arm64", python="3.13")[:4] == [
        *("docker", "build", "--platform", "linux/arm64")
    ]


def test_the_commands_of_the_dockerfile_compile_what_it_copies(tmp_path, monkeypatch):
    """Its RUN lines but the installation, with this Python, in a folder in place of the image."""
    monkeypatch.setattr(image, "own_requirements", lambda *_: [])
    folder = image.context(tmp_path / "image", packages=())
    text = (folder / "Dockerfile").read_text().replace("\\\n", " ").partition("\nFROM")[2]
    runs = [line[4:] for line in text.splitlines() if line.startswith("RUN ") and "pip install" not in line]
    assert len(runs) == 2
    root = tmp_path / "build"
    (root / "packages" / "bin").mkdir(parents=True)
    (root / "packages" / "some.py").write_text("x = 1\n")
    (folder / "own").rename(root / "own")
    (root / "bytecode.py").write_bytes((folder / "bytecode.py").read_bytes())
    for run in runs:
        script = run.replace("/build/", f"{shlex.quote(str(root))}/").replace("python ", f"{sys.executable} ")
        subprocess.run(["sh", "-ec", script], check=True)
    compiled = {path.name.partition(".")[0] for path in root.rglob("*.pyc")}
    assert {"some", "handler", "entry"} <= compiled
    assert not (root / "packages" / "bin").exists()


# --- behind the Lambda service


@dataclasses.dataclass
class Deployed:
    service: LambdaService
    client: wukong.Client


@pytest.fixture(scope="module")
def deployed(package, redis_url) -> Iterator[Deployed]:
    """The package behind the Lambda service, in environments that see nothing else, and a client of it."""
    key = blake2b(b"a test", digest_size=32).hexdigest()
    with LambdaService(retry_delays_s=[0.01, 0.01]) as service, pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment.items():
            patch.setenv(name, value)
        service.create_function(
            "wukong",
            package.read_bytes(),
            HANDLER,
            Timeout=60,
            MemorySize=512,
            variables={"WUKONG_DEPLOYMENT_KEY": key},
        )
        faas = AwsLambda(function="wukong", endpoint_url=service.url)
        client = wukong.Client(faas=faas, storage=redis_url, key="a test", progress=False)
        yield Deployed(service, client)
        client.close()


def at_rest(deployed):
    """Wait until all environments are frozen: a client has its result a little earlier."""
    wait(lambda: all(each["frozen"] for each in deployed.service.environments("wukong")))


def test_a_job_runs_on_the_package_behind_the_lambda_service(deployed):
    total = dask.delayed(add)(*[dask.delayed(add)(n, 1) for n in range(5)], dask_key_name="total")
    assert total.compute(scheduler=deployed.client.get) == 15
    line = wait(lambda: [line for line in deployed.service.logs("wukong") if "adding 1 2 3 4 5" in line])[0]
    assert re.fullmatch(r"\[stdout\]\t[\w-]+/[\d.]+\ttotal\tadding 1 2 3 4 5\n?", line)
    assert not deployed.service.failures()


def test_an_environment_is_used_again_frozen_in_between_and_finds_its_connections(deployed):
    at_rest(deployed)
    started = deployed.service.status()["cold_starts"]
    for n in range(3):
        assert dask.delayed(add)(n, 1).compute(scheduler=deployed.client.get) == n + 1
        at_rest(deployed)
    assert deployed.service.status()["cold_starts"] == started
    assert not deployed.service.failures()


def test_connections_that_die_while_an_environment_is_frozen_are_opened_anew(deployed):
    with RedisServer() as server:
        faas = AwsLambda(function="wukong", endpoint_url=deployed.service.url)
        client = wukong.Client(faas=faas, storage=f"redis://{server.endpoint}", key="a test", progress=False)
        for n in range(2):
            assert dask.delayed(add)(n, 1).compute(scheduler=client.get) == n + 1
            at_rest(deployed)
            server.kill()
            server.start()
        client.close()
    assert not deployed.service.failures()


def test_a_task_that_kills_its_environment_is_run_again_by_the_platform(deployed, tmp_path):
    def dies_once(folder):
        try:
            open(f"{folder}/died", "x").close()
        except FileExistsError:
            return "again"
        os.kill(os.getpid(), 9)

    assert dask.delayed(dies_once)(str(tmp_path)).compute(scheduler=deployed.client.get) == "again"
    assert [failure["reason"] for failure in deployed.service.failures()] == ["crash"]


def test_an_event_that_is_not_ours_is_answered_and_not_tried_again(deployed):
    at_rest(deployed)
    before = deployed.service.status()
    client = deployed.service.client()
    answer = client.invoke(FunctionName="wukong", Payload=b'{"Records": []}')
    assert "FunctionError" not in answer
    assert "not one of Wukong's" in json.load(io.BytesIO(answer["Payload"].read()))["refused"]
    at_rest(deployed)
    assert deployed.service.status()["attempts"] == before["attempts"] + 1
