// One service: whom it reaches and how that goes, where its list is from, and how it came to be what it is.

import { h, keyed, renew, setText } from "./dom.js";
import { endpoints } from "./endpoints.js";
import { NONE, count, many, millis, percent, rate } from "./format.js";
import { orderButtons } from "./orders.js";
import { mark, since } from "./state.js";
import { timeline } from "./timeline.js";

export function upstream(name) {
  const standing = h("p", { class: "verdict", role: "status" });
  const facts = h("dl", { class: "facts" });
  const sources = h("ul", { class: "registries" });
  const list = endpoints(name);
  const orders = orderButtons(name);
  const past = timeline(name);
  const element = h(
    "div",
    {},
    h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Services"), " / "),
    h("h1", {}, name),
    standing,
    facts,
    section("Sources", sources),
    section("Endpoints", list.element),
    section("Timeline", orders.element, past.element),
  );
  return {
    title: name,
    path: `upstreams/${encodeURIComponent(name)}`,
    element,
    update(of) {
      const { state, reasons } = of.standing;
      renew(standing, { state, reasons, pinned: of.pinned }, () => [
        mark(state),
        h("span", {}, reasons.length > 0 ? reasons.join("; ") : "served"),
      ]);
      standing.className = `verdict ${state}`;
      keyed(facts, factsOf(of), ([head]) => head, makeFact, updateFact);
      const key = (source) => `${source.registry} ${source.service}`;
      keyed(
        sources,
        of.sources,
        key,
        () => h("li"),
        (item, source) => renew(item, source, makeSource),
      );
      list.update(of);
      orders.update(of);
      past.update(of);
    },
  };
}

function section(title, ...content) {
  const id = `of-${title.toLowerCase()}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), content);
}

const unit = (number, unit) => (number === NONE ? NONE : `${number} ${unit}`);

/** Numbers of the service as a whole. */
function factsOf(of) {
  const lately = of.standing;
  const picks = of.workers.filter((worker) => worker.generation > 0);
  const versions = new Set(picks.map((worker) => worker.selector_version));
  const standsIn = versions.has(0) ? ", native round robin stands in" : "";
  const version = picks.length === 0 ? ", not used yet" : `${standsIn || `, version ${[...versions].join(" and ")}`}`;
  const behind = picks.filter((worker) => worker.generation < of.generation).length;
  const budget = lately.retry_budget;
  return [
    ["Routable", `${count(lately.routable)} of ${count(lately.total)}`],
    ["Requests", unit(rate(lately.requests_per_second), "/s")],
    ["Success", percent(lately.success)],
    ["p50", unit(millis(lately.p50_ms), "ms")],
    ["p99", unit(millis(lately.p99_ms), "ms")],
    ["Retries", unit(rate(lately.retries_per_second), "/s")],
    ["Retry budget", budget ? `${count(budget.left)} of ${count(budget.all)}` : "no retries"],
    ["Generation", `${of.generation}${behind > 0 ? `, ${many(behind, "worker")} behind` : ""}`],
    ["Selector", `${of.selector.plugin}${version}`],
    ...(of.requests
      ? [
          [
            "In flight",
            `${count(of.requests.in_flight)} of ${of.requests.limit ?? "any number"}, ${count(of.requests.queued)} wait`,
          ],
        ]
      : []),
    ...(of.zone_share === null ? [] : [["In own zone", percent(of.zone_share)]]),
  ];
}

const makeFact = ([head]) => h("div", { class: head === "Selector" ? "wide" : null }, h("dt", {}, head), h("dd"));
const updateFact = (element, [, text]) => setText(element.lastElementChild, text);

function makeSource(source) {
  const live = source.origin === "live" && !source.failure;
  const state = live ? "ok" : source.origin === "unknown" ? "unknown" : "degraded";
  const origins = {
    live: () => ["live, the registry answers"],
    frozen: () => ["frozen for ", since(source.since), ": what it said last is served"],
    restored: () => ["from disk; the registry has not answered since the start, ", since(source.since), " ago"],
    unknown: () => ["nothing was ever heard"],
  };
  const { reserve, left_out: leftOut } = source;
  const failure = source.failure;
  return [
    h(
      "p",
      { class: "name" },
      mark(state),
      h("strong", {}, source.registry),
      h("span", { class: "kind" }, source.service),
    ),
    h("p", {}, origins[source.origin]?.() ?? source.origin),
    h("p", { class: "hint" }, many(source.instances, "instance"), source.stale ? " · older than max_stale_secs" : null),
    failure ? h("p", { class: "reason" }, `${failure.kind}: ${failure.error}`) : null,
    reserve.count > 0
      ? h(
          "p",
          { class: "reason" },
          `${many(reserve.count, "removal")} not believed for `,
          since(reserve.since),
          reserve.offered ? "; they get requests: " : "; they get no requests: ",
          reserve.addresses.join("  "),
        )
      : null,
    leftOut.count > 0
      ? h(
          "p",
          { class: "reason" },
          `${many(leftOut.count, "instance")} left out: `,
          leftOut.instances.map((of) => `${of.id}: ${of.reason}`).join("; "),
        )
      : null,
  ];
}
