"""The processes: supervisor, workers, watchers.

process.py      forked children
binding.py      sockets
web.py          HTTP
worker.py       one worker's life
estate.py       what a version leaves to the next one
generation.py   the processes of one configuration
inquiry.py      commands that ask the running server
explanation.py  one query, explained by a worker
observation.py  what all workers have observed
status.py       how the server does
statuspage.py   the page about that, and what it is made of
handover.py     a new version in place of this one
takeover.py     whether the next generation knows as much
supervisor.py   start, reload, stop
"""
