"""The forensic benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.forensics_metrics import Rate
from benchmarks.forensics_summary import Figures
from vision_service.labelled import LABELS


def markdown(figures: Figures) -> str:
    """All tables of a run."""
    document = figures.document
    parts = [_overview(document, figures.rungs), _baselines(document, figures.rungs)]
    for rung in figures.rungs:
        data = document["rungs"][rung]
        parts += [
            f"## Rung: {rung}",
            "### Verdicts by class (leave-one-source-out)\n\n" + _confusion(data["fused"]["confusion"]),
            "### Verdicts by source (leave-one-source-out)\n\n" + _sources(data["sources"]),
            "### Tools (leave-one-source-out log10 LR)\n\n" + _tools(data["tools"]),
            "### Tests (raw scores)\n\n" + _tests(data["tests"]),
        ]
    parts.append("## Forged copies of authentic pictures: detected\n\n" + _forged(document["forged_copies"]))
    return "\n\n".join(parts) + "\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" for _ in head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _number(value: Any, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _overview(document: dict[str, Any], rungs: list[str]) -> str:
    fused = [document["rungs"][rung]["fused"] for rung in rungs]
    rows = [
        ["authentic accused, camera originals", *(_accused(f["accused_camera"]) for f in fused), "<= 1 %"],
        ["authentic accused, all", *(_accused(f["accused_authentic"]) for f in fused), "<= 3 %"],
        ["macro-F1, UNCERTAIN counted as wrong", *(_number(f["macro_f1"]) for f in fused), ">= 0.60"],
        ["macro-F1, decided only", *(_number(f["macro_f1_decided"]) for f in fused), ">= 0.85"],
        ["decided", *(str(Rate(*f["decided"])) for f in fused), ""],
        ["ECE", *(_number(f["ece"]) for f in fused), "<= 0.05"],
    ]
    for name, key in (("manipulated", "manipulated"), ("AI generated", "ai_generated")):
        for label, field in (("AUC", "auc"), ("TPR at 1 % FPR", "tpr_at_fpr_1"), ("TPR at 3 % FPR", "tpr_at_fpr_3"),
                             ("TPR at 5 % FPR", "tpr_at_fpr_5")):  # fmt: skip
            rows.append([f"{name}: {label}", *(_number(f[key][field]) for f in fused), ""])
        cllrs = (f"{_number(f[key]['cllr'])} / {_number(f[key]['cllr_min'])}" for f in fused)
        rows.append([f"{name}: Cllr / Cllr_min", *cllrs, "difference <= 0.10"])
    return f"## Fused system, leave-one-source-out, {document['images']} pictures\n\n" + _table(
        ["figure", *rungs, "target"], rows
    )


def _accused(entry: dict[str, Any]) -> str:
    return f"{Rate(entry['count'], entry['total'])}, upper 95 % bound {100 * entry['upper_95']:.1f} %"


def _baselines(document: dict[str, Any], rungs: list[str]) -> str:
    rows = []
    for rung in rungs:
        rule = document["rungs"][rung]["exif_rule"]
        rows.append([rung, _number(rule["macro_f1"]), str(Rate(*rule["accused_authentic"]))])
    table = _table(["rung", "macro-F1", "authentic accused"], rows)
    return f"## Baseline verdicts: the rule 'no camera EXIF, hence AI generated; else authentic'\n\n{table}"


def _confusion(confusion: dict[str, dict[str, int]]) -> str:
    columns = [*LABELS, "uncertain"]
    return _table(
        ["truth \\ verdict", *columns], [[t, *(str(row[c]) for c in columns)] for t, row in confusion.items()]
    )


def _sources(sources: dict[str, dict[str, int]]) -> str:
    columns = [*LABELS, "uncertain"]
    return _table(
        ["source / label", "n", *columns],
        [[name, str(row["n"]), *(str(row[c]) for c in columns)] for name, row in sources.items()],
    )


def _tools(tools: dict[str, dict[str, dict[str, Any]]]) -> str:
    fields = ("auc", "tpr_at_fpr_5", "cllr", "cllr_min")
    header = ["tool", *(f"{h}: {f}" for h in ("manipulated", "AI") for f in ("AUC", "TPR@5%", "Cllr", "Cllr_min"))]
    return _table(
        header,
        [
            [name, *(_number(t[h][f]) for h in ("manipulated", "ai_generated") for f in fields)]
            for name, t in tools.items()
        ],
    )


def _tests(tests: dict[str, dict[str, Any]]) -> str:
    header = ["test", "ran", "detected: authentic", "manipulated", "AI", "AUC manip.", "TPR@1%", "TPR@5%", "AUC AI",
              "pixel AUC", "F1 fixed", "F1 best", "ms/MP"]  # fmt: skip
    rows = []
    for name, test in tests.items():
        pixel = test.get("pixel", {})
        found = ["/".join(map(str, test[f"detected_{label}"])) for label in LABELS]
        manipulated = test["manipulated"]
        ran = f"{test['ran']}" + (f" ({test['failed']} failed)" if test["failed"] else "")
        rows.append([
            name, ran, *found, _number(manipulated["auc"]), _number(manipulated["tpr_at_fpr_1"], 2),
            _number(manipulated["tpr_at_fpr_5"], 2), _number(test["ai_generated"]["auc"]),
            *(_number(pixel.get(key)) for key in ("auc", "f1_fixed", "f1_best")), _number(test["ms_per_mp"], 0),
        ])  # fmt: skip
    return _table(header, rows)


def _forged(forged: dict[str, dict[str, list[int]]]) -> str:
    tests = sorted({test for entries in forged.values() for test in entries})
    return _table(
        ["test", *forged], [[t, *("/".join(map(str, entries[t])) for entries in forged.values())] for t in tests]
    )
