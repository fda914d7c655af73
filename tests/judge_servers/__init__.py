"""Endpoints as people have them: one small file each, which says what document or thread it follows."""
