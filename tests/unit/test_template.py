"""template: rules, what they make, what is remembered, and what never comes by them."""

from __future__ import annotations

import asyncio
import time

import dns.message
import dns.rcode
import pytest
from beside import query
from faultyupstream import FaultyUpstream, good
from inprocess import InProcess, in_packet_loop
from test_relay_route import Listener

from clusterdns.chain import registry
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.formats import masterfile
from clusterdns.formats.masterfile import MasterFileError
from clusterdns.languages.gotemplate import TemplateError
from clusterdns.metrics import exposition
from clusterdns.serving import native
from clusterdns.templating.rule import parse_int
from clusterdns.wire import name, rr

NAMESPACE = {"kind": "Namespace", "metadata": {"name": "default"}}


def asked(
    rules: str, *packets: bytes, behind: str = "", again: bool = False
) -> list[dns.message.Message]:
    """Return the replies of a server block with these rules; with ``again`` those of the table."""

    async def run() -> list[dns.message.Message]:
        async with InProcess(f". {{\n{rules}\n{behind}\n}}", [NAMESPACE]) as server:
            found = []
            for packet in packets:
                reply = await server.ask_chain(packet, "udp")
                if again:
                    await server.ask_chain(packet, "udp")
                    reply = server.ask_table(packet, "udp")
                found.append(dns.message.from_wire(reply) if reply else None)
            return found

    return asyncio.run(run())


def texts(reply: dns.message.Message) -> list[str]:
    return [rrset.to_text() for rrset in reply.answer]


RULE = """template IN A example {
    match ^ip-(?P<a>[0-9]+)[.]example[.]$
    answer "{{ .Name }} 60 IN A 10.0.0.{{ .Group.a }}"
    fallthrough
}"""


def test_a_rule_and_what_falls_through():
    first, second = asked(RULE, query("IP-7.example."), query("other.example."))
    assert ["ip-7.example. 60 IN A 10.0.0.7"] == texts(first)
    assert dns.rcode.SERVFAIL == second.rcode()  # there is nothing behind


def test_what_depends_on_the_question_alone_is_in_the_table():
    assert ["ip-7.example. 60 IN A 10.0.0.7"] == texts(
        *asked(RULE, query("ip-7.example."), again=True)
    )


@pytest.mark.parametrize(
    "taken", [".Remote", ".Message.Id", "(.Meta `a/b`)", "(print .Message.Opcode)"]
)
def test_what_depends_on_the_query_is_not(taken):
    rule = f'template ANY ANY {{\nanswer "{{{{ .Name }}}} 60 IN TXT x{{{{ {taken} }}}}"\n}}'
    assert asked(rule, query("a.", "TXT"))[0].answer
    assert [None] == asked(rule, query("a.", "TXT"), again=True)


def test_a_name_outside_its_zones_may_be_remembered_all_the_same():
    rules = f'template IN A elsewhere {{\nanswer "{{{{ .Remote }}}}"\n}}\n{RULE}'
    assert texts(*asked(rules, query("ip-7.example."), again=True))


def test_a_template_that_makes_nothing_makes_no_record():
    rule = 'template IN A {\nanswer "{{ if eq .Name `a.` }}a. 60 IN A 10.0.0.1{{ end }}"\n}'
    first, second = asked(rule, query("a."), query("b."))
    assert 1 == len(first.answer)
    assert (0, []) == (second.rcode(), second.answer)


def test_aliases_are_followed_within_bounds():
    rule = 'template IN A {\nanswer "{{ .Name }} CNAME a.test." "{{ .Name }} CNAME b.test."\n}'
    (reply,) = asked(rule, query("x.test."))
    assert 0 == reply.rcode()


BOMBS = (
    "{{ range 100000 }}{{ end }}",
    "{{ range 20000 }}{{ $y := slice `abc` 1 }}{{ end }}",
    # Texts that grow on the way, of which none is written.
    "{{ $x := `12345678` }}{{ range 9 }}{{ $x = print $x $x $x $x $x $x $x $x }}{{ end }}",
    "{{ range 1000 }}{{ $x := `a` }}{{ range 15 }}{{ $x = print $x $x }}{{ end }}{{ end }}",
    "{{ $x := printf `%4000d` 1 }}{{ range 20000 }}{{ $y := $x | js | html | urlquery }}{{ end }}",
    "{{ range 20000 }}{{ $y := printf `%4000.4000f` 1.5 }}{{ end }}",
    "{{ range (parseInt (index .Match 0 | printf `9%.0s9999`) 10 32) }}{{ end }}",
)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_works_on_and_on_is_ended(bomb):
    """Also one that is constant, whose record is made when the Corefile is read."""
    rule = f'template IN A {{\nanswer "{bomb}a. 60 IN A 192.0.2.1"\n}}'
    began = time.process_time()
    first, second = asked(rule, query("a."), query("b."))
    assert [dns.rcode.SERVFAIL] * 2 == [first.rcode(), second.rcode()]
    assert time.process_time() - began < 1.5, "25 GB and 8 s, some of them"


def test_counts():
    async def run() -> list:
        rules = f'{RULE}\ntemplate IN A {{\nanswer "{{{{ .Nothing }}}}"\nadditional "no record"\n}}'
        async with InProcess(f". {{\nprometheus\n{rules}\n}}", [NAMESPACE]) as server:
            for _ in range(3):
                await server.ask_chain(query("ip-7.example."), "udp")
                server.ask_table(query("ip-7.example."), "udp")
            await server.ask_chain(query("other."), "udp")
            plugins = server.configuration.plugins
            return [*server.server.tally.samples(), *(s for p in plugins for s in p.samples())]

    samples = asyncio.run(run())
    matched = ("dns://:53", "example.", "", "IN", "A")
    found = [value for metric, labels, value in samples if labels == matched]
    assert 1 + 2 + 2 == sum(found)  # the table has it from the second time on
    failed = ("dns://:53", ".", "", "IN", "A", "answer", "{{.Nothing}}")
    assert ("template_template_failures_total", failed, 1) in samples
    assert b'template="{{.Nothing}}"' in exposition.exposition(
        samples, [], registry.load("template").families
    )


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ('match "("', 3, "could not parse regex"),
        ('answer "{{ nothing }}"', 3, "could not compile template"),
        ("rcode NOPE", 3, "unknown rcode"),
        ("ederror 70000", 3, "65535"),
        ("bogus", 3, "unknown property"),
        (f'match "{"a" * 10_001}"', 3, "longer than"),
    ],
)
def test_mistakes_have_a_line(lines, line, reason):
    text = f". {{\ntemplate IN A {{\n{lines}\n}}\n}}"
    with pytest.raises(ConfigError, match=reason) as caught:
        compile_text(text, "Corefile", port=53, environ={}, warn=print)
    assert line == caught.value.line


@pytest.mark.parametrize(
    ("text", "base", "bits", "number"),
    [
        ("ff", 16, 8, 255), ("0x1F", 0, 64, 31), ("017", 0, 64, 15), ("1_000", 0, 64, 1000), ("0", 10, 0, 0),
        ("100", 16, 8, None), ("-1", 10, 64, None), ("+1", 10, 64, None), ("", 10, 64, None), ("1_0", 10, 64, None),
        (" 1", 10, 64, None), ("1", 99, 64, None), ("1", 10, 65, None), (1, 10, 64, None), ("1" * 5000, 10, 64, None),
    ],
)  # fmt: skip
def testparse_int(text, base, bits, number):
    if number is not None:
        assert number == parse_int(text, base, bits)
        return
    with pytest.raises(TemplateError):
        parse_int(text, base, bits)


def test_a_record_that_stands_alone(tmp_path):
    assert None is masterfile.record(" ; nothing")
    found = masterfile.record("a CH TXT b")
    assert found is not None
    assert (b"\1a\0", 16, 3600, b"\1b", 3) == tuple(found)
    (tmp_path / "secret").write_text("a 60 IN A 10.0.0.1\n")
    with pytest.raises(MasterFileError):
        masterfile.record(f"$INCLUDE {tmp_path / 'secret'}")


def test_labels_of_other_plugins():
    corefile = """. {
        metadata
        template IN TXT cluster.local {
            var s metadata('kubernetes/service')
            answer "{{ .Name }} 60 IN TXT x{{ .Meta `kubernetes/service` }} {{ .Var.s }}"
        }
        kubernetes cluster.local {
            manifests .
        }
    }"""
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    service = {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": ports},
    }

    async def run() -> None:
        async with InProcess(corefile, [NAMESPACE, service]) as server:
            packet = query("web.default.svc.cluster.local.", "TXT")
            reply = dns.message.from_wire(await server.ask_chain(packet, "udp") or b"")
            assert '"xweb" "web"' == reply.answer[0][0].to_text()

    asyncio.run(run())


# ---- the fast path


@pytest.mark.parametrize(
    ("rule", "cut", "is_alike"),
    [
        ("template ANY ANY internal.test", "com.svc.cluster.local", True),
        ("template ANY ANY com.svc.cluster.local", "com.svc.cluster.local", True),
        ("template ANY ANY b.com.svc.cluster.local", "com.svc.cluster.local", False),
        ("template IN AAAA cluster.local", "com.svc.cluster.local", True),
        (
            "template IN AAAA cluster.local {\nmatch a\nfallthrough\n}",
            "com.svc.cluster.local",
            False,
        ),
        ("template IN TXT cluster.local {\nmatch a\nfallthrough\n}", "com.svc.cluster.local", True),
        ("template CH ANY cluster.local", "com.svc.cluster.local", True),
    ],
)
def test_which_denials_hold_for_names_below(rule, cut, is_alike):
    corefile = f". {{\n{rule}\nkubernetes cluster.local {{\nmanifests .\n}}\n}}"
    (view,) = compile_text(corefile, "Corefile", port=53, environ={}, warn=print).views
    assert is_alike == view.treats_alike(name.fold(name.parse(cut)), rr.AAAA)


@pytest.mark.skipif(native.compiled is None, reason="not compiled")
@pytest.mark.parametrize(
    ("rules", "a", "aaaa", "inside"),
    [
        ("template ANY ANY inside.test {\nmatch a\nfallthrough\n}", True, True, False),
        ("template IN TXT {\nmatch a\nfallthrough\n}", True, True, True),
        ("template IN AAAA", True, False, True),
        ("template ANY AAAA {\nmatch a\nfallthrough\n}", True, False, True),
        ("template IN A {\nmatch a\nfallthrough\n}", False, True, False),
        (
            "template IN A {\nfallthrough\n}\ntemplate IN AAAA {\nfallthrough\n}",
            False,
            False,
            False,
        ),
        ("template ANY ANY {\nmatch a\nfallthrough\n}", False, False, False),
        ("template IN AAAA inside.test", True, True, False),
        (
            'template ANY ANY {\nmatch "^(.*)[.]inside[.]test[.]$"\nfallthrough\n}',
            True,
            True,
            False,
        ),
        (
            'template ANY ANY {\nmatch "[.]inside[.]test[.]$"\nfallthrough test\n}',
            False,
            False,
            False,
        ),
        (
            'template ANY ANY {\nmatch "[.]other[.]test[.]$" "a|b"\nfallthrough\n}',
            False,
            False,
            False,
        ),
        ('template IN A {\nmatch "[.]inside[.]test[.]$"\nfallthrough\n}', True, True, False),
    ],
)
def test_what_takes_the_relay(rules, a, aaaa, inside):
    async def run(upstream: FaultyUpstream) -> None:
        corefile = f".:53 {{\n{rules}\nforward . {upstream.address}\n}}"
        async with Listener(corefile) as listener:
            assert a == await listener.takes(query("www.outside.test.", "A"))
            assert aaaa == await listener.takes(query("www.outside.test.", "AAAA"))
            assert inside == await listener.takes(query("www.inside.test.", "A"))
            assert not await listener.takes(query("a\\.inside.test.", "A"))  # two labels

    with FaultyUpstream(good) as upstream:
        in_packet_loop(run(upstream))


def test_an_alias_followed_from_memory_is_remembered():
    rules = """template IN A a.test {
        answer "{{ .Name }} 60 IN CNAME b.test."
    }
    template IN A b.test {
        answer "b.test. 5 IN A 10.0.0.1"
    }"""
    (reply,) = asked(rules, query("a.test."), again=True)
    assert ["a.test. 60 IN CNAME b.test.", "b.test. 5 IN A 10.0.0.1"] == texts(reply)
