"""The text of a Corefile: words, grammar, arguments."""
