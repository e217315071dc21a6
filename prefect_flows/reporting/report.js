"use strict";
// Filter and sort the table of all nodes. Without it the table is whole, in the run's order.
(() => {
  const table = document.getElementById("all-nodes");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const words = document.getElementById("filter-text");
  const status = document.getElementById("filter-status");
  const count = document.getElementById("filter-count");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  let waiting = 0;
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const fits =
        (!status.value || row.cells[3].textContent === status.value) &&
        wanted.every((word) => texts[i].includes(word));
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    count.textContent = `${shown} of ${rows.length} nodes shown`;
  };
  words.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  status.addEventListener("change", filter);
  const value = (row, column) => {
    const text = row.cells[column].textContent;
    const number = parseFloat(text.replace(/,/g, ""));
    return row.cells[column].className === "n" ? (isNaN(number) ? -1 : number) : text;
  };
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = head.className === "n";
      const before = head.getAttribute("aria-sort");
      const up = before ? before !== "ascending" : !numeric;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = rows.map((row) => [value(row, column), row]);
      keyed.sort(([a], [b]) => (numeric ? a - b : a.localeCompare(b)) * (up ? 1 : -1));
      body.append(...keyed.map(([, row]) => row));
    });
  });
  document.getElementById("tools").hidden = false;
})();
