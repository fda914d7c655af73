"""Tests. Arrays as small as theirs mostly wait for a second thread, above all on a busy machine."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when a library is loaded
    os.environ.setdefault(_name, "1")
