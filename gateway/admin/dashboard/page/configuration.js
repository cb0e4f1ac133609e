// The configuration: what runs since when, and why a later file does not.

import { h, renew } from "./dom.js";
import { clock, count } from "./format.js";
import { mark, since } from "./state.js";
import { table } from "./table.js";

export function configuration() {
  const standing = h("div", { role: "status" });
  const facts = h("dl", { class: "facts" });
  const routes = table({
    label: "Routes",
    key: (of) => of.name,
    empty: "There are no routes.",
    columns: [
      { head: "Route", classes: "title", text: (of) => of.name },
      { head: "Listeners", text: (of) => of.listeners?.join(", ") ?? "all of HTTP" },
      { head: "Requests", classes: "file", text: (of) => of.matches },
      { head: "Go to", classes: "file", text: (of) => of.target },
    ],
  });
  const upstreams = table({
    label: "Upstreams",
    key: (of) => of.name,
    empty: "There are no upstreams in the file; services are found by the names in requests.",
    columns: [
      {
        head: "Upstream",
        classes: "title",
        facts: (of) => of.name,
        make: (name) => [h("a", { href: `#/services/${encodeURIComponent(name)}` }, name)],
      },
      { head: "Sources", classes: "file", text: (of) => of.sources.join(", ") },
      { head: "Selector", text: (of) => of.selector },
      { head: "Protocol", text: (of) => `${of.protocol}${of.tls ? ", TLS" : ""}` },
    ],
  });
  const registries = table({
    label: "Registries",
    key: (of) => of.name,
    empty: "There are no registries.",
    columns: [
      { head: "Registry", classes: "title", text: (of) => of.name },
      { head: "Plugin", text: (of) => of.plugin },
    ],
  });
  return {
    title: "Configuration",
    path: "configuration",
    element: h(
      "div",
      {},
      h("h1", {}, "Configuration"),
      standing,
      facts,
      h("h2", {}, "Routes"),
      routes.element,
      h("h2", {}, "Upstreams"),
      upstreams.element,
      h("h2", {}, "Registries"),
      registries.element,
    ),
    update(of) {
      renew(standing, [of.applied, of.refused], ([applied, refused]) =>
        refused ? makeRefused(refused) : makeApplied(applied),
      );
      renew(facts, factsOf(of), (all) => all.map(([head, text]) => h("div", {}, h("dt", {}, head), h("dd", {}, text))));
      routes.update(of.routes);
      upstreams.update(of.upstreams);
      registries.update(of.registries);
    },
  };
}

function makeApplied(applied) {
  return h(
    "p",
    { class: "verdict ok" },
    mark("ok"),
    h("span", {}, "In force since ", clock(applied), ", for ", since(applied)),
  );
}

function makeRefused(refused) {
  return [
    h(
      "p",
      { class: "verdict degraded" },
      mark("degraded"),
      h("span", {}, "The file was refused ", since(refused.at), " ago; what ran before runs on"),
    ),
    h(
      "ul",
      { class: "problems" },
      refused.problems.map((problem) => h("li", {}, problem)),
    ),
  ];
}

function factsOf(of) {
  return [
    ["File", of.file ?? "none is followed"],
    ["In force since", clock(of.applied)],
    [
      "Reloads",
      `${count(of.reloads.applied)} applied, ${count(of.reloads.invalid + of.reloads.needs_restart)} refused`,
    ],
    ["Workers", count(of.workers)],
    ["State", of.state_directory],
    ["Plugins", of.plugins_directory],
  ];
}
