"""Certificates for servers that tests start: an authority of the moment, and what it vouches for."""

import subprocess
from pathlib import Path

_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = authority of the tests
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
_NEW = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -config config"


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Write a certificate for 127.0.0.1, its key, and the certificate of its authority; return their paths."""
    (folder / "config").write_text(_CONFIG)
    for arguments in (
        "-extensions ca -keyout ca.key -out ca.pem",
        "-extensions server -subj /CN=server -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem",
    ):
        subprocess.run([*_NEW.split(), *arguments.split()], cwd=folder, check=True, capture_output=True)
    return folder / "server.pem", folder / "server.key", folder / "ca.pem"
