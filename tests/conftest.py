"""What all tests share: the settings of whoever runs them stay out."""

import os

# Before anything imports dask, which reads its variables when it is imported.
for _name in [name for name in os.environ if name.startswith(("WUKONG_", "DASK_WUKONG__"))]:
    del os.environ[_name]
