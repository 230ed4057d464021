"use strict";

// Tabs: one panel at a time. Without this script all panels are shown, one below the other.
for (const box of document.querySelectorAll(".tabbed")) {
  const buttons = [...box.querySelectorAll(".tabs button")];
  if (!buttons.length) continue;
  const panels = [...box.querySelectorAll(":scope > .panel")];
  const show = (chosen) => {
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === chosen)));
    panels.forEach((panel, index) => { panel.hidden = index !== chosen; });
  };
  buttons.forEach((button, index) => {
    button.addEventListener("click", () => show(index));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.stopPropagation();
      const next = (index + step + buttons.length) % buttons.length;
      buttons[next].focus();
      show(next);
    });
  });
  box.classList.add("live");
  box.querySelector(".tabs").hidden = false;
  show(0);
}

// What is folded away on screen is printed.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const one of folded) one.open = true;
});
window.addEventListener("afterprint", () => { for (const one of folded) one.open = false; });

// The browser through the examples. All text goes in as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("examples-data").textContent);
  if (!data.examples.length) return;
  const find = (id) => document.getElementById(id);
  const pageSize = 5;
  let page = 0;
  let found = [];

  const element = (name, className, ...children) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children);
    return made;
  };
  // names made of words may break after their underscores
  const breakable = (text) => (text.match(/[^_/]+[_/]*|[_/]+/g) || []).flatMap((part, index) =>
    index ? [document.createElement("wbr"), part] : [part]);
  const option = (value, text) => {
    const made = element("option", "", text);
    made.value = value;
    return made;
  };
  const keys = new Map();
  for (const one of document.querySelectorAll(".ranking tbody th .approach")) {
    keys.set(one.textContent, one.querySelector("svg"));
  }
  const named = (name) => {
    const mark = keys.get(name);
    return element("span", "approach", ...(mark ? [mark.cloneNode(true)] : []), element("span", "", name));
  };

  const exact = data.rightOrWrong;
  const several = data.approaches.length > 1;
  const kinds = [["all", "all examples"]];
  if (exact) kinds.push(["none", several ? "all approaches wrong" : "wrong answers"]);
  if (several) kinds.push(["differ", "answers that disagree"]);
  if (several) kinds.push(["better", exact ? "one right, another wrong" : "one scores higher than another"]);
  kinds.push(["unscored", "unscored answers"]);
  find("f-kind").append(...kinds.map(([value, text]) => option(value, text)));
  data.approaches.forEach((name, index) => {
    find("f-a").append(option(index, name));
    find("f-b").append(option(index, name));
  });
  find("f-b").value = String(data.approaches.length - 1);
  find("f-versus").textContent = exact ? "is right and" : "scores higher than";
  find("f-than").textContent = exact ? "is wrong" : "";
  find("f-task").append(option("", "all"), ...data.tasks.map((task, index) => option(index, task.name)));
  find("f-task-box").hidden = data.tasks.length < 2;
  const labels = [...new Set(data.examples.map((one) => one.label).filter((label) => label !== null))].sort();
  find("f-label").append(option("", "all"), ...labels.map((label) => option(label, label)));
  find("f-label-box").hidden = labels.length === 0;

  const searched = new Map();
  const textOf = (example) => {
    if (!searched.has(example)) {
      const answers = example.answers.map((answer) => (answer ? answer.text : ""));
      const all = [example.id, data.texts[example.question], ...example.references, ...answers];
      searched.set(example, all.join("\n").toLowerCase());
    }
    return searched.get(example);
  };
  const score = (example, index) => (example.answers[index] ? example.answers[index].score : null);
  const ofKind = {
    all: () => true,
    none: (one) => one.answers.every((answer) => answer && answer.score !== null && answer.score < 1),
    differ: (one) => new Set(one.answers.filter(Boolean).map((answer) => answer.text.trim())).size > 1,
    unscored: (one) => one.answers.some((answer) => answer && answer.score === null),
    better: (one) => {
      const [a, b] = [score(one, find("f-a").value), score(one, find("f-b").value)];
      return a !== null && b !== null && a > b;
    },
  };

  const answerOf = (example, index, item) => {
    const answer = example.answers[index];
    const name = data.approaches[index];
    if (!answer || answer.unserved) {
      const why = answer ? `: ${answer.unserved}` : "";
      return element("div", "answer unscored", named(name), element("p", "sign", `– not answered${why}`));
    }
    let state = "unscored", sign = "– unscored";
    if (answer.score !== null) {
      state = exact ? (answer.score >= 1 ? "right" : "wrong") : "graded";
      sign = exact ? (answer.score >= 1 ? "✓ right" : "✗ wrong") : `${Number(answer.score.toPrecision(3))} ${data.tasks[example.task].metric}`;
    } else if (answer.reason) {
      sign += `: ${answer.reason}`;
    }
    if (answer.stopped === "length") sign += ", cut at the length limit";
    if (answer.stopped === "abstained") sign += ", kept back";
    if (answer.confidence !== null) sign += `, confidence ${Number(answer.confidence.toPrecision(3))}`;
    // without tokens no language model was asked
    const asked = answer.tokens === null ? "prompt" : answer.tokens ? `prompt, ${answer.tokens} tokens` : "input";
    const ask = element("button", "ask", asked);
    ask.type = "button";
    ask.setAttribute("aria-expanded", "false");
    ask.addEventListener("click", () => {
      const open = item.querySelector(".prompt");
      const same = open && open.dataset.of === String(index);
      if (open) open.remove();
      for (const other of item.querySelectorAll(".ask")) other.setAttribute("aria-expanded", "false");
      if (same) return;
      const turns = element("dl", "");
      for (const [role, text] of answer.prompt) {
        turns.append(element("dt", "", role), element("dd", "", data.texts[text]));
      }
      const dropped = answer.dropped ? ` (${answer.dropped} ${answer.dropped === 1 ? "shot" : "shots"} did not fit)` : "";
      const panel = element("div", "prompt", element("h4", "", answer.tokens === 0 ? `What ${name} was given` : `The whole prompt of ${name}${dropped}`), turns);
      panel.dataset.of = String(index);
      panel.tabIndex = 0;
      item.append(panel);
      ask.setAttribute("aria-expanded", "true");
    });
    const text = answer.text === "" ? element("p", "text muted", "(empty)") : element("p", "text", ...breakable(answer.text));
    return element("div", `answer ${state}`, named(name), text, element("div", "sign", sign), ask);
  };

  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / pageSize));
    page = Math.min(Math.max(page, 0), pages - 1);
    const items = found.slice(page * pageSize, (page + 1) * pageSize).map((example) => {
      const wanted = element("p", "wanted", "Wanted: ");
      example.references.forEach((reference, index) => wanted.append(index ? " or " : "", element("b", "", ...breakable(reference))));
      const task = data.tasks.length > 1 ? `${data.tasks[example.task].name}, ` : "";
      wanted.append(` · ${task}${example.place || example.id}`);
      const grid = element("div", "answers");
      const item = element("li", "", element("p", "question", data.texts[example.question]), wanted, grid);
      grid.append(...data.approaches.map((_, index) => answerOf(example, index, item)));
      return item;
    });
    find("list").replaceChildren(...items);
    find("previous").disabled = page === 0;
    find("next").disabled = page >= pages - 1;
    const first = page * pageSize + 1;
    const last = Math.min(found.length, first + pageSize - 1);
    find("where").textContent = found.length ? `${first}–${last} of ${found.length}` : "No example fits.";
  };
  const filter = () => {
    find("f-pair").hidden = find("f-kind").value !== "better";
    const words = find("f-text").value.toLowerCase().trim();
    const label = find("f-label").value;
    const task = find("f-task").value;
    found = data.examples.filter((one) =>
      ofKind[find("f-kind").value](one) &&
      (label === "" || one.label === label) &&
      (task === "" || one.task === Number(task)) &&
      (words === "" || textOf(one).includes(words)));
    page = 0;
    draw();
  };
  const turn = (by) => { page += by; draw(); };

  find("filters").addEventListener("input", filter);
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, select, textarea, .scroll, .prompt")) return;
    const box = find("browser").getBoundingClientRect();
    if (box.bottom < 0 || box.top > window.innerHeight) return;
    event.preventDefault();
    turn(step);
  });
  find("browser").hidden = false;
  filter();
})();
