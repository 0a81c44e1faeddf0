"""How a page looks in a browser: what is cut, wider than the window, or left over on paper."""

from typing import Any

from tests.trainer.browser import Page

# Elements that hide what does not fit into them, and have more than fits; regions that scroll are meant to have it.
_CUT = """[...document.querySelectorAll('main *')].filter((one) => {
  const style = getComputedStyle(one);
  const hides = /hidden|clip|auto|scroll/.test(style.overflowX) && !one.closest('svg, .hidden, audio');
  return hides && one.getAttribute('role') !== 'region' && one.scrollWidth > one.clientWidth + 1;
}).map((one) => one.outerHTML.slice(0, 120))"""

# Elements beyond the window, those inside of a region that scrolls left out.
_BEYOND = """[...document.querySelectorAll('main *')].filter((one) => {
  const box = one.getBoundingClientRect();
  const within = one.closest('[role=region], .hidden, svg svg');
  return box.width > 0 && !within && (box.left < -1 || box.right > innerWidth + 1);
}).map((one) => one.outerHTML.slice(0, 120))"""

# Labels outside of the drawing that they belong to.
_LABELS = """[...document.querySelectorAll('svg text')].filter((one) => {
  const box = one.getBoundingClientRect(), drawing = one.ownerSVGElement.getBoundingClientRect();
  return box.width > 0 && (box.left < drawing.left - 1 || box.right > drawing.right + 1
    || box.top < drawing.top - 1 || box.bottom > drawing.bottom + 1);
}).map((one) => one.textContent)"""

# Labels of a drawing that lie over each other.
_OVERLAPPING = """[...document.querySelectorAll('svg')].flatMap((drawing) => {
  const boxes = [...drawing.querySelectorAll('text')].map((one) => [one.textContent, one.getBoundingClientRect()]);
  return boxes.flatMap(([name, a], at) => boxes.slice(at + 1).filter(([, b]) => a.width && b.width
    && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2).map(([other]) => name + ' over ' + other));
})"""

# Text whose contrast with what is behind it is below the 4.5 of WCAG 2.2.
_FAINT = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('main *')].filter((one) =>
    [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && !one.closest('title')
    && one.getBoundingClientRect().width > 0
  ).filter((one) => {
    const style = getComputedStyle(one);
    const a = light(one.ownerSVGElement ? style.fill : style.color), b = light(behind(one));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map((one) => one.outerHTML.slice(0, 120));
})()"""

_STUCK = """[...document.querySelectorAll('*')].filter((one) =>
  /fixed|sticky/.test(getComputedStyle(one).position)).map((one) => one.outerHTML.slice(0, 120))"""


def faults(page: Page) -> dict[str, Any]:
    """What is wrong with what the page shows, by kind; empty lists where nothing is."""
    found = {
        "cut": page.run(_CUT), "beyond the window": page.run(_BEYOND), "labels outside": page.run(_LABELS),
        "labels over each other": page.run(_OVERLAPPING), "faint": page.run(_FAINT), "stuck": page.run(_STUCK),
    }  # fmt: skip
    excess = page.run("document.documentElement.scrollWidth - innerWidth")
    return {kind: ones for kind, ones in found.items() if ones} | ({"too wide": excess} if excess > 0 else {})
