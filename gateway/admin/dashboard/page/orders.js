// What an operator can order of a list: each order is asked about again, with what it will change.

import { order } from "./api.js";
import { isDrain } from "./changes.js";
import { h, renew } from "./dom.js";
import { count, many, percent } from "./format.js";

export function orderButtons(name) {
  const element = h("div", { class: "buttons orders" });
  return {
    element,
    update(upstream) {
      const held = upstream.sources
        .map((source, number) => ({
          number,
          registry: source.registry,
          count: source.reserve.count,
          addresses: source.reserve.addresses,
        }))
        .filter((source) => source.count > 0);
      const facts = {
        pinned: upstream.pinned !== null,
        generation: upstream.generation,
        endpoints: upstream.endpoint_count,
        held,
      };
      renew(element, facts, (facts) => makeButtons(name, facts));
    },
  };
}

function makeButtons(name, { pinned, generation, endpoints, held }) {
  const pin = {
    title: `Pin ${name}?`,
    says: [
      `The list stays as it is at generation ${generation}, with ${many(endpoints, "endpoint")}, until somebody lifts the pin.`,
      "What registries say meanwhile is recorded and changes nothing. Endpoints that fail are still taken out.",
    ],
    verb: "pin",
    does: "Pin the list",
  };
  const unpin = {
    title: `Lift the pin of ${name}?`,
    says: [
      "The list becomes at once what its sources offer.",
      "What they said meanwhile is in the timeline as “recorded only”.",
    ],
    verb: "unpin",
    does: "Lift the pin",
  };
  const accept = (source) => ({
    title: `Accept ${many(source.count, "removal")} of ${source.registry}?`,
    says: [
      `${many(source.count, "endpoint")} that ${source.registry} no longer names ${source.count === 1 ? "goes" : "go"} for good, and get no requests any more:`,
    ],
    addresses: source.addresses,
    more: source.count - source.addresses.length,
    verb: "accept",
    body: { source: source.number },
    does: "Accept the removal",
  });
  const orders = [
    [pinned ? "Lift the pin" : "Pin", pinned ? unpin : pin],
    ...held.map((source) => [`Accept ${many(source.count, "removal")} of ${source.registry}`, accept(source)]),
  ];
  return orders.map(([text, what]) => h("button", { type: "button", on: { click: () => confirm(name, what) } }, text));
}

/** Asks whether to go back to a generation. */
export function askRollback(name, generation, upstream) {
  // Who drains goes on.
  const later = upstream.history.filter((of) => of.applied && of.generation > generation && !isDrain(of));
  const sum = (kind) => later.reduce((sum, of) => sum + of[kind].count, 0);
  confirm(name, {
    title: `Roll ${name} back to generation ${generation}?`,
    says: [
      `The list becomes what it was then, and is pinned so. ${many(later.length, "later change")} ${later.length === 1 ? "is" : "are"} undone: ` +
        `${count(sum("added"))} added, ${count(sum("removed"))} removed, ${count(sum("updated"))} changed.`,
      "It stays so until somebody lifts the pin.",
    ],
    addresses: later.flatMap((of) => [
      ...of.added.addresses.map((address) => `− ${address}`),
      ...of.removed.addresses.map((address) => `+ ${address}`),
    ]),
    verb: "rollback",
    body: { generation },
    does: "Roll back",
  });
}

/** Asks whether an endpoint is to drain. */
export function askDrain(name, { address, in_flight: inFlight, picks }, upstream) {
  const share = picks?.share ? `, which is ${percent(picks.share)} of all now` : "";
  const others = othersOf(address, upstream);
  confirm(name, {
    title: `Drain ${address} of ${name}?`,
    says: [
      others
        ? `It gets no new requests while any other endpoint is well. ${others} its share${share}.`
        : "No other endpoint is well: it goes on to get requests until one is.",
      inFlight > 0
        ? `${many(inFlight, "request")} under way to it ${inFlight === 1 ? "ends" : "end"} as ever.`
        : "Nothing is under way to it now.",
      "It stays so over changes of the list and restarts, until somebody ends the drain.",
    ],
    verb: "drain",
    body: { addresses: [address] },
    does: "Let it drain",
  });
}

/** Who takes the place of an endpoint that drains, to be followed by what; null if nobody is well. */
function othersOf(address, upstream) {
  const draining = new Set([address, ...upstream.draining.map((of) => of.address)]);
  const out = new Set(upstream.ejected.map((of) => of.address));
  // Whom its registry calls draining is no better than one that drains by an order.
  const isOther = (of) => !draining.has(of.address) && of.state !== "draining";
  const serving = upstream.endpoints.filter((of) => isOther(of) && !out.has(of.address)).length;
  if (serving > 0) return serving === 1 ? "The other endpoint takes" : `The ${count(serving)} other endpoints take`;
  // Of a lower priority, or of another zone.
  const waiting = upstream.standby.filter(isOther).length;
  if (waiting > 0) return waiting === 1 ? "The one that waits takes" : `The ${count(waiting)} that wait take`;
  // Those that drain are left to other gateways before any other is.
  const known = [upstream.endpoints, upstream.standby, upstream.ejected].flat();
  const seen = new Set(known.map((of) => of.address));
  const drainElsewhere = upstream.draining.filter((of) => !seen.has(of.address)).length;
  return upstream.unused_count > drainElsewhere ? "One that was left to other gateways takes" : null;
}

/** Asks whether an endpoint is to drain no more. */
export function askUndrain(name, { address }) {
  confirm(name, {
    title: `End the drain of ${address}?`,
    says: [`It is for ${name} at once what its registry says of it, and gets requests again if it is well.`],
    verb: "undrain",
    body: { addresses: [address] },
    does: "End its drain",
  });
}

function confirm(name, { title, says, addresses = [], more = 0, verb, body, does }) {
  const dialog = document.getElementById("dialog");
  const error = h("p", { class: "reason", role: "alert" });
  const yes = h("button", { type: "button", class: "primary", on: { click: carryOut } }, does);
  const rest = more > 0 ? [h("li", {}, `and ${count(more)} more`)] : [];
  async function carryOut() {
    yes.disabled = true;
    try {
      // The token may be asked for in the same dialog.
      dialog.close("");
      await order(name, verb, body);
    } catch (refusal) {
      error.textContent = refusal.message;
      yes.disabled = false;
      dialog.replaceChildren(...content);
      dialog.showModal();
    }
  }
  const content = [
    h("h2", {}, title),
    ...says.map((text) => h("p", {}, text)),
    addresses.length > 0
      ? h(
          "ul",
          { class: "diff" },
          addresses.map((address) => h("li", {}, address)),
          rest,
        )
      : "",
    error,
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", on: { click: () => dialog.close("") } }, "Cancel"),
      yes,
    ),
  ];
  dialog.replaceChildren(...content);
  dialog.showModal();
}
