"""What functions are made of: the package or the image that `wukong_executor` comes in.

`build` makes the zip, of what `requirements` names and `installer` fetches, `bytecode` compiles and `archive` packs;
`image` makes the folder from which the executor's Dockerfile builds an image.
"""
