"""Spanish: word lists and templates of news, dialogue, letter and review."""

from __future__ import annotations

from sae_bench.demo.lexicon import SHARED, words


def _verbs() -> dict[str, list[str]]:
    table = [
        row.split()
        for row in words(
            "compra compró comprar|vende vendió vender|encuentra encontró encontrar|lleva llevó llevar|"
            "pinta pintó pintar|muestra mostró mostrar|pierde perdió perder|abre abrió abrir|lava lavó lavar|"
            "busca buscó buscar|guarda guardó guardar|rompe rompió romper|mira miró mirar|esconde escondió esconder|"
            "construye construyó construir|dibuja dibujó dibujar|pide pidió pedir|trae trajo traer"
        )
    ]
    no = "[negation|<has_negation|no> ]"
    return {
        "VERB.pres": [no + now for now, _, _ in table],
        "VERB.past": [no + then for _, then, _ in table],
        "VERB.fut": [f"{no}va a {inf}" for _, _, inf in table],
    }


RULES: dict[str, list[str]] = {
    **SHARED,
    **_verbs(),
    "NAME.f": words("Lucía Carmen Isabel Pilar Elena Rocío Marta Teresa Paula Beatriz"),
    "NAME.m": words("José Carlos Miguel Javier Diego Pablo Andrés Ramón Luis Fernando"),
    "SHE.f": ["ella"],
    "SHE.m": ["él"],
    "COLORM": words("rojo azul verde amarillo blanco negro gris morado"),
    "COLORF": words("roja azul verde amarilla blanca negra gris morada"),
    "ANIMALM": words("perro gato caballo conejo zorro lobo pato cerdo pájaro burro"),
    "ANIMALF": words("vaca oveja cabra gallina tortuga rana"),
    "CITY": words("Madrid|Barcelona|Sevilla|Valencia|Bilbao|Granada|Lima|Bogotá"),
    "WEEKDAY": words("lunes martes miércoles jueves viernes sábado domingo"),
    "JOB": words("médico profesor panadero juez granjero piloto pintor marinero"),
    "FOOD": words("pan queso sopa arroz pescado mantequilla miel tomate"),
    "WEATHER": words("lluvia nieve viento niebla sol"),
    "THINGM": words("barco libro cuadro espejo cuchillo jardín reloj coche tren sombrero vaso cuaderno"),
    "THINGF": words("mesa casa puerta lámpara silla carta llave ventana taza cama bicicleta caja"),
    "PLACE": words("en la cocina|en la playa|en el mercado|cerca del río|en el museo|en la estación|en la oficina"),
    "DESPITE": ["con", "bajo"],
    "WHEN": words("por la mañana|esta noche|cada semana|después de cenar|en verano|en invierno|al mediodía"),
    "ONDAY": ["el {WEEKDAY}"],
    "AFTER": ["después de {N1} días", "desde hace {N2} años", "en {YEAR}"],
    "PRICE": ["{N1} euros", "{N2} euros", "{N3} euros"],
    "COST": ["El precio es de {PRICE}", "Esto cuesta {PRICE}"],
    "GOODM": words("maravilloso excelente perfecto hermoso estupendo precioso"),
    "GOODF": words("maravillosa excelente perfecta hermosa estupenda preciosa"),
    "BADM": words("terrible horrible malo aburrido inútil feo"),
    "BADF": words("terrible horrible mala aburrida inútil fea"),
    "ACRONYM": words("ONU UE OTAN DNI"),
    "FLASH": words("ATENCIÓN|URGENTE|AVISO"),
    "IS.past": ["era"],
    "IS.pres": ["es"],
    "IS.fut": ["será"],
    "OBJ": [
        "el {THINGM}[color| {COLORM}]",
        "la {THINGF}[color| {COLORF}]",
        "[animal|un {ANIMALM}[color| {COLORM}]|un {THINGM}]",
        "[animal|una {ANIMALF}|una {THINGF}]",
        "[food|un poco de {FOOD}|la {THINGF}]",
    ],
    "SUBJ": [
        "{NAME@a}",
        "{SHE}",
        "[job|el {JOB}|{SHE}]",
        "[animal|el {ANIMALM}|{NAME@b}]",
        "[upper|la {ACRONYM}|{SHE}]",
    ],
    "WHERE": ["{PLACE}", "[city|en {CITY@c}|{PLACE}]"],
    "CLAUSE": [
        "{SUBJ} {VERB} {OBJ} {WHERE}",
        "{SUBJ} {VERB} {OBJ}",
        "{DATE} {SUBJ} {VERB} {OBJ}",
        "{SUBJ} {VERB} {OBJ} y {OBJ}",
    ],
    "AND": ["y", "luego"],
    "BUT": ["pero"],
    "SKYLINE": ["Hay {WEATHER} {WHERE}", "Con tanta {WEATHER} todo {IS} difícil"],
    "SPEECH": ["<quoted_speech|«^{CLAUSE}»>, dice {NAME@a}.", "^{NAME@b} responde: <quoted_speech|«^{CLAUSE}{MARK}»>"],
    "ASK": [
        "<has_question|¿Por qué {SUBJ} {VERB} {OBJ}?>",
        "<has_question|¿Dónde está {OBJ}?>",
        "<has_question|¿Quién {VERB} {OBJ} {WHERE}?>",
    ],
    "LIKE.pos": [
        "<positive_sentiment|El {THINGM} {IS} {GOODM}{MARK}>",
        "<positive_sentiment|La {THINGF} {IS} {GOODF}{MARK}>",
        "<positive_sentiment|Me encanta {OBJ}{MARK}>",
    ],
    "LIKE.neg": [
        "<negative_sentiment|El {THINGM} {IS} {BADM}{MARK}>",
        "<negative_sentiment|La {THINGF} {IS} {BADF}{MARK}>",
        "<negative_sentiment|Odio {OBJ}{MARK}>",
    ],
    "YES": ["Sí", "Claro"],
    "THANKS": ["Muchas gracias", "Gracias"],
    "GOODBYE": ["Adiós"],
    "DEAR.f": ["Querida"],
    "DEAR.m": ["Querido"],
    "BYE": ["Hasta pronto", "Un abrazo", "Saludos cordiales"],
    "RATING": ["Nota"],
}
