"""Figures for print, made from stored results: what ``sae-bench plot`` draws."""
