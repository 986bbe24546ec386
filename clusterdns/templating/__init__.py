"""The rules of `template`, and the data of its templates.

rule.py  one directive: which questions, which templates
data.py  what templates and expressions take of a question
"""
