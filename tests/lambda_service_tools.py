"""What the tests of the Lambda service share: a function that does what its event says, and what to look at."""

import json
import threading
import uuid
from pathlib import Path

from waiting import wait

FUNCTION = """
import json, os, subprocess, sys, threading, time, uuid

INSTANCE = uuid.uuid4().hex
calls = 0
print("initialised", INSTANCE)


def leave(name, **what):
    path = os.path.join(os.environ["EVIDENCE"], "." + uuid.uuid4().hex)
    with open(path, "w") as file:
        json.dump(what, file)
    os.rename(path, os.path.join(os.environ["EVIDENCE"], name + "~" + uuid.uuid4().hex))


def handler(event, context):
    global calls
    calls += 1
    given = event if isinstance(event, dict) else {}
    do = given.get("do", "echo")
    if "name" in given:
        leave(given["name"], id=context.aws_request_id, instance=INSTANCE, pid=os.getpid(), time=time.time())
    if do == "raise":
        raise ValueError("no such luck")
    if do == "exit":
        os._exit(given["status"])
    if do == "fill":
        given["held"] = bytearray(os.urandom(1)) * given["size"]
        time.sleep(60)
    if do == "wait":  # for a file that the test makes
        while not os.path.exists(os.path.join(os.environ["EVIDENCE"], given["for"])):
            time.sleep(0.002)
    if do == "print":
        print(given["text"])
        print("to stderr", file=sys.stderr)
    if do == "write":
        sys.stdout.write(given["text"])
    if do == "return":
        return "x" * given["size"]
    if do == "child":
        leave("child", pid=subprocess.Popen(["sleep", "60"]).pid)
        time.sleep(given.get("seconds", 0))
    if do == "tick":  # in the background, between invocations too
        def tick():
            while True:
                leave("tick")
                time.sleep(0.005)
        threading.Thread(target=tick, daemon=True).start()
    if do == "context":
        return {
            "arn": context.invoked_function_arn,
            "version": context.function_version,
            "name": context.function_name,
            "memory": context.memory_limit_in_mb,
            "left_ms": context.get_remaining_time_in_millis(),
            "client": context.client_context and context.client_context.custom,
            "environment": dict(os.environ),
            "path": sys.path,
            "executable": sys.executable,
        }
    return {"event": event, "id": context.aws_request_id, "instance": INSTANCE, "calls": calls, "pid": os.getpid()}
"""


class Function:
    """A function of its own behind a service, and its evidence."""

    def __init__(self, service, client, directory, code=FUNCTION, **more):
        self.service, self.client, self.directory = service, client, Path(directory)
        self.name = f"test-{uuid.uuid4().hex}"
        variables = {"EVIDENCE": str(directory), **more.pop("variables", {})}
        service.create_function(self.name, code, variables=variables, **more)

    def invoke(self, event=None, name=None, **more):
        """Invoke it synchronously; return the answer with the payload read."""
        payload = b"" if event is None else json.dumps(event).encode()
        answer = self.client.invoke(FunctionName=name or self.name, Payload=payload, **more)
        answer["Payload"] = json.loads(answer["Payload"].read() or b"null")
        return answer

    def call(self, **event):
        """Invoke it synchronously; return what it returns."""
        answer = self.invoke(event)
        assert "FunctionError" not in answer, answer
        return answer["Payload"]

    def send(self, **event):
        """Send it an event; return the request id."""
        answer = self.client.invoke(FunctionName=self.name, InvocationType="Event", Payload=json.dumps(event).encode())
        answer["Payload"].read()
        assert answer["StatusCode"] == 202
        return answer["ResponseMetadata"]["RequestId"]

    def background(self, **event):
        """Invoke it synchronously in a thread; return the thread and the list that its answer goes into."""
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.invoke(event)))
        thread.start()
        return thread, answers

    def open_gate(self, name):
        """Let go what waits for a file of this name."""
        (self.directory / name).touch()

    def environments(self):
        """Return its environments."""
        return self.service.environments(self.name)

    def resting(self, count=1):
        """Wait until it has n environments and all of them are frozen; return them."""

        def seen():
            found = self.environments()
            return found if len(found) == count and all(each["frozen"] for each in found) else None

        return wait(seen, f"{count} environments are frozen")

    def dead_letters(self, count=1):
        """Wait for n events of its own that were given up."""

        def seen():
            arns = [each for each in self.service.dead_letters() if self.name in each["requestContext"]["functionArn"]]
            return arns if len(arns) >= count else None

        return wait(seen, f"{count} dead letters")

    def failures(self):
        """Return its failed attempts."""
        return [each for each in self.service.failures() if each["function"] == self.name]


def state(pid):
    """Return a process's state as the system has it: T stopped, S asleep, R running."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat[stat.rfind(")") + 2]
