// The framework of the widgets: <div class="widget" data-widget="NAME"> holds a static figure, which stays if JavaScript is off.
// A widget is a function (element) that fills the element. It registers itself in `Widgets.known`, and its formulas in
// `Widgets.formulas`, where a test compares them with Python.
"use strict";

const Widgets = { known: {}, formulas: {} };
window.Widgets = Widgets;

// A labelled slider for whole numbers or choices; `show` turns its value into text. Works with keyboard and touch.
Widgets.slider = (parent, words, { min, max, step = 1, value, show = String }, changed) => {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const output = document.createElement("output");
  Object.assign(input, { type: "range", min, max, step, value });
  const update = () => {
    output.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
    changed(Number(input.value));
  };
  input.addEventListener("input", update);
  label.append(words + " ", input, " ", output);
  parent.append(label);
  return { input, update };
};

// A drop-down list of [text, value] pairs.
Widgets.choice = (parent, words, options, changed) => {
  const label = document.createElement("label");
  const select = document.createElement("select");
  for (const [text, value] of options) select.add(new Option(text, value));
  select.addEventListener("change", () => changed(select.value));
  label.append(words + " ", select);
  parent.append(label);
  return select;
};

Widgets.text = (parent, tag, words, className = "") => {
  const element = document.createElement(tag);
  element.textContent = words;
  element.className = className;
  parent.append(element);
  return element;
};

// An empty drawing, 480 units wide, and a function that adds a shape to it. `words` says what a reader would see.
Widgets.drawing = (height, words) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 480 ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("class", "widget-chart");
  svg.setAttribute("aria-label", words);
  const shape = (name, attributes, text = "") => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    svg.append(element);
  };
  return { svg, shape };
};

// A horizontal bar with its name and value.
Widgets.bars = (parent, rows, largest) => {
  parent.replaceChildren();
  for (const [name, value, text, kind] of rows) {
    const row = Widgets.text(parent, "div", "", "bar-row");
    Widgets.text(row, "span", name, "bar-name");
    const track = Widgets.text(row, "span", "", "bar-track");
    const bar = Widgets.text(track, "span", "", `bar ${kind}`);
    bar.style.width = `${Math.max(0.4, (100 * value) / largest)}%`;
    Widgets.text(row, "span", text, "bar-value");
  }
};

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.widget").forEach((element) => {
    const make = Widgets.known[element.dataset.widget];
    if (!make) return;
    const space = document.createElement("div");
    space.className = "widget-body";
    make(space);
    element.replaceChildren(space); // the static figure goes only when the widget stands
  });
});
