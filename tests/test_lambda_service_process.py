"""The Lambda service as processes: how it starts, how it and its environments end, and what is left: nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3
import pytest
from faas_local_tools import children, evidence, left
from lambda_service_tools import FUNCTION, Function
from waiting import gone, wait

from wukong.emulators.aws_lambda import confine
from wukong.testing.lambda_service import LambdaService, deployment_package

pytestmark = pytest.mark.xdist_group("lambda-service-process")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files that is empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def everything(pid):
    """Return all processes below a process."""
    found = children(pid)
    return found + [below for child in found for below in everything(child)]


@pytest.mark.parametrize("how", ["stop", "kill", "terminate", "interrupt"])
def test_however_it_ends_all_processes_end_and_no_file_is_left(tmp_path, temporary, how):
    service = LambdaService().start()
    function = Function(service, service.client(), tmp_path)
    function.send(do="child", name="busy", seconds=60)
    left(tmp_path, 1, "child")
    function.call()
    wait(lambda: [each for each in function.environments() if each["frozen"]], "one of the two environments is frozen")
    processes = everything(service.pid)
    assert len(processes) == 4  # what starts environments, two of these, and the child of one
    assert list(temporary.iterdir())
    if how == "stop":
        service.stop()
    elif how == "kill":
        service.kill()
    else:
        os.kill(service.pid, signal.SIGTERM if how == "terminate" else signal.SIGINT)
    wait(lambda: all(gone(pid) for pid in processes), "all processes are gone")
    wait(lambda: not list(temporary.iterdir()), "all files are gone")
    service.stop()


def test_it_ends_with_the_process_that_started_it(tmp_path):
    program = (
        "import sys, time\n"
        "from wukong.testing.lambda_service import LambdaService\n"
        "print(LambdaService().start().pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not gone(pid)
        owner.kill()
        wait(lambda: gone(pid), "the service is gone")


def test_run_serves_its_functions_until_it_is_interrupted():
    program = (
        "from wukong.emulators.aws_lambda.configuration import RUNTIME\n"
        "from wukong.emulators.aws_lambda.server import run\n"
        "from wukong.emulators.aws_lambda.settings import ServiceSettings\n"
        "from wukong.testing.lambda_service import ROLE, deployment_package\n"
        "code = {'ZipFile': deployment_package('def handler(event, context): return event')}\n"
        "echo = dict(FunctionName='echo', Runtime=RUNTIME, Role=ROLE, Handler='function.handler', Code=code)\n"
        "run(ServiceSettings(), lambda url: print(url, flush=True), [echo])\n"
        "print('closed')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        client = boto3.client(
            "lambda", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        assert client.invoke(FunctionName="echo", Payload=b"[1]")["Payload"].read() == b"[1]"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, "closed\n", "")


def test_a_port_that_is_taken_is_an_error_that_says_so():
    with LambdaService() as service:
        program = (
            "import sys\n"
            "from wukong.emulators.aws_lambda.server import run\n"
            "from wukong.emulators.aws_lambda.settings import ServiceSettings\n"
            "run(ServiceSettings(port=int(sys.argv[1])), print)\n"
        )
        port = service.url.rpartition(":")[2]
        done = subprocess.run([sys.executable, "-c", program, port], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_it_works_without_uvloop(tmp_path):
    program = "import sys; sys.modules['uvloop'] = None\nfrom wukong.emulators.aws_lambda.server import main\nmain()\n"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        service = LambdaService()
        process.stdin.write(json.dumps(service._given) + "\n")
        process.stdin.flush()
        service._url = process.stdout.readline().strip()
        function = Function(service, service.client(), tmp_path)
        assert [function.call()["calls"] for _ in range(3)] == [1, 2, 3]
        function.send(name="event")
        left(tmp_path, 1, "event")
        assert "no such luck" in function.invoke({"do": "raise"})["Payload"]["errorMessage"]
        assert "exit status 1" in function.invoke({"do": "exit", "status": 1})["Payload"]["errorMessage"]
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.parametrize("lacking", ["", "del os.pidfd_open", "del os.pidfd_open, os.waitid"])
def test_ends_of_processes_are_told_whatever_the_system_offers(tmp_path, lacking):
    """`template` as the service talks to it; a child that the first one started in its group ends with it."""
    program = f"import os, sys; {lacking}\nfrom wukong.emulators.aws_lambda.template import main\nmain(*sys.argv[1:])"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", program, str(theirs.fileno()), ""]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        reading, writing = os.pipe()
        for serial, script in enumerate(["exit 3", "sleep 60 & echo $!; exit 0", "kill -9 $$"]):
            order = {"serial": serial, "argv": ["/bin/sh", "-c", script], "environment": {}, "cwd": str(tmp_path)}
            order |= {"tmp_bytes": None, "needed": []}
            socket.send_fds(ours, [json.dumps(order).encode() + b"\n"], [writing])
        os.close(writing)
        with ours.makefile() as told:
            messages = [json.loads(told.readline()) for _ in range(6)]
        ended = {message["serial"]: message["status"] for message in messages if "status" in message}
        assert ended == {0: 3 << 8, 1: 0, 2: signal.SIGKILL}
        with open(reading) as output:
            sleeper = int(output.readline())
        if "waitid" not in lacking:  # without it the group's head is gone before its group can be killed for certain
            wait(lambda: gone(sleeper), "what the child has started is gone")
        else:
            os.kill(sleeper, signal.SIGKILL)
        ours.shutdown(socket.SHUT_RDWR)
        assert process.wait(20) == 0


def test_environments_that_have_nothing_to_do_end(tmp_path):
    with LambdaService(idle_s=0.05) as service:
        function = Function(service, service.client(), tmp_path)
        pid = function.call()["pid"]
        wait(lambda: not function.environments(), "the environment has ended")
        assert gone(pid)
        assert function.call()["calls"] == 1
        assert service.status().get("failed", 0) == 0


def test_an_environments_temporary_files_go_with_it(tmp_path, temporary):
    code = "import tempfile\ndef handler(event, context): return tempfile.mkdtemp()"
    with LambdaService(idle_s=0.05) as service:
        function = Function(service, service.client(), tmp_path, code)
        made = Path(function.invoke()["Payload"])
        assert made.is_relative_to(temporary)
        wait(lambda: not made.exists(), "its files are gone")


LIMITED = """
import os, resource, sys

def attempt(path, mode="w"):
    try:
        open(path, mode).close()
    except OSError as error:
        return type(error).__name__
    return "written"

def handler(event, context):
    code = os.environ["LAMBDA_TASK_ROOT"]
    with open("/tmp/mine", "wb") as file:
        try:
            for n in range(600):
                file.write(bytes(1_048_576))
        except OSError as error:
            n = str(error)
        file.truncate(0)
    return {
        "code": [attempt(os.path.join(code, "new")), attempt(os.path.join(code, "function.py"), "a")],
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        "tmp": [os.environ.get("TMPDIR"), n],
    }
"""


@pytest.mark.parametrize("start", ["fresh", "forked"])
def test_a_function_finds_as_much_room_as_on_lambda_and_its_tmp_goes_with_it(tmp_path, start):
    with LambdaService(start=start, own_tmp=True) as service:
        function = Function(service, service.client(), tmp_path, LIMITED, Timeout=60)
        told = function.invoke()["Payload"]
        assert told["descriptors"] == [1_024, 1_024]
        assert "written" not in told["code"]
        if any("has no /tmp of its own" in line for line in service.logs(function.name)) and "CI" not in os.environ:
            pytest.skip("this system allows no mount namespaces")
        assert told["tmp"] == [None, "[Errno 28] No space left on device"]
        assert not Path("/tmp/mine").exists()


def test_code_is_read_only_if_no_mount_namespace_may_be_made(tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "function.py").touch(0o444)
    code.chmod(0o555)
    program = f"""if True:
        import sys, os
        sys.path.insert(0, {str(Path(confine.__file__).parent)!r})
        import confine
        def refused(*arguments):
            raise OSError("not allowed")
        confine._own_tmp = refused
        print(confine.confine(1_048_576, []))
        for name in ("new", "function.py"):
            try:
                open(os.path.join({str(code)!r}, name), "a")
            except PermissionError as error:
                print("refused")
        os.execv(sys.executable, [sys.executable, "-c", "open({str(code / "executed")!r}, 'w')"])
    """
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.split("\n") == ["not allowed", "refused", "refused", ""], told.stderr
    assert "PermissionError" in told.stderr and list(code.iterdir()) == [code / "function.py"]


def test_old_code_is_removed_when_nothing_runs_it_any_more(tmp_path, temporary):
    with LambdaService(idle_s=0.05) as service:
        function = Function(service, service.client(), tmp_path)
        old = Path(function.call(do="context")["environment"]["LAMBDA_TASK_ROOT"])
        package = deployment_package("def handler(event, context): return __file__")
        function.client.update_function_code(FunctionName=function.name, ZipFile=package)
        new = Path(function.invoke()["Payload"]).parent
        wait(lambda: not old.exists(), "the old code is gone")
        assert new.exists()


def test_forked_environments_share_one_import_of_the_module(tmp_path):
    code = FUNCTION + "\nleave('imported')\nos.environ['SET'] = os.environ.pop('TAKEN')\n"
    with LambdaService(start="forked", idle_s=0.05) as service:
        function = Function(service, service.client(), tmp_path, code, variables={"OWN": "mine", "TAKEN": "once"})
        service.warm(function.name, 3)
        wait(lambda: len(function.environments()) == 0, "all have come and gone")
        first = function.call(do="context")
        assert len(evidence(tmp_path, "imported")) == 1
        assert first["environment"]["OWN"] == "mine"
        assert (first["environment"]["SET"], "TAKEN" in first["environment"]) == ("once", False)
        assert first["environment"]["_HANDLER"] == "function.handler"
        assert first["path"][0] == first["environment"]["LAMBDA_TASK_ROOT"]
        assert "no such luck" in function.invoke({"do": "raise"})["Payload"]["errorMessage"]
        assert "exit status 3" in function.invoke({"do": "exit", "status": 3})["Payload"]["errorMessage"]


def test_a_module_that_cannot_be_imported_is_reported_by_forked_environments_too(tmp_path):
    with LambdaService(start="forked") as service:
        function = Function(service, service.client(), tmp_path, "import nowhere")
        assert function.invoke()["Payload"]["errorType"] == "Runtime.ImportModuleError"


def test_environments_may_be_let_see_what_is_installed(tmp_path):
    code = "def handler(event, context):\n    import wukong\n    return wukong.__version__"
    with LambdaService(site_packages=True) as service:
        assert Function(service, service.client(), tmp_path, code).invoke()["Payload"]
