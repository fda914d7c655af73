"""Refusals in words: a speaker who says that they will not, or cannot, do what was asked.

An explanation that talks about refusals, apologies or the word "cannot" is none: it quotes, lists or describes what
somebody says. So what stands in quotation marks is left out, and in what remains a sentence must begin as somebody who
speaks for themselves does. Where both readings are open it counts as a refusal: a latent is lost then, and nothing
that was refused is scored.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum
from typing import Final

from sae_bench.judge.languages import REFUSING, any_of

_LONGEST = 4000  # characters that are looked at


class Refused(Enum):
    """What a reader gives in place of a value where the judge refused to answer."""

    REFUSED = "refused"


REFUSED: Final = Refused.REFUSED

_QUOTES = str.maketrans(dict.fromkeys("“”„«»「」『』", '"') | dict.fromkeys("‘’ʼ`", "'"))
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'(?=\S)[^\n]{1,300}?(?<=\S)'(?!\w)")
_SENTENCE = re.compile(r"[.!?;。！？；]+|\s[-—–]+\s")
_BEFORE = re.compile(r"\W*")
_LABEL = re.compile(r"\W*(?:explanation|answer|response|reply|assistant|output|error|refusal|note)[\s*\]]*:[\s*]*")


_GERUND = r"\w+ing\b(?! (?:this|that|such|these|any|with|your))"  # "I can't help thinking" helps nobody
_DO = (
    any_of(
        rf"help(?! (?:but|myself|ourselves|it\b|{_GERUND}))",
        *(
            "assist",
            "aid",
            "fulfil+",
            "comply",
            "provide",
            "answer",
            "engage",
            "continue",
            "support",
            "generate",
            "create",
        ),
        *("discuss", "respond", "reply", "participate", "share", "process", "complete", "offer", "explain", "describe"),
        *(
            "analy[sz]e",
            "produce",
            "do",
            "write",
            "proceed",
            "accommodate",
            "interpret",
            "review",
            "summari[sz]e",
            "give",
        ),
        *("perform", "view", "evaluate", "classify", "rate", "judge", "score", "make", "talk", "comment", "entertain"),
        *("facilitate", "address", "interact", "handle", "label", "repeat", "reproduce", "display", "output", "accept"),
        *("take part", "take on", "carry out", "work"),
    )
    + r"\b(?! (?:you )?(?:with )?(?:any )?(?:more|further|additional|greater|a (?:more|better))\b)"
)
_I = r"\b(?:i|we)\b"
_ADVERBS = r"(?:(?:\w+ly|also|even|just|in good conscience|be able to|continue to) ){0,3}"
_NOT = any_of("can ?not", "can'?t", "could not", "couldn't", "won'?t", "will not", "wouldn't", "would not", "shouldn't")
_BARRED = any_of(
    r"not (?:able|allowed|permitted|authori[sz]ed|going|programmed|equipped|designed|in a position|willing)",
    *("unable", "unwilling", "prohibited", "forbidden"),
)
_AM = r"(?: am|'m| are|'re)"
_RULES = r"(?:\w+ ){0,2}(?:polic(?:y|ies)|guidelines?|programming|principles?|values|training|rules|instructions)\b"
_THING = r"(?:request|prompt|response|content|message|text|material)s?"
_THIS = (
    r"(?:this|that|your|the)(?: \w+){0,2} (?:request|content|task|prompt|question|excerpts?|texts?|instructions?)s?\b"
)
_ENGLISH = any_of(
    rf"{_I} (?:{_NOT}|should not|must not|may not)(?: and {_NOT})? {_ADVERBS}{_DO}",
    rf"{_I} (?:won't|will not) be (?:answer|help|assist|provid|discuss|engag|explain|describ|respond|participat)ing\b",
    rf"{_I}{_AM} (?:just |simply |currently )?{_BARRED}(?: to| from)? {_ADVERBS}{_DO}",
    rf"\b(?:sorry|apologi[sz]e|apologies|afraid|unfortunately)\b.{{0,40}}{_I} {_NOT}$",  # "I'm sorry, but I can't."
    rf"{_I} (?:do not|don't) (?:assist|help with|provide|engage|support|create|generate|discuss)\b",
    rf"{_I} (?:(?:do not|don't) have|lack) (?:the )?(?:ability|capability|permission|authori[sz]ation)\b",
    rf"{_I} (?:do not|don't) (?:feel comfortable|think (?:i|we) (?:can|should) {_DO})",
    rf"{_I}{_AM} (?:not comfortable|uncomfortable) ",
    rf"{_I} (?:\w+ly )?(?:must|have to|need to|'ll have to|will have to) (?:\w+ly )?(?:decline|refuse)\b",
    rf"{_I}{_AM} going to have to (?:decline|refuse)\b",
    rf"{_I} (?:\w+ly )?(?:decline|refuse) to \w+|{_I} (?:respectfully|politely) (?:decline|refuse)",
    rf"{_I}(?:'d| would) (?:rather|prefer) not\b|{_I} prefer not to\b",
    rf"not something (?:i|we)(?:{_AM}| can| could|'ll| will| would)\b|outside (?:of )?(?:my|our) (?:scope|abilities)",
    rf"(?:against|violates?|contrary to) (?:my|our|the|openai's?|content|usage|safety|these) ?{_RULES}",
    rf"\b(?:my|our) {_RULES} (?:do(?:es)? not|don't|doesn't|prevents?|prohibits?|forbids?|restricts?)",
    r"(?:not |in)appropriate for (?:me|us) to\b",
    rf"\b{_THING} (?:(?:was|were|is|are|has been|have been) )?"
    r"(?:refused|denied|declined|blocked|rejected|flagged|filtered|withheld)\b",
    rf"\b{_THING} cannot be (?:processed|fulfilled)\b",
    r"^let'?s (?:talk about|discuss|move on to) (?:something|another|a different)|^let'?s change the (?:topic|subject)",
    rf"^(?:sorry,? )?(?:unable to|not able to|{_NOT}) {_ADVERBS}{_DO}(?: with)?(?: {_THIS}| (?:this|that)$|$)",
    r"^sorry,? (?:but )?no$",
)
_SPEAKER = re.compile(
    any_of(
        *(
            r"i\b",
            r"we\b",
            r"(?:my|our) ",
            r"it(?:'s| is| would| goes)",
            r"that(?:'s| is| would)",
            "as an? ",
            r"no,",
            r"oh\b",
        ),
        r"sorry(?=[,:]|$| but| i\b| for| about| to\b| that)",
        r"(?:my |our )?(?:deepest |sincere )?apolog(?:ies|y|i[sz]e)(?=[,:]|$| but| for the| i\b)",
        *(
            "unfortunately",
            "regrettably",
            "however",
            r"but\b",
            "therefore",
            r"so\b",
            "thank",
            "hello",
            r"hi\b",
            "given",
        ),
        *(
            r"for (?:safety|policy|ethical|legal)",
            r"(?:while|although) (?:i|we)\b",
            "because",
            "due to",
            "at this time",
        ),
        r"this (?:conversation|question|topic|is|would|goes|violates)",
        rf"(?:(?:this|the|your) )?{_THING}\b",
        *(r"in (?:accordance|line) with", "to (?:comply|respect)", "out of respect", r"per (?:my|our)", "let'?s "),
        *(r"based on (?:my|our|the) (?:guide|polic)", "unable", "not able", _NOT),
    )
)
_SELF = re.compile(_ENGLISH)
_OTHERS = re.compile("|".join(f"^(?:{sorry}).{{0,80}}(?:{cannot})|^(?:{alone})" for sorry, cannot, alone in REFUSING))


def is_refusal(text: str) -> bool:
    """Whether in ``text`` somebody refuses to do what they were asked, in one of two dozen languages."""
    plain = unicodedata.normalize("NFKC", text[:_LONGEST].translate(_QUOTES)).translate(_QUOTES).casefold()
    return any(_refuses(sentence) for line in plain.splitlines() for sentence in _sentences(line.strip()))


def _sentences(line: str) -> list[str]:
    """The sentences of a line, without what stands in quotation marks; a line that is all in such marks counts."""
    if (label := _LABEL.match(line)) is not None:
        line = line[label.end() :]
    if line.count('"') == 2 and line.startswith('"') and line.endswith('"'):
        line = line.strip('"')
    return _SENTENCE.split(_QUOTED.sub(' "" ', line))


def _refuses(sentence: str) -> bool:
    words = " ".join(_BEFORE.sub("", sentence, count=1).split())
    return bool(_OTHERS.search(words) or (_SPEAKER.match(words) and _SELF.search(words)))
