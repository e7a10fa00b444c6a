"""The functions' code: a package in the deployment's bucket, or an image in ECR.

Both are named by their content. So the same content gives the same template, and CloudFormation finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeAlias

from wukong.deploy.options import DeployOptions
from wukong.deploy.package.build import HANDLER, build


@dataclass(frozen=True, slots=True)
class Package:
    """A zip on this machine, and its later place in S3.

    Attributes:
        path: of the zip.
        digest: SHA-256 of it, hex.
        python: minor version.
        requirements: the file's name; None if there was none.
    """

    path: Path
    digest: str
    size_bytes: int
    python: str
    requirements: str | None
    bucket: str

    @property
    def key(self) -> str:
        """The key of the object in S3."""
        return f"{self.digest}.zip"

    def properties(self) -> dict[str, Any]:
        """Return what a function's properties say of its code."""
        return {
            "PackageType": "Zip",
            "Runtime": f"python{self.python}",
            "Handler": HANDLER,
            "Code": {"S3Bucket": self.bucket, "S3Key": self.key},
        }

    def described(self) -> dict[str, Any]:
        """Return its record in the template, which may have no nulls."""
        found = {"kind": "package", "python": self.python, "digest": self.digest}
        return found if self.requirements is None else {**found, "requirements": self.requirements}

    def __str__(self) -> str:
        return f"package, Python {self.python}, {self.size_bytes / 1_048_576:.1f} MB, sha256 {self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class Image:
    """An image in ECR. `uri` names it by its digest; `given` is the name that the user gave."""

    uri: str
    given: str

    @property
    def repository_arn(self) -> str:
        """The ARN of its repository, with the template's ``${AWS::Partition}``."""
        registry, _, path = self.uri.partition("@")[0].partition("/")
        account, _, _, region, *_ = registry.split(".")
        return f"arn:${{AWS::Partition}}:ecr:{region}:{account}:repository/{path}"

    def properties(self) -> dict[str, Any]:
        """Return what a function's properties say of its code."""
        return {"PackageType": "Image", "Code": {"ImageUri": self.uri}}

    def described(self) -> dict[str, Any]:
        """Return its record in the template."""
        return {"kind": "image", "uri": self.uri}

    def __str__(self) -> str:
        return f"image {self.given}, {self.uri.rpartition('@')[2][:19]}"


Code: TypeAlias = Package | Image


def packaged(
    options: DeployOptions, folder: Path, bucket: str, extras: Sequence[str], progress: Callable[[str], None]
) -> Package:
    """Build the package in `folder`. Raises `BackendError` if it cannot be built, or is too large."""
    path = build(
        folder / "package.zip",
        requirements=options.requirements,
        architecture=options.architecture,
        python=options.python,
        extras=extras,
        direct=False,
        progress=lambda line: None if str(folder) in line else progress(line),
    )
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    requirements = None if options.requirements is None else options.requirements.name
    return Package(path, digest, path.stat().st_size, options.python, requirements, bucket)
