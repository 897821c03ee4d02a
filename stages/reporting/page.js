"use strict";
const byId = id => document.getElementById(id);

/* The iterations and their prompts: JSON in gzip in base64. */
let data;
const unpacked = text => {
  const bytes = Uint8Array.from(atob(text), sign => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
};

/* The browser of prompts. Text enters the page as text nodes only. */
const element = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter(child => child !== null));
  return node;
};

const number = (value, digits = 2) => value === null ? "–" : String(+value.toFixed(digits));
const fact = (name, value) => element("span", {}, `${name} ${value}`);
const badge = kind => element("span", { class: `badge ${kind}` }, kind);
const text = content => element("div", { class: "text" }, content);
const fold = (title, items) => items.length ? element("details", {}, element("summary", {}, title), ...items) : null;
const question = prompt => prompt.messages[prompt.messages.length - 1].content;
/* A prompt counts once in each kind: as a pair if it has any, else by the first reason. */
const results = prompt => ["actor", "judge"].flatMap(kind => prompt.pairs.some(pair => pair.kind === kind)
  ? [`${kind}: pair`]
  : prompt.drops.filter(drop => drop.kind === kind).slice(0, 1).map(drop => `${kind}: ${drop.reason}`));

const SIDES = ["chosen", "rejected"];
const judgementItem = (judgement, candidate, pairs) => {
  const sides = SIDES.filter(name => pairs.some(pair => pair.chosen_candidate_id === candidate.candidate_id
    && pair[`${name}_vote`] === judgement.vote));
  const parts = judgement.parts.map((part, index) => index === 1 ? element("mark", {}, part) : part);
  return element("div", { class: "item" },
    element("div", { class: "facts" },
      element("b", {}, `Vote ${judgement.vote}`),
      judgement.parse_status === "ok" ? fact("score", number(judgement.score)) : fact("not parsed:", judgement.parse_status),
      judgement.rating === null ? null : fact("rating", number(judgement.rating, 0)),
      ...sides.map(badge)),
    element("pre", { class: "text" }, ...parts));
};

const verdictItem = verdict => element("div", { class: "item" },
  element("div", { class: "facts" },
    element("b", {}, `A: vote ${verdict.vote_a}, B: vote ${verdict.vote_b}`),
    verdict.winner === null ? fact("not parsed:", verdict.parse_status)
      : fact("winner", `${verdict.winner.toUpperCase()} (vote ${verdict.winner === "a" ? verdict.vote_a : verdict.vote_b})`)),
  element("pre", { class: "text" }, verdict.text));

const candidateCard = (candidate, prompt) => {
  /* Of several pairs of a prompt, a candidate may be chosen in one and rejected in another. */
  const [actor, judge] = ["actor", "judge"].map(kind => prompt.pairs.filter(pair => pair.kind === kind));
  const sides = SIDES.filter(name => actor.some(pair => pair[`${name}_candidate_id`] === candidate.candidate_id));
  const side = sides.length === 1 ? ` ${sides[0]}-card` : "";
  return element("article", { class: `card${side}`, "data-candidate": candidate.candidate_id },
    element("div", { class: "facts" },
      element("b", {}, `Candidate ${candidate.sample}`),
      fact("score", number(candidate.score)),
      fact("variance", number(candidate.variance)),
      fact("votes", `${candidate.valid_votes ?? 0} of ${candidate.votes ?? 0}`),
      fact("tokens", candidate.tokens),
      fact("finish", candidate.finish_reason),
      ...sides.map(badge)),
    text(candidate.text),
    fold(`${candidate.judgements.length} judgements`, candidate.judgements.map(item => judgementItem(item, candidate, judge))),
    fold(`${candidate.verdicts.length} verdicts on these judgements`, candidate.verdicts.map(verdictItem)));
};

const outcomeLines = prompt => {
  const sample = id => prompt.candidates.find(candidate => candidate.candidate_id === id)?.sample;
  const members = pair => pair.kind === "actor"
    ? `candidate ${sample(pair.chosen_candidate_id)} over candidate ${sample(pair.rejected_candidate_id)}`
    : `vote ${pair.chosen_vote} over vote ${pair.rejected_vote} on candidate ${sample(pair.chosen_candidate_id)}`;
  const paired = kind => prompt.pairs.some(pair => pair.kind === kind);
  return [
    ...prompt.pairs.map(pair => element("p", {}, element("b", {}, `${pair.kind} pair: `), members(pair))),
    ...prompt.drops.map(drop => element("p", {},
      element("b", {}, paired(drop.kind) ? `left out of the ${drop.kind} pairs: ` : `no ${drop.kind} pair: `),
      `${drop.reason} (${drop.detail})`)),
  ];
};

const address = prompt => `#${current().iteration}/${prompt.prompt_id}`;
const show = prompt => byId("view").replaceChildren(...(prompt ? [
  element("article", { class: "card" },
    element("div", { class: "facts" }, fact("prompt", prompt.prompt_id), element("a", { href: address(prompt) }, "permalink")),
    ...prompt.messages.flatMap(turn => [element("h3", {}, turn.role), text(turn.content)]),
    prompt.answer === null ? null : fold("The data set's own answer", [text(prompt.answer)])),
  element("article", { class: "card" }, element("h3", {}, "Outcome"), ...outcomeLines(prompt)),
  element("div", { class: "candidates" }, ...prompt.candidates.map(candidate => candidateCard(candidate, prompt))),
] : []));

const option = (value, label) => element("option", { value }, label);
const current = () => data.iterations[byId("iteration").selectedIndex];
const texts = prompt => [prompt.prompt_id, ...prompt.messages.map(turn => turn.content),
  ...prompt.candidates.map(candidate => candidate.text)];
const matching = () => {
  const wanted = byId("search").value.trim().toLowerCase(), outcome = byId("outcome").value;
  return current().prompts.filter(prompt => (!outcome || results(prompt).includes(outcome))
    && (!wanted || texts(prompt).some(text => text.toLowerCase().includes(wanted))));
};
const fillOutcomes = () => byId("outcome").replaceChildren(option("", `all (${current().total})`),
  ...current().outcomes.map(row => option(`${row.kind}: ${row.outcome}`, `${row.kind}: ${row.outcome} (${row.prompts})`)));
const fillPrompts = () => {
  byId("prompt").replaceChildren(...matching().map(prompt => option(prompt.prompt_id, question(prompt).slice(0, 90))));
  showSelected();
};
const showSelected = () => {
  const prompts = matching(), index = byId("prompt").selectedIndex, prompt = prompts[index];
  byId("position").textContent = prompt
    ? `${index + 1} of ${prompts.length} matching prompts on this page; ${current().prompts.length} of the iteration's ${current().total} are here.`
    : "No prompt on this page matches.";
  byId("previous").disabled = index <= 0;
  byId("next").disabled = index + 1 >= prompts.length;
  show(prompt);
  if (prompt && byId("view").dataset.linked) history.replaceState(null, "", address(prompt));
};
const move = step => {
  byId("prompt").selectedIndex += step;
  showSelected();
};
/* An address ending in #<iteration>/<prompt_id> opens at that prompt; another one is of a section of the page. */
const openAddress = () => {
  const [iteration, id] = location.hash.slice(1).split("/");
  const index = data.iterations.findIndex(item => String(item.iteration) === iteration);
  if (index < 0) return;
  byId("iteration").selectedIndex = index;
  byId("search").value = "";
  fillOutcomes();
  fillPrompts();
  const found = matching().findIndex(prompt => prompt.prompt_id === id);
  if (found < 0) return;
  byId("prompt").selectedIndex = found;
  showSelected();
  byId("follow").scrollIntoView();
};
const start = found => {
  data = found;
  byId("iteration").append(...data.iterations.map(item => option(item.iteration, item.iteration)));
  fillOutcomes();
  fillPrompts();
  openAddress();
  byId("view").dataset.linked = "yes";
  window.addEventListener("hashchange", openAddress);
};
byId("iteration").addEventListener("change", () => { fillOutcomes(); fillPrompts(); });
byId("outcome").addEventListener("change", fillPrompts);
byId("search").addEventListener("input", fillPrompts);
byId("prompt").addEventListener("change", showSelected);
byId("previous").addEventListener("click", () => move(-1));
byId("next").addEventListener("click", () => move(1));
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
unpacked(byId("data").textContent).then(start);
