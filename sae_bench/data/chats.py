"""Chats as text: a column of messages, written as the tokenizer's own chat template writes them.

A template is a program in Jinja that comes with a model, so it runs in the sandbox of transformers and gets the
messages and nothing else. What it writes may depend on nothing else either: the date that some templates write at the
beginning is always :data:`DATE`, and one that asks for random choices is refused. The digest of the template is in the
protocol of results.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from sae_bench.errors import DataError, said
from sae_bench.files import LINE

DATE = "26 July 2024"  # a Friday, which the templates of Llama 3 take where they are told none
_ROLES = {"human": "user", "gpt": "assistant"}  # of ShareGPT
_DATE = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%b": "Jul", "%B": "July", "%d": "26", "%e": "26", "%a": "Fri"},
    **{"%A": "Friday", "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%p": "PM", "%j": "208", "%Z": "", "%z": ""},
}
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{- format"
    + "".join(f"|replace('{mark}', '{text}')" for mark, text in _DATE.items())
    + " -}}{%- endmacro +%}"
)
_RANDOM = re.compile(r"\|\s*random\b|\blipsum\b")


def messages_in(value: Any) -> list[dict[str, Any]] | None:
    """The messages of a chat as ``{role, content}``; None for what is none.

    Also what ShareGPT has, ``{from, value}``, and lists by field, as ``datasets`` stores a sequence of records.
    """
    if isinstance(value, Mapping):
        for role, content in (("role", "content"), ("from", "value")):
            roles, contents = value.get(role), value.get(content)
            if isinstance(roles, list) and isinstance(contents, list) and len(roles) == len(contents):
                pairs = zip(roles, contents, strict=True)
                return [{"role": _role(who), "content": what} for who, what in pairs]
        return None
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        return None
    if all({"role", "content"} <= one.keys() for one in value):
        return [{name: part for name, part in one.items() if part is not None} for one in value]
    if all({"from", "value"} <= one.keys() for one in value):
        return [{"role": _role(one["from"]), "content": one["value"]} for one in value]
    return None


def _role(who: Any) -> Any:
    """The role that ShareGPT calls so; that of others is as it is."""
    return _ROLES.get(who, who) if isinstance(who, str) else who


class Chats:
    """Writes chats with the chat template of ``tokenizer`` (None: there is no tokenizer)."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._template: str | None = None

    @property
    def begins_with(self) -> set[int | None]:
        """Ids at the start of a text that are the template's own BOS: whether there is one is said by ``--bos``."""
        return set() if self._template is None else {self.tokenizer.bos_token_id}

    @property
    def notes(self) -> dict[str, Any]:
        """What details say, if a chat was written."""
        if self._template is None:
            return {}
        return {"text_is": "chat", "chat_template_sha256": hashlib.sha256(self._template.encode()).hexdigest()}

    def text(self, messages: list[dict[str, Any]], where: str) -> str:
        """The chat as a text, empty for one without messages. Raises DataError, naming ``where`` it stands."""
        for number, message in enumerate(messages):
            for part in ("role", "content"):
                if not isinstance(message.get(part), str):
                    kind = type(message.get(part)).__name__
                    raise DataError(
                        f"{where} message {number}: its {part} must be a text, got {kind}; only texts are read, no "
                        "images and no calls of tools."
                    )
            if further := sorted(message.keys() - {"role", "content", "weight"}):
                raise DataError(
                    f"{where} message {number} has the field {further[0][:40]!r} beside role and content, of which "
                    "nobody knows whether the template writes it; leave it out."
                )
        template = self._template = self._template or self._of_tokenizer(where)
        if not messages:
            return ""
        dated = _FIXED_DATE + template if "strftime_now" in template else template
        try:
            text = self.tokenizer.apply_chat_template(messages, chat_template=dated, tokenize=False)
        except Exception as error:  # of a template: whatever it raises, and what the sandbox forbids
            raise DataError(
                f"{where} cannot be written by the chat template of the tokenizer: {said(error)}."
            ) from error
        if not isinstance(text, str) or len(text) > LINE:
            raise DataError(f"{where}: the chat template makes more than {LINE >> 20} MiB of it, which no chat is.")
        return text

    def _of_tokenizer(self, where: str) -> str:
        """The template that is used without tools. Raises DataError."""
        if self.tokenizer is None:
            raise DataError(
                f"{where} is a chat, which needs the chat template of a tokenizer, and there is no tokenizer."
            )
        get = getattr(self.tokenizer, "get_chat_template", None)
        try:
            template = get() if get is not None else None
        except (ValueError, TypeError):
            template = None
        if not isinstance(template, str) or not template:
            raise DataError(
                f"{where} is a chat, and the tokenizer of the language model has no chat template: give the model that "
                "is made for chats, or plain text."
            )
        if _RANDOM.search(template):
            raise DataError(
                f"{where}: the tokenizer's chat template makes random choices, so a chat is no certain text."
            )
        return template
