"""Languages used in a Corefile: regular expressions, templates, expressions.

regexp.py       regular expressions as Go reads them, by RE2                    Pure
goformat.py     values printed as Go prints them                                Pure
gosyntax.py     Go's text templates: text -> actions                            Pure
gofunctions.py  their data, and the functions all of them have                  Pure
gotemplate.py   their evaluation, within bounds                                 Pure
exprvalues.py   expr-lang: values, their types and operators                    Pure
exprlibrary.py  its functions                                                   Pure
exprsyntax.py   text -> nodes                                                   Pure
exprcheck.py    the types of nodes                                              Pure
expression.py   evaluation, within bounds                                       Pure
conditions.py   what expressions may ask about a query                          Pure
"""
