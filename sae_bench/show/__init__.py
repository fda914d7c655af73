"""What people see of results: text that may be printed, tables of scores, and blocks of what a task found.

Nothing here measures or knows a task by name: terminal, page and JSON draw the same blocks.
"""
