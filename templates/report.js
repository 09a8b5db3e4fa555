"use strict";
// A filter and two buttons; the page is whole without them.
(() => {
  const bar = document.createElement("div");
  bar.className = "tools";
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "filter by name";
  field.setAttribute("aria-label", "show only what has this in its name");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of document.querySelectorAll("[data-name]")) {
      row.hidden = wanted !== "" && !row.dataset.name.toLowerCase().includes(wanted);
    }
  });
  bar.append(field);
  for (const [text, open] of [["expand all", true], ["fold all", false]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => {
      for (const part of document.querySelectorAll("details")) part.open = open;
    });
    bar.append(button);
  }
  document.querySelector("header").append(bar);
})();
