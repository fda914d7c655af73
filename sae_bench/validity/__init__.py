"""Known truth: worlds in which every feature is known, SAEs of known quality, and what each metric makes of them.

``world`` makes the language of the world "tokens", ``subject`` a language model whose residual stream is a sum of its
features, ``known`` and ``trained`` SAEs of known quality, ``truth`` says how good each is, ``ladder`` puts them
together, and ``measure`` runs the tasks on them as a user does.
"""
