"""Which tests run when: `slow` is left to --all, `with_deep` to --deep."""

import os

import pytest

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
with_deep = pytest.mark.skipif(not DEEP, reason="minutes long: ./run.sh test --deep runs it")
