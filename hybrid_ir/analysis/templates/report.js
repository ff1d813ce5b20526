// A click on a head sorts its table by that column: numbers by size, other cells as text.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const number = (row) => {
      const found = /^[<+]?-?[\d,]*\.?\d+/.exec(row.cells[head.cellIndex].textContent.trim().replace("−", "-"));
      return found ? Number(found[0].replace(/[<+,]/g, "")) : NaN;
    };
    const text = (row) => row.cells[head.cellIndex].textContent.trim();
    const rows = [...body.rows];
    const numeric = rows.some((row) => !Number.isNaN(number(row)));
    rows.sort((a, b) => {
      const order = numeric ? number(a) - number(b) : text(a).localeCompare(text(b));
      if (Number.isNaN(order)) return Number.isNaN(number(a)) - Number.isNaN(number(b)); // without a number: last
      return descending ? -order : order;
    });
    body.append(...rows);
  });
}
// What is folded away on a screen is printed.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
