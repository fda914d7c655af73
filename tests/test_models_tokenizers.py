"""The ids in use are those of tokenizer.json as the library tokenizers reads it, whatever class transformers takes."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from sae_bench.data.documents import DataOptions, load_corpus
from sae_bench.data.labelled import LabelledOptions
from sae_bench.data.labelled.encode import BadText, Encoder
from sae_bench.errors import DataError, ModelError
from sae_bench.models.loading import load_subject
from sae_bench.models.tokenizer_identity import PROBES, tokenizer_kind, tokenizer_sha256
from sae_bench.models.tokenizers import check_tokens, load_tokenizer
from tests.builders import tiny_models, tokenizer_files
from tests.builders.tokenizer_files import COMBINATIONS, change_file, documents, write_tokenizer

TEXTS = (*PROBES, *documents()[:5], documents()[0] + " x  y 20231 Über", "a <s> in </s> the<pad> text")


def loaded(folder: Path) -> tuple[Any, list[str]]:
    """A tokenizer and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = load_tokenizer(str(folder))
    return tokenizer, [str(each.message) for each in caught]


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_combination(folder: Path, combination: tuple[str, str | None, str]) -> bool:
    """Whether there was a warning: there is one exactly where transformers' choice gives other ids."""
    model_type, name, kind = combination
    raw = write_tokenizer(folder, kind, model_type=model_type, tokenizer_class=name)
    tokenizer, said = loaded(folder)
    assert [ids(tokenizer, text) for text in TEXTS] == [raw.encode(t, add_special_tokens=False).ids for t in TEXTS]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (raw.token_to_id("<s>"), raw.token_to_id("</s>"))
    text = documents()[1]
    assert tokenizer.decode(ids(tokenizer, text)) == raw.decode(raw.encode(text).ids)
    assert len(said) <= 1
    return bool(said)


def test_sixty_combinations_of_class_model_type_and_file_give_the_ids_of_the_file(tmp_path):
    drawn = random.Random(16).sample(COMBINATIONS, 60)
    warned = [check_combination(tmp_path / str(number), each) for number, each in enumerate(drawn)]
    assert 15 < sum(warned) < 55  # that many are rebuilt otherwise by the installed transformers


@pytest.mark.slow
def test_every_combination_gives_the_ids_of_the_file(tmp_path):
    for number, each in enumerate(COMBINATIONS):
        check_combination(tmp_path / str(number), each)


@pytest.mark.parametrize("apart", [False, True])
def test_a_run_reads_the_tokens_of_the_file_and_says_so(tmp_path, apart):
    """Beside the model, and where the tokenizer is given apart, as with --tokenizer."""
    tiny_models.tiny_qwen2(vocab_size=512, bos_token_id=1, eos_token_id=2).save_pretrained(tmp_path / "lm")
    raw = write_tokenizer(tmp_path / ("tokens" if apart else "lm"))
    with pytest.warns(UserWarning, match=r"Qwen2Tokenizer.*other ids than tokenizer.json, which is used"):
        subject, tokenizer = load_subject(tmp_path / "lm", tokenizer=tmp_path / "tokens" if apart else None)
    assert tokenizer_kind(tokenizer).endswith("of tokenizer.json, instead of Qwen2Tokenizer")
    options = DataOptions(context=64, mean_from_evaluation=True)
    corpus = load_corpus(documents(20), tokenizer=tokenizer, vocab_size=subject.vocab_size, options=options)
    right = [[1, *raw.encode(text, add_special_tokens=False).ids][:64] for text in documents(20)]
    assert [each.ids.tolist() for each in corpus.evaluation][: len(right)] == right


def test_a_class_that_agrees_is_not_spoken_of(tmp_path):
    write_tokenizer(tmp_path, tokenizer_class="PreTrainedTokenizerFast", model_type="llama")
    tokenizer, said = loaded(tmp_path)
    assert not said
    assert tokenizer_kind(tokenizer) == type(tokenizer).__name__


def test_a_difference_that_only_the_documents_show_is_said(tmp_path):
    """A class may agree on the probes; a run then looks at the first documents."""
    write_tokenizer(tmp_path, model_type="llama")
    tokenizer, _ = loaded(tmp_path)
    other = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    other.add_tokens(["unicorn"])
    tokenizer.sae_bench_unlike = PreTrainedTokenizerFast(tokenizer_object=other)
    with pytest.warns(UserWarning, match="'a unicorn' becomes"):
        check_tokens(tokenizer, lambda: iter(["nothing to see", "a unicorn"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokens(tokenizer, lambda: iter(["nothing to see"]))
        check_tokens(None, lambda: iter(["a unicorn"]))


def test_special_tokens_of_the_configurations_are_kept(tmp_path):
    write_tokenizer(tmp_path, bos_token=None, eos_token=None, pad_token=None, unk_token=None)
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "</s>", "eos_token": {"content": "<s>"}}')
    tokenizer, _ = loaded(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 1)


def test_tokens_that_only_tokenizer_config_adds_are_kept(tmp_path):
    added = {"content": "<|turn|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    added |= {"single_word": False}
    raw = write_tokenizer(tmp_path, added_tokens_decoder={"400": added}, model_type="qwen2")
    tokenizer, _ = loaded(tmp_path)
    assert ids(tokenizer, "<|turn|>") == [raw.get_vocab_size()]


def test_a_role_that_only_the_class_names_is_taken_if_the_file_knows_the_token(tmp_path):
    llama = {"model_type": "llama", "tokenizer_class": "LlamaTokenizer"}
    write_tokenizer(tmp_path / "llama", "pieces, always a space", **llama, bos_token=None)
    assert loaded(tmp_path / "llama")[0].bos_token_id == 1
    write_tokenizer(tmp_path / "gpt2", model_type="gpt2", tokenizer_class="GPT2Tokenizer", bos_token=None)
    tokenizer, _ = loaded(tmp_path / "gpt2")  # <|endoftext|>, which this file does not hold
    assert tokenizer.bos_token_id is None or tokenizer.bos_token_id < 400
    assert max(tokenizer.get_vocab().values()) < 400


def test_padding_and_truncation_in_the_file_cut_nothing(tmp_path):
    raw = write_tokenizer(tmp_path)
    right = raw.encode(documents()[0], add_special_tokens=False).ids
    cutting = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    cutting.enable_truncation(3)
    cutting.enable_padding(length=200)
    cutting.save(str(tmp_path / "tokenizer.json"))
    tokenizer, _ = loaded(tmp_path)
    assert ids(tokenizer, documents()[0]) == right


def test_merges_left_out_at_random_are_refused(tmp_path):
    write_tokenizer(tmp_path)
    change_file(tmp_path / "tokenizer.json", lambda content: content["model"].update(dropout=0.3))
    with pytest.raises(ModelError, match=r"merges at random \(dropout 0.3"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["NoSuchTokenizer", "T5Tokenizer", "BertTokenizer"])
def test_a_class_that_cannot_read_the_file_is_replaced_by_it(tmp_path, name):
    raw = write_tokenizer(tmp_path, tokenizer_class=name, model_type="qwen2")
    tokenizer, said = loaded(tmp_path)
    assert ids(tokenizer, documents()[0]) == raw.encode(documents()[0], add_special_tokens=False).ids
    assert len(said) <= 1


def test_a_class_whose_code_lies_in_the_folder_is_not_run(tmp_path):
    raw = write_tokenizer(tmp_path, auto_map={"AutoTokenizer": ["tokens.Mine", None]}, tokenizer_class="Mine")
    (tmp_path / "tokens.py").write_text("raise SystemExit('this code must not run')")
    tokenizer, said = loaded(tmp_path)
    assert ids(tokenizer, documents()[0]) == raw.encode(documents()[0], add_special_tokens=False).ids
    assert any("tokenizer.json is used" in each for each in said) or not said


def test_a_damaged_file_is_refused(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer of .* cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_such_a_file_is_as_transformers_makes_it(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    tokenizer, said = loaded(tmp_path)
    assert not said
    assert ids(tokenizer, "ab") == ids(ByT5Tokenizer(), "ab")


def test_the_digest_is_of_what_a_tokenizer_does_not_of_its_class(tmp_path):
    digests = {}
    for kind in tokenizer_files.KINDS:
        for name in (None, "LlamaTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast"):
            write_tokenizer(tmp_path / f"{kind} {name}", kind, tokenizer_class=name, model_type="llama")
            digests[kind, name] = tokenizer_sha256(loaded(tmp_path / f"{kind} {name}")[0])
    assert len(set(digests.values())) == len(tokenizer_files.KINDS)
    assert all(digests[kind, name] == digests[kind, None] for kind, name in digests)
    rebuilt = AutoTokenizer.from_pretrained(tmp_path / "bytes, digits in threes GPT2Tokenizer")
    assert tokenizer_sha256(rebuilt) != digests["bytes, digits in threes", "GPT2Tokenizer"]


def test_the_digest_survives_use_saving_and_the_order_of_keys(tmp_path):
    write_tokenizer(tmp_path / "a")
    tokenizer, _ = loaded(tmp_path / "a")
    before = tokenizer_sha256(tokenizer)
    tokenizer(["a", "the cat sat"], padding=True, truncation=True, max_length=4)
    assert tokenizer_sha256(tokenizer) == before
    tokenizer.save_pretrained(tmp_path / "b")
    assert tokenizer_sha256(load_tokenizer(str(tmp_path / "b"))) == before
    change_file(tmp_path / "b" / "tokenizer.json", lambda content: content.update(reversed(list(content.items()))))
    assert tokenizer_sha256(load_tokenizer(str(tmp_path / "b"))) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(normalizer={"type": "Lowercase"}),
        lambda content: content.update(pre_tokenizer=content["pre_tokenizer"]["pretokenizers"][1]),
        lambda content: content["model"]["merges"].pop(),
        lambda content: content["model"]["vocab"].update({"zz": 399, "yy": 400}),
        lambda content: content["added_tokens"][3].update(lstrip=True),
        lambda content: content["model"].update(ignore_merges=True),
        lambda content: content.update(decoder=None),
    ],
)
def test_the_digest_sees_each_part_of_the_file(tmp_path, change):
    write_tokenizer(tmp_path, tokenizer_class="PreTrainedTokenizerFast", model_type="llama")
    before = tokenizer_sha256(load_tokenizer(str(tmp_path)))
    change_file(tmp_path / "tokenizer.json", change)
    assert tokenizer_sha256(load_tokenizer(str(tmp_path))) != before


def test_the_digest_sees_which_tokens_are_special_and_tokenizers_without_a_file(tmp_path):
    write_tokenizer(tmp_path)
    before = tokenizer_sha256(load_tokenizer(str(tmp_path)))
    write_tokenizer(tmp_path, pad_token="</s>")
    assert tokenizer_sha256(load_tokenizer(str(tmp_path))) != before
    assert tokenizer_sha256(None) is None
    assert tokenizer_sha256(ByT5Tokenizer()) == tokenizer_sha256(ByT5Tokenizer())
    assert tokenizer_sha256(ByT5Tokenizer()) != tokenizer_sha256(ByT5Tokenizer(extra_ids=3))
    assert tokenizer_sha256(tiny_models.TinyTokenizer(50)) != tokenizer_sha256(tiny_models.TinyTokenizer(49))


def test_a_word_that_has_no_id_is_one_sentence_and_no_traceback():
    """A vocabulary of words without one for unknown ones raises an exception of no kind at all."""
    words = Tokenizer(models.WordLevel({"known": 0, "word": 1}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    options = DataOptions(context=8, prepend_bos=False, mean_from_evaluation=True)
    with pytest.raises(DataError, match=r"Document 2 of .* cannot be tokenised: .*UNK"):
        load_corpus(["known word known", "known stranger"], tokenizer=tokenizer, vocab_size=2, options=options)
    with pytest.raises(BadText, match="cannot be tokenised"):
        Encoder(tokenizer, 2, LabelledOptions(context=8, prepend_bos=False, seed=0)).encode("known stranger")
