// Sorting: each heading becomes a button; it sorts up, then down, then back to the order of the file.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const order = next[heading.getAttribute("aria-sort")];
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", order);
      body.append(...(order === "none" ? rows : sorted(rows, column, order === "descending" ? -1 : 1)));
    });
  });
}

// Numbers where the column has them, else text by the digits in it too; cells without a value come last.
function sorted(rows, column, sign) {
  const numeric = rows.some((row) => row.cells[column].dataset.value !== undefined);
  const key = (row) => {
    const cell = row.cells[column];
    if (numeric) return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    return cell.textContent.trim() || null;
  };
  const compare = numeric ? (a, b) => a - b : new Intl.Collator(undefined, { numeric: true }).compare;
  return rows
    .map((row) => [key(row), row])
    .sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)))
    .map(([, row]) => row);
}
