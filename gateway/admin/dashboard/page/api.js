// Speaks with the API. The token is kept in memory, and gone with the page.

import { h } from "./dom.js";
import { setClock } from "./format.js";

let token = null;
let asking = null;

/** What the gateway answered when it did not say yes. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Sends a request below `/api/v1/`. Asks for the token when one is needed; a refusal is thrown. */
export async function ask(path, options = {}) {
  for (;;) {
    const used = token;
    const headers = { ...options.headers };
    if (used !== null) headers.authorization = `Bearer ${used}`;
    const response = await fetch(`api/v1/${path}`, { ...options, headers, cache: "no-store" });
    setClock(response.headers.get("date"));
    if (response.ok) return response;
    const text = await response.json().then(
      (body) => body.error,
      () => response.statusText,
    );
    if (response.status !== 401) throw new Refused(response.status, text);
    // Somebody else may have asked meanwhile.
    if (token === used && !(await askForToken(text))) throw new Refused(401, text);
  }
}

/** Gives an order about an upstream. */
export async function order(upstream, verb, body = {}) {
  await ask(`upstreams/${encodeURIComponent(upstream)}/${verb}`, { method: "POST", body: JSON.stringify(body) });
}

/** Asks once for all who wait; says whether there is a token. */
function askForToken(why) {
  asking ??= showForm(why).then((given) => {
    asking = null;
    if (given) token = given;
    return Boolean(given);
  });
  return asking;
}

function showForm(why) {
  const dialog = document.getElementById("dialog");
  const field = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
  return new Promise((resolve) => {
    const form = h(
      "form",
      {
        method: "dialog",
        on: {
          submit: (event) => {
            event.preventDefault();
            dialog.close(field.value.trim());
          },
        },
      },
      h("h2", {}, "Token"),
      h("p", {}, `The gateway says: ${why}.`),
      h("label", { for: "token" }, "Token of the admin API"),
      field,
      h("p", { class: "hint" }, "It is kept in the memory of this page, and gone when you close or reload it."),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", on: { click: () => dialog.close("") } }, "Cancel"),
        h("button", { type: "submit", class: "primary" }, "Use it"),
      ),
    );
    if (dialog.open) dialog.close("");
    dialog.replaceChildren(form);
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.showModal();
  });
}
