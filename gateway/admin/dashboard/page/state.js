// How states look: a glyph beside a colour beside a word, so that none of them is needed.

import { h, svg } from "./dom.js";
import { ago, clock } from "./format.js";

const GLYPHS = {
  ok: ["M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13z", "M5 8.2l2.1 2.1l4-4.4"],
  degraded: ["M8 1.8l6.6 12.2h-13.2z", "M8 6.2v3.6M8 11.9v.1"],
  failing: ["M5.2 1.5h5.6l3.7 3.7v5.6l-3.7 3.7h-5.6l-3.7-3.7v-5.6z", "M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8"],
  unknown: [
    "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13z",
    "M6.1 6.2a1.9 1.9 0 1 1 2.7 1.7c-.6.3-.8.6-.8 1.2M8 11.5v.1",
  ],
  waiting: ["M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13z", "M6.3 5.6v4.8M9.7 5.6v4.8"],
};

/** The states of services and registries, the worst first. */
export const STATES = ["failing", "unknown", "degraded", "ok"];

/** A glyph with its word beside it, or with a word that only readers of the screen are told. */
export function mark(state, word) {
  const [shape, inner] = GLYPHS[state] ?? GLYPHS.unknown;
  const glyph = svg(
    "svg",
    { viewBox: "0 0 16 16", class: "glyph", "aria-hidden": "true" },
    svg("path", { d: shape, class: "shape" }),
    svg("path", { d: inner, class: "inner" }),
  );
  const text = word === undefined ? h("span", { class: "unseen" }, state) : h("span", {}, word);
  return h("span", { class: `mark ${state}` }, glyph, text);
}

/** A time that goes on: how long ago it was, and when as a title. Nothing where there is none. */
export function since(time) {
  if (!time) return "";
  return h("time", { datetime: time, title: clock(time) }, ago(time));
}

/** Tells all times of the page that a second has passed. */
export function tick() {
  for (const element of document.querySelectorAll("time")) {
    const text = ago(element.dateTime);
    if (element.textContent !== text) element.textContent = text;
  }
}
