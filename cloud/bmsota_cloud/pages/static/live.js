// The page's one WebSocket (cloud/bmsota_cloud/pages/live.py says what comes). It reconnects with growing waits, is closed while the
// tab is hidden, and tells the person when the server is out of reach.
import { morph, setAttribute } from "./morph.js";
import { refreshTimes, setServerTime } from "./times.js";

const SILENCE_MS_MAX = 25_000; // The server speaks every 10 s at least.
const WAIT_MS_MIN = 500;
const WAIT_MS_MAX = 15_000;
const NOT_LOGGED_IN = 4401;
const FOREIGN_PAGE = 4403;
const NO_SUCH_THING = 4404;

export function startLive(path) {
  const banner = document.getElementById("lost");
  // A list that filters itself tells its filters to the socket.
  const followsQuery = "liveQuery" in document.body.dataset;
  function address() {
    const url = new URL(path + (followsQuery ? location.search : ""), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    return url;
  }
  let socket = null;
  let waitMs = WAIT_MS_MIN;
  let retry = 0;
  let silence = 0;

  function open() {
    clearTimeout(retry);
    if (socket || document.hidden) return;
    const mine = new WebSocket(address());
    socket = mine;
    listenOn();
    mine.onmessage = (event) => {
      waitMs = WAIT_MS_MIN;
      banner.hidden = true;
      listenOn();
      take(JSON.parse(event.data));
    };
    mine.onclose = (event) => {
      if (socket === mine) ended(event.code);
    };
  }

  // Nothing arrives any more, and the network says nothing either: the far end is gone without a word.
  function listenOn() {
    clearTimeout(silence);
    silence = setTimeout(() => leave(0), SILENCE_MS_MAX);
  }

  function leave(code) {
    const mine = socket;
    socket = null;
    clearTimeout(silence);
    mine?.close();
    if (code !== null) ended(code);
  }

  function ended(code) {
    socket = null;
    clearTimeout(silence);
    if (document.hidden) return;
    if (code === NOT_LOGGED_IN || code === NO_SUCH_THING) {
      location.reload(); // The page itself says what is the matter.
      return;
    }
    banner.hidden = false;
    if (code === FOREIGN_PAGE) return;
    // Not all tabs of all people at the same moment, when a server comes back.
    retry = setTimeout(open, waitMs * (0.5 + Math.random() / 2));
    waitMs = Math.min(waitMs * 2, WAIT_MS_MAX);
  }

  function take(message) {
    setServerTime(message.now);
    if (message.kind === "parts") {
      for (const [id, html] of Object.entries(message.parts)) {
        const template = document.createElement("template");
        template.innerHTML = html;
        const old = document.getElementById(id);
        if (old && template.content.firstElementChild) morph(old, template.content.firstElementChild);
      }
    } else if (message.kind === "patch") {
      for (const [key, text] of Object.entries(message.texts)) {
        for (const element of found(key)) {
          const target = element.querySelector("[data-t]") ?? element;
          if (!target.hasAttribute("data-since") && target.textContent !== text) target.textContent = text;
        }
      }
      for (const [key, pairs] of Object.entries(message.attributes)) {
        for (const element of found(key)) {
          for (const [name, value] of Object.entries(pairs)) setAttribute(element, name, value);
        }
      }
    }
    refreshTimes();
    if (message.kind === "parts") document.dispatchEvent(new Event("live-parts"));
  }

  const found = (key) => document.querySelectorAll(`[data-k="${CSS.escape(key)}"]`);

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(retry);
      leave(null);
    } else {
      open();
    }
  });
  if (followsQuery) {
    document.addEventListener("list-shown", () => {
      clearTimeout(retry);
      leave(null);
      open();
    });
  }
  addEventListener("offline", () => leave(0));
  addEventListener("online", open);
  addEventListener("pagehide", () => leave(null));
  addEventListener("pageshow", open);
  open();
}
