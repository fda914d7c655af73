"""From the names of language models that SAE files carry to ids on the Hugging Face hub.

SAELens and TransformerLens write short names ("gpt2-small", "pythia-70m-deduped"), Gemma Scope 2 its own
("gemma-v3-1b-pt"). A name with a slash is an id already.
"""

from __future__ import annotations

import re

# Ids without an owner, which the hub still has.
_PLAIN = frozenset({"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"})
# Sizes that Pythia models had before they were renamed, counted without embeddings.
_OLD_PYTHIA = {
    **{"19m": "70m", "125m": "160m", "350m": "410m", "800m": "1b", "1.3b": "1.4b", "2.7b": "2.8b", "6.7b": "6.9b"},
    "13b": "12b",
}
_SIZE = r"(\d+(?:\.\d+)?b)"
_RULES: tuple[tuple[str, str], ...] = (
    (r"gpt2-small", "gpt2"),
    (r"pythia-([\d.]+[mb])((?:-deduped)?(?:-v0|-seed\d)?)", "EleutherAI/pythia-{pythia}{1}"),
    (r"gpt-j(?:-6b)?", "EleutherAI/gpt-j-6b"),
    (r"gpt-neo-(125m)", "EleutherAI/gpt-neo-{0}"),
    (r"gpt-neo-(1\.3b|2\.7b)", "EleutherAI/gpt-neo-{0^}"),
    (r"gpt-oss-(20b|120b)", "openai/gpt-oss-{0}"),
    (r"gemma-(?:1-)?(2b|7b)(-it)?", "google/gemma-{0}{1}"),
    (r"gemma-(?:v)?2-(2b|9b|27b)(?:-pt|(-it))?", "google/gemma-2-{0}{1}"),
    (r"gemma-(?:v)?3-(270m)(?:-pt|(-it))?", "google/gemma-3-{0}{1}"),
    (r"gemma-(?:v)?3-(1b|4b|12b|27b)(-pt|-it)", "google/gemma-3-{0}{1}"),
    (r"llama-2-(7b|13b|70b)(-chat)?(?:-hf)?", "meta-llama/Llama-2-{0}{1}-hf"),
    (r"(?:meta-)?llama-3-(8b|70b)(-instruct)?", "meta-llama/Meta-Llama-3-{0^}{1*}"),
    (r"(?:meta-)?llama-(3\.\d)-" + _SIZE + r"(-instruct)?", "meta-llama/Llama-{0}-{1^}{2*}"),
    (r"mistral-7b(?:-v0\.1)?", "mistralai/Mistral-7B-v0.1"),
    (r"mistral-7b(-instruct)?-(v0\.\d)", "mistralai/Mistral-7B{0*}-{1}"),
    (r"mistral-7b-instruct", "mistralai/Mistral-7B-Instruct-v0.1"),
    (r"qwen(\d(?:\.\d)?)-" + _SIZE + r"(-a\d+b)?(-base|-instruct|-chat)?", "Qwen/Qwen{0}-{1^}{2^}{3*}"),
    (r"deepseek-r1-distill-(llama|qwen)-" + _SIZE, "deepseek-ai/DeepSeek-R1-Distill-{0*}-{1^}"),
    (r"(phi-(?:1|1_5|2|4))", "microsoft/{0}"),
    (r"opt-([\d.]+[mb])", "facebook/opt-{0}"),
    (r"tiny-?stories-(\d+m)", "roneneldan/TinyStories-{0^}"),
)


def hub_id(name: str) -> str | None:
    """The id on the hub of the model that is called ``name``, None if the name is not known; in any case of letters."""
    if "/" in name or name in _PLAIN:
        return name
    for pattern, template in _RULES:
        if match := re.fullmatch(pattern, name.lower()):
            return _filled(template, [group or "" for group in match.groups()])
    return None


def _filled(template: str, groups: list[str]) -> str:
    """The template with groups in it: ``{0}`` as matched, ``{0^}`` in upper case, ``{0*}`` with a capital."""

    def fill(field: re.Match[str]) -> str:
        if field[1] == "pythia":
            return _OLD_PYTHIA.get(groups[0], groups[0])
        group = groups[int(field[1])]
        if field[2] == "^":
            return group.upper()
        return re.sub(r"[a-z]", lambda letter: letter[0].upper(), group, count=1) if field[2] == "*" else group

    return re.sub(r"\{(\w+)([\^*]?)\}", fill, template)
