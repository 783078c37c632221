"""Start the model process: set `sys.path`, then execute a file of this package.

`child` executes this file by its path, so nothing of ours is imported at its top. The
interpreter looks neither in the current folder nor in PYTHONPATH; the last argument
names the folders where napari's process finds its packages. The standard library stays
before them.
"""

from __future__ import annotations

import json
import runpy
import sys
from itertools import takewhile


def main() -> None:
    """Execute the file that the first argument names, with the arguments after it."""
    *sys.argv, encoded = sys.argv[1:]
    folders = json.loads(encoded)
    library = takewhile(lambda folder: folder not in folders, sys.path)
    sys.path[:] = dict.fromkeys([*library, *folders, *sys.path])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
