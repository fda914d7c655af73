"""Fixtures that every test can use."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # arrays as small as these mostly wait for a second thread, above all on a busy machine

ON_TEXT = "reconstruction,sparsity,loss_recovered"  # tasks that read documents, and no labelled texts


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material beside the repository; tests that read it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference material in ../shared")
    return folder
