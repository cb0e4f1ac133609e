// Tables whose rows stay while their numbers change. On a narrow screen a row is a card, and a cell has its head beside
// it.

import { h, keyed, renew, setText } from "./dom.js";

/**
 * A table. A column has a `head`, and says of a row its `text`, or the `facts` that its cell is made of by `make`;
 * columns of `number` stand right. `key` names a row, and `empty` is told where there is none.
 */
export function table({ label, columns, key, empty, classes = "" }) {
  const head = columns.map((column) =>
    h("th", { scope: "col", role: "columnheader", class: classOf(column), title: column.title }, column.head),
  );
  const body = h("tbody", { role: "rowgroup" });
  const nothing = h("p", { class: "empty", hidden: true });
  const whole = h(
    "table",
    { class: classes, role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    body,
  );
  const update = (rows, why = empty) => {
    keyed(
      body,
      rows,
      key,
      () => makeRow(columns),
      (element, row) => updateRow(element, row, columns),
    );
    nothing.hidden = rows.length > 0;
    whole.hidden = rows.length === 0;
    setText(nothing, why);
  };
  return { element: h("div", { class: "table" }, whole, nothing), update };
}

const classOf = ({ number, classes }) => [number ? "number" : null, classes].filter(Boolean).join(" ") || null;

function makeRow(columns) {
  const cells = columns.map((column) =>
    h("td", { role: "cell", class: classOf(column), "data-head": column.short ?? column.head }),
  );
  return h("tr", { role: "row" }, cells);
}

function updateRow(element, row, columns) {
  columns.forEach((column, place) => {
    const cell = element.children[place];
    if (column.text) setText(cell, column.text(row));
    else renew(cell, column.facts(row), column.make);
    const tone = column.tone?.(row) ?? "";
    if (cell.dataset.tone !== tone) cell.dataset.tone = tone;
  });
}
