"""Known truth: worlds in which every feature is known, SAEs of known quality, and what each metric makes of them."""
