"""``python -m wukong``: the ``wukong`` command."""

import sys

from wukong.cli import main

sys.exit(main())
