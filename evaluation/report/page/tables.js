// Tables are sorted by the buttons in their headings: first from the largest number or from A, then
// the other way, then in the order of the file. Cells without a value stay at the end.
function compared(a, b, numeric) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
}

function sortTable(table, column, order) {
  const body = table.tBodies[0];
  table.original ??= [...body.rows];
  const numeric = table.tHead.rows[0].cells[column]?.classList.contains("number");
  const sign = order === "d" ? -1 : 1;
  const key = (row) => row.cells[column]?.dataset.value ?? "";
  const rows = [...table.original];
  if (order) {
    rows.sort((p, q) => {
      const [a, b] = [key(p), key(q)];
      return (a === "" || b === "" ? 1 : sign) * compared(a, b, numeric);
    });
  }
  body.append(...rows);
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    const here = order && i === column;
    cell.setAttribute("aria-sort", here ? (order === "a" ? "ascending" : "descending") : "none");
  });
}

function nextOrder(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const first = heading.classList.contains("number") ? "d" : "a";
  const now = { ascending: "a", descending: "d", none: "" }[heading.getAttribute("aria-sort")];
  if (!now) return first;
  return now === first ? (first === "a" ? "d" : "a") : "";
}

function watchTables(root = document, remember = true) {
  for (const table of all("table.sortable", root)) {
    table.tHead.addEventListener("click", (event) => {
      const heading = event.target.closest("th");
      if (!heading) return;
      const column = heading.cellIndex;
      const order = nextOrder(table, column);
      sortTable(table, column, order);
      if (!remember) return;
      state.sorts.delete(table.id);
      if (order) state.sorts.set(table.id, `${column}${order}`);
      writeState();
    });
  }
}

function applySorts() {
  for (const table of all("main table.sortable")) {
    const wanted = state.sorts.get(table.id);
    if (wanted) sortTable(table, Number(wanted.slice(0, -1)), wanted.slice(-1));
    else if (table.original) sortTable(table, -1, "");
  }
}
