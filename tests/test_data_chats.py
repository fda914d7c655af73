"""Chats as text: any form of messages, through the template of the tokenizer, which is untrusted and declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_bench import evaluate
from sae_bench.data.documents import Corpus, DataOptions, load_corpus
from sae_bench.errors import DataError
from tests.builders import tiny_models
from tests.builders.tiny_saes import tiny_coder

WORDS = 40
ROLES = ("system", "user", "assistant")
SPECIAL = ["<s>", "</s>", *(f"<{role}>" for role in ROLES)]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} {{ eos_token }}"
    "{% endfor %}"
)


def tokenizer(template: Any = TEMPLATE) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *(f"w{number}" for number in range(WORDS))]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    made.chat_template = template
    return made


def chat(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"w{number % WORDS} w{number // WORDS} w1"},
        {"role": "assistant", "content": f"w3 w{number % WORDS}"},
    ]


CHATS = [chat(number) for number in range(30)]
KEPT = {"user": "human", "assistant": "gpt"}
SHARE_GPT = [[{"from": KEPT[m["role"]], "value": m["content"]} for m in one] for one in CHATS]


def load(source: Any, own: Any = None, **options: Any) -> Corpus:
    given = {"mean_from_evaluation": True, "context": 64} | options
    return load_corpus(source, tokenizer=own or tokenizer(), vocab_size=64, options=DataOptions(**given))


def ids_of(corpus: Corpus) -> list[list[int]]:
    return [sequence.ids.tolist() for sequence in corpus.evaluation]


def jsonl(folder: Path, column: str, values: Any) -> Path:
    file = folder / "a.jsonl"
    file.write_text("".join(json.dumps({column: value}) + "\n" for value in values))
    return file


def parquet(folder: Path, column: str, values: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    pq.write_table(pa.table({column: values}), folder / "a.parquet")
    return folder / "a.parquet"


def saved(folder: Path, column: str, values: Any) -> Path:
    import datasets

    datasets.Dataset.from_dict({column: values}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def by_field(folder: Path, column: str, values: Any) -> Path:
    """As datasets stores a sequence of records: a record of lists."""
    return jsonl(folder, column, [{key: [one[key] for one in value] for key in value[0]} for value in values])


FORMS = {"jsonl": jsonl, "parquet": parquet, "save_to_disk": saved, "a record of lists": by_field}


@pytest.mark.parametrize("column", ["messages", "conversations"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_messages_is_what_the_tokenizer_makes_of_them(form: str, column: str, tmp_path: Path) -> None:
    own = tokenizer()
    wanted = [own.apply_chat_template(one, tokenize=True, return_dict=False) for one in CHATS]
    values = CHATS if column == "messages" else SHARE_GPT
    found = load(FORMS[form](tmp_path, column, values), text_field=column)
    assert ids_of(found) == wanted
    assert found.details["text_is"] == "chat"
    assert all(ids.count(0) == 1 for ids in wanted), "one BOS, the template's own"


def test_a_list_of_chats_in_memory_is_one_of_texts() -> None:
    assert ids_of(load(CHATS)) == [tokenizer().apply_chat_template(one, return_dict=False) for one in CHATS]


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.removeprefix("{{ bos_token }}")], ids=["with BOS", "without"])
def test_whether_there_is_a_bos_is_said_by_the_flag_alone(template: str) -> None:
    own = tokenizer(template)
    with_bos, without = (ids_of(load(CHATS, own, prepend_bos=bos)) for bos in (True, False))
    assert with_bos == [[0, *ids] for ids in without]
    assert not any(0 in ids for ids in without)
    packed = load(CHATS, own, packed=True, context=10)
    assert {tuple(ids).count(0) for ids in ids_of(packed)} == {1}


def test_the_template_is_declared_and_changes_the_protocol() -> None:
    other = TEMPLATE.replace("<{{ message['role'] }}>", "<{{ message['role'] }}> w9")
    texts = [tokenizer().apply_chat_template(one, tokenize=False) for one in CHATS]
    given: dict[str, Any] = {"model": tiny_models.tiny_gpt2(), "tasks": "sparsity", "controls": "none", "resamples": 20}
    results = {
        name: evaluate(tiny_coder(), tokenizer=own, data=data, **given)[0]
        for name, own, data in (
            ("chat", tokenizer(), CHATS), ("text", tokenizer(), texts), ("other", tokenizer(other), CHATS),
        )
    }  # fmt: skip
    protocols = {name: result.provenance.protocol for name, result in results.items()}
    assert protocols["chat"].data_sha256 == protocols["text"].data_sha256, "the same ids"
    assert len({result.protocol for result in results.values()}) == 3
    assert "chat_template" not in protocols["text"].parameters
    assert len({protocols[name].parameters["chat_template"] for name in ("chat", "other")}) == 2
    assert results["chat"].metrics["l0"].value == results["text"].metrics["l0"].value


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "the tokenizer of the language model has no chat template"),
        ({"rag": TEMPLATE, "tool_use": TEMPLATE}, "has no chat template"),
        (
            "{{ raise_exception('roles must alternate') }}",
            "cannot be written by the chat template.*roles must alternate",
        ),
        ("{{ messages | random }}", "makes random choices"),
        ("{{ lipsum() }}", "makes random choices"),
        ("{{ 'a' * 2000000 * 100 }}", "makes more than 64 MiB"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be written by the chat template.*unsafe"),
        ("{{ messages.append(1) }}", "cannot be written by the chat template.*unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "cannot be written by the chat template"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "cannot be written by the chat template.*[Rr]ange too big"),
        ("{{ broken", "cannot be written by the chat template"),
    ],
)
def test_a_template_is_no_program_that_may_do_anything(template: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load(CHATS, tokenizer(template))
    assert "text 0 of the given list" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_text_depends_on_no_day() -> None:
    own = tokenizer(
        "{% if strftime_now is defined %}<system> {{ strftime_now('%d %b %Y|%Y-%m-%d|%B') }} {% endif %}" + TEMPLATE
    )
    from sae_bench.data.chats import Chats

    text = Chats(own).text(CHATS[0], "here")
    assert text.startswith("<system> 26 Jul 2024|2024-07-26|July <s>")


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "user", "content": None}], "message 0: its content must be a text, got NoneType"),
        (
            [{"role": "user", "content": [{"type": "image"}]}],
            "its content must be a text, got list; only texts are read",
        ),
        ([{"role": 3, "content": "w1"}], "its role must be a text, got int"),
        (
            [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "", "tool_calls": [1]}],
            "message 1 has the field 'tool_calls' beside role and content",
        ),
        ([{"speaker": "a", "text": "w1"}], "must be a string, got list"),
        ([1, 2, 3], "must be a string, got list; token ids come as .npy"),
    ],
)
def test_what_is_no_chat_of_texts_is_refused(messages: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load(jsonl(tmp_path, "messages", [*CHATS[:2], messages]), text_field="messages")
    assert "line 3, field 'messages'" in str(caught.value)


def test_an_empty_chat_is_a_text_that_is_too_short(tmp_path: Path) -> None:
    found = load(jsonl(tmp_path, "messages", [[], *CHATS[:3]]), text_field="messages")
    assert found.details["documents_skipped_as_too_short"] == 1


def test_null_fields_beside_a_message_are_none(tmp_path: Path) -> None:
    """As a table of parquet has them, whose messages all have the fields of any."""
    values = [[one | {"tool_calls": None, "name": None} for one in each] for each in CHATS]
    assert ids_of(load(jsonl(tmp_path, "m", values), text_field="m")) == ids_of(load(CHATS))


def test_a_model_without_a_tokenizer_reads_no_chats() -> None:
    with pytest.raises(DataError, match="needs a tokenizer"):
        load_corpus(CHATS, tokenizer=None, vocab_size=64, options=DataOptions())
