// Turns each question of a page into radio buttons. Without JavaScript the answer stays in a <details> element.
// A right answer opens the result below the question; a wrong one says why it is wrong, and the reader can try again.
"use strict";

function followingResults(box) {
  const results = [];
  for (let node = box.nextElementSibling; node; node = node.nextElementSibling) {
    if (node.matches("details.output")) results.push(node);
    else if (!node.matches("div[class*='highlight'], details.code")) break;
  }
  return results;
}

function makeChoices(box, number) {
  const list = box.querySelector(":scope > ul");
  const answer = box.querySelector("details.answer");
  if (!list || !answer) return;
  const verdicts = [...answer.querySelectorAll("li")];
  const feedback = document.createElement("p");
  feedback.className = "feedback";
  feedback.setAttribute("aria-live", "polite");
  list.setAttribute("role", "radiogroup");
  list.setAttribute("aria-label", "options");
  [...list.children].forEach((item, i) => {
    const letter = String.fromCharCode(97 + i);
    const label = document.createElement("label");
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = `question-${number}`;
    radio.value = letter;
    const text = document.createElement("span");
    text.append(...(item.querySelector(":scope > p") || item).childNodes);
    label.append(radio, text);
    item.replaceChildren(label);
    radio.addEventListener("change", () => {
      const right = letter === box.dataset.answer;
      feedback.innerHTML = (verdicts[i].querySelector(":scope > p") || verdicts[i]).innerHTML;
      feedback.className = `feedback ${right ? "right" : "wrong"}`;
      if (right) followingResults(box).forEach((result) => (result.open = true));
    });
  });
  list.after(feedback);
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.question").forEach(makeChoices);
});
