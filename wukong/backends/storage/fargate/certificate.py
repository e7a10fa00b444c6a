"""The certificate of a store's nodes: one for all of them, self-signed, made by the client that sets the store up.

A node's address is not known before it runs, so the certificate names none. A server that holds the key is a node;
clients check that and no more. Certificate and key travel together as one text, only to nodes and as a secret; clients
and functions get the certificate alone.
"""

from __future__ import annotations

import datetime

from wukong.backends.storage.fargate.options import BACKEND
from wukong.errors import StoreError

__all__ = ["certificate_of", "new_certificate"]

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_DAYS = 3650


def new_certificate(name: str) -> str:
    """Return a new key and its certificate, PEM. Raises `StoreError` if the package `cryptography` is missing."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise StoreError(
            f"the package cryptography is needed for nodes with TLS, and is not installed: {error}",
            backend=BACKEND,
            hint="pip install 'wukong-serverless[fargate]'",
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name}-store")])
    public = key.public_key()
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    signed = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, encipher_only=False, decipher_only=False, **usage
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (secret + signed.public_bytes(serialization.Encoding.PEM)).decode()


def certificate_of(pem: str) -> str:
    """Return the certificate without the key, from `new_certificate`'s text. Raises `StoreError` if there is none."""
    begin, end = pem.find(_BEGIN), pem.find(_END)
    if not 0 <= begin < end:
        raise StoreError(
            "the secret with the nodes' certificate holds none",
            backend=BACKEND,
            hint="'wukong store down' removes it, and the next start makes a new one",
        )
    return f"{pem[begin : end + len(_END)]}\n"
