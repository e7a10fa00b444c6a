"""A connection whose other end is gone without a word breaks, however long its answer may take."""

import subprocess
import sys

import pytest

NAMESPACE = ["unshare", "--net"]
PROGRAM = """
import errno, fcntl, socket, struct
from wukong.backends import keepalive

def loopback(up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, 0x8913, struct.pack("16sh", b"lo", 0)))[1]
        flags = flags | 1 if up else flags & ~1
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", flags))

loopback(True)
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
keepalive.OPTIONS[socket.TCP_USER_TIMEOUT] //= 50
keepalive.keep_alive(client)
loopback(False)
client.settimeout(60)
client.sendall(b"a question")
try:
    client.recv(1)
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
"""


def test_what_nobody_acknowledges_breaks_the_connection_before_its_answer_is_overdue():
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    done = subprocess.run([*NAMESPACE, sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "ETIMEDOUT\n", done
