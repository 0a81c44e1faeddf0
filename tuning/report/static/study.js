// Sorts the table of trials by a click on a column's name, and marks the trial below the pointer everywhere.

/** Returns what a row is sorted by in a column: a number as text, or the text of the cell. */
function sortKey(row, column) {
  return row.cells[column].dataset.key ?? row.cells[column].textContent;
}

/** Compares two keys: empty ones last, numbers by value, other texts by alphabet. */
function compareKeys(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const difference = a - b;
  return sign * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
}

for (const button of document.querySelectorAll(".sortable button")) {
  button.addEventListener("click", () => {
    const head = button.parentNode, body = head.closest("table").tBodies[0], column = head.cellIndex;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort((a, b) => compareKeys(sortKey(a, column), sortKey(b, column), sign)));
  });
}

document.addEventListener("pointerover", (event) => {
  const pointed = event.target.closest("[data-trial]")?.dataset.trial.split(" ") ?? [];
  document.body.classList.toggle("focused", pointed.length > 0);
  for (const node of document.querySelectorAll("[data-trial]")) {
    node.classList.toggle("on", node.dataset.trial.split(" ").some((trial) => pointed.includes(trial)));
  }
});
