"""English: word lists and templates of news, dialogue, letter, review and recipe."""

from __future__ import annotations

from sae_bench.demo.lexicon import words

_VERBS = words(
    "buy bought buys|find found finds|see saw sees|bring brought brings|sell sold sells|keep kept keeps|"
    "carry carried carries|paint painted paints|repair repaired repairs|lose lost loses|show showed shows|"
    "choose chose chooses|hide hid hides|open opened opens|borrow borrowed borrows|clean cleaned cleans|"
    "send sent sends|leave left leaves|forget forgot forgets|measure measured measures|inspect inspected inspects|"
    "steal stole steals|return returned returns|build built builds|draw drew draws|wash washed washes|"
    "order ordered orders|describe described describes|photograph photographed photographs|drop dropped drops"
)

RULES: dict[str, list[str]] = {
    "NAME.f": words("Anna Maria Sophie Clara Emma Lucy Alice Helen Nora Ruth Grace Julia Ellen Irene Olivia Martha"),
    "NAME.m": words("Peter Thomas Daniel Jack Oscar Hugo Simon Victor Martin Paul Henry Felix Robert Arthur Leo Frank"),
    "SHE.f": ["she"],
    "SHE.m": ["he"],
    "HER.f": ["her"],
    "HER.m": ["his"],
    "COLOR": words("red blue green yellow white black brown grey purple pink"),
    "ANIMAL": words("dog cat horse cow bird sheep goat rabbit fox wolf bear duck owl mouse snake frog"),
    "CITY": words("London|Boston|Chicago|Dublin|Oxford|Toronto|Sydney|Seattle|Denver|Glasgow|Austin|Bristol"),
    "WEEKDAY": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "JOB": words(
        "teacher doctor farmer lawyer driver nurse baker painter sailor engineer judge plumber tailor pilot "
        "singer miner"
    ),
    "FOOD": words(
        "bread cheese soup rice apples fish butter honey potatoes onions mushrooms carrots beans ham pie garlic"
    ),
    "WEATHER": words("rain|snow|wind|fog|sunshine|storm|frost|hail|thunder"),
    "THING.home": words("table chair lamp clock mirror carpet window door bed kettle curtain shelf pillow basket"),
    "THING.sea": words("boat net rope sail anchor lighthouse map harbour barrel oar compass shell raft flag"),
    "THING.farm": words("fence barn tractor gate field plough bucket well wagon ladder orchard hedge mill saddle"),
    "THING.office": words(
        "report computer desk letter printer contract folder phone budget screen invoice stamp badge file"
    ),
    "THING.art": words("picture violin statue poem piano brush frame novel song mask drum canvas vase curtain"),
    "PLACE.home": words("in the kitchen|in the garden|behind the house|on the stairs|under the roof|near the cellar"),
    "PLACE.sea": words("on the beach|in the harbour|near the island|on the ship|under the bridge|at the coast"),
    "PLACE.farm": words("in the valley|near the river|on the hill|in the stable|behind the barn|in the village"),
    "PLACE.office": words("at the office|in the meeting|on the second floor|near the entrance|at the bank|in the hall"),
    "PLACE.art": words("in the museum|at the theatre|on the stage|in the studio|at the concert|in the gallery"),
    "ADJ": words("old small big new heavy broken strange quiet empty long round famous simple narrow wooden cheap"),
    "GOOD": words("wonderful excellent perfect lovely brilliant great beautiful superb charming delightful"),
    "BAD": words("terrible awful poor horrible useless boring ugly dreadful annoying disappointing"),
    "VERB.past": [v.split()[1] for v in _VERBS],
    "VERB.pres": [v.split()[2] for v in _VERBS],
    "VERB.fut": ["will " + v.split()[0] for v in _VERBS],
    "BASE": [v.split()[0] for v in _VERBS],
    "IS.past": ["was"],
    "IS.pres": ["is"],
    "IS.fut": ["will be"],
    "NOT": ["not"],
    "NEVER": words("never|no longer"),
    "ACRONYM": words("EU UN BBC NASA FBI NATO IBM UK"),
    "FLASH": words("UPDATE|URGENT|NEWS|LIVE"),
    "WHEN": words("in the morning|at night|after lunch|today|every week|before dinner|in summer|at noon|in winter"),
    "DATE": ["[weekday|on {WEEKDAY}|{WHEN}]", "[weather|{DESPITE} the {WEATHER}|{WHEN}]"],
    "DESPITE": words("despite in after during"),
    "PRICE": ["${N1}", "${N2}", "${N3}"],
    "OBJ": [
        "the [color|{COLOR}|{ADJ}] {THING}",
        "[animal|the [color|{COLOR} ]{ANIMAL}|the {THING}]",
        "[food|some {FOOD}|a {THING}]",
        "[number|{N1} {ADJ} {THING}s|{HER} {THING}]",
        "a {ADJ} {THING}",
        "[animal|{HER} {ANIMAL}|the {THING}]",
    ],
    "SUBJ": [
        "{NAME@a}",
        "{SHE}",
        "[job|the {JOB}|{SHE}]",
        "[animal|the [color|{COLOR} |{ADJ} ]{ANIMAL}|{NAME@a}]",
        "{NAME@b}",
        "[upper|the {ACRONYM}|{SHE}]",
    ],
    "WHERE": ["{PLACE}", "[city|in {CITY@c}|{PLACE}]", "[city|near {CITY}|{PLACE}]"],
    "ASIDE": [
        "[paren| <parenthesis|({HER} {ADJ} {THING})>]",
        "[paren| <parenthesis|([number|about {N2} years old|{ADJ} and {ADJ}])>]",
        "",
    ],
    "SKY": ["[weather|There {IS} {WEATHER} {WHERE}. ]", "[weather|The {WEATHER} {IS} {ADJ}. ]", ""],
    "CLAUSE": [
        "{SUBJ} {VERB} {OBJ} {WHERE}",
        "{SUBJ} {VERB} {OBJ}{ASIDE}",
        "{SUBJ} {VERB} {OBJ} {DATE}",
        "{OBJ} {IS} [negation|{NOT} ]{ADJ}",
        "{OBJ} {IS} [negation|{NEVER} ]{WHERE}",
    ],
    "SENTENCE": [
        "^{CLAUSE}. ",
        "^{CLAUSE} and {CLAUSE}. ",
        "^{DATE} {CLAUSE}. ",
        "^{CLAUSE} because {CLAUSE}. ",
        "^{CLAUSE}, but {CLAUSE}. ",
        "{SKY}^{CLAUSE}. ",
    ],
    "ASK": [
        "<has_question|^why {IS} {OBJ} {WHERE}?>",
        "<has_question|^where {IS} {OBJ}?>",
        "<has_question|^who {VERB} {OBJ}?>",
        "<has_question|^do you {BASE} {OBJ}?>",
    ],
    "SAY": ["said", "asked", "answered", "wrote", "explained"],
    "SPEECH": [
        '<quoted_speech|"^{CLAUSE}">, {NAME@a} {SAY}. ',
        '^{NAME@b} {SAY}: <quoted_speech|"^{CLAUSE}[exclaim|<has_exclamation|!>|.]">',
    ],
    "LIKE.pos": [
        "<positive_sentiment|^{OBJ} {IS} {GOOD}[exclaim|<has_exclamation|!>|.]>",
        "<positive_sentiment|I really love {OBJ}[exclaim|<has_exclamation|!>|.]>",
        "<positive_sentiment|What a {GOOD} {THING}[exclaim|<has_exclamation|!>|.]>",
        "<positive_sentiment|^{SUBJ} {IS} happy and {GOOD}.>",
        "<positive_sentiment|I recommend it to every [job|{JOB}|friend].>",
    ],
    "LIKE.neg": [
        "<negative_sentiment|^{OBJ} {IS} {BAD}[exclaim|<has_exclamation|!>|.]>",
        "<negative_sentiment|I really hate {OBJ}[exclaim|<has_exclamation|!>|.]>",
        "<negative_sentiment|What a {BAD} {THING}[exclaim|<has_exclamation|!>|.]>",
        "<negative_sentiment|^{SUBJ} {IS} sad and {BAD}.>",
        "<negative_sentiment|I want my money back, it {IS} {BAD}.>",
    ],
    "OPEN_news": [
        "[upper|{FLASH}: ][city|{CITY@c}, ]{DATE}. ",
        "[upper|{FLASH}: ]^{SUBJ} {VERB} {OBJ} {WHERE}. ",
        "[number|{YEAR}: ]^{CLAUSE}. ",
    ],
    "SENT_news": ["{SENTENCE}", "{SENTENCE}", "[quote|{SPEECH} |{SENTENCE}]", "[question|{ASK} |{SENTENCE}]"],
    "CLOSE_news": ["", "More news {DATE}.", "[price|The price is {PRICE}.]"],
    "OPEN_dialogue": [""],
    "SENT_dialogue": ["{NAME@a}: {LINE}\n{NAME@b}: {LINE}\n"],
    "LINE": [
        "[question|{ASK}|^{CLAUSE}.]",
        "^{CLAUSE}[exclaim|<has_exclamation|!>|.]",
        "[negation|I do {NOT} {BASE} {OBJ}.|I {BASE} {OBJ}.]",
        "{LIKE}",
        "Yes, {CLAUSE}.",
        "[price|That is {PRICE}.|Thank you.]",
    ],
    "CLOSE_dialogue": ["", "{NAME@a}: Goodbye."],
    "OPEN_letter": [
        "Dear {NAME@a},\n",
        "Dear {NAME@a},\nthank you for {OBJ}. ",
        "[city|{CITY@c}, ]{DATE}\nDear {NAME@a},\n",
    ],
    "SENT_letter": [
        "[quote|{SPEECH} |{SENTENCE}]",
        "{SENTENCE}",
        "We {BASE} {OBJ} {DATE}. ",
        "[question|{ASK} |{SENTENCE}]",
        "{LIKE} ",
        "[negation|I can {NOT} {BASE} {OBJ}. |I can {BASE} {OBJ}. ]",
    ],
    "CLOSE_letter": ["\n{BYE},\n{NAME@b}"],
    "BYE": words("Yours|Best wishes|With love|Kind regards"),
    "OPEN_review": [
        "[number|Rating: {STARS} of {STARS}. ]{LIKE} ",
        "^{ADJ} {THING}, [price|{PRICE}|{ADJ} {THING}]. ",
        "[upper|{FLASH}: ]{LIKE} ",
    ],
    "SENT_review": [
        "[quote|{SPEECH} |{LIKE} ]",
        "{LIKE} ",
        "{LIKE} ",
        "{SENTENCE}",
        "[negation|It does {NOT} {BASE} {OBJ}. |It {VERB} {OBJ}. ]",
        "[question|{ASK} |{LIKE} ]",
        "[price|I paid {PRICE} for {OBJ}. |{LIKE} ]",
    ],
    "CLOSE_review": ["", "[number|{STARS} stars.]"],
    "OPEN_recipe": [
        "^{DISH}\nYou need {AMOUNT}, {AMOUNT} and {AMOUNT}.\n",
        "^{DISH}, for [number|{N1}|some] people\n{AMOUNT}, {AMOUNT}\n",
        "^{DISH} [city|from {CITY@c}|of the house]\n{AMOUNT}\n",
    ],
    "DISH": ["{FOOD} with {FOOD}", "{ADJ} {FOOD} cake", "baked {FOOD}", "{COLOR} {FOOD} salad"],
    "AMOUNT": ["[number|{N1} spoons of {FOOD}|some {FOOD}]", "[number|{N3} grams of {FOOD}|a little {FOOD}]", "{FOOD}"],
    "COOK": words("chop boil fry mix add peel wash slice stir heat bake cover season grate"),
    "SENT_recipe": [
        "[number|{STEP}. ]^{COOK} the {FOOD}[negation|, but do {NOT} {COOK} the {FOOD}].\n",
        "[number|{STEP}. ]^{COOK} the {FOOD} [number|for {N2} minutes|slowly] and {COOK} the {FOOD}.\n",
        "[number|{STEP}. ]^{COOK} the {FOOD}[paren| <parenthesis|(or some {FOOD})>] until it is "
        "[color|{COLOR}|{TEXTURE}].\n",
        "[number|{STEP}. ]^{COOK} and {COOK} the {TEXTURE} {FOOD}.\n",
    ],
    "TEXTURE": words("soft crisp golden hot smooth thick dry sweet"),
    "CLOSE_recipe": ["Serve with {FOOD}[exclaim|<has_exclamation|!>|.]", "^{LIKE}", ""],
}
