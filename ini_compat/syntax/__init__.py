"""The grammar: text, templates, variables and sections."""
