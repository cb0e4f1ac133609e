// Changes of lists in words: who added or removed what, and whether it was believed.

import { h, keyed, renew } from "./dom.js";
import { clock, many } from "./format.js";
import { mark, since } from "./state.js";

/** Addresses of each kind in a line. */
const NAMED = 3;

const CAUSES = {
  restored: "from disk",
  health: "because endpoints stopped answering, or answer again",
  confirmed: "stood by a removal, which is believed now",
  accepted: "accepted a removal",
  pinned: "pinned the list",
  unpinned: "lifted the pin",
  drained: "ordered a drain",
  undrained: "ended a drain",
};

/** Who did it. What no registry has said, nor the gateway by itself, is an order. */
export function actor(change) {
  if (change.cause === "restored") return "disk";
  if (change.cause === "health") return "the gateway";
  return change.cause === "accepted" ? "operator" : (change.registry ?? "operator");
}

/** Whether the list stays as it is, and only who drains is another. */
export const isDrain = ({ cause }) => cause === "drained" || cause === "undrained";

/** What happened, as parts of a sentence, each with how it is to be looked at. */
export function parts(change) {
  const said = [];
  if (change.cause === "rolled back")
    said.push(["ok", `went back to generation ${change.rolled_back_to ?? "an earlier one"}`]);
  else if (CAUSES[change.cause]) said.push(["ok", CAUSES[change.cause]]);
  for (const [kind, word, sign] of [
    ["added", "added", "+"],
    ["updated", isDrain(change) ? "of" : "changed", "~"],
    ["removed", "removed", "−"],
  ]) {
    const believed = kind === "removed" && change.registry && change.applied ? ", believed" : "";
    if (change[kind].count > 0) said.push([kind, `${word} ${many(change[kind].count, "endpoint")}${believed}`, sign]);
  }
  if (change.held.count > 0)
    said.push(["held", `removed ${many(change.held.count, "endpoint")}, not believed: kept in reserve`, "!"]);
  if (!change.applied) said.push(["held", "recorded only: the list is pinned", "!"]);
  return said;
}

/** The addresses that a change names of a kind, and how many it does not. */
export function named({ count, addresses }, most = addresses.length) {
  const first = addresses.slice(0, most);
  return count > first.length ? [...first, `and ${count - first.length} more`] : first;
}

export function changes() {
  const list = h("ol", { class: "changes" });
  const nothing = h("p", { class: "empty" }, "Nothing has changed yet.");
  return {
    element: h("div", {}, list, nothing),
    update(all) {
      nothing.hidden = all.length > 0;
      const key = (of) => `${of.at} ${of.upstream} ${of.generation} ${of.cause} ${of.held.count}`;
      keyed(
        list,
        all,
        key,
        () => h("li"),
        (item, of) => renew(item, of, line),
      );
    },
  };
}

function line(of) {
  const believed = of.held.count > 0 || !of.applied ? "degraded" : "ok";
  const addresses = ["added", "updated", "removed", "held"].flatMap((kind) => named(of[kind], NAMED));
  return [
    h("span", { class: "when", title: clock(of.at) }, since(of.at), " ago"),
    h(
      "span",
      { class: "what" },
      mark(believed),
      h("a", { href: `#/services/${encodeURIComponent(of.upstream)}` }, of.upstream),
      " ",
      h("span", { class: "who" }, actor(of)),
      " ",
      parts(of)
        .map(([, text]) => text)
        .join(", "),
    ),
    h("span", { class: "addresses" }, addresses.join("  ")),
  ];
}
