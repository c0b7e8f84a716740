"""The report for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from coordinator.render import phrases
from coordinator.render.labels import Labels
from coordinator.render.phrases import cleaned
from coordinator.render.schema import Document, ErrorDocument, Finding, ReportDocument, Sentence, Tool

VERDICT_STYLES = {
    "authentic": "bold green",
    "manipulated": "bold red",
    "ai_generated": "bold magenta",
    "uncertain": "bold yellow",
}
_RESULT_STYLES = {
    "result.found": "bold red",
    "result.not_found": "",
    "result.not_applicable": "dim",
    "result.failed": "bold yellow",
}
_BAR_CELLS = 24


def report_text(document: Document, t: Labels) -> RenderableType:
    """The whole report on one picture. Untrusted text in it loses what could steer a terminal."""
    document = cleaned(document)
    if document["status"] == "error":
        return _error(document, t)
    parts: list[RenderableType] = [
        Rule(Text(document["path"], style="bold"), align="left"),
        _verdict(document, t),
        _posterior(document, t),
        *_prose(t("summary"), document["explanation"]["summary"]),
        Text(f"\n{t('tools')}", style="bold"),
        *(_tool(document, tool, t) for tool in document["tools"]),
        *_prose(t("open"), document["explanation"]["uncertainties"]),
        *_second_look(document, t),
        *_picture_reading(document, t),
        *_warnings(document, t),
        Text(f"\n{t('file')}", style="bold"),
        Padding(_file(document, t), (0, 0, 0, 2)),
        Text(f"\n{phrases.authorship(document, t)}", style="dim"),
        *_from_cache(document, t),
        _timings(document, t),
        Text(""),
    ]
    return Group(*parts)


def report_line(document: Document, t: Labels) -> str:
    """One line: verdict, probability, path."""
    document = cleaned(document)
    if document["status"] == "error":
        return f"{t('verdict.failed')}\t-\t{document['path']}\t{document['error']['reason']}"
    verdict = t(f"verdict.{document['verdict']}")
    return f"{verdict}\t{document['probability']:.3f}\t{document['path']}"


def _error(document: ErrorDocument, t: Labels) -> RenderableType:
    error = document["error"]
    body = Text(f"{error['message']} {error['advice']}".strip())
    return Group(
        Rule(Text(document["path"], style="bold"), align="left", style="red"),
        Text(f"{t('verdict.failed')}  {error['reason']}", style="bold red"),
        Padding(body, (0, 0, 1, 2)),
    )


def _verdict(document: ReportDocument, t: Labels) -> Text:
    verdict = document["verdict"]
    text = Text(t(f"verdict.{verdict}").upper(), style=VERDICT_STYLES[verdict])
    text.append(f"  {phrases.probability_of(document)}".rstrip() + "  ", style="bold")
    text.append(t(f"meaning.{verdict}"), style="")
    text.append(f"\n{phrases.probability_sentence(document, t)} {t('not_proof')}", style="dim")
    return text


def _posterior(document: ReportDocument, t: Labels) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for name in ("authentic", "manipulated", "ai_generated"):
        share = document["posterior"][name]
        cells = round(share * _BAR_CELLS)
        bar = Text("█" * cells, style=VERDICT_STYLES[name].removeprefix("bold ")) + Text(
            "·" * (_BAR_CELLS - cells), "dim"
        )
        table.add_row(t(f"verdict.{name}"), bar, phrases.percent(share))
    return Padding(table, (1, 0, 0, 2))


def _prose(title: str, sentences: Iterable[Sentence]) -> Iterator[RenderableType]:
    text = _prose_text(sentences)
    if text:
        yield Text(f"\n{title}", style="bold")
        yield Padding(text, (0, 0, 0, 2))


def _prose_text(sentences: Iterable[Sentence]) -> Text:
    """Sentences of the model in italics."""
    text = Text()
    for sentence in sentences:
        text.append(sentence["text"], style="italic" if sentence["author"] == "model" else "").append(" ")
    text.rstrip()
    return text


def _tool(document: ReportDocument, tool: Tool, t: Labels) -> RenderableType:
    head = Text(f"{t('tool.' + tool['tool'])}: ", style="bold")
    style = VERDICT_STYLES.get(tool["verdict"], "") if tool["verdict"] != "uncertain" else ""
    head.append(t(phrases.tool_verdict_key(tool)), style=style if tool["outcome"] != "failed" else "bold yellow")
    head.append(f"  ({t('about.' + tool['tool'])}; {phrases.seconds(tool['duration_s'])})", style="dim")
    parts: list[RenderableType] = [head]
    if tool["error"]:
        parts.append(Padding(Text(tool["error"]["message"], style="yellow"), (0, 0, 0, 2)))
    parts += _reading(document, tool)
    parts.append(_findings(tool["findings"], t))
    return Padding(Group(*parts), (0, 0, 0, 2))


def _reading(document: ReportDocument, tool: Tool) -> Iterator[RenderableType]:
    """The sentences that say more than the table below them: on what was found or broke, or by the model."""
    telling = {f["id"] for f in tool["findings"] if f["detected"] or f["outcome"] == "failed"}
    for reading in document["explanation"]["tool_readings"]:
        if reading["tool"] == tool["tool"]:
            chosen = [s for s in reading["sentences"] if s["author"] == "model" or telling & set(s["finding_ids"])]
            yield from (Padding(_prose_text([s]), (0, 0, 0, 2)) for s in chosen)


def _findings(findings: list[Finding], t: Labels) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        key = phrases.result_key(finding)
        name = Text(phrases.title_of_test(finding["id"], t), style="" if finding["outcome"] == "tested" else "dim")
        table.add_row(name, Text(t(key), style=_RESULT_STYLES[key]), Text(_detail(finding, t), style="dim"))
    return Padding(table, (0, 0, 0, 2))


def _detail(finding: Finding, t: Labels) -> str:
    if finding["outcome"] != "tested":
        return finding["reason"]
    parts = phrases.finding_phrases(finding, t)
    if finding["detected"]:
        parts += [f"{k}: {v[:80]}" for k, v in list(finding["details"].items())[:3]]
        parts += [_region(finding, t)] if finding["regions"] else []
    return "; ".join(parts)


def _region(finding: Finding, t: Labels) -> str:
    first, more = finding["regions"][0], len(finding["regions"]) - 1
    where = t("regions.where", width=first["width_px"], height=first["height_px"], x=first["x_px"], y=first["y_px"])
    return where + (f" (+{more})" if more else "")


def _second_look(document: ReportDocument, t: Labels) -> Iterator[RenderableType]:
    look = document["second_look"]
    if look is None:
        return
    yield Text(f"\n{t('second_look')}", style="bold")
    for turn in look["turns"]:
        line = Text(f"{t('tool.' + turn['tool'])} ({t('second_look.round_' + str(turn['round']))}): ", style="bold")
        yield Padding(line.append_text(_prose_text(turn["sentences"])), (0, 0, 0, 2))
    yield from (Padding(Text(line, style="dim"), (0, 0, 0, 2)) for line in phrases.opinion_lines(look, t))


def _picture_reading(document: ReportDocument, t: Labels) -> Iterator[RenderableType]:
    reading = document["picture_reading"]
    if reading is None:
        return
    yield Text(f"\n{t('picture_reading')}", style="bold")
    lines = [reading["depicted"]] if reading["depicted"] else []
    lines += [f"{t('picture_reading.' + found['kind'])}: {found['text']}" for found in reading["inconsistencies"]]
    lines += [f"{t('picture_reading.text')}: {text}" for text in reading["texts_in_picture"]]
    yield from (Padding(Text(line, style="italic"), (0, 0, 0, 2)) for line in lines)
    yield from (Padding(Text(line, style="dim"), (0, 0, 0, 2)) for line in phrases.opinion_lines(reading, t))


def _from_cache(document: ReportDocument, t: Labels) -> Iterator[RenderableType]:
    if document["from_cache"]:
        yield Text(t("from_cache", time=document["from_cache"]["serve_time"]), style="dim")


def _warnings(document: ReportDocument, t: Labels) -> Iterator[RenderableType]:
    if document["warnings"]:
        yield Text(f"\n{t('warnings')}", style="bold yellow")
        for warning in document["warnings"]:
            yield Padding(Text(warning), (0, 0, 0, 2))


def _file(document: ReportDocument, t: Labels) -> RenderableType:
    image = document["image"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    quality = f", {t('quality')} {image['jpeg_quality']}" if image["jpeg_quality"] else ""
    table.add_row(
        t("format"),
        f"{image['format']}, {image['width_px']} × {image['height_px']} px, {image['mode']}, "
        f"{phrases.file_size(image['size_bytes'])}{quality}",
    )
    table.add_row(t("sha256"), image["sha256"])
    for name, value in image["metadata"].items():
        table.add_row(Text(name), Text(value))
    if not image["metadata"]:
        table.add_row("", t("metadata.none"))
    return table


def _timings(document: ReportDocument, t: Labels) -> Text:
    parts = [f"{item['phase']} {phrases.seconds(item['duration_s'])}" for item in document["timings"]]
    return Text(f"{t('timings')}: {', '.join(parts)}", style="dim")
