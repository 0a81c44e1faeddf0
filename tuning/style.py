"""How the report of a study looks, by day and night, on a phone and on paper; and its few lines of script."""

from collections.abc import Iterable

SHADES = 7  # of the score's colour, `s0` the worst

# From grey to blue, which colour-blind readers can tell apart; the best trial is orange.
_LIGHT_RAMP, _DARK_RAMP = ("#b9c0ca", "#0b5fae"), ("#4f5966", "#6fbaff")


def _ramp(ends: tuple[str, str]) -> Iterable[str]:
    low, high = ([int(end[at : at + 2], 16) for at in (1, 3, 5)] for end in ends)
    for shade in range(SHADES):
        share = shade / (SHADES - 1)
        yield "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _colours(ramp: tuple[str, str], **colours: str) -> str:
    named = {**colours, **{f"s{shade}": colour for shade, colour in enumerate(_ramp(ramp))}}
    return "".join(f"--{name}:{colour};" for name, colour in named.items())


_LIGHT = _colours(
    _LIGHT_RAMP, ink="#1b2430", soft="#566273", page="#f6f7f9", card="#ffffff", edge="#dfe3e9", best="#d55e00",
    failed="#a3334b", row="#fff4ea",
)  # fmt: skip
_DARK = _colours(
    _DARK_RAMP, ink="#e7ebf0", soft="#9ba7b6", page="#10151c", card="#19202a", edge="#2c3644", best="#ff9e4f",
    failed="#f08aa0", row="#32271d",
)  # fmt: skip
STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}\n"
    f"@media print{{:root{{color-scheme:light;{_LIGHT}--page:#fff;--row:#fff;}}}}\n"
    + "".join(f".s{shade}{{--colour:var(--s{shade})}}" for shade in range(SHADES))
    + """
.best{--colour:var(--best)} .failed{--colour:var(--failed)} .open{--colour:var(--soft)}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
 "Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:64rem;margin:0 auto;padding:2rem clamp(.75rem,3vw,2rem) 4rem}
header{margin:0 0 1.75rem}
h1{font-size:clamp(1.7rem,5vw,2.4rem);line-height:1.15;margin:0 0 .75rem;letter-spacing:-.02em}
h2{font-size:1.2rem;margin:0 0 .3rem;letter-spacing:-.01em} p{margin:0 0 .8rem}
.eyebrow{margin:0;color:var(--soft);font-size:.8rem;letter-spacing:.12em;text-transform:uppercase}
.lead{font-size:1.08rem;max-width:48rem} .small{color:var(--soft);font-size:.9rem;max-width:48rem}
section,.tile{background:var(--card);border:1px solid var(--edge);border-radius:12px}
section{padding:1.2rem clamp(.8rem,2.5vw,1.5rem);margin:0 0 1.25rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.2rem 0}
.tile{padding:.7rem 1rem} dt{color:var(--soft);font-size:.85rem} dd{margin:0;font-size:1.65rem;font-weight:650;
 line-height:1.25;font-variant-numeric:tabular-nums} .unit,dd.unit{color:var(--soft);font-size:.78rem;font-weight:400}
.wide{overflow-x:auto;margin:0 0 .8rem} .wide:last-child{margin:0}
.wide:focus-visible,button:focus-visible,pre:focus-visible{outline:2px solid var(--best);
 outline-offset:2px}
.multiples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1.1rem 1.25rem}
figure{margin:0;max-width:27rem} figcaption{font-size:.85rem;color:var(--soft)} figcaption b{color:var(--ink)}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
text{fill:var(--soft);font-variant-numeric:tabular-nums} .name{fill:var(--ink);font-weight:600} .end{text-anchor:end}
.over text{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.middle{text-anchor:middle} .axis{stroke:var(--soft);stroke-width:1} .grid{stroke:var(--edge);stroke-width:1}
.bars{max-width:44rem} .bars th,.bars td{border:0} .bar{width:100%} .bar i{display:block;height:1.05rem;min-width:2px;
 border-radius:3px;background:var(--s6);print-color-adjust:exact;-webkit-print-color-adjust:exact}
.lines path{fill:none;stroke:var(--colour);stroke-width:1.8;opacity:.85}
.lines .first{stroke:var(--ink);stroke-width:2.4}
.lines .best{stroke-width:3.6;opacity:1} .lines .failed{stroke-dasharray:3 4;opacity:.8}
.lines .open{stroke-dasharray:1 4;stroke-width:1.4}
.points path[data-trial]{fill:var(--colour);stroke:var(--card);stroke-width:1}
.points path.first[data-trial]{fill:var(--ink)}
.points path.hollow[data-trial]{fill:var(--card);stroke:var(--colour);stroke-width:1.8}
.points path.first.hollow[data-trial]{stroke:var(--ink)}
.points path.cross[data-trial]{fill:none;stroke:var(--colour);stroke-width:2}
.points path.first.cross[data-trial]{stroke:var(--ink)}
.focused [data-trial]:not(.on){opacity:.13} .focused path.on{opacity:1} .focused tr.on{background:var(--row)}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.3rem;align-items:center;font-size:.85rem;color:var(--soft)}
.key{display:inline-block;width:1.1rem;height:.32rem;margin-right:.4rem;vertical-align:middle;border-radius:2px;
 background:var(--colour);print-color-adjust:exact;-webkit-print-color-adjust:exact} .key.first{background:var(--ink)}
.ramp .key{margin:0;border-radius:0}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums} .compact{width:auto}
th,td{padding:.34rem .65rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--edge)} th{font-weight:600}
thead th{vertical-align:bottom;color:var(--soft)} .number{text-align:right} .changed{font-weight:700}
tr.best th,tr.best td{background:var(--row);font-weight:650} tr.best th:first-child{box-shadow:inset 3px 0 var(--best)}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:.3rem 0;cursor:pointer;
 white-space:nowrap}
[aria-sort=ascending] button::after{content:" ↑"} [aria-sort=descending] button::after{content:" ↓"}
pre{overflow-x:auto;background:var(--page);border:1px solid var(--edge);border-radius:8px;padding:.7rem .9rem;margin:0;
 font-size:.85rem} code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media (max-width:34rem){section{border-radius:8px} th,td{padding:.4rem .5rem}}
@media print{body{font-size:10pt} main{max-width:none;padding:0} section,.tile{break-inside:avoid;border-color:#ccc}
 section:last-of-type{break-inside:auto} tr{break-inside:avoid} .wide{overflow:visible} svg{min-width:0!important}
 .sortable{font-size:7pt} .sortable th,.sortable td{padding:.15rem .3rem}
 .sortable button,.sortable td:last-child{white-space:normal}}
@media (prefers-reduced-motion:no-preference){path[data-trial]{transition:opacity .12s}}
"""
)
SCRIPT = """
for (const button of document.querySelectorAll(".sortable button")) {
  button.addEventListener("click", () => {
    const head = button.parentNode, body = head.closest("table").tBodies[0], at = head.cellIndex;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const key = (row) => row.cells[at].dataset.key ?? row.cells[at].textContent;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = a - b;
      return sign * (Number.isNaN(order) ? a.localeCompare(b) : order);
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
document.addEventListener("pointerover", (event) => {
  const of = event.target.closest("[data-trial]")?.dataset.trial.split(" ") ?? [];
  document.body.classList.toggle("focused", of.length > 0);
  for (const each of document.querySelectorAll("[data-trial]")) {
    each.classList.toggle("on", each.dataset.trial.split(" ").some((trial) => of.includes(trial)));
  }
});
"""
