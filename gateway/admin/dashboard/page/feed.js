// Follows a document of the API: server-sent events over fetch, because an EventSource sends no token.

import { ask, Refused } from "./api.js";

/** The gateway says something at least every five seconds. */
const SILENT = 12_000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5_000;

/**
 * Calls `onDocument` with the document as it is, whenever it is another one, and `onLink` with `true` when there is a
 * connection, `false` when there is none, or a refusal, after which it is not tried again. Returns what ends it.
 */
export function follow(path, { onDocument, onLink }) {
  const ended = new AbortController();
  (async () => {
    let pause = FIRST_PAUSE;
    while (!ended.signal.aborted) {
      try {
        await read(path, ended.signal, (document) => {
          pause = FIRST_PAUSE;
          onLink(true);
          draw(document, onDocument);
        });
      } catch (error) {
        if (ended.signal.aborted) return;
        // It is no use to ask again for what is not there, or may not be seen.
        if (error instanceof Refused && error.status < 500) return onLink(error);
      }
      if (ended.signal.aborted) return;
      onLink(false);
      await sleep(pause, ended.signal);
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  })();
  return () => ended.abort();
}

/** A mistake of the page is told where such are looked for, and is no failure of the gateway's. */
function draw(document, onDocument) {
  try {
    onDocument(document);
  } catch (error) {
    reportError(error);
  }
}

async function read(path, ended, onDocument) {
  const silent = new AbortController();
  const signal = AbortSignal.any([ended, silent.signal]);
  // The time that somebody takes to find the token is none of the gateway's.
  const response = await ask(path, { headers: { accept: "text/event-stream" }, signal, patience: SILENT });
  let timer = setTimeout(() => silent.abort(), SILENT);
  try {
    const chunks = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await chunks.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENT);
      const events = (text + value).split("\n\n");
      text = events.pop();
      // Of several that came at once the last one counts.
      const last = events.at(-1);
      if (last?.startsWith("data: ")) onDocument(JSON.parse(last.slice(6)));
    }
  } finally {
    clearTimeout(timer);
  }
}

function sleep(time, ended) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      ended.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, time);
    ended.addEventListener("abort", done);
  });
}
