"""What requests and connections need besides the URL: the deployment's key, headers with tokens, authorities of TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from wukong.backends.environment import KEY_VARIABLE, variable
from wukong.backends.faas.http.wire import BACKEND
from wukong.errors import BackendError, ConfigError


class HttpAccess:
    """See the module's docstring. Never shown by `repr`.

    Args:
        headers: of every request: by name, the environment variable that holds the value.
        ca_file: authorities to trust instead of the system's.
        verify: False trusts any certificate.
    """

    def __init__(self, headers: Mapping[str, str], ca_file: str | None, verify: bool) -> None:
        self.variables = dict(headers)
        self._ca_file, self._verify = ca_file, verify
        self._key: bytes | None = None

    def use(self, key: str) -> None:
        """Sign with this key from now on, hex digits."""
        self._key = bytes.fromhex(key)

    def key(self) -> bytes:
        """Return the deployment's key: the one to use, or that of the environment. Raises `BackendError`."""
        if self._key is None:
            text = variable(KEY_VARIABLE)
            if text is None:
                raise BackendError(
                    "there is no deployment key to sign requests with",
                    backend=BACKEND,
                    hint=f"set the setting key (WUKONG_KEY) as in the servers' containers, or {KEY_VARIABLE}",
                )
            self.use(text)
            return bytes.fromhex(text)
        return self._key

    def headers(self) -> list[str]:
        """Return the lines of the headers, as the variables are now. Raises `BackendError` if one is not set."""
        return [f"{name}: {_value(name, of)}" for name, of in self.variables.items()]

    def trusted(self) -> ssl.SSLContext:
        """Return the authorities to trust over TLS."""
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            text = f"the certificates in {self._ca_file!r} cannot be read: {error}"
            raise ConfigError(text, backend=BACKEND, hint="the option ca_file names a file of them") from error
        if not self._verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def _value(name: str, of: str) -> str:
    value = variable(of)
    if value is None or "\n" in value or "\r" in value:
        raise BackendError(
            f"the variable {of}, for the header {name}, {'is not set' if value is None else 'has several lines'}",
            backend=BACKEND,
            hint="set it, here and in the containers, or leave it out of the option headers",
        )
    return value
