"""How the page looks: light and dark, wide and narrow, on paper. Filters need no script: a checked field hides rows."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Final

from tauten.explain import calibration, chart, waterfall

STRATEGIES: Final = 24  # that the filter can tell apart; the shelf holds fewer than half as many

_LAYOUT: Final = """
body{background:#f3f5f8}
.tau.report{--card:#fff;--soft:#eef1f5;--edge:#dfe4ea;--glow:#e8effc;--link:#2557b8;max-width:1120px;background:none;padding:12px 16px 48px;
font-size:15px;line-height:1.55}
@media(prefers-color-scheme:dark){body{background:#0b0e12}
.tau.report{--card:#14181d;--soft:#1e242b;--edge:#2a323b;--glow:#16233b;--link:#8fb4f7}}
.report p{margin:6px 0;max-width:72ch}.report .eyebrow{color:var(--dim);font-size:12px;letter-spacing:.08em;text-transform:uppercase;margin:20px 0 0}
.tau.report h1{font-size:32px;line-height:1.2;letter-spacing:-.02em;margin:2px 0 10px;overflow-wrap:anywhere}
.tau.report h2{font-size:20px;letter-spacing:-.01em;margin:0 0 4px}.tau.report h3{font-size:15px;margin:18px 0 2px}
.report section{background:var(--card);border:1px solid var(--edge);border-radius:14px;padding:20px 24px;margin:16px 0}
.report .lead{font-size:19px;line-height:1.45;max-width:none}.report header p{max-width:none}
.report .pill{display:inline-block;border-radius:999px;padding:3px 14px;font-weight:600;font-size:15px;border:1.5px solid currentColor;margin:2px 0 6px}
.report nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:18px 0 4px;font-size:14px}.report a{color:var(--link);text-underline-offset:3px}
.report .tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(160px,100%),1fr));gap:14px;margin:18px 0 6px}
.report .tile{background:var(--card);border:1px solid var(--edge);border-radius:14px;padding:14px 18px}
.report .tile h2{font-size:14px;font-weight:500;color:var(--dim);letter-spacing:0;margin:0}
.report .big{font-size:34px;line-height:1.15;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums;margin:2px 0 6px}
.report .big small{font-size:17px;font-weight:500;letter-spacing:0;color:var(--dim)}.report .tile .dim,.report .tile .good,.report .tile .bad{font-size:13px;margin:4px 0}
.report .two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(330px,100%),1fr));gap:8px 28px;align-items:start}
.report figure{margin:8px 0}.report .two figure{max-width:440px}.report figcaption{color:var(--dim);font-size:13px}
.tau.report table{width:100%;font-size:14px}.tau.report th{font-size:12.5px;white-space:nowrap;vertical-align:bottom}
.tau.report th,.tau.report td{padding:5px 14px 5px 0}.tau.report tbody tr+tr td{border-top:1px solid var(--soft)}
.tau.report td.n,.tau.report td.good,.tau.report td.bad{white-space:nowrap}.tau.report td.name{overflow-wrap:anywhere;min-width:12em}.tau.report td.dim{white-space:nowrap}.tau.report tr.chosen td{background:var(--glow)}
.report .why{color:var(--dim);font-size:13px;display:block}.report details{margin:10px 0}.report summary{cursor:pointer;color:var(--link)}
.report pre{font:12.5px/1.5 ui-monospace,monospace;background:var(--soft);border-radius:8px;padding:12px 14px;margin:8px 0;width:max-content;min-width:100%;box-sizing:border-box}
.report .tag{display:inline-block;border-radius:6px;padding:0 7px;font-size:12.5px;background:var(--soft);white-space:nowrap}
.report .tag.yes{color:var(--good)}.report .tag.no{color:var(--dim)}.report ul{margin:6px 0;padding-left:20px}.report li{max-width:72ch}
.report :focus-visible{outline:2px solid var(--model);outline-offset:2px;border-radius:4px}
@media(max-width:520px){.report section{padding:16px 14px}.tau.report{padding:4px 10px 32px}.tau.report h1{font-size:26px}.report .tile{padding:10px 12px}.report .big{font-size:28px}}
@media print{body{background:#fff}.report section,.report .tile{break-inside:avoid}.report nav,.report .filter{display:none}}
"""

_DRAWN: Final = """
.report .bullet,.report .meter{display:block;width:100%}.report .bullet{height:26px}.report .meter{height:12px;min-width:120px}
.report .meter{margin-top:5px}.report .proof{max-width:440px}
.report .was{fill:var(--outside);opacity:.32}.report .easy{fill:var(--outside);opacity:.6}.report .now{fill:var(--model)}
.report .mark{fill:var(--bad)}.report .track{fill:var(--soft)}.report .worth{fill:var(--model)}.report .over{fill:var(--contention)}
.report .axis{font-weight:600}.report .nr{fill:var(--ink);font:600 11px system-ui,sans-serif}
.report .ring{fill:none;stroke:var(--model);stroke-width:2}.report .plain{fill:var(--outside)}.report .here{stroke:var(--dim);stroke-dasharray:3 3}
.report .margin{stroke:var(--bad);stroke-width:2}.report .spanned{stroke:var(--model);stroke-width:6;stroke-linecap:round}
"""

_FILTER: Final = (
    """
.report fieldset{border:0;padding:0;margin:8px 18px 8px 0;display:inline-block}.report legend{float:left;color:var(--dim);margin-right:8px;font-size:14px}
.report .filter{font-size:14px}.report .filter label{margin-right:10px;white-space:nowrap}
.report .filter select{font:inherit;color:inherit;background:var(--soft);border:1px solid var(--edge);border-radius:6px;padding:1px 4px;max-width:14em}
.report section:has(#only-taken:checked) tr.refused,.report section:has(#only-refused:checked) tr.taken{display:none}
"""
    + "".join(
        f".report section:has(#only-{answers}:checked) tbody tr:not(.{answers}){{display:none}}\n"
        for answers in ("identical", "equivalent", "lossy")
    )
    + "".join(
        f".report section:has(#only-s{place}:checked) tbody tr:not(.s{place}){{display:none}}\n"
        for place in range(STRATEGIES)
    )
)

STYLE: Final = waterfall.STYLE + chart.STYLE + calibration.STYLE + _LAYOUT + _DRAWN + _FILTER
