"""Languages used in a Corefile: regular expressions, templates, expressions."""
