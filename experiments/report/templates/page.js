"use strict";
// The example browser. Whatever a model wrote becomes a text node, never markup.
(() => {
  const [data, show, find, count, list, article, previous, next] = [
    "data", "show", "find", "count", "list", "problem", "previous", "next",
  ].map((id) => document.getElementById(id));
  const examples = JSON.parse(data.textContent).examples;
  const scorerTitles = { sorm: "SORM", orm: "ORM", implicit: "implicit" };
  const titles = { draft: "Draft", global: "Global refinement", local: "Local refinement" };
  let shown = [];  // places of the examples that filter and search let through
  let open = -1;   // place of the one that is open

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function link(example) {
    const parts = new URLSearchParams({ problem: example.id });
    if (show.value !== "all") parts.set("show", show.value);
    if (find.value) parts.set("find", find.value);
    return "#" + parts;
  }

  function matches(example) {
    if (!example.groups.includes(show.value)) return false;
    const wanted = find.value.toLowerCase();
    if (!wanted) return true;
    example.haystack ??= [
      example.id, example.question, example.answer,
      ...Object.values(example.solutions).flatMap((one) => (one ? one.steps : [])),
    ].join("\n").toLowerCase();
    return example.haystack.includes(wanted);
  }

  const word = (right) => (right === null ? "none" : right ? "right" : "wrong");

  // fill the list; open the wanted example, or else the first
  function filter(wanted) {
    shown = [...examples.keys()].filter((place) => matches(examples[place]));
    list.replaceChildren(...shown.map((place) => {
      const example = examples[place];
      const outcome = [example.solutions.draft.correct, example.correct];
      const anchor = make("a", { href: link(example), tabindex: -1 }, make("span", {}, example.id),
        make("span", { "aria-hidden": true }, outcome.map((right) => (right === null ? "–" : right ? "✓" : "✗")).join(" → ")),
        make("span", { class: "hidden" }, `draft ${word(outcome[0])}, picked ${word(outcome[1])}`));
      return make("li", {}, anchor);
    }));
    choose(shown.includes(wanted) ? wanted : shown[0] ?? -1);
  }

  function choose(place) {
    const from = list.querySelector("[aria-current]"), inside = list.contains(document.activeElement);
    open = place;
    const at = shown.indexOf(place);
    from?.removeAttribute("aria-current");
    from?.setAttribute("tabindex", -1);
    const anchor = list.children[at]?.firstChild;
    if (anchor) {
      anchor.setAttribute("aria-current", "true");
      anchor.setAttribute("tabindex", 0);
      list.scrollTop += anchor.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 2;
      if (inside) anchor.focus({ preventScroll: true });
    }
    previous.disabled = at <= 0;
    next.disabled = at < 0 || at === shown.length - 1;
    const of = `${shown.length.toLocaleString("en")} of ${examples.length.toLocaleString("en")} problems shown`;
    count.textContent = at < 0 ? "No problem is like that." : `Problem ${(at + 1).toLocaleString("en")}, ${examples[place].id}: ${of}`;
    article.replaceChildren(...(at < 0 ? [] : problem(examples[place])));
  }

  function problem(example) {
    const title = make("h3", {}, make("a", { href: link(example) }, example.id));
    return [
      title,
      make("p", {}, example.summary),
      make("p", { class: "question" }, `${example.question}\n\nanswer: ${example.answer}`),
      make("div", { class: "solutions" }, ...Object.keys(titles).map((kind) => solution(example, kind))),
    ];
  }

  function solution(example, kind) {
    const one = example.solutions[kind], picked = example.chosen === kind;
    const heading = make("h4", {}, titles[kind]);
    const box = make("section", { class: picked ? "solution picked" : "solution", "aria-label": titles[kind] }, heading);
    if (!one) {
      box.append(make("p", {}, "There is none."));
      return box;
    }
    const badges = [make("span", { class: word(one.correct) }, one.correct ? "✓ right" : "✗ wrong")];
    if (one.score !== null) badges.push(make("span", {}, `${example.scorer} ${one.score.toFixed(2)}`));
    if (picked) badges.push(make("span", { class: "choice" }, "picked"));
    box.append(make("p", { class: "verdict" }, ...badges));
    box.append(one.steps.length ? steps(example, kind, one) : make("p", {}, "It has no steps."));
    if (one.more) box.append(make("p", {}, `… ${one.more.toLocaleString("en")} more steps`));
    return box;
  }

  function steps(example, kind, one) {
    const scorers = Object.keys(scorerTitles).filter((name) => one[name]);
    const head = make("tr", {}, make("th", { scope: "col" }, "#"),
      ...scorers.map((name) => make("th", { scope: "col", class: "number" }, scorerTitles[name])),
      make("th", { scope: "col" }, "step"));
    const draft = example.solutions.draft.steps;
    const changed = one.steps.findIndex((step, place) => step !== draft[place]);
    const kept = kind !== "local" ? 0 : changed < 0 ? one.steps.length : changed;  // steps as in the draft
    const rows = one.steps.map((step, place) => {
      const bad = kind === "draft" && place === example.located;
      const cell = make("td", { class: place < kept ? "text kept" : "text" });
      if (bad) cell.append(make("strong", { class: "note" }, "[BAD] "));
      cell.append(step);
      if (kind === "draft" && place === example.true) cell.append(make("span", { class: "note" }, " ← first wrong step, by the oracle"));
      if (place === kept - 1) cell.append(make("em", {}, " ← as in the draft up to here"));
      return make("tr", bad ? { class: "bad" } : {}, make("th", { scope: "row" }, String(place + 1)),
        ...scorers.map((name) => score(one[name][place])), cell);
    });
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  }

  function score(value) {
    const shown = make("span", { class: "score" }, value.toFixed(2));
    shown.style.setProperty("--score", `${100 * value}%`);
    return make("td", { class: "number" }, shown);
  }

  function remember() {
    if (open >= 0) history.replaceState(null, "", link(examples[open]));
  }

  function move(by) {
    const at = shown.indexOf(open) + by;
    if (at < 0 || at >= shown.length) return;
    choose(shown[at]);
    remember();
    const { top } = count.getBoundingClientRect();
    if (top < 0 || top > innerHeight * 0.6) count.scrollIntoView();
  }

  // what a link says: the problem, and the filter and search that it was found with
  function follow() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const wanted = examples.findIndex((example) => example.id === parts.get("problem"));
    if (!parts.has("problem")) return filter(open);
    show.value = parts.get("show") ?? "all";
    if (show.selectedIndex < 0) show.value = "all";
    find.value = parts.get("find") ?? "";
    if (wanted >= 0 && !matches(examples[wanted])) [show.value, find.value] = ["all", ""];
    filter(wanted);
    if (wanted < 0) count.textContent = `There is no problem ${parts.get("problem")} here. ${count.textContent}`;
    document.getElementById("examples").scrollIntoView();
  }

  show.addEventListener("change", () => { filter(open); remember(); });
  find.addEventListener("input", () => { filter(open); remember(); });
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => move(-1));
  next.addEventListener("click", () => move(1));
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest?.("input, select, .scroll")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); move(by); }
  });
  follow();
})();
