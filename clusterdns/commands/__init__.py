"""The commands of the command line, one file each; no process that serves imports the others.

declaration.py  the declaration of a command: arguments, examples, exit codes
listing.py      which commands there are
line.py         finds the command, runs it, ends as a shell expects
output.py       output of commands: in color, or as JSON
generated.py    completions of shells and the manual page
serve.py        CoreDNS's flags; also what runs without a command
lab.py          the lab cluster
check.py        what a Corefile would serve, and its mistakes
fmt.py          a Corefile in one form
difference.py   the answers of two Corefiles compared
explain.py      why a name is answered as it is
running.py      the running server, asked
offline.py      a Corefile with manifests, asked in this process
top.py          what is asked most of the running server
screen.py       the terminal of a command that goes on
lookup.py       a name as a Pod looks it up
stub.py         a stub resolver that shows its work
podsettings.py  the resolver settings of a Pod, from its manifest
resolv_conf.py  the resolver settings of a Pod
translate.py    kube-dns's ConfigMap -> Corefile
help.py         manuals, completions, the manual page
"""
