"""Plug-ins: the two families of backends (`faas`, `storage`), which don't know each other, and how they are found."""
