"""How the report of a study looks beyond what all pages share; and its few lines of script."""

from collections.abc import Iterable, Mapping

from tuning.report.old_elements import BASE, DARK, LIGHT, theme

SHADES = 7  # of the score's colour, `s0` the worst

# From grey to blue, which colour-blind readers can tell apart; the best trial is orange.
_LIGHT_RAMP, _DARK_RAMP = ("#b9c0ca", "#0b5fae"), ("#4f5966", "#6fbaff")


def _ramp(ends: tuple[str, str]) -> Iterable[str]:
    low, high = ([int(end[at : at + 2], 16) for at in (1, 3, 5)] for end in ends)
    for shade in range(SHADES):
        share = shade / (SHADES - 1)
        yield "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _shaded(colours: Mapping[str, str], ramp: tuple[str, str]) -> dict[str, str]:
    return {**colours, **{f"s{shade}": colour for shade, colour in enumerate(_ramp(ramp))}}


STYLE = (
    theme(_shaded(LIGHT, _LIGHT_RAMP), _shaded(DARK, _DARK_RAMP))
    + BASE
    + "".join(f".s{shade}{{--colour:var(--s{shade})}}" for shade in range(SHADES))
    + """
:root{--bar:var(--s6)}
.best{--colour:var(--best)} .failed{--colour:var(--failed)} .open{--colour:var(--soft)}
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
.key.first{background:var(--ink)} .ramp .key{margin:0;border-radius:0}
[aria-sort=ascending] button::after{content:" ↑"} [aria-sort=descending] button::after{content:" ↓"}
.narrow{display:none} @media screen and (max-width:44rem){.broad{display:none} .narrow{display:block}}
@media print{.sortable{font-size:5.5pt} .sortable :is(th,td){padding:.15rem}
 .sortable :is(thead th,button,td:last-child){white-space:normal;overflow-wrap:anywhere} .sortable button{padding:0}}
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
