// A box above a table: only the rows that have all the words in it are shown.
"use strict";

Widgets.formulas.matches = (text, words) =>
  words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.toLowerCase().includes(word));

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.table-search").forEach((element) => {
    const following = (node) => (node && !node.querySelector("table") && node.tagName !== "TABLE" ? following(node.nextElementSibling) : node);
    const table = following(element.nextElementSibling);
    if (!table) return;
    const rows = [...table.querySelectorAll("tbody tr")];
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    input.type = "search";
    input.addEventListener("input", () => {
      rows.forEach((row) => (row.hidden = !Widgets.formulas.matches(row.textContent, input.value)));
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    });
    label.append(`${element.dataset.label}: `, input, " ", count);
    element.append(label);
    input.dispatchEvent(new Event("input"));
  });
});
