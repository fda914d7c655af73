"""One evaluation: what is measured, the run, and the results that are made of it."""
