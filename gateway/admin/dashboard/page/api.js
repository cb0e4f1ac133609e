// Speaks with the API. The token is kept in memory, and gone with the page.

import { h } from "./dom.js";
import { setClock } from "./format.js";

/** How long the gateway may take to begin its answer. Orders are written to disk before. */
const PATIENCE = 30_000;

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
    const response = await send(`api/v1/${path}`, { ...options, headers, cache: "no-store" });
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

/** Ends with an error when there is no answer in time. How long its body takes is not looked at. */
async function send(url, { patience = PATIENCE, signal, ...options }) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), patience);
  try {
    return await fetch(url, { ...options, signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal });
  } finally {
    clearTimeout(timer);
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
    function closed() {
      // The event comes later than what it tells of: it may be of what the dialog showed before.
      if (dialog.open) return;
      dialog.removeEventListener("close", closed);
      resolve(dialog.returnValue);
    }
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
    dialog.addEventListener("close", closed);
    dialog.showModal();
  });
}
