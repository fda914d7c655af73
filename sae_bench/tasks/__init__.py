"""One file a task. A task reads what it needs from the lazy batch view and returns sums, one row a sequence."""
