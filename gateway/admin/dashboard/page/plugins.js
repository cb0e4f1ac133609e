// The plugins: which version is in force, how it does, and what was refused.

import { h } from "./dom.js";
import { bytes, count, many, millis } from "./format.js";
import { mark, since } from "./state.js";
import { table } from "./table.js";

/** What the states of plugins are to an operator. */
const STATES = {
  running: ["ok", "running"],
  loaded: ["waiting", "loaded, not used"],
  compiling: ["degraded", "is being compiled"],
  quarantined: ["failing", "quarantined: the native round robin stands in"],
  missing: ["failing", "missing"],
  unused: ["waiting", "not used"],
};

const ORDER = ["failing", "degraded", "ok", "waiting"];

export function plugins() {
  const rows = table({
    label: "Plugins",
    classes: "plugins",
    key: (of) => of.name,
    empty: "There are no plugins.",
    columns: [
      {
        head: "Plugin",
        classes: "title",
        facts: (of) => [of.name, of.kind],
        make: ([name, kind]) => [h("strong", {}, name), kind ? h("span", { class: "kind" }, kind) : null],
      },
      {
        head: "State",
        classes: "state",
        facts: (of) => [of.state, of.trial_error, of.last_fault, of.last_refusal],
        make: makeState,
      },
      { head: "From", classes: "file", facts: (of) => [of.origin, of.file, of.digest], make: makeOrigin },
      { head: "Used by", classes: "file", facts: (of) => [of.registries, of.upstreams], make: makeUses },
      { head: "Version", number: true, text: (of) => (of.version > 0 ? count(of.version) : "") },
      { head: "Loaded", facts: (of) => of.loaded_at, make: (at) => (at ? [since(at), " ago"] : []) },
      {
        head: "Compile ms",
        number: true,
        title: "To compile it, or to find it compiled",
        text: (of) => (of.compile_ms === null ? "" : millis(of.compile_ms)),
      },
      {
        head: "Pick ns",
        number: true,
        title: "What a pick takes, on average; one of a few hundred is timed",
        text: (of) => (of.pick_ns === null ? "" : count(of.pick_ns)),
      },
      {
        head: "Memory",
        classes: "number",
        title: "Of all its instances",
        facts: (of) => of.memory,
        make: makeMemory,
      },
      {
        head: "Faults",
        number: true,
        text: (of) => count(of.faults),
        tone: (of) => (of.faults > 0 ? "warn" : "faint"),
      },
      {
        head: "Refused",
        number: true,
        text: (of) => count(of.refusals),
        tone: (of) => (of.refusals > 0 ? "warn" : "faint"),
      },
    ],
  });
  return {
    title: "Plugins",
    path: "plugins",
    element: h("div", {}, h("h1", {}, "Plugins"), rows.element),
    update(all) {
      const place = (of) => ORDER.indexOf(STATES[of.state]?.[0]);
      rows.update(
        [...all.plugins].sort((one, other) => place(one) - place(other) || one.name.localeCompare(other.name)),
      );
    },
  };
}

function makeState([state, trialError, fault, refusal]) {
  const [look, text] = STATES[state] ?? ["unknown", state];
  return [
    mark(look, text),
    trialError ? h("p", { class: "reason" }, `without settings: ${trialError}`) : null,
    fault ? h("p", { class: "reason" }, "failed ", since(fault.at), ` ago: ${fault.error}`) : null,
    refusal
      ? h("p", { class: "reason" }, "refused ", since(refusal.at), ` ago: ${refusal.file ?? ""} ${refusal.reason}`)
      : null,
  ];
}

function makeMemory(memory) {
  if (!memory || memory.instances === 0) return [];
  const { instances, bytes: sum, largest } = memory;
  const each = instances === 1 ? "1 instance" : `${count(instances)} instances, up to ${bytes(largest)}`;
  return [h("span", {}, bytes(sum)), h("p", { class: "hint" }, each)];
}

/** What uses it, and what it may reach there. */
function makeUses([registries, upstreams]) {
  const reads = registries.map((of) => {
    const may = of.may_use.length > 0 ? `may use ${of.may_use.join(", ")}` : "may reach nothing";
    return h("div", {}, `registry ${of.name}`, h("p", { class: "hint" }, may));
  });
  return [...reads, upstreams > 0 ? many(upstreams, "upstream") : null];
}

function makeOrigin([origin, file, digest]) {
  if (!origin) return [];
  return [
    h("span", {}, origin === "shipped" ? "shipped" : file),
    digest ? h("p", { class: "hint digest", title: `SHA-256 ${digest}` }, digest.slice(0, 12)) : null,
  ];
}
