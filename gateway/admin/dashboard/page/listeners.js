// The listeners and their connections.

import { h } from "./dom.js";
import { count } from "./format.js";
import { table } from "./table.js";

export function listeners() {
  const rows = table({
    label: "Listeners",
    key: (of) => of.name,
    empty: "There are no listeners.",
    columns: [
      { head: "Listener", classes: "title", facts: (of) => [of.name, of.address], make: makeName },
      {
        head: "Protocol",
        text: (of) => (of.protocol ? `${of.protocol}${of.tls ? ", TLS" : ""}` : "gone, connections end"),
      },
      {
        head: "Open",
        number: true,
        title: "Connections, and how many may be open",
        text: (of) => (of.max_connections ? `${count(of.open)} / ${count(of.max_connections)}` : count(of.open)),
        tone: (of) => (of.max_connections && of.open >= of.max_connections ? "warn" : ""),
      },
      { head: "Accepted", number: true, text: (of) => count(of.accepted) },
      { head: "Handshakes", number: true, text: (of) => (of.tls ? count(of.handshakes) : "") },
      { head: "Resumed", number: true, text: (of) => (of.tls ? count(of.sessions_resumed) : "") },
      {
        head: "Refused",
        classes: "file",
        facts: refused,
        make: (lines) => lines.map((line) => h("div", { class: "warn" }, line)),
      },
    ],
  });
  return {
    title: "Listeners",
    path: "listeners",
    element: h(
      "div",
      {},
      h("h1", {}, "Listeners"),
      rows.element,
      h("p", { class: "hint" }, "Counted since the gateway started."),
    ),
    update: (all) => rows.update(all.listeners),
  };
}

function makeName([name, address]) {
  return [h("strong", {}, name), address && address !== name ? h("span", { class: "kind" }, address) : null];
}

/** What was refused, a line for each kind. */
function refused(of) {
  const kinds = [
    ["handshakes_failed", "handshake"],
    ["proxy_headers_refused", "PROXY header"],
    ["http2_abuse", "HTTP/2 abuse"],
  ];
  return kinds.flatMap(([key, word]) =>
    Object.entries(of[key]).map(([reason, number]) => `${word}: ${reason} ×${count(number)}`),
  );
}
