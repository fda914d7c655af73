"""One pass of the language model for all SAEs, controls and tasks."""
