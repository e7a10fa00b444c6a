"""An image in ECR, found by its tag or digest before anything is deployed, and named by its digest from then on."""

from __future__ import annotations

import re
from typing import NamedTuple

from wukong.deploy.account import DeployAccount, DeployRefused
from wukong.deploy.code import Image
from wukong.errors import BackendError, ConfigError

_URI = re.compile(
    r"(?P<registry>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.(?P<domain>amazonaws\.[a-z.]+)"
    r"/(?P<repository>[a-z0-9._/-]+?)(?::(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LISTS = ("manifest.list", "image.index")
_BUILD = "docs/aws.md says how to build one and to push it"


class ImageLocation(NamedTuple):
    """The place of an image. `which` is its id in ECR: a tag or a digest."""

    registry: str
    region: str
    repository: str
    which: dict[str, str]
    name: str


def parsed(uri: str, option: str = "--image") -> ImageLocation:
    """Return the place of an image. Raises `ConfigError` if this is no URI of an image in ECR; `option` gave it."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise ConfigError(
            f"{option} {uri!r} names no image in ECR",
            hint="Lambda takes images from the account's own registry only, and so does the proxy: "
            f"ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG; {_BUILD}",
        )
    which = {"imageDigest": found["digest"]} if found["digest"] else {"imageTag": found["tag"] or "latest"}
    name = f"{found['registry']}.dkr.ecr.{found['region']}.{found['domain']}/{found['repository']}"
    return ImageLocation(found["registry"], found["region"], found["repository"], which, name)


def found_image(account: DeployAccount, uri: str, option: str = "--image") -> Image:
    """Return the image, by its digest. Raises `ConfigError` or `BackendError` if Lambda or ECS could not run it.

    `option` is the option that named it.
    """
    place = parsed(uri, option)
    if place.region != account.region:
        raise ConfigError(
            f"the image {uri} is in {place.region}, what runs it would be in {account.region}",
            hint=f"give --region {place.region}, or push the image to {account.region}",
        )
    try:
        [told] = account.call(
            "ecr",
            "describe_images",
            registryId=place.registry,
            repositoryName=place.repository,
            imageIds=[place.which],
        )["imageDetails"]
    except DeployRefused as error:
        if error.code == "RepositoryNotFoundException":
            raise BackendError(
                f"there is no repository {place.repository} in account {place.registry}, region {place.region}",
                hint=f"aws ecr create-repository --repository-name {place.repository}; {_BUILD}",
            ) from error
        if error.code == "ImageNotFoundException":
            raise BackendError(f"there is no image {uri}", hint=f"push it: docker push {uri}; {_BUILD}") from error
        raise
    kind = str(told.get("imageManifestMediaType", ""))
    if option == "--image" and any(each in kind for each in _LISTS):
        raise BackendError(
            f"{uri} is a list of images ({kind}), and Lambda takes single ones only",
            hint="build it for one platform and without attestations: docker build --platform linux/arm64 "
            "--provenance=false",
        )
    return Image(f"{place.name}@{told['imageDigest']}", uri)
