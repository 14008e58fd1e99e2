// Starts what the page asks for with its attributes: data-live (a WebSocket), data-list (a list that filters itself), data-poll
// (a list that changes by itself), data-map, data-upload (a form with files that shows how far it is).
import { startLists } from "./lists.js";
import { startLive } from "./live.js";
import { startPolling } from "./polling.js";
import { setServerTime, startTimes } from "./times.js";
import { startUploads } from "./uploads.js";

setServerTime(document.body.dataset.now);
startTimes();
startLists();
const map = document.querySelector("[data-map]");
if (map) import("./map.js").then(({ startMap }) => startMap(map));
startPolling();
startUploads();
if (document.body.dataset.live) startLive(document.body.dataset.live);
