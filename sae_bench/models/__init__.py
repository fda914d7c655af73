"""The subject model and its hook points."""
