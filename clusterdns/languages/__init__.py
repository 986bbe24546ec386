"""Small languages that stand in a Corefile: regular expressions, templates, expressions."""
