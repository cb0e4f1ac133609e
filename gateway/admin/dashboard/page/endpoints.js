// The endpoints of a service: how each stands and since when, and what it gets beside what its weight says.

import { h, setText } from "./dom.js";
import { count, millis, percent, rate } from "./format.js";
import { askDrain, askUndrain } from "./orders.js";
import { mark, since } from "./state.js";
import { table } from "./table.js";

/** Why an endpoint is out, in words. */
const REASONS = {
  starting: "new, and refuses connections",
  connections: "requests found no connection",
  failures: "requests failed",
  checks: "failed its checks",
  unwell: "its registry says that it is unwell",
};

/** Requests that the shares are of come from the last so many documents, a second apart. */
const KEPT = 10;

export function endpoints(name) {
  let latest = null;
  const drain = (address) => askDrain(name, latest.rows.get(address), latest.upstream);
  const rows = table({
    label: "Endpoints",
    classes: "endpoints",
    key: (of) => of.address,
    empty: "There are no endpoints.",
    columns: [
      { head: "Endpoint", classes: "title", facts: (of) => [of.address, of.hostname, labels(of)], make: makeName },
      { head: "State", classes: "state", facts: (of) => of.standing, make: makeState },
      { head: "Source", classes: "source", text: (of) => of.registry ?? "" },
      { head: "Zone", text: (of) => of.zone ?? "" },
      { head: "Weight", number: true, text: (of) => (Number.isInteger(of.weight) ? count(of.weight) : "") },
      {
        head: "Picks",
        classes: "picks",
        title: "Its share of the requests; the mark is the share that its weight says",
        facts: (of) => of.picks,
        make: makePicks,
      },
      { head: "Req/s", number: true, text: (of) => (of.picks ? rate(of.rate) : "") },
      { head: "In flight", number: true, text: (of) => (of.in_flight === undefined ? "" : count(of.in_flight)) },
      {
        head: "Latency ms",
        number: true,
        title: "Average over about ten seconds",
        text: (of) => (of.slot === undefined ? "" : millis(of.latency_ms)),
      },
      {
        head: "Success",
        number: true,
        title: "Average over about ten seconds",
        text: (of) => (of.requests > 0 ? percent(of.success) : ""),
        tone: (of) => (of.success === undefined || of.success >= 0.99 ? "" : of.success < 0.5 ? "bad" : "warn"),
      },
      { head: "Connections", number: true, text: (of) => (of.connections === undefined ? "" : count(of.connections)) },
      {
        head: "Order",
        classes: "order",
        facts: ({ address, drains }) => ({ address, drains }),
        make: ({ address, drains }) =>
          h(
            "button",
            { type: "button", on: { click: () => (drains ? askUndrain(name, { address }) : drain(address)) } },
            drains ? "End drain" : "Drain",
          ),
      },
    ],
  });
  const hint = h("p", { class: "hint" });
  const seen = [];
  return {
    element: h("div", {}, rows.element, hint),
    update(upstream) {
      // Who has counted less than before counts anew: another process, or an endpoint that was gone for long.
      const fell = (of) => seen.some((sample) => sample.requests.get(of.address) > of.requests);
      if (upstream.endpoints.some(fell)) seen.length = 0;
      seen.push({
        at: performance.now(),
        requests: new Map(upstream.endpoints.map((of) => [of.address, of.requests])),
      });
      if (seen.length > KEPT) seen.shift();
      // One source is nothing to tell apart.
      rows.element.classList.toggle("one-source", upstream.sources.length < 2);
      const all = rowsOf(upstream, seen);
      latest = { upstream, rows: new Map(all.map((of) => [of.address, of])) };
      rows.update(all);
      const { unused_count: unused } = upstream;
      setText(hint, unused > 0 ? `${count(unused)} more are left to other gateways.` : "");
    },
  };
}

function rowsOf(upstream, seen) {
  const out = new Map(upstream.ejected.map((of) => [of.address, of]));
  const draining = new Map(upstream.draining.map((of) => [of.address, of]));
  /** Requests a second since it was seen first, within what is kept; null until it was seen twice. */
  const rateOf = (of) => {
    const first = seen.find((sample) => sample.requests.has(of.address));
    const time = (seen.at(-1).at - first.at) / 1000;
    return time > 0 ? (of.requests - first.requests.get(of.address)) / time : null;
  };
  const rates = new Map(upstream.endpoints.map((of) => [of.address, rateOf(of)]));
  const all = [...rates.values()].reduce((sum, rate) => sum + rate, 0);
  const weights = upstream.endpoints.reduce((sum, of) => sum + of.effective_weight, 0);
  const offered = upstream.endpoints.map((of) => ({
    ...of,
    standing: standing(of, out.get(of.address), draining.get(of.address)),
    rate: rates.get(of.address),
    picks: {
      share: all > 0 ? round(rates.get(of.address) / all) : null,
      expected: weights > 0 ? round(of.effective_weight / weights) : 0,
    },
  }));
  const known = new Set(offered.map((of) => of.address));
  const drained = (of) => draining.get(of.address);
  const absent = upstream.ejected
    .filter((of) => !known.has(of.address))
    .map((of) => ({ ...drained(of), ...of, standing: standing(of, of, drained(of)), picks: null, rate: null }));
  const waiting = upstream.standby.map((of) => ({
    ...of,
    ...drained(of),
    standing: drained(of) ? drains(drained(of)) : { state: "waiting", text: waits(of) },
    picks: null,
    rate: null,
  }));
  const listed = new Set([...offered, ...absent, ...waiting].map((of) => of.address));
  const others = upstream.draining
    .filter((of) => !listed.has(of.address))
    .map((of) => ({ ...of, standing: drains(of, "gets nothing anyway"), picks: null, rate: null }));
  const order = ["failing", "unknown", "degraded", "ok", "waiting"];
  const place = (of) => order.indexOf(of.standing.state);
  const byAddress = new Intl.Collator("en", { numeric: true }).compare;
  const registry = (of) => upstream.sources[of.source]?.registry;
  return [...absent, ...offered, ...waiting, ...others]
    .map((of) => ({ ...of, drains: draining.has(of.address), registry: registry(of) }))
    .sort((one, other) => place(one) - place(other) || byAddress(one.address, other.address));
}

const waits = (of) =>
  of.reason === "zone" ? "waits: its zone is another one" : `waits: ${of.state}, priority ${of.priority}`;

/** Of one that drains by an order, and why it does as it does. */
function drains(of, why) {
  const underWay = of.in_flight > 0 ? `${count(of.in_flight)} under way` : "nothing under way";
  return { state: "waiting", text: `drains by order, ${why ?? underWay}`, since: of.since };
}

/** How an endpoint stands, why, and since when. */
function standing(of, out, draining) {
  if (out) {
    const too = draining ? ", and drains by order" : "";
    return { state: "failing", text: `taken out: ${REASONS[out.reason] ?? out.reason}${too}`, since: out.since };
  }
  if (draining) return { ...drains(draining, "and serves: no other is well"), state: "degraded" };
  if (of.requests === 0) return { state: "unknown", text: "no request yet" };
  const parts = [
    ["slow_start", "starts slowly"],
    ["zone_part", "of another zone"],
    ["priority_part", "of a lower priority"],
  ];
  const less = parts
    .filter(([key]) => of[key] !== null && of[key] !== undefined)
    .map(([key, word]) => `${word}, ${percent(of[key])}`);
  if (of.state !== "ready") less.unshift(of.state);
  if (of.consecutive_failures > 0)
    return { state: "degraded", text: [`${of.consecutive_failures} failures in a row`, ...less].join(", ") };
  return { state: "ok", text: less.length > 0 ? `serves, ${less.join(", ")}` : "serves" };
}

const round = (share) => Math.round(share * 1000) / 1000;

const labels = (of) => Object.entries(of.labels ?? {}).map(([name, value]) => `${name}=${[value].flat().join(",")}`);

function makeName([address, hostname, labels]) {
  return [
    h("span", { class: "address" }, address),
    hostname ? h("span", { class: "kind" }, hostname) : null,
    labels.length > 0
      ? h(
          "p",
          { class: "labels" },
          labels.map((label) => h("span", { class: "badge" }, label)),
        )
      : null,
  ];
}

function makeState(of) {
  return [mark(of.state, of.text), of.since ? h("p", { class: "hint" }, "for ", since(of.since)) : null];
}

function makePicks(picks) {
  if (!picks) return [];
  const bar = h("span", { class: "part" });
  const expected = h("span", { class: "expected" });
  // Styles of elements are no styles in the text of the page, which its policy refuses.
  bar.style.width = `${(picks.share ?? 0) * 100}%`;
  expected.style.left = `${picks.expected * 100}%`;
  const text =
    picks.share === null
      ? `weight ${percent(picks.expected)}`
      : `${percent(picks.share)}, weight ${percent(picks.expected)}`;
  return [
    h("span", { class: "bar", role: "img", "aria-label": text, title: text }, bar, expected),
    h("span", { class: "number" }, percent(picks.share)),
  ];
}
