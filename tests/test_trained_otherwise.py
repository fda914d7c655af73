"""What an SAE's configuration says of its training is an alarm only where the run scores other tokens."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_bench.saes.load import load_sae
from sae_bench.saes.protocol import CoderInfo
from sae_bench.session.trained import Scored, differences
from tests.builders.tiny_saes import tiny_coder, write_saelens
from tests.conftest import Run

BOS, EOS = 0, 1
ROWS = [np.array([BOS, 5, 6, 7, EOS, 8, 9, 5]), np.array([BOS, 9, 9, 9])]
BARE = [ids[1:] for ids in ROWS]


class _Tokenizer:
    all_special_ids = (BOS, EOS, 7)


def said(sequences: Any = ROWS, mask: Any = "special", **fields: Any) -> list[str]:
    own = {name: fields.pop(name) for name in ("exclude_special_tokens", "seqpos_slice") if name in fields}
    info: CoderInfo = dataclasses.replace(tiny_coder().info, provenance={"metadata": own}, **fields)
    return [*differences(info, Scored.of(sequences, mask, frozenset({BOS, EOS}), _Tokenizer(), BOS))]


@pytest.mark.parametrize(
    ("fields", "mask"),
    [
        ({"exclude_special_tokens": [BOS, EOS]}, "special"),
        ({"exclude_special_tokens": [BOS]}, "special"),
        ({"exclude_special_tokens": [BOS, EOS, 31]}, "special"),  # which does not occur
        ({"exclude_special_tokens": [BOS]}, "first"),
        ({"exclude_special_tokens": False}, "none"),
        ({"exclude_special_tokens": []}, "none"),
        ({"exclude_special_tokens": "?"}, "special"),
        ({"seqpos_slice": [None]}, "none"),
        ({"seqpos_slice": [1, None]}, "special"),
        ({"seqpos_slice": [1, 8]}, "first"),
        ({"seqpos_slice": [1, -56], "context_size": 64}, "special"),
        ({"seqpos_slice": "?"}, "special"),
        ({"context_size": 8}, "none"),
        ({"context_size": 64}, "none"),
        ({"prepend_bos": True}, "none"),
        ({"prepend_bos": None}, "none"),
    ],
)
def test_no_alarm_where_what_is_scored_is_the_same(fields: dict[str, Any], mask: str) -> None:
    if fields.get("exclude_special_tokens") == "?":
        assert said(mask=mask, **fields) == said(mask=mask, exclude_special_tokens=True)
    else:
        assert said(mask=mask, **fields) == []


@pytest.mark.parametrize(
    ("fields", "mask", "sequences", "says"),
    [
        (
            {"exclude_special_tokens": [BOS, 5, 9]}, "special", ROWS,
            "trained without the tokens 5, 9 (exclude_special_tokens), and 6 of the 9 tokens that are scored are such; "
            "no --mask leaves them out",
        ),
        (
            {"exclude_special_tokens": [BOS, EOS]}, "none", ROWS,
            "trained without the tokens 0, 1 (exclude_special_tokens), and 3 of the 12 tokens that are scored are such"
            "; --mask special leaves them out",
        ),
        ({"exclude_special_tokens": True}, "special", ROWS, "trained without the tokens 7 (exclude_special_tokens)"),
        ({"exclude_special_tokens": [BOS, EOS]}, "first", ROWS, "trained without the tokens 1 (exclude_special_tok"),
        ({"seqpos_slice": [2, None]}, "special", ROWS, "trained on the positions [2, None] of every context alone"),
        ({"seqpos_slice": [0, -1], "context_size": 8}, "none", ROWS, "1 of the 12 tokens that are scored stand else"),
        ({"context_size": 4}, "none", ROWS, "trained on contexts of 4 tokens, and 4 of the 12 tokens that are scored"),
        ({"prepend_bos": True}, "none", BARE, "trained with a BOS token before the text (prepend_bos), and 2 of 2"),
        ({"prepend_bos": True}, "none", [ROWS[0], BARE[1]], "and 1 of 2 sequences begin without it"),
        ({"prepend_bos": False}, "none", ROWS, "trained without a BOS token before the text (prepend_bos), and 2 of 2"),
    ],
)  # fmt: skip
def test_what_differs_is_said_by_the_tokens_that_it_concerns(
    fields: dict[str, Any], mask: str, sequences: Any, says: str
) -> None:
    (sentence,) = said(sequences, mask, **fields)
    assert says in sentence


def test_a_list_of_the_runs_own_special_ids_is_no_alarm_in_a_run(cli: Run, tmp_path: Path) -> None:
    small = ("--model", "demo", "--data", "demo", "--tasks", "sparsity", "--dry-run", "--quiet")
    alarm = "exclude_special_tokens"
    for ids, expected in (([0], False), ([5, 6, 7, 8, 9, 10, 11, 12], True)):
        folder = write_saelens(load_sae("demo/topk_k32"), tmp_path / f"sae{len(ids)}", {alarm: ids})  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_sae(str(folder))
        code, _, text = cli("run", folder, *small)
        assert code == 0
        assert (alarm in text) == expected, text


def test_the_saes_of_the_small_real_model_raise_no_alarm(cli: Run, shared: Path) -> None:
    sae, model = shared / "lm/saes/topk16_b1_2048", shared / "lm/model"
    data = shared / "lm/corpus/corpus_val.jsonl.gz"
    given = ("--model", model, "--data", data, "--limit", 32, "--tasks", "sparsity", "--dry-run")
    assert cli("run", sae, *given)[::2] == (0, "")
