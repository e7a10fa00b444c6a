"""Who we are and where one of AWS's services is: region, endpoint and credentials, all by boto3's own rules.

boto3 is not imported if region and endpoint are given and the credentials are in the environment, where boto3 looks
first as well. Inside a function that is always so, and the import would cost a cold start more than everything else
that an executor needs. The environment is read anew each time, as boto3 does.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from wukong.backends import machine
from wukong.backends.aws_calls import endpoint
from wukong.backends.aws_signing import SigningKeys
from wukong.backends.environment import variable
from wukong.errors import ConfigError, WukongError

if TYPE_CHECKING:
    import ssl

__all__ = ["LOG_IN", "AwsAccess"]

LOG_IN = "log in ('aws sso login', 'aws configure'), or give the profile to use"


class AwsAccess(ABC):
    """Region, endpoint, credentials and boto3 clients. Safe in several threads; nothing is looked up before it is used.

    A subclass says in which errors its trouble is told.

    Args:
        region: None: boto3's.
        profile: of the AWS configuration files; None: boto3's.
        endpoint_url: of the service; None: boto3's, which is AWS's own unless configured.

    Attributes:
        backend: the plug-in, as errors name it.
        service: whose endpoint it is, as boto3 names it.
    """

    backend: str
    service: str

    def __init__(self, region: str | None, profile: str | None, endpoint_url: str | None) -> None:
        self._profile, self._region, self._endpoint_url = profile, region, endpoint_url
        self._lock = threading.RLock()
        self._session: Any = None
        self._factory: Any = None
        self._credentials: Any = None
        self._clients: dict[tuple[str, str | None, bool], Any] = {}

    @abstractmethod
    def error(self, text: str, hint: str) -> WukongError:
        """Return the error for this trouble."""

    @abstractmethod
    def mapped(self) -> AbstractContextManager[None]:
        """Translate boto3's exceptions into ours."""

    @property
    def region(self) -> str:
        """The region's name. Raises `ConfigError` if none is configured."""
        if self._region is None and self._profile is None:
            self._region = variable("AWS_DEFAULT_REGION")
        if self._region is None:
            with self._lock, self.mapped():
                self._region = self._boto_session().get_config_variable("region")
        if self._region is None:
            raise ConfigError(
                "no AWS region is configured",
                backend=self.backend,
                hint="give the option region, set AWS_DEFAULT_REGION, or run 'aws configure'",
            )
        return self._region

    @property
    def endpoint_url(self) -> str:
        """The URL of the service's API."""
        if self._endpoint_url is None:
            self._endpoint_url = str(self.client(self.service).meta.endpoint_url)
        return self._endpoint_url

    @property
    def here(self) -> bool:
        """Whether the service is one on this machine."""
        host = urlsplit(self.endpoint_url).hostname or ""
        return machine.loopback(host) or host.endswith(".localhost")

    def keys(self) -> SigningKeys:
        """Return credentials that are valid now. Raises what `error` returns if there are none."""
        if self._profile is None:
            access, secret = variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")
            if access and secret:
                return SigningKeys(access, secret, variable("AWS_SESSION_TOKEN"))
        with self._lock, self.mapped():
            if self._credentials is None:
                self._credentials = self._boto_session().get_credentials()
            if self._credentials is None:
                raise self.error("there are no AWS credentials", LOG_IN)
            frozen = self._credentials.get_frozen_credentials()
        return SigningKeys(frozen.access_key, frozen.secret_key, frozen.token)

    def client(
        self, service: str, region: str | None = None, *, repeat: bool = True, endpoint_url: str | None = None
    ) -> Any:
        """Return a boto3 client, the same each time.

        Args:
            service, region: of AWS.
            repeat: retry calls that fail or are not answered.
            endpoint_url: None: boto3's, or the one given, if it is that of this service.
        """
        with self._lock, self.mapped():
            kind = service, region, repeat
            if kind not in self._clients:
                session = self._boto_session()
                import boto3
                from botocore.config import Config

                if self._factory is None:  # a second one would extend S3's clients twice, which boto3 refuses
                    self._factory = boto3.Session(botocore_session=session)
                with endpoint(self.backend) as check:
                    client = self._factory.client(
                        service,
                        region_name=region or self.region,
                        endpoint_url=endpoint_url or (self._endpoint_url if service == self.service else None),
                        config=Config(
                            connect_timeout=5,
                            read_timeout=20 if repeat else 60,
                            retries={"mode": "standard", "total_max_attempts": 4 if repeat else 1},
                        ),
                    )
                    check(str(client.meta.endpoint_url))
                self._clients[kind] = client
            return self._clients[kind]

    def trusted(self) -> ssl.SSLContext:
        """Return the authorities to trust over TLS: the configured bundle; else the system's and those of boto3."""
        import ssl

        bundle = variable("AWS_CA_BUNDLE")
        if bundle is None and self._session is not None:
            bundle = self._session.get_config_variable("ca_bundle")
        bundle = bundle or variable("REQUESTS_CA_BUNDLE")
        try:
            context = ssl.create_default_context(cafile=bundle)
        except OSError as error:
            raise self.error(
                f"the bundle of certificate authorities {bundle!r} cannot be read: {error}",
                "AWS_CA_BUNDLE or ca_bundle in the AWS configuration names it",
            ) from error
        if bundle is None and self._session is not None:
            from botocore.httpsession import get_cert_path

            context.load_verify_locations(get_cert_path(True))
        return context

    def close(self) -> None:
        """Close the connections of boto3's clients."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _boto_session(self) -> Any:
        if self._session is None:
            try:
                import boto3  # noqa: F401  # to be told at once that it is missing
                import botocore.session
            except ImportError as error:
                raise self.error(
                    f"boto3 is needed to find AWS's region, endpoint or credentials, and is not installed: {error}",
                    "pip install 'wukong-serverless[aws]'",
                ) from error
            self._session = botocore.session.Session(profile=self._profile)
        return self._session
