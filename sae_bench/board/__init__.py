"""Tables made from results. Nothing here imports torch."""
