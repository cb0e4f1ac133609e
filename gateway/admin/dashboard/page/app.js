// Which view is shown, and whether the gateway is there. The view stands in the address behind `#`, so that it can be
// linked: `#/services/orders`, `#/?state=failing&find=ord`.

import { h, setText } from "./dom.js";
import { clock } from "./format.js";
import { configuration } from "./configuration.js";
import { follow } from "./feed.js";
import { listeners } from "./listeners.js";
import { overview } from "./overview.js";
import { plugins } from "./plugins.js";
import { tick } from "./state.js";
import { upstream } from "./upstream.js";

const main = document.getElementById("main");
const link = document.getElementById("link");
const gone = document.getElementById("gone");

/** What follows the document of the view that is shown. */
let stop = () => {};
let shown = null;
let lostAt = null;
let marked = false;

/**
 * The view of an address: a `title`, the `path` of its document in the API, its `element`, and `update`, which is told
 * each document. `find` is what stands behind the `?`.
 */
function view(place, find) {
  const [, kind, name] = place.split("/");
  switch (kind) {
    case "":
      return overview(find);
    case "services":
      return service(name ?? "");
    case "plugins":
      return plugins();
    case "listeners":
      return listeners();
    case "configuration":
      return configuration();
    default:
      return null;
  }
}

/** The view of a service; none where its name is not encoded as it should be. */
function service(encoded) {
  let name;
  try {
    name = decodeURIComponent(encoded);
  } catch {
    return null;
  }
  return upstream(name);
}

function show() {
  const hash = location.hash.slice(1) || "/";
  const isView = hash.startsWith("/");
  // Anything else is a place within the view that is shown.
  if (!isView && shown !== null) return;
  const [place, find = ""] = (isView ? hash : "/").split("?");
  // What is behind the `?` is the view's own.
  if (shown?.place === place) return shown.find?.(new URLSearchParams(find));
  const next = view(place, new URLSearchParams(find));
  stop();
  for (const item of document.querySelectorAll("nav a")) {
    const own = item.hash.slice(1);
    const current = own === "/" ? place === "/" || place.startsWith("/services/") : place === own;
    if (current) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  const first = shown === null;
  shown = { place, find: next?.find };
  if (!next) {
    stop = () => {};
    // Nothing is followed that could be live or late.
    lostAt = null;
    gone.hidden = true;
    main.classList.remove("stale", "waiting");
    setLink("none", "");
    document.title = "Not found · Witgate";
    main.replaceChildren(
      h("h1", {}, "There is no such view"),
      h("p", {}, h("a", { href: "#/" }, "Back to the services")),
    );
    return;
  }
  document.title = `${next.title} · Witgate`;
  main.replaceChildren(next.element);
  main.classList.add("waiting");
  // Who comes by a link begins to read the new view, not the one that is gone.
  if (!first) main.focus({ preventScroll: true });
  scrollTo(0, 0);
  setLink("waiting", "Connecting");
  stop = follow(next.path, {
    onDocument(document_) {
      main.classList.remove("waiting");
      next.update(document_);
      // How long the first one took is seen in the tools of the browser. They keep every mark.
      if (!marked) performance.mark("shown");
      marked = true;
      if (next.heading) document.title = `${next.heading(document_)} · Witgate`;
    },
    onLink: (state) => tell(state),
  });
}

function tell(state) {
  if (state === true) {
    lostAt = null;
    gone.hidden = true;
    main.classList.remove("stale");
    setLink("live", "Live");
    return;
  }
  main.classList.add("stale");
  if (state === false) {
    lostAt ??= new Date();
    setLink("lost", "No answer");
    setText(
      gone,
      `The gateway has not answered since ${clock(lostAt)}. What is shown is as it was then; it is asked again and again.`,
    );
  } else {
    setLink("lost", "Refused");
    const again = h("button", { type: "button", on: { click: () => location.reload() } }, "Try again");
    gone.replaceChildren(`The gateway says: ${state.message}. `, again);
  }
  gone.hidden = false;
}

function setLink(state, text) {
  link.dataset.state = state;
  setText(link, text);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  // The address says which view is shown, and goes on to.
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", show);
setInterval(tick, 1000);
show();
