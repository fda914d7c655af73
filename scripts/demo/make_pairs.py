"""Make the demo's minimal pairs: prompts of equal length in tokens that differ in one attribute, and what follows.

Run from the repository root, with the package installed (seconds).

::

    python scripts/demo/make_pairs.py   # writes sae_bench/demo/data/pairs.jsonl, prints what the model makes of each

The prompts are openings that the grammar writes, with words of its lists. The model decides nothing here: its margins
are printed, and pairs that it does not tell apart stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_bench import demo

# family, the attribute that holds of a and not of b, and pairs: prompt with a gap, what fills it in a and in b, and the
# word that is expected behind a and behind b
Pair = tuple[str, str, str, str, str]
FAMILIES: tuple[tuple[str, str, tuple[Pair, ...]], ...] = (
    (
        "gender",
        "female_person",
        (
            ("{} has 12 horses and buys 11. How many does", "Anna", "Peter", " she", " he"),
            ("{} has 35 dogs and sells 4. How many does", "Maria", "Thomas", " she", " he"),
            ("{} has 8 lamps and buys 20 on Sunday. How many does", "Sophie", "Daniel", " she", " he"),
            ("{} has 41 cats and sells 17. How many does", "Clara", "Jack", " she", " he"),
            ("{} has 6 boats and buys 9 in London. How many does", "Emma", "Oscar", " she", " he"),
            ("{} lost the old map on the beach because", "Maria", "Thomas", " she", " he"),
            ("In winter {} keeps the map because", "Anna", "Peter", " she", " he"),
            ("{} sold the boat. In winter", "Anna", "Peter", " she", " he"),
        ),
    ),
    (
        "tense",
        "past_tense",
        (
            ("The table {} old. The mirror", "was", "is", " was", " is"),
            ("A chair {} boring! A bed", "was", "is", " was", " is"),
            ("Why {} the red table behind the house? The lamp", "was", "is", " was", " is"),
            ("There {} rain in London. The door", "was", "is", " was", " is"),
            ("La table {} excellente. Le lit", "était", "est", " était", " est"),
            ("Le piano {} horrible! La lampe", "était", "est", " était", " est"),
            ("Das Haus {} wunderbar. Das Boot", "war", "ist", " war", " ist"),
            ("Die Lampe {} herrlich. Das Klavier", "war", "ist", " war", " ist"),
        ),
    ),
    (
        "colour",
        "mentions_color",
        (
            ("{} apples", "Red", "Old", " salad", " cake"),
            ("{} rice", "Yellow", "Big", " salad", " cake"),
            ("{} soup", "Black", "Round", " salad", " cake"),
            ("{} bread", "White", "Empty", " salad", " cake"),
            ("{} cheese", "Blue", "Small", " salad", " cake"),
            ("{} fish", "Green", "Cheap", " salad", " cake"),
            ("{} beans", "Brown", "Quiet", " salad", " cake"),
            ("{} garlic", "Pink", "Simple", " salad", " cake"),
        ),
    ),
    (
        "mood",
        "positive_sentiment",
        (
            ("What a {} table. I really", "wonderful", "terrible", " love", " hate"),
            ("What a {} boat! I really", "perfect", "boring", " love", " hate"),
            ("The lamp is {}. The bed is old. I really", "excellent", "awful", " love", " hate"),
            ("Dear Anna,\nthe red mirror is {}. I really", "great", "poor", " love", " hate"),
            ("The map was {}! I really", "charming", "ugly", " love", " hate"),
            ("Anna: A fence is {}.\nEmma: I really", "superb", "useless", " love", " hate"),
            ("A violin will be {}. What a big poem. I really", "beautiful", "annoying", " love", " hate"),
            ("Old chair, $12. Her clock is {}. I really", "delightful", "dreadful", " love", " hate"),
        ),
    ),
)
# A text goes on in the language of the city that it begins with: (cities, language, how a date of it may begin).
CITIES = {
    "fr": (("Paris", "Lyon", "Marseille", "Toulouse", "Bordeaux"), " le"),
    "de": (("Berlin", "Köln", "Leipzig", "Bremen"), " am"),
    "es": (("Madrid", "Lima", "Sevilla"), " por"),
    "en": (("Toronto", "Denver", "Dublin", "Oxford"), " in"),
}
OF_CITIES = (
    ("Paris", "Berlin"),
    ("Madrid", "Lyon"),
    ("Berlin", "Toronto"),
    ("Denver", "Madrid"),
    ("Toulouse", "Köln"),
    ("Leipzig", "Sevilla"),
    ("Dublin", "Bordeaux"),
    ("Lima", "Paris"),
)


def drafts() -> Iterator[dict[str, str]]:
    """Every pair, without the tokens at which it differs."""
    for family, attribute, pairs in FAMILIES:
        for prompt, in_a, in_b, answer_a, answer_b in pairs:
            yield {
                "family": family,
                "attribute": attribute,
                "a": prompt.format(in_a),
                "b": prompt.format(in_b),
                "answer_a": answer_a,
                "answer_b": answer_b,
            }
    of = {city: (language, answer) for language, (cities, answer) in CITIES.items() for city in cities}
    for a, b in OF_CITIES:
        yield {
            "family": "city",
            "attribute": f"language_{of[a][0]}",
            "a": f"{a},",
            "b": f"{b},",
            "answer_a": of[a][1],
            "answer_b": of[b][1],
        }


@torch.no_grad()
def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()
    lines = []
    for pair in drafts():
        ids = {side: [0, *tokenizer(pair[side])["input_ids"]] for side in ("a", "b")}
        answers = [tokenizer(pair[key])["input_ids"] for key in ("answer_a", "answer_b")]
        if len(ids["a"]) != len(ids["b"]) or any(len(answer) != 1 for answer in answers):
            raise SystemExit(f"unequal lengths, or answers of several tokens: {pair} {ids} {answers}")
        positions = [at for at, (one, other) in enumerate(zip(ids["a"], ids["b"], strict=True)) if one != other]
        lines.append(json.dumps({**pair, "positions": positions}, ensure_ascii=False))
        logits = model(torch.tensor([ids["a"], ids["b"]])).logits[:, -1]
        margin = logits[:, answers[0][0]] - logits[:, answers[1][0]]
        print(f"{margin[0]:6.2f} {margin[1]:6.2f} {len(ids['a']):3d} {positions} {pair['a']!r} {pair['b']!r}")
    (demo.MODEL_PATH.parent / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} pairs; margins are logits of a's answer less b's, behind a and behind b")


if __name__ == "__main__":
    main()
