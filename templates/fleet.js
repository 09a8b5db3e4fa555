"use strict";
// Buttons for verdicts, and cells that lead to their place; without it the names of the fixes lead there.
(() => {
  const table = document.querySelector(".matrix");
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    if (cell === null || cell.textContent === "") return;
    const page = cell.parentElement.querySelector("a").getAttribute("href");
    location.href = `${page}#${encodeURIComponent(heads[cell.cellIndex])}`;
  });
  const chosen = new Set();
  for (const item of document.querySelectorAll("[data-verdict]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "only these";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const name = item.dataset.verdict;
      const on = !chosen.delete(name);
      if (on) chosen.add(name);
      button.setAttribute("aria-pressed", String(on));
      for (const row of table.tBodies[0].rows) {
        row.classList.toggle("without", chosen.size > 0 && ![...chosen].some((word) => row.querySelector(`td.${word}`)));
      }
    });
    item.append(" ", button);
  }
})();
