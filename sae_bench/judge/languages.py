"""How somebody refuses in other languages than English, see :mod:`.refusals`."""

from __future__ import annotations


def any_of(*forms: str) -> str:
    """A pattern for one of several."""
    return f"(?:{'|'.join(forms)})"


REFUSING = (  # what begins as an apology does in each language, and what somebody cannot do without one
    # German
    (
        any_of(
            r"(?:es )?tut mir (?:\w+ )?leid", "leider", r"entschuldig\w+", r"als (?:ki\b|künstliche)", "das ", "dabei"
        ),
        r"\b(?:kann|darf|werde|möchte)\b.{0,80}\b(?:nicht|kein\w*)\b",
        r"(?:ich|wir) (?:kann|darf|werde|möchte|können|dürfen|werden)\b.{0,100}\b(?:nicht|kein\w*)\b.{0,40}\b"
        r"(?:helfen|beantworten|unterstützen|erfüllen|nachkommen|bearbeiten|bereitstellen|ausführen|weiterhelfen|erklär)"
        r"|(?:ich|wir) (?:bin|sind) (?:leider )?nicht in der lage|diese anfrage .{0,40}ich .{0,40}nicht",
    ),
    # French
    (
        any_of("je (?:suis|regrette)", "désolée?", "navrée?", "malheureusement", "en tant qu"),
        r"\b(?:ne (?:peux|puis|pouvons)|ne suis) pas\b",
        r"(?:je|nous) ne (?:peux|puis|pouvons) (?:\w+ )?pas (?:vous |t'|l'|y )?"
        r"(?:aider|répondre|fournir|traiter|accéder|satisfaire|assister|donner|faire|expliquer|continuer|discuter)"
        r"|je ne suis pas en mesure|je refuse d",
    ),
    # Spanish
    (
        any_of(
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
        any_of(r"desculp\w+", "lamento", "sinto muito", "infelizmente", "como (?:uma ia|um modelo|modelo)"),
        r"\bnão (?:posso|podemos|consigo|é)\b",
        r"não (?:posso|podemos|consigo) (?:\w+ )?(?:ajudar|fornecer|responder|atender|cumprir|processar|fazer)",
    ),
    # Italian
    (
        any_of("mi dispiace", r"scusa\w*", "spiacente", "purtroppo", "come (?:ia|modello)"),
        r"\bnon (?:posso|possiamo|sono in grado|è possibile)\b",
        r"non (?:posso|possiamo|sono in grado di) (?:\w+ )?(?:aiutar|fornir|rispond|soddisf|elabor|spiegar)",
    ),
    # Dutch, Polish
    (
        any_of("het spijt me", "sorry", "helaas", "als ai"),
        r"\b(?:kan|mag|zal)\b.{0,60}\b(?:niet|geen)\b",
        r"ik kan (?:\w+ ){0,4}niet (?:\w+ )?(?:helpen|beantwoorden|verwerken)",
    ),
    (any_of("przykro mi", "przepraszam", "niestety"), r"\bnie mogę\b", r"nie mogę (?:w tym )?(?:pomóc|odpowiedzieć)"),
    # Russian
    (
        any_of(
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
        any_of("عذر", "آسف", "أعتذر", "معذرة", "للأسف"),
        "(?:لا (?:أستطيع|يمكنني|أقدر)|لن أتمكن)",
        "لا (?:أستطيع|يمكنني) مساعدتك",
    ),
    # Turkish, Ukrainian, Czech
    (
        any_of("üzgünüm", "maalesef", "ne yazık ki", "özür dilerim", "kusura bakma"),
        r"\w+(?:amam|emem|amıyorum|emiyorum|amayız|emeyiz|amıyoruz|emiyoruz)\b|mümkün değil",
        r"(?:bu \w+ )?(?:konuda )?(?:size )?yardımcı olam(?:am|ıyorum)",
    ),
    (
        any_of("вибач\\w*", "перепрошую", "на жаль", "шкода"),
        r"\bне (?:можу|зможу|можемо|в змозі)\b",
        r"(?:я|ми) не (?:можу|зможу|можемо) (?:\w+ ){0,2}(?:допомог|викон|відпов|над|обговор|поясн)",
    ),
    (
        any_of("omlouv\\w*", "je mi líto", "bohužel", "promiňte"),
        r"\b(?:nemohu|nemůžu|nemůžeme|nejsem schop\w*)\b",
        r"(?:s tím|s touto žádostí) (?:vám )?(?:nemohu|nemůžu) pomoci",
    ),
    # Swedish, Danish, Norwegian
    (
        any_of("jag är ledsen", "tyvärr", "förlåt", "jeg beklager", "beklager", "desværre", "dessverre", "undskyld"),
        r"\b(?:kan|får|må)\b.{0,40}\b(?:inte|ikke)\b",
        r"(?:jag|jeg) kan (?:\w+ )?(?:inte|ikke) (?:hjälpa|hjelpe|hjælpe|svara|svare|besvar)",
    ),
    # Indonesian and Malay, Vietnamese
    (
        any_of("maaf", "mohon maaf", "saya minta maaf", "sayangnya"),
        r"\b(?:tidak|tak) (?:dapat|bisa|boleh|mampu)\b",
        r"saya (?:tidak|tak) (?:dapat|bisa|boleh) (?:membantu|menjawab|memberikan|memenuhi)",
    ),
    (
        any_of("(?:tôi )?(?:rất )?xin lỗi", "(?:tôi )?rất tiếc"),
        r"\b(?:không thể|không được phép)\b",
        r"tôi không thể (?:giúp|trả lời|hỗ trợ|cung cấp|thực hiện)",
    ),
    # Hindi, Greek, Hebrew, Persian, Thai
    (
        any_of("क्षमा", "माफ़", "माफ", "मुझे खेद", "खेद"),
        "(?:नहीं (?:कर|दे) (?:सकत|पाऊं)|असमर्थ)",
        "मैं .{0,60}(?:मदद|सहायता) नहीं कर सकत",
    ),
    (any_of("συγγνώμη", "λυπάμαι", "δυστυχώς"), r"\bδεν μπορ\w+", r"δεν μπορώ να (?:σας )?(?:βοηθήσω|απαντήσω)"),
    (
        any_of("מצטער", "סליחה", "לצערי", "אני מצטער"),
        "(?:לא (?:יכול|אוכל)|אין באפשרותי)",
        "אני לא יכולה? (?:לעזור|לענות)",
    ),
    (
        any_of("متأسفم", "متاسفم", "ببخشید", "متأسفانه", "متاسفانه", "با عرض پوزش"),
        "(?:نمی.?توانم|قادر نیستم)",
        "نمی.?توانم .{0,40}کمک",
    ),
    (any_of("ขออภัย", "ขอโทษ", "เสียใจ"), "(?:ไม่สามารถ|ไม่ได้)", "(?:ฉัน|ผม|ดิฉัน)ไม่สามารถ(?:ช่วย|ตอบ|ให้)"),
)
