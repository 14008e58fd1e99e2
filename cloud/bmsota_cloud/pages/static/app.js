// Starts what the page asks for with its attributes: data-live (a WebSocket), data-list (a list that filters itself), data-poll
// (a list that changes by itself), data-map.
import { startLists } from "./lists.js";
import { startLive } from "./live.js";
import { startPolling } from "./polling.js";
import { setServerTime, startTimes } from "./times.js";

setServerTime(document.body.dataset.now);
startTimes();
startLists();
const map = document.querySelector("[data-map]");
if (map) import("./map.js").then(({ startMap }) => startMap(map));
startPolling();
if (document.body.dataset.live) startLive(document.body.dataset.live);
