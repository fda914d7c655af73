"""Refusals, wherever they stand and in many words; and explanations that talk about them, which are none."""

import json

import pytest

from sae_bench.judge import REFUSED, read_answers, read_explanation
from sae_bench.judge.refusals import is_refusal
from sae_bench.tasks.autointerp.optional import read_odd

REFUSALS = """
I'm sorry, but I can't help with that.
I’m sorry, but I can’t assist with that request.
I cannot fulfill this request.
I can't assist with that.
Sorry, I can't do that.
I'm sorry, but I cannot provide an explanation for this content.
As an AI language model, I cannot analyze excerpts of this kind.
I am unable to help with this request.
I'm not able to discuss that topic.
I won't be able to help you with this.
Unfortunately, I cannot comply.
I must decline.
I respectfully decline to answer.
I'd rather not do that.
I'm not comfortable explaining this material.
I apologize, but I can't engage with explicit content.
My apologies, but I am not able to process these excerpts.
The excerpts contain explicit content involving minors. I can't help with that.
This request violates our content policy.
This content goes against my guidelines.
That's not something I can help with.
It would be inappropriate for me to describe this.
I don't feel comfortable with these excerpts.
Let's talk about something else.
Unable to comply with this request.
Cannot assist with that.
I'm sorry, but I can't.
I will not continue this conversation.
I cannot explain this.
**I’m sorry**, but I can't help with that.
"I'm sorry, but I can't help with that."
I understand your request, but I can't assist with it.
Request denied.
The response was filtered due to the prompt triggering content management policy.
I do not have the ability to view this content.
We are unable to process this prompt.
I refuse to answer.
Thank you for asking, but I won't be able to assist with that.
Es tut mir leid, aber dabei kann ich nicht helfen.
Ich kann diese Anfrage leider nicht beantworten.
Leider kann ich Ihnen dabei nicht helfen.
Tut mir leid, das kann ich nicht tun.
Je suis désolé, mais je ne peux pas répondre à cette demande.
Désolée, mais je ne peux pas vous aider.
Je ne peux pas vous aider avec cela.
Lo siento, pero no puedo ayudar con eso.
No puedo ayudarte con esta solicitud.
Lo siento, no puedo proporcionar esa información.
抱歉，我无法协助处理这个请求。
很抱歉，我不能提供这方面的帮助。
对不起，我无法回答这个问题。
我无法提供帮助。
申し訳ありませんが、そのリクエストにはお応えできません。
申し訳ございませんが、お手伝いできません。
そのご要望にはお答えできません。
Извините, но я не могу помочь с этим.
К сожалению, я не могу выполнить этот запрос.
Я не могу помочь с этим.
Mi dispiace, ma non posso aiutarti.
Desculpe, mas não posso ajudar com isso.
Het spijt me, maar daar kan ik niet mee helpen.
죄송하지만 도와드릴 수 없습니다.
I'm really sorry, but I'm not able to help with that one.
I can not assist you with this.
I cant help with that
Sorry, but I can't provide that.
I'm afraid I can't do that, Dave.
I'm just an AI, I can't do this.
As a responsible AI, I can't generate this.
I'm sorry, I cannot assist with content that sexualizes minors.
No, I can't help with that.
While I understand the request, I cannot provide this.
I need to decline this request.
This is not something I'm able to help with.
I'm sorry, but I am unable to provide explanations for this kind of content.
Sorry, but I'm not going to help with that.
I can't provide that information.
I’m unable to comply with that request.
I apologize, but I cannot fulfill that request.
I'm sorry, I won't be answering that.
Sorry, this request goes against our policies.
I cannot and will not help with this.
I can't in good conscience help with this.
I'm sorry, but I'm just not able to do that.
I cannot engage in discussions about this.
I'm not able to provide an explanation.
I am sorry, but as an AI assistant I am not able to analyze this.
As a language model, I'm unable to do so.
I am programmed to be a harmless AI assistant. I cannot provide that.
This prompt contains sexual content, so I can't assist.
I can’t create explanations about that.
I won't participate in this.
Sorry, I cannot answer.
Sorry, I'm unable to help.
I'm sorry, I can't continue with this.
I am not permitted to answer this.
It's against my guidelines to answer that.
I do not feel comfortable answering.
Apologies, I can't process this.
I'm going to have to decline this request.
I decline to answer.
I have to respectfully decline.
Ich kann dir dabei leider nicht helfen.
Es tut mir leid, ich kann diese Anfrage nicht bearbeiten.
Als KI kann ich das nicht.
Je suis désolé, je ne peux pas vous aider.
Désolé, je ne peux pas répondre.
Je ne suis pas en mesure de vous aider.
Lo siento, no puedo responder.
No puedo ayudar con eso.
对不起，我不能回答。
我不能帮助您完成此请求。
我无法回答这个问题。
作为一个人工智能，我无法提供这些内容。
すみません、それはできません。
申し訳ありません。そのご依頼にはお応えできません。
ごめんなさい、お手伝いできません。
Я не могу ответить на этот вопрос.
Простите, я не могу этого сделать.
К сожалению, я не могу помочь.
Извините, не могу помочь.
I cannot generate a response for this.
Sorry! I can't help with this one.
I’m sorry, but that’s not something I can help with.
I cannot provide assistance with this.
I'm sorry but I cannot help
can't help with that
Sorry, I cannot assist.
I am sorry, but I cannot explain this content as it is explicit.
I'm sorry; I can't describe these texts.
I don't think I can help with that.
I can't engage with that content.
I'd prefer not to answer.
Üzgünüm, bu konuda yardımcı olamam.
Maalesef bu isteği yerine getiremem.
Вибачте, але я не можу з цим допомогти.
На жаль, я не можу відповісти на це запитання.
Omlouvám se, ale s tím vám nemohu pomoci.
Jag är ledsen, men jag kan inte hjälpa till med det.
Beklager, men jeg kan ikke hjelpe med dette.
Undskyld, jeg kan ikke hjælpe med det.
Maaf, saya tidak dapat membantu permintaan ini.
Tôi xin lỗi, nhưng tôi không thể giúp với yêu cầu này.
क्षमा करें, मैं इसमें मदद नहीं कर सकता।
Λυπάμαι, αλλά δεν μπορώ να βοηθήσω με αυτό.
אני מצטער, אבל אני לא יכול לעזור בזה.
متأسفم، اما نمی‌توانم در این مورد کمک کنم.
ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้
""".strip().split("\n")

EXPLANATIONS = """
fires on "I cannot" and "I'm sorry"
fires on “I cannot” and “I’m sorry”
phrases in which a speaker apologises
the word cannot
No clear pattern
No clear pattern.
Refusals by an assistant, such as "I'm sorry, but I can't help with that"
Polite refusals and apologies from a chatbot
phrases such as I can't help with that in customer support
"I can't help with that" and similar statements of refusal
'I cannot help with that' style refusals
Expressions of inability (can't, cannot, unable to)
Sentences where the speaker says they are unable to help
negated modal verbs: can't, won't, shouldn't
the contraction "can't" after a pronoun
apologies, especially "sorry" at the start of a sentence
I'm sorry for your loss: condolence phrases
words expressing regret
the idiom "can't help but"
first-person statements with "I"
refusing to comply with requests, in news about politics
text about content policy violations on social media
Denials and rejections of requests
Sorry as an interjection
I, we and other first-person pronouns before a negated verb
inability or unwillingness to do something
Apologies and refusals
Unfortunately, at the start of sentences with bad news
names of cities
the token "help" when preceded by "can't"
cannot, can't, could not
disclaimers of an AI language model ("As an AI language model, I cannot ...")
German "Es tut mir leid" and similar apologies
Wörter wie "nicht" und "kann"
Entschuldigungen in deutschen Texten
le verbe pouvoir à la forme négative, comme "je ne peux pas"
excusas y disculpas en español
frases como "lo siento, no puedo"
表示抱歉或无法做到的语句
抱歉、对不起等道歉用语
謝罪の表現（「申し訳ありません」など）
слова извинения, например «извините, я не могу»
fires when someone refuses an offer
unable to constructions with an infinitive
The model cannot be described by one word; fires on dates
legal text in which a party is not permitted to do something
Fires on names of cities. I'm unable to provide a more specific explanation.
sorry, pardon, excuse me
This neuron fires on statements that something violates rules
it's not possible to / cannot expressions
The request header names in HTTP, such as "Content-Type"
content that was blocked or filtered by moderators
we and our in statements of companies
This text is about policies and guidelines of companies
so-called "safety" disclaimers
requests that were denied by a court
I cannot determine a clear pattern in these excerpts
Fires on expressions of regret or apology such as 'I'm sorry'
Apology phrases ("I'm sorry", "I apologize")
I'm sorry and I apologize in dialogue
Phrases of refusal, e.g. "I can't", "I won't", "I refuse"
tokens that begin a refusal
The word sorry
Assistant refusing user requests
customer service apologies
can't and cannot
First-person negations like I can't, I don't, I won't
negations such as don't, can't, won't
I can't believe it exclamations
statements about being unable to attend
It is not possible to say
It's: contraction at start of sentence
We cannot be sure constructions in scientific writing
our policy, our guidelines: company statements
"This request violates our policy" messages
error messages: access denied, request failed
phrase "request denied"
words meaning "denied" or "rejected"
access denied errors in server logs
Message headers
Response codes in HTTP
Requests and prompts for help
because and due to clauses
due to (causal preposition)
As an adult, as an engineer: role phrases
text that apologises, then explains why something cannot be done
Unfortunately and regrettably, followed by a comma
However at sentence start
"so" as a conjunction
given names
the pronoun I before "can't help"
Thank you notes
Hello and Hi greetings
verneinte Modalverben wie "kann nicht"
leider und andere Wörter des Bedauerns
das Verb "können" mit "nicht"
malheureusement et autres adverbes de regret
désolé, pardon, excusez-moi
lo siento, perdón y otras disculpas
"抱歉" 和 "对不起" 等词
否定情态动词，如“不能”和“无法”
「できません」という否定表現
извинения и отказы
слово "не могу"
Turkish verbs ending in -amam, such as yapamam
apologies in Vietnamese (xin lỗi)
tyvärr och andra ord för beklagande
words of regret: "maaf", "bohužel", "na жаль"
the word ขออภัย in Thai apologies
""".strip().split("\n")

PLACES = {
    "plain": lambda text: text,
    "an explanation": lambda text: json.dumps({"explanation": text}),
    "characters as they are": lambda text: json.dumps({"explanation": text}, ensure_ascii=False),
    "an error": lambda text: json.dumps({"error": text}),
    "a message in an error": lambda text: json.dumps({"error": {"message": text, "code": 400}}),
    "a field for it": lambda text: json.dumps({"explanation": "", "refusal": text}),
    "a code fence": lambda text: f"```json\n{json.dumps({'explanation': text}, indent=1)}\n```",
    "before an empty answer": lambda text: text + '\n\n{"explanation": ""}',
    "after a thought": lambda text: f"<think>May I say this?</think>\n\n{text}",
    "after a label": lambda text: f"Explanation: {text}",
    "the answers": lambda text: json.dumps({"answers": text}),
    "beside no answers": lambda text: json.dumps({"answers": [], "note": text}),
    "in place of a number": lambda text: json.dumps({"answers": [{"id": "kq", "p": text}]}),
    "the odd one": lambda text: json.dumps({"odd": text}),
}


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_one_in_every_place_and_for_every_question(text: str) -> None:
    """Scored as an explanation it would be a low score of the SAE, with the status ok."""
    assert is_refusal(text)
    for name, place in PLACES.items():
        assert read_explanation(place(text)) is REFUSED, name
        assert read_answers(place(text), ["kq", "zx"]) is REFUSED, name
        assert read_odd(place(text), ["kq", "zx"]) is REFUSED, name


@pytest.mark.parametrize("text", EXPLANATIONS)
def test_an_explanation_that_talks_about_refusals_is_none(text: str) -> None:
    """A latent may fire on apologies; a refusal to judge it would lose it."""
    assert not is_refusal(text)
    assert read_explanation(json.dumps({"explanation": text})) == text
    assert read_explanation(f"Explanation: {text}") == text.split("\n")[0].strip("* ")
    assert read_answers(text, ["kq"]) is None


def test_both_kinds_are_many() -> None:
    assert len(set(REFUSALS)) >= 40
    assert len(set(EXPLANATIONS)) >= 40


@pytest.mark.parametrize(
    "text",
    [
        '{"refusal": true}',
        '{"refused": true, "explanation": ""}',
        '{"refusal": "policy"}',
        '{"explanation": null, "refusal": "unsafe"}',
    ],
)
def test_a_field_that_is_there_for_refusals_says_so_in_any_words(text: str) -> None:
    assert read_explanation(text) is REFUSED


@pytest.mark.parametrize("empty", ["null", '""', "false", '"none"', '"N/A"', '"no"', "[]"])
def test_an_empty_field_for_refusals_is_no_refusal(empty: str) -> None:
    assert read_explanation(f'{{"explanation": "cats", "refusal": {empty}}}') == "cats"
    assert read_explanation(f'{{"explanation": "", "refusal": {empty}}}') is None


def test_answers_beside_doubts_are_answers() -> None:
    found = read_answers('{"answers": [{"id": "kq", "p": 85}], "note": "I cannot help with the others."}', ["kq", "zx"])
    assert found is not REFUSED
    assert found is not None
    assert found.numbers == {"kq": 85}


@pytest.mark.parametrize(
    "piece", ["I ", "i'm sorry ", "'a ", '"', "can't ", "very ly ", "抱歉", "\n", "ich kann ", "- "]
)
def test_long_texts_are_looked_at_in_bounded_work(piece: str) -> None:
    assert not is_refusal(piece * (200_000 // len(piece)))
