"""matplotlib as it comes: imported here first, it reads no file of settings.

It takes `matplotlibrc` of the working folder before all else, so the import stands elsewhere.
"""

import os

here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # Linux: no leave to read is needed
os.chdir("/")
try:
    import matplotlib  # noqa: F401
finally:
    os.fchdir(here)
    os.close(here)
