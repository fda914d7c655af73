"""Cards for models: Markdown that says what was measured and how, and a command that repeats it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from sae_bench.board.card import as_card, command
from sae_bench.cli import card as verb
from sae_bench.cli.main import parser
from sae_bench.errors import UsageError
from tests.builders.boards import HOSTILE
from tests.builders.summaries import SNAPSHOTS, SPECS, family, lay, made, many, of
from tests.builders.verbs import runner


@pytest.fixture
def cli(capsys):
    return runner(verb, "card", capsys)


def looks(text: str, file: str) -> None:
    """To accept a change: delete the file, run this test, read what it wrote. Digests change with any definition."""
    kept, text = SNAPSHOTS / file, re.sub(r"[0-9a-f]{64}", "0" * 64, text)
    if not kept.exists():
        kept.write_text(text)
        pytest.fail(f"{kept} was missing and is written anew: read it, then run again")
    assert text == kept.read_text()


def test_a_card_looks_as_it_did():
    looks(as_card(of(many()), SPECS), "card.md")
    looks(as_card(of(family("lab/a", 32.0, 0.1)), SPECS, front_matter=True), "card_whole.md")


def test_the_hub_reads_the_figures_of_a_card():
    text = as_card(of(family("lab/a: b # c", 32.0, 0.1)), SPECS, front_matter=True)
    data = ModelCard(text).data
    assert data.model_name == "lab/a: b # c"
    found = {one.metric_type: one for one in data.eval_results}
    assert found["kl"].metric_value == 0.1
    assert found["kl"].metric_name == "KL"
    assert found["kl"].task_name == "Loss recovered"
    assert found["kl"].metric_args["low"] == pytest.approx(0.09)
    assert set(found) == {"l0", "dead_fraction", "fvu", "kl", "loss_recovered_mean", "rule_f1", "probe_r"}


def test_a_figure_without_a_value_is_in_the_table_and_not_in_the_index():
    data = ModelCard(as_card(of(family("a", 32.0, None)), SPECS, front_matter=True)).data
    assert "kl" not in {one.metric_type for one in data.eval_results}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_in_a_name_is_markup(name):
    results = [
        one.model_copy(update={"sae": one.sae.model_copy(update={"source": name})}) for one in family(name, 32.0, 0.1)
    ]
    text = as_card(of(results), SPECS, front_matter=True)
    assert all(c.isprintable() or c in "\n\u200b" for c in text)  # the mark without width is that of the escaper
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head)["model-index"][0]["name"] == "".join(c if c.isprintable() else "?" for c in name)
    prose, fence, _ = body.partition("```bash")
    assert fence
    assert not [part for part in ("<script", "<img", "](", "@everyone", "https://evil") if part in prose]


def words_of(summary):
    """The words of the command as a shell reads them: a backslash at the end of a line joins lines."""
    return shlex.split(command(summary).replace("\\\n", ""))


FLAGS = {
    "tier": "smoke", "limit": 16, "tokens": 512, "group_field": "source", "probe_sets": "a,b*", "text_field": "-field",
    "split": "train", "context": 64, "packed": True, "bos": "yes", "mask": "first", "mean_from": "evaluation",
    "format": "saelens", "hook_in": "blocks.1.hook_resid_post", "layer": 3, "threshold": 0.5, "norm_factor": 2.0,
    "k": 8, "select_in": "bfloat16", "backend": "tl", "dtype": "float64", "sae_dtype": "float32", "seed": 3,
    "resamples": 100, "judge_model": "gpt-4o", "hook_out": "x y",
}  # fmt: skip


def test_the_command_of_a_card_is_what_run_takes():
    results = [
        one.model_copy(update={
            "provenance": one.provenance.model_copy(update={
                "settings": {**FLAGS, "parameters": {"token_rules.latents": 8}}, "controls": ("mean", "pca"),
            }),
            "sae": one.sae.model_copy(update={"source": "my saes/it's"}),
        })
        for one in family("a", 32.0, 0.1)
    ]  # fmt: skip
    (summary,) = of(results)
    words = words_of(summary)
    args = parser().parse_args(words[1:])
    assert args.sae == ["my saes/it's"]
    assert (args.model, args.data) == ("gpt2", "texts.jsonl")
    assert args.controls == "mean,pca"
    assert args.parameters == ["token_rules.latents=8"]
    assert args.tasks == "loss_recovered,probe_recovery,reconstruction,sparsity,token_rules"
    assert {name: getattr(args, name) for name in FLAGS} == FLAGS


@pytest.mark.parametrize(
    ("name", "data", "folder"),
    [
        ("suite", {}, None),
        ("demo", {}, None),
        ("probes-v2", {"definition": "1" * 64}, None),  # a list of sets that ships, which is no folder
        ("my-sets", {}, "my-sets"),
    ],
)
def test_labelled_sets_are_repeated_from_where_they_came(name, data, folder):
    results = [made("a", "probe_recovery", {"probe_r": 0.4}, data={"coverage": "2 of 2"} | data)]
    protocol = results[0].provenance.protocol.model_copy(update={"data": name})
    provenance = results[0].provenance.model_copy(update={"protocol": protocol})
    (summary,) = of([results[0].model_copy(update={"provenance": provenance})])
    assert parser().parse_args(words_of(summary)[1:]).probe_data == folder


def test_every_setting_that_a_result_keeps_is_a_flag_of_run():
    from sae_bench.api import REPEAT

    assert set(FLAGS) == set(REPEAT) - {"parameters"}, "give the new one a value here"


def test_a_suite_says_all_but_the_sae():
    (summary,) = of([made("a", "loss_recovered", {"kl": 0.1}, suite="demo-v1@" + "1" * 64)])
    assert "--suite" not in words_of(summary), "who claims a suite whose file says otherwise is of none"
    assert "- unofficial, named demo-v1 (11111111)" in as_card([summary], SPECS)
    official = replace(summary, official=True, suite="suite demo-v1 (11111111)")
    assert words_of(official) == ["sae-bench", "run", "--sae", "x", "--suite", "demo-v1"]
    assert "- suite demo-v1 (11111111)" in as_card([official], SPECS)


def test_one_sae_of_a_folder_keeps_its_rank_among_all(tmp_path, cli):
    out = lay(tmp_path, many())
    _, whole, _ = cli(out)
    _, one, _ = cli(out, "--sae", "lab/topk-32-seed-0")
    assert "| 1-2 of 3 |" in whole
    assert "| 1-2 of 3 |" in one
    assert "lab/relu" not in one
    assert "lab/topk-32-seed-1" not in one
    assert cli(out, "--sae", "lab/topk-*")[1].count("topk-32-seed-1") > 0
    with pytest.raises(UsageError, match="no result is of an SAE named 'lab/topk-23'"):
        cli(out, "--sae", "lab/topk-23")


def test_a_card_is_written_whole_or_not_at_all(tmp_path, cli):
    out = lay(tmp_path / "runs", family("a", 32.0, 0.1))
    code, text, _ = cli(out, "--out", tmp_path / "CARD.md")
    assert (code, text) == (0, "")
    assert (tmp_path / "CARD.md").read_text() == cli(out)[1]
    with pytest.raises(UsageError, match="no file or folder"):
        cli(tmp_path / "nothing", "--out", tmp_path / "OTHER.md")
    assert not (tmp_path / "OTHER.md").exists()
