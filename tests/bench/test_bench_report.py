"""bench: the gate fails when it should, and the pages say what was recorded."""

from __future__ import annotations

import json
import sys

import check
import measure
import pytest
import report
import run
import servers

RECORDED = {"a, clusterdns": 1.2, "tcp, clusterdns": 2.0}


@pytest.mark.parametrize(
    ("found", "worse"),
    [
        (RECORDED, []),
        ({"a, clusterdns": 1.2 * 1.149, "tcp, clusterdns": 0.5}, []),
        ({"a, clusterdns": 1.2 * 1.151, "tcp, clusterdns": 2.0}, ["a, clusterdns"]),
        ({"a, clusterdns": 1.2}, ["tcp, clusterdns"]),
        ({**RECORDED, "b, clusterdns": 99.0}, []),
    ],
)
def test_what_costs_15_percent_more_or_is_missing_is_slower(found, worse):
    assert worse == check.slower(found, RECORDED)


@pytest.mark.parametrize(
    ("first", "second", "code"), [(1.2, None, 0), (1.5, 1.25, 0), (1.5, 1.45, 1), (1.5, 1.9, 1)]
)
def test_what_is_slower_is_measured_once_more(monkeypatch, tmp_path, capsys, first, second, code):
    asked = []

    def ratios(plan: run.Plan, titles: list[str]) -> dict[str, float]:
        asked.append((plan.rounds, list(titles)))
        return {"a, clusterdns": second, "tcp, clusterdns": 2.0} if asked[1:] else {
            "a, clusterdns": first, "tcp, clusterdns": 2.0
        }  # fmt: skip

    record = tmp_path / "record.json"
    record.write_text(json.dumps(RECORDED))
    monkeypatch.setattr(check, "ratios", ratios)
    monkeypatch.setattr(check, "RECORD", record)
    monkeypatch.setattr(measure, "missing", lambda: "")
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert code == check.main()
    assert (1 if second is None else 2) == len(asked)
    if second is not None:
        assert asked[1] == (2 * asked[0][0], ["a"])
    assert code == ("FAILED" in capsys.readouterr().out)


@pytest.mark.skipif(bool(measure.missing()), reason=measure.missing())
def test_ratios_are_measured():
    plan = check.PLAN._replace(services=20, rounds=1, seconds=0.2, servers=check.SERVERS[:2])
    found = check.ratios(plan, ["a"])
    assert ["a, clusterdns"] == list(found)
    assert 0.5 < found["a, clusterdns"] < 50


def test_everything_quick_is_recorded():
    recorded = json.loads(check.RECORD.read_text())
    ours = [name for name in check.SERVERS if name != servers.ECHO]
    assert {f"{title}, {name}" for title in run.QUICK_TITLES for name in ours} == recorded.keys()
    assert all(0.5 < ratio < 100 for ratio in recorded.values())


def test_the_pages_have_the_tables_of_the_record():
    document = json.loads(report.RECORD.read_text())
    assert report.table(document) == report.shown(report.PAGE)
    assert report.summary(document) == report.shown(report.README)
    if report.FORMS.exists():
        forms = json.loads(report.FORMS.read_text())
        assert report.forms(forms) == report.shown(report.PAGE, report.FORMS_MARK)
    known = {one.title for one in run.inputs.SCENARIOS}
    more = {one.title for one in run.inputs.FORWARDED}  # not in records before they were there
    assert known <= report.ratios(document).keys() <= known | more
    assert report.PICTURE.read_text().startswith("<?xml")


def test_the_summary_has_the_worst_rows_of_each_of_ours():
    document = json.loads(report.RECORD.read_text())
    rows = [
        line.split(" | ")[0].removeprefix("| ") for line in report.summary(document).split("\n")
    ]
    worst = {}
    for name in ("clusterdns", "clusterdns (Python)"):
        beside = {
            scenario: found[name] / found["coredns"]
            for scenario, found in report.ratios(document).items()
            if "churn" not in scenario
        }
        row = max(beside, key=beside.__getitem__)
        worst[row] = beside[row]
    assert worst.keys() <= set(rows)
    assert max(worst, key=worst.__getitem__) == rows[2]


def made(ratios: dict[str, tuple[float, float]]) -> report.Document:
    """Return a document of scenarios with the ratios of clusterdns and CoreDNS."""
    rows = [
        {"scenario": title, "rate": 0, "server": name, "ratio_to_echo": ratio, "us_per_query": 4.0}
        for title, found in ratios.items()
        for name, ratio in zip(("echo", "clusterdns", "coredns"), (1.0, *found), strict=True)
    ]
    plan = {"services": 10, "endpoints": 1, "rounds": 1, "seconds": 1, "rates": [0]}
    return {"rows": rows, "plan": plan, "versions": {"python": "3"}}


def test_forms_are_shown_worst_first_and_the_rest_of_the_page_stays(tmp_path):
    document = made({"good": (1.0, 4.0), "worst": (6.0, 3.0), "bad": (4.0, 4.0)})
    page = tmp_path / "page.md"
    text = f"{report.BEGIN}old\n{report.END}<!-- forms -->\nold\n<!-- /forms -->\nafter\n"
    page.write_text(text)
    report.put(page, report.forms(document), report.FORMS_MARK)
    assert "old\n" == report.shown(page)
    rows = report.shown(page, report.FORMS_MARK).split("\n")
    assert ["worst", "bad", "good"] == [row.split(" | ")[0].removeprefix("| ") for row in rows[2:5]]
    assert page.read_text().endswith("after\n")


def test_a_page_keeps_what_is_around_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    report.put(page, "new\n")
    assert "new\n" == report.shown(page)
    assert f"before\n{report.BEGIN}new\n{report.END}after\n" == page.read_text()


def test_the_picture_is_drawn(monkeypatch, tmp_path):
    document = json.loads(report.RECORD.read_text())
    monkeypatch.setattr(report, "PICTURE", tmp_path / "cpu.svg")
    report.draw(document)
    drawn = report.PICTURE.read_text()
    assert all(f"<!-- {name} -->" in drawn for name in report.names(document))
