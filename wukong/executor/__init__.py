"""What is deployed as the function: the handler, and the package or image that it comes in.

`handler` is what the platform calls; `log` and `isolation` keep invocations in one process apart, `warm` is what they
share. `package` builds the zip, of what `requirements` names and `installer` fetches, `bytecode` compiles and `archive`
packs; `image` makes the folder from which `Dockerfile` builds an image.
"""
