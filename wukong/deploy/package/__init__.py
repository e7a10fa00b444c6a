"""The functions' code: the package or the image that contains `wukong_executor`.

`build` makes the zip: `requirements` names packages, `installer` fetches them, `bytecode` compiles and `archive` packs
them. `image` makes the folder from which the executor's Dockerfile builds an image.
"""
