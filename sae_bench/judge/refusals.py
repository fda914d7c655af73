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


def _any(*forms: str) -> str:
    return f"(?:{'|'.join(forms)})"


_GERUND = r"\w+ing\b(?! (?:this|that|such|these|any|with|your))"  # "I can't help thinking" helps nobody
_DO = (
    _any(
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
_NOT = _any("can ?not", "can'?t", "could not", "couldn't", "won'?t", "will not", "wouldn't", "would not", "shouldn't")
_BARRED = _any(
    r"not (?:able|allowed|permitted|authori[sz]ed|going|programmed|equipped|designed|in a position|willing)",
    *("unable", "unwilling", "prohibited", "forbidden"),
)
_AM = r"(?: am|'m| are|'re)"
_RULES = r"(?:\w+ ){0,2}(?:polic(?:y|ies)|guidelines?|programming|principles?|values|training|rules|instructions)\b"
_THING = r"(?:request|prompt|response|content|message|text|material)s?"
_THIS = (
    r"(?:this|that|your|the)(?: \w+){0,2} (?:request|content|task|prompt|question|excerpts?|texts?|instructions?)s?\b"
)
_ENGLISH = _any(
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
    _any(
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
_DOES = (  # what begins as an apology does in each language, and what somebody cannot do without one
    # German
    (
        _any(
            r"(?:es )?tut mir (?:\w+ )?leid", "leider", r"entschuldig\w+", r"als (?:ki\b|künstliche)", "das ", "dabei"
        ),
        r"\b(?:kann|darf|werde|möchte)\b.{0,80}\b(?:nicht|kein\w*)\b",
        r"(?:ich|wir) (?:kann|darf|werde|möchte|können|dürfen|werden)\b.{0,100}\b(?:nicht|kein\w*)\b.{0,40}\b"
        r"(?:helfen|beantworten|unterstützen|erfüllen|nachkommen|bearbeiten|bereitstellen|ausführen|weiterhelfen|erklär)"
        r"|(?:ich|wir) (?:bin|sind) (?:leider )?nicht in der lage|diese anfrage .{0,40}ich .{0,40}nicht",
    ),
    # French
    (
        _any("je (?:suis|regrette)", "désolée?", "navrée?", "malheureusement", "en tant qu"),
        r"\b(?:ne (?:peux|puis|pouvons)|ne suis) pas\b",
        r"(?:je|nous) ne (?:peux|puis|pouvons) (?:\w+ )?pas (?:vous |t'|l'|y )?"
        r"(?:aider|répondre|fournir|traiter|accéder|satisfaire|assister|donner|faire|expliquer|continuer|discuter)"
        r"|je ne suis pas en mesure|je refuse d",
    ),
    # Spanish
    (
        _any(
            "lo siento",
            "(?:lo )?lamento",
            r"disculp\w+",
            r"perd[oó]n\w*",
            "me temo",
            r"(?:desafortunada|lamentable)mente",
        )
        + r"|como (?:modelo|ia|una ia|asistente)",
        r"\bno (?:puedo|podemos|podré|(?:me )?es posible|estoy)\b",
        r"no (?:puedo|podemos|podré|me es posible) (?:\w+ )?"
        r"(?:ayudar|asistir|proporcionar|cumplir|responder|procesar|ofrecer|generar|continuar|hacer|explicar|realizar)",
    ),
    # Portuguese
    (
        _any(r"desculp\w+", "lamento", "sinto muito", "infelizmente", "como (?:uma ia|um modelo|modelo)"),
        r"\bnão (?:posso|podemos|consigo|é)\b",
        r"não (?:posso|podemos|consigo) (?:\w+ )?(?:ajudar|fornecer|responder|atender|cumprir|processar|fazer)",
    ),
    # Italian
    (
        _any("mi dispiace", r"scusa\w*", "spiacente", "purtroppo", "come (?:ia|modello)"),
        r"\bnon (?:posso|possiamo|sono in grado|è possibile)\b",
        r"non (?:posso|possiamo|sono in grado di) (?:\w+ )?(?:aiutar|fornir|rispond|soddisf|elabor|spiegar)",
    ),
    # Dutch, Polish
    (
        _any("het spijt me", "sorry", "helaas", "als ai"),
        r"\b(?:kan|mag|zal)\b.{0,60}\b(?:niet|geen)\b",
        r"ik kan (?:\w+ ){0,4}niet (?:\w+ )?(?:helpen|beantwoorden|verwerken)",
    ),
    (_any("przykro mi", "przepraszam", "niestety"), r"\bnie mogę\b", r"nie mogę (?:w tym )?(?:pomóc|odpowiedzieć)"),
    # Russian
    (
        _any(
            r"извини\w*",
            "прости(?:те)?",
            "к сожалению",
            "сожалею",
            "прошу прощения",
            "приношу извинения",
            "мне .{0,6}жаль",
        )
        + "|как (?:ии|языковая|модель)|мне .{0,6}жаль",
        r"\b(?:не (?:могу|смогу|можем|буду|имею|в состоянии)|вынужден\w* отказать\w*|невозможно)\b",
        r"(?:я|мы) (?:не (?:могу|можем|смогу|буду|в состоянии)|вынужден\w*) (?:\w+ ){0,2}"
        r"(?:помо|выполн|ответ|отвеч|предостав|обсужд|обработ|отказ|объясн|продолж|анализ)",
    ),
    # Chinese
    (
        "(?:很|非常|十分|真的|实在)?(?:抱歉|对不起|對不起|遗憾|遺憾|不好意思)|作为|作為|由于",
        "(?:无法|無法|不能|不便|没法|没有办法|不可以|不会|拒绝|拒絕)",
        "我(?:们)?(?:无法|無法|不能|不会|没有办法|没法|拒绝|不便).{0,12}"
        "(?:帮|幫|協助|协助|提供|回答|满足|完成|处理|解释|讨论|继续|生成|回应|分析|执行)",
    ),
    # Japanese
    (
        "(?:大変)?(?:申し訳|すみません|すいません|ごめんなさい|恐れ入りますが|残念ながら)",
        "(?:できません|できかねます|いたしかねます|致しかねます|お断り|応じられません|ことはできない|出来ません|しかねます)",
        ".{0,60}(?:お手伝い|お答え|お応え|回答|対応|支援|提供|協力|説明)(?:する|を)?(?:ことは|は)?"
        "(?:できません|できかねます|いたしかねます|出来ません)$",
    ),
    # Korean
    (
        "(?:죄송|미안|유감|안타깝)",
        "(?:수 없|어렵습니다|불가능)",
        ".{0,40}(?:도와드릴|답변드릴|제공할|제공해 드릴) 수 없습니다$",
    ),
    # Arabic
    (
        _any("عذر", "آسف", "أعتذر", "معذرة", "للأسف"),
        "(?:لا (?:أستطيع|يمكنني|أقدر)|لن أتمكن)",
        "لا (?:أستطيع|يمكنني) مساعدتك",
    ),
)
_SELF = re.compile(_ENGLISH)
_OTHERS = re.compile("|".join(f"^(?:{sorry}).{{0,80}}(?:{cannot})|^(?:{alone})" for sorry, cannot, alone in _DOES))


def is_refusal(text: str) -> bool:
    """Whether in ``text`` somebody refuses to do what they were asked, in one of a dozen languages."""
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
