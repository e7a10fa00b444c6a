"""What is deployed, compared with what this client needs: variables, versions, modules. All through boto3.

Reading a function's configuration takes the permission lambda:GetFunctionConfiguration. Without it the limits are not
known and the variables are not compared; the job is tried all the same.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from wukong.backends.environment import KEY_VARIABLE as KEY_VARIABLE
from wukong.backends.faas.aws_lambda.access import LambdaAccess, mapped
from wukong.backends.faas.aws_lambda.answers import BACKEND, Target
from wukong.backends.faas.aws_lambda.event import ask
from wukong.backends.faas.description import refuse_misfit
from wukong.errors import BackendError, Retryable

SECRET_VARIABLE = "WUKONG_DEPLOYMENT_KEY_SECRET"

_UNREADABLE = frozenset({"AccessDeniedException", "AccessDenied", "UnknownOperationException", "NotImplemented"})

_CRASHES = frozenset({None, "Runtime.ExitError", "Runtime.OutOfMemory", "Runtime.Unknown", "Sandbox.Timedout"})
"""Errors of a call whose environment has crashed (a call that was cut off may have none); worth another try."""
_ATTEMPTS = 4

logger = logging.getLogger(__name__)


class Deployed:
    """The functions as they are deployed; each is asked once. Safe in several threads.

    Args:
        access: where Lambda is asked.
        functions: their names, and for each a version or an alias; None: ``$LATEST``.

    Methods raise `BackendError` if a function does not exist, cannot run, or differs from what is asked for.
    """

    def __init__(self, access: LambdaAccess, functions: Sequence[tuple[str, str | None]]) -> None:
        self._access, self._functions = access, list(functions)
        self._lock = threading.RLock()
        self._configurations: list[Mapping[str, Any]] | None = None
        self._asked: set[str] | None = None
        self._secrets: dict[str, str] = {}

    def targets(self) -> list[Target]:
        """Return the functions as errors name them."""
        access = self._access
        return [Target(name, qualifier, access.region, access.endpoint_url) for name, qualifier in self._functions]

    def configurations(self) -> list[Mapping[str, Any]]:
        """Return each function's configuration; an empty one if it may not be read.

        Raises `BackendError` if a function does not exist or cannot run.
        """
        with self._lock:
            if self._configurations is None:
                self._configurations = [self._configuration(target) for target in self.targets()]
            return self._configurations

    def _configuration(self, target: Target) -> Mapping[str, Any]:
        client = self._access.client("lambda")
        which = {"Qualifier": target.qualifier} if target.qualifier else {}
        try:
            found: Mapping[str, Any] = client.get_function_configuration(FunctionName=target.function, **which)
        except Exception as error:
            code = str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))
            if code not in _UNREADABLE and not code.isdigit():  # a number: the endpoint has no such call
                with mapped(target, "lambda:GetFunctionConfiguration"):
                    raise
            logger.warning("limits and variables of %s are not known: GetFunctionConfiguration says %s", target, code)
            return {}
        if found.get("State") == "Failed":
            raise BackendError(
                f"the function cannot run: {found.get('StateReason', 'its state is Failed')} [{target}]",
                backend=BACKEND,
                hint="'wukong deploy' puts a new package there",
            )
        if target.qualifier is None and found.get("SnapStart", {}).get("ApplyOn") == "PublishedVersions":
            logger.warning(
                "%s has snapshots of its published versions only, and is invoked without one; 'wukong deploy' shows "
                "the client to use, with the option qualifier",
                target,
            )
        return found

    def log_groups(self) -> list[str]:
        """Return the names of the functions' log groups."""
        found = zip(self._functions, self.configurations(), strict=True)
        return [
            told.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{name.rpartition(':')[2]}"
            for (name, _), told in found
        ]

    # --- variables

    def variables(self, configuration: Mapping[str, Any]) -> Mapping[str, str] | None:
        """Return a function's variables; None if they may not be read or decrypted."""
        environment = configuration.get("Environment", {}) if configuration else None
        if environment is None or "Error" in environment:
            return None
        found: Mapping[str, str] = environment.get("Variables", {})
        return found

    def compare(self, environment: Mapping[str, str]) -> None:
        """Raise `BackendError` if a function lacks one of these variables, or has another value for it.

        A function on this machine is given those that it lacks.
        """
        for target, configuration in zip(self.targets(), self.configurations(), strict=True):
            found = self.variables(configuration)
            if found is None:
                continue
            if (
                self._access.here
                and target.qualifier is None
                and KEY_VARIABLE in found
                and not environment.keys() <= found.keys()
            ):
                found = self._given(target, found, environment)
            if KEY_VARIABLE in environment and _by_secret(found):
                try:
                    found = {**found, KEY_VARIABLE: self._secret(found[SECRET_VARIABLE])}
                except BackendError as error:  # a client that was given the key may lack the permission to read it
                    logger.warning("the deployment key is not compared: %s", error.message)
                    found = {**found, KEY_VARIABLE: environment[KEY_VARIABLE]}
            for name, value in environment.items():
                if name in found and hmac.compare_digest(found[name].encode(), value.encode()):
                    continue
                has = "another value of" if name in found else "no"
                raise BackendError(
                    f"the function has {has} variable {name}, unlike this client [{target}]",
                    backend=BACKEND,
                    hint="the client's setting key and the deployment's must be the same: run 'wukong deploy' with it, "
                    "or leave it unset here to use the deployment's"
                    if name == KEY_VARIABLE
                    else "run 'wukong deploy' with this client's settings",
                )

    def _given(self, target: Target, found: Mapping[str, str], wanted: Mapping[str, str]) -> Mapping[str, str]:
        """Give a function the variables that it lacks; return all that it has then."""
        variables = {**wanted, **found}
        try:
            with mapped(target, "lambda:UpdateFunctionConfiguration"):
                self._access.client("lambda").update_function_configuration(
                    FunctionName=target.function, Environment={"Variables": variables}
                )
        except BackendError as error:  # the caller says next that they are missing
            logger.debug("variables cannot be given: %s", error.message)
            return found
        return variables

    def deployment_key(self) -> str | None:
        """Return the hex deployment key that all functions have; None if none may be read."""
        keys: dict[str, Target] = {}
        for target, configuration in zip(self.targets(), self.configurations(), strict=True):
            found = self.variables(configuration) or {}
            key = self._secret(found[SECRET_VARIABLE]) if _by_secret(found) else found.get(KEY_VARIABLE)
            if key is not None:
                keys[key] = target
        if len(keys) > 1:
            names = " and ".join(target.function for target in keys.values())
            raise BackendError(
                f"the functions {names} have different deployment keys",
                backend=BACKEND,
                hint="functions that one client uses are deployed together: 'wukong deploy'",
            )
        return next(iter(keys), None)

    def _secret(self, arn: str) -> str:
        with self._lock:
            if arn not in self._secrets:
                parts = arn.split(":")
                region = parts[3] if len(parts) > 5 else None
                try:
                    told = self._access.client("secretsmanager", region).get_secret_value(SecretId=arn)
                except Exception as error:
                    if not hasattr(error, "response"):
                        with mapped(None):
                            raise
                    raise BackendError(
                        f"the deployment key cannot be read from the secret {arn}: {error}",
                        backend=BACKEND,
                        hint="the credentials in use need secretsmanager:GetSecretValue on it",
                    ) from error
                self._secrets[arn] = str(told["SecretString"]).strip()
            return self._secrets[arn]

    # --- versions and modules

    def check(self, modules: Sequence[str]) -> None:
        """Ask the functions for their versions and modules. Raises `BackendError` if they do not fit the client's.

        Functions of the same package are asked once, through one of them; later calls ask only for new modules.
        """
        with self._lock:
            new = sorted(set(modules) - (self._asked or set()))
            if self._asked is not None and not new:
                return
            packages: dict[str, Target] = {}
            for target, configuration in zip(self.targets(), self.configurations(), strict=True):
                packages.setdefault(str(configuration.get("CodeSha256", target.function)), target)
            for target in packages.values():
                try:
                    self._check(target, new)
                except Retryable as error:
                    logger.warning("the versions on %s are not compared now: %s", target, error.message)
                    return
            self._asked = (self._asked or set()) | set(new)

    def _check(self, target: Target, modules: Sequence[str]) -> None:
        there = self._described(target, modules)
        refuse_misfit(
            there,
            str(target),
            BACKEND,
            redeploy="run 'wukong deploy' from an environment like the client's",
            add="name it in a file and deploy again: wukong deploy --requirements requirements.txt "
            "(check=False runs the job regardless)",
        )

    def _described(self, target: Target, modules: Sequence[str]) -> Mapping[str, Any]:
        """Invoke the function synchronously, to describe itself; once more if it crashed."""
        which = {"Qualifier": target.qualifier} if target.qualifier else {}
        for attempt in range(1, _ATTEMPTS + 1):
            with mapped(target):
                told = self._access.client("lambda", repeat=False).invoke(
                    FunctionName=target.function, InvocationType="RequestResponse", Payload=ask(modules), **which
                )
                body = told["Payload"].read()
            try:
                answer = json.loads(body)
            except ValueError:
                answer = None
            if "FunctionError" not in told:
                break
            told_by = answer if isinstance(answer, dict) else {}
            why = (
                f"{told_by.get('errorType', told['FunctionError'])}: "
                f"{told_by.get('errorMessage', body[:200].decode('utf-8', 'replace'))}"
            )
            crashed = told_by.get("errorType") in _CRASHES
            if crashed and attempt < _ATTEMPTS:
                logger.warning("asking for the versions on %s is tried again: %s", target, why)
                continue
            raise BackendError(
                f"the function fails{f' {attempt} times' if crashed else ''}: {why} [{target}]",
                backend=BACKEND,
                hint="'wukong logs' shows what it wrote; 'wukong deploy' puts this client's version there",
            )
        if not isinstance(answer, dict) or not {"python", "packages", "missing"} <= answer.keys():
            raise BackendError(
                f"the function does not answer as one of Wukong's does [{target}]",
                backend=BACKEND,
                hint="check the option function; 'wukong deploy' makes one",
            )
        return answer


def _by_secret(variables: Mapping[str, str]) -> bool:
    """Whether a function has its key from Secrets Manager."""
    return KEY_VARIABLE not in variables and SECRET_VARIABLE in variables
