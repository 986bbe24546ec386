"""The data of a question for templates and expressions.

(CoreDNS: plugin/template/template.go templateData)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from clusterdns.languages import conditions
from clusterdns.languages.gotemplate import AnyMap, Struct, TemplateError
from clusterdns.templating.rule import ANY_CLASS, Rule
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName


class Data(NamedTuple):
    """The data of a question that a rule matches."""

    zone: str
    qclass: str
    qtype: str
    fields: Struct


def data_of(rule: Rule, zone: WireName, question: Question, query: Query | None) -> Data | None:
    """Return the data of a question, None if the rule does not match.

    Without ``query``, the parts that depend on it are empty.

    Raises:
        ExpressionError: an expression of the rule cannot be evaluated.
    """
    qname = name.text(question.folded)
    matched = rule.match(qname)
    if matched is None:
        return None
    regexp, match = matched
    groups = {str(i): text for i, text in enumerate(match)}
    named = zip(regexp.names if regexp else (), match[1:], strict=True)
    groups |= {group: text for group, text in named if group}
    qclass, qtype = question.qclass, question.qtype
    class_text = rr.CLASS_TEXT.get(rule.qclass if qclass == ANY_CLASS else qclass, "")
    type_text = rr.TYPE_TEXT.get(rule.qtype if qtype == rr.ANY else qtype, "")
    fields: dict[str, object] = {
        "Zone": rule.zone_texts[zone],
        "Name": qname,
        "Regex": regexp.text if regexp else ".*",
        "Match": list(match),
        "Group": groups,
        "Class": class_text,
        "Type": type_text,
        "Remote": query.client[0] if query else "",
        "Var": AnyMap(),
    }
    if "Question" in rule.fields:
        fields["Question"] = _question(question)
    if "Message" in rule.fields:
        fields["Message"] = _message(query, question)
    if rule.variables or rule.conditions:
        values = conditions.functions(question, query)
        values["group"] = functools.partial(_group, groups)
        if not rule.holds(values):
            return None
        fields["Var"] = AnyMap((word, values[word]) for word, _ in rule.variables)
    methods = {"Meta": functools.partial(_meta, query)}
    struct = Struct("*template.templateData", fields, methods)
    return Data(rule.zone_texts[zone], class_text, type_text, struct)


def _question(question: Question) -> Struct:
    fields = {
        "Name": name.text(question.qname),
        "Qtype": question.qtype,
        "Qclass": question.qclass,
    }
    return Struct("*dns.Question", fields)


def _message(query: Query | None, question: Question) -> Struct:
    flags = query.flags if query else 0
    bits = {
        "Response": message.QR,
        "Authoritative": message.AA,
        "Truncated": message.TC,
        "RecursionDesired": message.RD,
        "RecursionAvailable": message.RA,
        "Zero": message.Z,
        "AuthenticatedData": message.AD,
        "CheckingDisabled": message.CD,
    }
    fields: dict[str, object] = {field: bool(flags & bit) for field, bit in bits.items()}
    fields |= {"Id": query.ident if query else 0, "Opcode": query.opcode if query else 0}
    return Struct("*dns.Msg", {**fields, "Rcode": flags & 15, "Question": [_question(question)]})


def _group(groups: dict[str, str], key: object) -> str:
    """Return the text of a group by number or name, "" if there is none."""
    return groups.get(str(key), "") if type(key) in (int, str) else ""


def _meta(query: Query | None, label: object) -> str:
    if not isinstance(label, str):
        raise TemplateError("wrong type for value; expected string")
    return query.label(label) if query is not None else ""
