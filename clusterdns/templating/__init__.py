"""The rules of `template`, and the data of its templates."""
