// Starts what the page asks for with its attributes: data-live (a WebSocket), data-list (a list that filters itself), data-map.
import { startLists } from "./lists.js";
import { startLive } from "./live.js";
import { setServerTime, startTimes } from "./times.js";

setServerTime(document.body.dataset.now);
startTimes();
startLists();
const map = document.querySelector("[data-map]");
if (map) import("./map.js").then(({ startMap }) => startMap(map));
if (document.body.dataset.live) startLive(document.body.dataset.live);
