// The first screen: how everything stands, the worst first.

import { changes } from "./changes.js";
import { h, keyed, renew, setText } from "./dom.js";
import { count, many, millis, percent, rate } from "./format.js";
import { STATES, mark, since } from "./state.js";
import { table } from "./table.js";

/** `find` says what is looked for: `state` and a part of the `name`. */
export function overview(find) {
  const verdict = h("p", { class: "verdict", role: "status" });
  const registries = h("ul", { class: "registries" });
  const services = serviceTable();
  const filter = filters(find, () => services.update(filter.apply(latest?.services ?? []), filter.why(latest)));
  const last = changes();
  const summary = h("p", { class: "hint" });
  let latest = null;
  const element = h(
    "div",
    {},
    h("h1", { class: "unseen" }, "How the gateway stands"),
    verdict,
    section("Registries", registries),
    section("Services", filter.element, services.element, summary),
    section("Last changes", last.element),
  );
  return {
    title: "Services",
    path: "overview",
    element,
    find: filter.find,
    heading: (all) => (({ ok: "✓", degraded: "▲", failing: "✕", unknown: "?" })[all.verdict.state] ?? "?") + " Services",
    update(all) {
      latest = all;
      renew(verdict, all.verdict, ({ state, text }) => [mark(state), h("span", {}, text)]);
      verdict.className = `verdict ${all.verdict.state}`;
      keyed(
        registries,
        all.registries,
        (of) => of.name,
        () => h("li"),
        (item, of) => renew(item, of, registry),
      );
      filter.update(all.services);
      services.update(filter.apply(all.services), filter.why(all));
      last.update(all.changes);
      const hidden = all.service_count - all.services.length;
      const rest = hidden > 0 ? ` ${count(hidden)} more services are not shown; the worst come first.` : "";
      setText(summary, `Rates, successes and times are those of the last ${all.window_seconds} seconds.${rest}`);
    },
  };
}

function section(title, ...content) {
  const id = `of-${title.toLowerCase().replace(" ", "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), content);
}

/** What is to be said of a registry. */
function registry(of) {
  const lists = of.live === of.lists ? many(of.lists, "list") : `${of.live} of ${many(of.lists, "list")} live`;
  const words = {
    fresh: () => ["fresh"],
    silent: () => ["silent, lists frozen for ", since(of.since)],
    suspect: () => ["not believed, lists frozen for ", since(of.since)],
    denied: () => ["access denied, lists frozen for ", since(of.since)],
    unheard: () => ["never answered"],
    unused: () => ["no service is read from it"],
  };
  const oldest = of.oldest_heard ? ["oldest list ", since(of.oldest_heard), of.stale ? " old, too old" : " old"] : null;
  return [
    h("p", { class: "name" }, mark(of.state), h("strong", {}, of.name), h("span", { class: "kind" }, of.plugin)),
    h("p", {}, words[of.word]?.() ?? of.word),
    h("p", { class: "hint" }, of.lists > 0 ? lists : null, oldest ? " · " : null, oldest),
    of.reason ? h("p", { class: "reason" }, of.reason) : null,
  ];
}

const address = (name) => `#/services/${encodeURIComponent(name)}`;

function serviceTable() {
  return table({
    label: "Services, the worst first",
    classes: "services",
    key: (of) => of.name,
    empty: "There are no services yet. One appears as soon as it is configured, or as a request names it.",
    columns: [
      {
        head: "Service",
        classes: "title",
        facts: ({ name, state, pinned, reasons }) => ({ name, state, pinned, reasons }),
        make: ({ name, state, pinned, reasons }) => [
          h(
            "div",
            { class: "name" },
            mark(state),
            h("a", { href: address(name) }, name),
            pinned ? h("span", { class: "badge" }, "pinned") : null,
          ),
          reasons.length > 0 ? h("p", { class: "reason" }, reasons.join("; ")) : null,
        ],
      },
      {
        head: "Routable",
        number: true,
        title: "Endpoints that are well and get requests, of all",
        text: (of) => `${count(of.routable)} / ${count(of.total)}`,
        tone: (of) => (of.routable < of.total - of.standby ? (of.routable === 0 ? "bad" : "warn") : ""),
      },
      {
        head: "Ejected",
        number: true,
        text: (of) => count(of.ejected),
        tone: (of) => (of.ejected > 0 ? "warn" : "faint"),
      },
      { head: "Req/s", number: true, text: (of) => rate(of.requests_per_second) },
      {
        head: "Success",
        number: true,
        text: (of) => percent(of.success),
        tone: (of) => (of.success === null || of.success >= 0.99 ? "" : of.success < 0.5 ? "bad" : "warn"),
      },
      { head: "p50 ms", number: true, text: (of) => millis(of.p50_ms) },
      { head: "p99 ms", number: true, text: (of) => millis(of.p99_ms) },
      {
        head: "Retries/s",
        number: true,
        text: (of) => rate(of.retries_per_second),
        tone: (of) => (of.retries_per_second ? "" : "faint"),
      },
      {
        head: "Budget left",
        number: true,
        title: "Retries that the next ten seconds have left, of all",
        text: (of) => (of.retry_budget ? `${count(of.retry_budget.left)} / ${count(of.retry_budget.all)}` : "none"),
        tone: (of) => (of.retry_budget?.left === 0 ? "warn" : "faint"),
      },
      {
        head: "List",
        classes: "list",
        facts: (of) => of.sources,
        make: (sources) => sources.map(source),
      },
    ],
  });
}

function source(of) {
  const age = of.origin === "live" ? null : of.heard ? [", ", since(of.heard), " old"] : null;
  return h("div", { class: of.origin === "live" ? "" : "warn" }, `${of.registry} · ${of.origin}`, age);
}

/** What is looked for, as it stands in the address. */
function filters(find, onChange) {
  let state = STATES.includes(find.get("state")) ? find.get("state") : null;
  const field = h("input", {
    type: "search",
    placeholder: "Filter by name",
    "aria-label": "Filter services by name",
    value: find.get("find") ?? "",
    on: { input: () => changed() },
  });
  const buttons = new Map([null, ...STATES].map((of) => [of, button(of)]));
  const element = h(
    "div",
    { class: "filter", role: "search" },
    field,
    h("div", { class: "choices", role: "group", "aria-label": "State" }, [...buttons.values()]),
  );

  function button(of) {
    const number = h("span", { class: "number" });
    return h(
      "button",
      { type: "button", on: { click: () => ((state = of), changed()) } },
      of === null ? h("span", {}, "all") : mark(of, of),
      number,
    );
  }

  function changed() {
    const query = new URLSearchParams();
    if (state) query.set("state", state);
    if (field.value) query.set("find", field.value);
    const text = query.toString();
    history.replaceState(null, "", `#/${text ? `?${text}` : ""}`);
    press();
    onChange();
  }

  const press = () => buttons.forEach((element, of) => element.setAttribute("aria-pressed", String(of === state)));
  press();
  return {
    element,
    find(query) {
      state = STATES.includes(query.get("state")) ? query.get("state") : null;
      field.value = query.get("find") ?? "";
      press();
      onChange();
    },
    update(services) {
      for (const [of, element] of buttons) {
        const number = services.filter((service) => of === null || service.state === of).length;
        setText(element.lastElementChild, count(number));
        element.classList.toggle("none", number === 0);
      }
    },
    apply(services) {
      const wanted = field.value.trim().toLowerCase();
      return services.filter((of) => (state === null || of.state === state) && of.name.toLowerCase().includes(wanted));
    },
    /** What to say where nothing is left, if that is the filter's doing. */
    why: (all) => (all?.services.length > 0 ? "No service is like that." : undefined),
  };
}
