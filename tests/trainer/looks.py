"""Faults of a page in a browser: elements that are cut, wider than the window, or too faint."""

from typing import Any

from tests.trainer.browser import Page

# Elements that hide content that does not fit; regions that scroll are exempt.
_CUT = """[...document.querySelectorAll('main *')].filter((node) => {
  const style = getComputedStyle(node);
  const hides = /hidden|clip|auto|scroll/.test(style.overflowX) && !node.closest('svg, .hidden, audio');
  return hides && node.getAttribute('role') !== 'region' && node.scrollWidth > node.clientWidth + 1;
}).map((node) => node.outerHTML.slice(0, 120))"""

# Elements beyond the window, outside of regions that scroll.
_BEYOND = """[...document.querySelectorAll('main *')].filter((node) => {
  const box = node.getBoundingClientRect();
  const within = node.closest('[role=region], .hidden, svg svg');
  return box.width > 0 && !within && (box.left < -1 || box.right > innerWidth + 1);
}).map((node) => node.outerHTML.slice(0, 120))"""

# Labels outside of their drawing.
_LABELS = """[...document.querySelectorAll('svg text')].filter((node) => {
  const box = node.getBoundingClientRect(), drawing = node.ownerSVGElement.getBoundingClientRect();
  return box.width > 0 && (box.left < drawing.left - 1 || box.right > drawing.right + 1
    || box.top < drawing.top - 1 || box.bottom > drawing.bottom + 1);
}).map((node) => node.textContent)"""

# Labels of a drawing that overlap.
_OVERLAPPING = """[...document.querySelectorAll('svg')].flatMap((drawing) => {
  const boxes = [...drawing.querySelectorAll('text')].map((node) => [node.textContent, node.getBoundingClientRect()]);
  return boxes.flatMap(([name, a], at) => boxes.slice(at + 1).filter(([, b]) => a.width && b.width
    && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2).map(([other]) => name + ' over ' + other));
})"""

# Text whose contrast with its background is below the 4.5 of WCAG 2.2.
_FAINT = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('main *')].filter((node) =>
    [...node.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && !node.closest('title')
    && node.getBoundingClientRect().width > 0
  ).filter((node) => {
    const style = getComputedStyle(node);
    const a = light(node.ownerSVGElement ? style.fill : style.color), b = light(behind(node));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map((node) => node.outerHTML.slice(0, 120));
})()"""

_STUCK = """[...document.querySelectorAll('*')].filter((node) =>
  /fixed|sticky/.test(getComputedStyle(node).position)).map((node) => node.outerHTML.slice(0, 120))"""


def faults(page: Page) -> dict[str, Any]:
    """Returns the faults of the page as it is shown, by kind; empty if there are none."""
    scripts = {
        "cut": _CUT,
        "beyond the window": _BEYOND,
        "labels outside": _LABELS,
        "labels over each other": _OVERLAPPING,
        "faint": _FAINT,
        "stuck": _STUCK,
    }
    nodes = {kind: page.run(script) for kind, script in scripts.items()}
    excess = page.run("document.documentElement.scrollWidth - innerWidth")
    return {kind: names for kind, names in nodes.items() if names} | ({"too wide": excess} if excess > 0 else {})
