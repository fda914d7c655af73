#!/bin/sh
# Makes benchmarks/.peers, the environment of the packages that the benchmarks compare with: sae-bench 0.6.0 and the
# sae-lens that it brings. torch is the version of constraints.txt. From beartype 0.17.3 on, sae-bench's probes crash.
set -eu
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m venv .peers
.peers/bin/pip install --quiet --constraint ../constraints.txt 'torch==2.13.0' 'sae-bench==0.6.0' 'beartype<0.17.3'
# sae-bench asks for torchvision and never uses it. Where it was built for another torch (CUDA beside a CPU build) it
# breaks transformers, which imports it if it is there.
.peers/bin/python -c 'import torchvision' 2>/dev/null || .peers/bin/pip uninstall --quiet --yes torchvision
.peers/bin/pip freeze | grep -i -E '^(sae-bench|sae-lens|transformer-lens|transformers|torch|numpy)=='
