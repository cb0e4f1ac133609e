// The generations of a list, the latest first, each with what it changed and the way back.

import { actor, named, parts } from "./changes.js";
import { h, keyed, renew } from "./dom.js";
import { clock } from "./format.js";
import { askRollback } from "./orders.js";
import { since } from "./state.js";

const SIGNS = { added: "+", updated: "~", removed: "−", held: "!" };

export function timeline(name) {
  const list = h("ol", { class: "timeline" });
  const nothing = h("p", { class: "empty" }, "The list has not changed since the start.");
  let latest = null;
  const rollback = (generation) => askRollback(name, generation, latest);
  return {
    element: h("div", {}, list, nothing),
    update(upstream) {
      latest = upstream;
      nothing.hidden = upstream.history.length > 0;
      const key = (of) => `${of.generation} ${of.at} ${of.cause}`;
      // Endpoints that are taken out and come back make generations, too, which have no entry.
      const current = upstream.history.find((of) => of.applied);
      const facts = (of) => ({ ...of, inForce: of === current });
      keyed(
        list,
        upstream.history,
        key,
        () => h("li"),
        (item, of) => renew(item, facts(of), (of) => makeEntry(of, rollback)),
      );
    },
  };
}

function makeEntry(of, rollback) {
  const diff = Object.entries(SIGNS).flatMap(([kind, sign]) =>
    named(of[kind]).map((address) => h("li", { class: kind }, `${sign} ${address}`)),
  );
  const back =
    of.inForce || !of.applied
      ? null
      : h("button", { type: "button", on: { click: () => rollback(of.generation) } }, "Roll back to this");
  return [
    h(
      "div",
      { class: "head" },
      h("strong", {}, `Generation ${of.generation}`),
      of.inForce ? h("span", { class: "badge" }, "in force") : null,
      h("span", { class: "hint", title: of.at }, clock(of.at), " · ", since(of.at), " ago"),
      back,
    ),
    h(
      "p",
      {},
      h("span", { class: "who" }, actor(of)),
      " ",
      parts(of)
        .map(([, text]) => text)
        .join(", "),
    ),
    diff.length > 0 ? h("details", {}, h("summary", {}, "What changed"), h("ul", { class: "diff" }, diff)) : null,
  ];
}
